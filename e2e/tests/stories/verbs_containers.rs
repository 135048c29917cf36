//! The verbs of kubectl on containers of an engine. What they do on programs of the host is told in the other files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{Port, World};
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::verbs_exec::{a_terminal_is_resized, noise};
use crate::verbs_ports::{exchange, forwarded_to};

/// A pod that waits to be told what to do.
async fn waiting_pod(world: &World) -> Result<()> {
    let pod = world.create_pod(&contained(&recipes::pod("box", world.device(0), "exec sleep 1000"))).await?;
    world.pod_ready(&pod).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_container_of_an_engine() -> Result<()> {
    const MUCH: usize = 8 << 20;
    let Some(world) = World::start_with_containers("contained-exec", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    waiting_pod(&world).await?;
    let bytes = noise(MUCH);
    for kubectl in [kubectl.clone(), kubectl.without_websockets()] {
        assert_eq!(kubectl.says(&["exec", "box", "--", "echo", "two words", "a\"b$c"]).await?, "two words a\"b$c\n");
        let output = kubectl.run(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
        assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"out\n"[..]));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "err\ncommand terminated with exit code 7\n");
        let (code, told) = kubectl.fails(&["exec", "box", "--", "no-such-program"]).await?;
        assert!(code != 0 && told.contains("no-such-program"), "{code}: {told}");
        assert_eq!(
            kubectl.answers(&["exec", "-i", "box", "--", "cat"], "a line\nand no more").await?,
            "a line\nand no more"
        );
        // Both ways at once, with neither waiting for the other.
        let back = kubectl.feed(&["exec", "-i", "box", "--", "cat"], bytes.clone()).await?;
        assert!(back.status.success() && back.stdout == bytes, "{:?}, {} bytes", back.status, back.stdout.len());
    }
    world.end().await
}

/// A pod that sees the witnesses of its world, and waits to be told what to do or does this.
fn witnessing(world: &World, name: &str, script: &str) -> Pod {
    let folder = world.folder();
    let more = json!({
        "restartPolicy": "Never",
        "containers": [{
            "name": "main", "image": "host", "command": ["sh", "-c", script],
            "volumeMounts": [{ "name": "witnesses", "mountPath": folder }],
        }],
        "volumes": [{ "name": "witnesses", "hostPath": { "path": folder } }],
    });
    contained(&recipes::pod_with(name, world.device(0), "", more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_in_a_container_has_a_size_and_hears_of_a_new_one() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-tty", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let pod = world.create_pod(&witnessing(&world, "box", "exec sleep 1000")).await?;
    world.pod_ready(&pod).await?;
    a_terminal_is_resized(&world, &kubectl).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_an_engine_writes_is_followed_through_its_rotations() -> Result<()> {
    const STEPS: u32 = 9;
    const ROTATED_AFTER: [u32; 2] = [3, 6];
    // One step is enough for a file to be rotated.
    const LINES: u32 = 5_000;
    const WIDTH: usize = 1_000;
    let Some(world) = World::start_with_containers("contained-rotate", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let steps = world.witness("steps");
    // It waits until each step has been read.
    let script = format!(
        "rest=$(printf %0{WIDTH}d 0); for step in $(seq 1 {STEPS}); do \
         seq $(((step - 1) * {LINES} + 1)) $((step * {LINES})) | sed \"s/$/ $rest/\"; \
         until [ $(cat {path} 2>/dev/null || echo 0) -ge $step ]; do sleep 0.1; done; done",
        path = steps.path()
    );
    let pod = world.create_pod(&witnessing(&world, "much", &script)).await?;
    world.pod_ready(&pod).await?;
    let mut follower = kubectl.start(&["logs", "-f", "much"])?;
    for number in 1..=STEPS * LINES {
        let line = follower.line().await?;
        assert!(line.as_deref() == Some(&*format!("{number} {:0WIDTH$}", 0)), "{number} should come, not {line:?}");
        let step = number / LINES;
        if number % LINES == 0 {
            if let Some(at) = ROTATED_AFTER.iter().position(|rotated| *rotated == step) {
                let part = format!("0.log.{}", at + 1);
                eventually("the log is rotated", SOON, || async { named(world.state_of(0), &part).ok_or(&part) })
                    .await?;
            }
            steps.write(&step.to_string())?;
        }
    }
    assert_eq!(follower.end().await?, (Some(0), Vec::new(), String::new()));
    let last = kubectl.says(&["logs", "much", "--tail=1"]).await?;
    assert!(last.starts_with(&format!("{} 0", STEPS * LINES)), "{last}");
    world.end().await
}

/// A file of this name, anywhere below this folder.
fn named(folder: &Path, name: &str) -> Option<PathBuf> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir() && !path.is_symlink());
    let here = files.into_iter().find(|path| path.file_name().is_some_and(|found| found == name));
    here.or_else(|| folders.iter().find_map(|folder| named(folder, name)))
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_attach_work_on_containers_of_an_engine() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-logs", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    // Two lives, in a volume that outlives the first one.
    let script = "echo x >> /lives/all; echo life $(wc -l < /lives/all); [ $(wc -l < /lives/all) -gt 1 ] || exit 3; \
                  while read line; do echo heard $line; done; echo over; exec sleep 1000";
    let more = json!({
        "containers": [{
            "name": "main", "image": "host", "command": ["sh", "-c", script], "stdin": true, "stdinOnce": true,
            "volumeMounts": [{ "name": "lives", "mountPath": "/lives" }],
        }],
        "volumes": [{ "name": "lives", "emptyDir": {} }],
    });
    let pod = world.create_pod(&contained(&recipes::pod_with("twice", world.device(0), "", more))).await?;
    let second = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        pod_is_ready(pod) && statuses.is_some_and(|all| all[0].restart_count == 1)
    };
    world.pod_until(&pod, "restarted and running", second).await?;
    assert_eq!(kubectl.says(&["logs", "twice", "--previous"]).await?, "life 1\n");
    let mut follower = kubectl.start(&["logs", "-f", "twice"])?;
    assert_eq!(follower.line().await?.as_deref(), Some("life 2"));
    let mut attached = kubectl.start(&["attach", "-i", "twice"])?;
    attached.write(b"one\n").await?;
    assert_eq!(attached.line().await?.as_deref(), Some("heard one"));
    assert_eq!(follower.line().await?.as_deref(), Some("heard one"));
    attached.close_input();
    assert_eq!(
        attached.line().await?.as_deref(),
        Some("over"),
        "the end of the first client's input is the container's"
    );
    assert_eq!(follower.line().await?.as_deref(), Some("over"));
    attached.kill().await?;
    follower.kill().await?;
    assert_eq!(kubectl.says(&["logs", "twice", "--tail=2"]).await?, "heard one\nover\n");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_a_hundred_megabytes_is_copied_into_a_container_and_back() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-cp", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    waiting_pod(&world).await?;
    a_tree_is_copied(&kubectl, "/tmp/tree").await?;
    world.end().await
}

/// Copies a hundred megabytes to this place in the pod, and back.
pub(crate) async fn a_tree_is_copied(kubectl: &Kubectl, there: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let names: Vec<String> = (0..50).map(|number| format!("{}/{number}", number % 5)).collect();
    let noise = noise(2 << 20);
    for (number, name) in names.iter().enumerate() {
        let path = at("tree").join(name);
        std::fs::create_dir_all(path.parent().context("it has one")?)?;
        // Each of its own, and of its own length.
        std::fs::write(path, &noise[number..])?;
    }
    let (path, there) = (|path: &Path| path.display().to_string(), format!("box:{there}"));
    kubectl.says(&["cp", &path(&at("tree")), &there]).await?;
    kubectl.says(&["cp", &there, &path(&at("back"))]).await?;
    for (number, name) in names.iter().enumerate() {
        assert!(std::fs::read(at("back").join(name))? == noise[number..], "{name} differs");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reached_in_the_pods_network_and_in_the_hosts() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-ports", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let taken = Port::take()?;
    let port = taken.address().port();
    for (name, host_network) in [("inside", false), ("outside", true)] {
        let script = format!("echo I am {name} > /tmp/index.html; exec httpd -f -p {port} -h /tmp");
        let more = json!({ "hostNetwork": host_network });
        let pod = world.create_pod(&contained(&recipes::pod_with(name, world.device(0), &script, more))).await?;
        world.pod_ready(&pod).await?;
    }
    // One port, and two of it: whose it is depends on the network.
    for name in ["inside", "outside"] {
        for kubectl in [kubectl.clone(), kubectl.without_websockets()] {
            eventually("the server answers", SOON, || async {
                let (running, addresses) =
                    forwarded_to(&kubectl, name, &[port]).await.map_err(|error| error.to_string())?;
                let heard =
                    exchange(addresses[0], b"GET / HTTP/1.0\r\n\r\n").await.map_err(|error| error.to_string())?;
                running.kill().await.map_err(|error| error.to_string())?;
                let heard = String::from_utf8_lossy(&heard).into_owned();
                if heard.ends_with(&format!("I am {name}\n")) { Ok(()) } else { Err(heard) }
            })
            .await?;
        }
    }
    world.end().await
}
