//! The verbs with the releases of kubectl that people have, which speak different protocols.

use anyhow::{Context, Result};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::process::actor;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{HubKind, Port, Setting, World, mosquitto};
use serde_json::{Value, json};

use crate::verbs_exec::noise;
use crate::verbs_ports::{exchange, forwarded_to};

/// 1.28 speaks SPDY and nothing else; 1.31 WebSocket to API servers that have it, or SPDY if told to.
const OLDER: [&str; 2] = ["1.28", "1.31"];

#[tokio::test(flavor = "multi_thread")]
async fn every_release_of_kubectl_has_the_verbs() -> Result<()> {
    let world = World::start("releases", 1).await?;
    let newest = Kubectl::of(&world).map(|kubectl| (None, kubectl));
    let older = OLDER.into_iter().filter_map(|release| Some((Some(release), Kubectl::of_release(&world, release)?)));
    let kubectls: Vec<_> = newest.into_iter().chain(older).collect();
    if kubectls.is_empty() {
        return world.end().await;
    }
    let port = Port::take()?;
    pod_for_all_verbs(&world, &port).await?;
    for (release, kubectl) in kubectls {
        for (way, kubectl) in [("as it is", kubectl.clone()), ("SPDY", kubectl.without_websockets())] {
            let verbs = verbs_work(&world, &kubectl, release, &port).await;
            verbs.with_context(|| format!("kubectl {}, {way}", release.unwrap_or("in PATH")))?;
        }
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_goes_over_mosquitto_too() -> Result<()> {
    if mosquitto().is_none() {
        println!("NOT TESTED: mosquitto is not there");
        return Ok(());
    }
    let world = Setting::of("verbs-mosquitto").devices(1).hub(HubKind::OpenMosquitto).start().await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let port = Port::take()?;
    pod_for_all_verbs(&world, &port).await?;
    verbs_work(&world, &kubectl, None, &port).await?;
    world.end().await
}

async fn pod_for_all_verbs(world: &World, port: &Port) -> Result<()> {
    // One that talks to whoever attaches to it, beside one that listens.
    let talk = "echo begun; while read line; do echo heard $line; done";
    let more = json!({ "containers": [
        { "name": "main", "image": "host", "command": ["sh", "-c", talk], "stdin": true },
        {
            "name": "server", "image": "host", "env": [{ "name": "HAWSER_ACTOR", "value": "echo" }],
            "command": [actor(), port.address().port().to_string()],
        },
    ] });
    let pod = world.create_pod(&recipes::pod_with("box", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    Ok(())
}

async fn verbs_work(world: &World, kubectl: &Kubectl, release: Option<&str>, port: &Port) -> Result<()> {
    let version: Value = serde_json::from_str(&kubectl.says(&["version", "--client", "-o", "json"]).await?)?;
    let told = version["clientVersion"]["gitVersion"].as_str().context("a version")?;
    assert!(release.is_none_or(|release| told.starts_with(&format!("v{release}."))), "{told}");

    let output =
        kubectl.run(&["exec", "box", "-c", "main", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
    assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"out\n"[..]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\ncommand terminated with exit code 7\n");
    let bytes = noise(1 << 20);
    let back = kubectl.feed(&["exec", "-i", "box", "-c", "main", "--", "cat"], bytes.clone()).await?;
    assert!(back.status.success() && back.stdout == bytes, "{:?}, {} bytes", back.status, back.stdout.len());

    let mut attached = kubectl.start(&["attach", "-i", "box", "-c", "main"])?;
    attached.write(b"you\n").await?;
    assert_eq!(attached.line().await?.as_deref(), Some("heard you"));
    attached.kill().await?;
    assert!(kubectl.says(&["logs", "box", "-c", "main"]).await?.starts_with("begun\nheard you\n"));
    let mut follower = kubectl.start(&["logs", "-f", "box", "-c", "main", "--tail=1"])?;
    assert_eq!(follower.line().await?.as_deref(), Some("heard you"));
    follower.kill().await?;

    let (running, addresses) = forwarded_to(kubectl, "box", &[port.address().port()]).await?;
    let expected = [format!("port {}\n", port.address().port()).as_bytes(), &bytes].concat();
    // A pod is ready before its program listens.
    eventually("what was sent comes back", SOON, || async {
        match exchange(addresses[0], &bytes).await {
            Ok(heard) if heard == expected => Ok(()),
            other => Err(other.map(|heard| heard.len())),
        }
    })
    .await?;
    running.kill().await?;

    let folder = tempfile::tempdir()?;
    let [here, back] = ["here", "back"].map(|name| folder.path().join(name));
    std::fs::write(&here, &bytes)?;
    let there = format!("box:{}", world.folder().join("copied").display());
    kubectl.says(&["cp", "-c", "main", &here.display().to_string(), &there]).await?;
    kubectl.says(&["cp", "-c", "main", &there, &back.display().to_string()]).await?;
    assert!(std::fs::read(&back)? == bytes, "what came back differs");
    Ok(())
}
