//! `kubectl debug`: somebody looks at a pod that runs, with a container beside it.

use std::process::Stdio;

use anyhow::{Context, Result};
use hawser_e2e::engine::BOX;
use hawser_e2e::kubectl::{Kubectl, finished};
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use tokio::process::Command;

/// How the container of this name is that was added to the pod.
fn state(pod: &Pod, name: &str) -> Option<ContainerState> {
    let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == name)?.state.clone()
}

async fn ended(world: &World, pod: &Pod, name: &str) -> Result<i32> {
    let end = |pod: &Pod| state(pod, name)?.terminated;
    let pod = world.pod_until(pod, "the added container has ended", |pod| end(pod).is_some()).await?;
    Ok(end(&pod).context("it has ended")?.exit_code)
}

/// Why the container of this name waits, and what is said about it.
fn waiting(pod: &Pod, name: &str) -> (String, String) {
    let waiting = state(pod, name).and_then(|state| state.waiting).unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_looks_at_a_container_and_it_goes_on() -> Result<()> {
    let Some(world) = World::start_with_containers("debug", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let pod = world.create_pod(&contained(&recipes::pod("web", world.device(0), "exec sleep 1000"))).await?;
    let before = world.pod_ready(&pod).await?.status.unwrap_or_default().container_statuses;
    let image = format!("--image={BOX}");

    let look = "tr '\\0' ' ' < /proc/1/cmdline; exit 3";
    let added = ["debug", "web", &image, "--target=main", "-c", "look", "--", "sh", "-c", look];
    kubectl.says(&added).await?;
    assert_eq!(ended(&world, &pod, "look").await?, 3);
    assert!(kubectl.says(&["logs", "web", "-c", "look"]).await?.contains("sleep 1000"));
    world.event("web", "Started").await?;

    // One that stays is a container like any other, and the agent finds it again.
    kubectl.says(&["debug", "web", &image, "-c", "stay", "--", "sh", "-c", "echo here; exec sleep 2000"]).await?;
    let runs = |pod: &Pod| state(pod, "stay").is_some_and(|state| state.running.is_some());
    world.pod_until(&pod, "the added container runs", runs).await?;
    let inside =
        ["exec", "web", "-c", "stay", "--", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo note > /tmp/note"];
    assert!(kubectl.says(&inside).await?.contains("sleep 2000"), "it has processes of its own");
    let copy = world.witness("note");
    kubectl.says(&["cp", "-c", "stay", "web:/tmp/note", &copy.path()]).await?;
    assert_eq!(std::fs::read_to_string(copy.path())?, "note\n");
    world.kill_agent(0).await?;
    world.start_agent(0).await?;
    // Whoever asks before the new agent is there is told that the old one has gone.
    eventually("its log is there again", SOON, || async {
        match kubectl.says(&["logs", "web", "-c", "stay"]).await {
            Ok(text) if text == "here\n" => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    let again = world.pod_until(&pod, "both are told", |pod| runs(pod) && state(pod, "look").is_some()).await?;
    assert_eq!(again.status.clone().unwrap_or_default().container_statuses, before, "the pod itself noticed nothing");
    assert!(again.status.unwrap_or_default().phase.as_deref() == Some("Running"));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_has_a_shell_beside_a_container() -> Result<()> {
    let Some(world) = World::start_with_containers("debug-shell", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().await.is_err() {
        println!("NOT TESTED: terminals need the program `script`");
        return world.end().await;
    }
    let pod = world.create_pod(&contained(&recipes::pod("web", world.device(0), "exec sleep 1000"))).await?;
    world.pod_ready(&pod).await?;
    let line = kubectl.line(&format!("debug -it web --image={BOX} --target=main -c shell -- sh"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "xterm").stdin(Stdio::piped());
    let typed = "tty; tr '\\0' ' ' < /proc/1/cmdline; echo sum $((40 + 2)); exit 4\n";
    let output = finished(script, typed.as_bytes().to_vec()).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in ["/dev/pts/", "sleep 1000", "sum 42"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(ended(&world, &pod, "shell").await?, 4);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_added_is_said_of_it_alone() -> Result<()> {
    let world = World::start("debug-process", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let pod = world.create_pod(&recipes::pod("web", world.device(0), "exec sleep 1000")).await?;
    let before = world.pod_ready(&pod).await?.status.unwrap_or_default().container_statuses;
    kubectl.says(&["debug", "web", "--image=busybox", "--profile=baseline", "-c", "image", "--", "true"]).await?;
    let refused = |pod: &Pod| waiting(pod, "image").0 == "ImageNotSupported";
    let pod = world.pod_until(&pod, "it is refused", refused).await?;
    assert!(waiting(&pod, "image").1.contains("the process runtime runs programs of the host"), "{pod:?}");
    world.event("web", "Failed").await?;
    // A program of the host is what this device has to look with.
    kubectl
        .says(&[
            "debug",
            "web",
            "--image=host",
            "--profile=baseline",
            "-c",
            "host",
            "--",
            "sh",
            "-c",
            "echo hi; exit 6",
        ])
        .await?;
    assert_eq!(ended(&world, &pod, "host").await?, 6);
    assert_eq!(kubectl.says(&["logs", "web", "-c", "host"]).await?, "hi\n");
    let after = world.pod_ready(&pod).await?.status.unwrap_or_default().container_statuses;
    assert_eq!(after, before, "the pod itself noticed nothing");
    world.end().await
}
