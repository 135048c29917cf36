//! A hub behind TLS: what is wrong with its certificate is said, tried again, and stops nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use embedded_hub::{Accounts, Hub, HubConfig, Password};
use hawser_e2e::tls::Authority;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{HubKind, Setting, World};

use crate::steady::{steady_pod, undisturbed};

async fn world(story: &str) -> Result<World> {
    Setting::of(story).devices(1).hub(HubKind::EmbeddedTls).start().await
}

/// Waits until a program has printed a line with all these words, after what it had printed before. One line says it all.
async fn says(who: &str, said: impl Fn() -> String, before: usize, words: &[&str]) -> Result<String> {
    eventually(&format!("{who} says {words:?}"), SOON, || async {
        let said = said().get(before..).unwrap_or_default().to_owned();
        let found = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned).ok_or(said)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_is_told_what_is_wrong_with_tls() -> Result<()> {
    let world = world("tls-join").await?;
    let join = world.add_device(&format!("{}-stranger", world.name())).await?;
    let (port, ca) = (world.hub_address().port(), world.folder().join("ca.pem"));
    let (foreign, empty) = (world.folder().join("foreign.pem"), world.folder().join("empty.pem"));
    std::fs::write(&foreign, Authority::new()?.certificate())?;
    std::fs::write(&empty, "")?;
    let plain = Hub::start(HubConfig::on_loopback(Accounts::new(Password::new("not asked for")))).await?;
    let right = format!("mqtts://localhost:{port}");
    for (hub, ca, code, words) in [
        (right.clone(), Some(&foreign), 5, ["authority", "--hub-ca"]),
        (right.clone(), Some(&empty), 3, ["empty.pem", "--hub-ca"]),
        (format!("mqtts://127.0.0.1:{port}"), Some(&ca), 5, ["another name", "127.0.0.1"]),
        (format!("mqtt://localhost:{port}"), None, 5, ["TLS", "mqtts://"]),
        (
            format!("mqtts://localhost:{}", plain.local_addr().port()),
            Some(&ca),
            5,
            ["do not agree on TLS", "port is for TLS"],
        ),
    ] {
        let output = world.join_at(&join, &hub, ca.map(|path| path.as_path())).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), told.trim().lines().count()), (Some(code), 1), "{hub}: {told}");
        assert!(words.iter().all(|word| told.contains(word)), "{hub}: {told}");
    }
    plain.stop(Duration::from_secs(1)).await;
    // None of that cost the token.
    let output = world.join_at(&join, &right, Some(Path::new(&ca))).await?;
    assert!(output.status.success(), "{output:?}");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_a_wrong_certificate_is_said_and_stops_nothing() -> Result<()> {
    let world = world("tls-hub").await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    let authority = world.authority().context("the world has TLS")?;
    for (certificate, words, fix) in [
        (authority.issue_expired("localhost")?, ["expired", "renew the certificate"], "renew the hub's certificate"),
        (Authority::new()?.issue("localhost")?, ["authority", "--hub-ca"], "--hub-ca"),
        (authority.issue("elsewhere")?, ["another name", "join with"], "as the hub's certificate has it"),
    ] {
        let (bridge, agent) = (world.bridge_said().len(), world.agent_said(0).len());
        world.kill_hub().await?;
        world.set_hub_certificate(&certificate)?;
        world.start_hub().await?;
        says("the agent", || world.agent_said(0), agent, &words).await?;
        says("the bridge", || world.bridge_said(), bridge, &["no connection to the hub", fix]).await?;
    }
    world.node_with_ready(0, "Unknown").await?;
    assert_eq!(witness.alive()?, 1);
    world.kill_hub().await?;
    world.set_hub_certificate(&authority.issue("localhost")?)?;
    world.start_hub().await?;
    world.node_ready(0).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_at_1970_keeps_the_device_off_a_hub_behind_tls_and_is_said() -> Result<()> {
    let world = world("tls-1970").await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    let before = world.agent_said(0).len();
    world.kill_agent(0).await?;
    if world.start_agent_in_1970(0).await? {
        says("the agent", || world.agent_said(0), before, &["not valid yet", "clock", "1970-01-01"]).await?;
        assert_eq!((witness.pids()?.len(), witness.alive()?), (1, 1));
        world.kill_agent(0).await?;
        world.start_agent(0).await?;
    }
    world.node_ready(0).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}
