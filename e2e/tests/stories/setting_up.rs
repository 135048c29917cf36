//! What an operator gets wrong around hub and bridge: each is said in one line, and nothing stops for it.

use anyhow::{Context, Result};
use hawser_e2e::process::{Program, Role, command};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{SYSTEM, World};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::net::TcpListener;

use crate::steady::{steady_pod, undisturbed};

/// Lines of a log, after what was there before, that say this.
fn lines_with(said: &str, before: usize, words: &str) -> Vec<String> {
    said.get(before..).unwrap_or_default().lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

/// The one line in which a command says what went wrong.
fn one_error(output: &std::process::Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<_> = told.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "one clear line: {told}");
    errors[0].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_without_a_hub_says_so_and_waits_for_it() -> Result<()> {
    let world = World::start("no-hub", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    world.kill_bridge().await?;
    world.kill_hub().await?;
    let before = world.bridge_said().len();
    world.start_bridge().await?;
    let told = eventually("the bridge says what it lacks", SOON, || async {
        let told = lines_with(&world.bridge_said(), before, "no connection to the hub");
        if told.is_empty() { Err(world.bridge_said()) } else { Ok(told) }
    })
    .await?;
    assert!(told[0].contains(&world.hub_address().to_string()) && told[0].contains("check --hub"), "{told:?}");
    world.node_with_ready(0, "Unknown").await?;
    assert_eq!(witness.alive()?, 1);
    assert_eq!(lines_with(&world.bridge_said(), before, "no connection to the hub").len(), 1, "it is said once");
    world.start_hub().await?;
    world.node_ready(0).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_waits_for_a_silent_api_server_stops_when_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let kubeconfig = folder.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "silent",
        "clusters": [{ "name": "silent", "cluster": { "server": format!("http://{}", silent.local_addr()?) } }],
        "contexts": [{ "name": "silent", "context": { "cluster": "silent", "user": "nobody" } }],
        "users": [{ "name": "nobody", "user": {} }],
    });
    std::fs::write(&kubeconfig, text.to_string())?;
    let mut command = command(Role::Hawser);
    command.args(["bridge", "--hub", "mqtt://127.0.0.1:1", "--http", "none", "--kubeconfig"]).arg(&kubeconfig);
    let bridge = Program::new("bridge", folder.path());
    bridge.start(command)?;
    let _asked = tokio::time::timeout(SOON, silent.accept()).await.context("the bridge asks nothing")??;
    bridge.stop().await
}

async fn set_bridge_key(world: &World, key: &str) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(world.client(), SYSTEM);
    let patch = json!({ "stringData": { "key": key } });
    secrets.patch("hawser-bridge-key", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_key_that_was_replaced_is_said_and_costs_nothing_once_it_is_back() -> Result<()> {
    let world = World::start("key-lost", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    let secrets: Api<Secret> = Api::namespaced(world.client(), SYSTEM);
    let data = secrets.get("hawser-bridge-key").await?.data.context("the key")?;
    let right = String::from_utf8(data["key"].0.clone())?;

    // Rubbish: the bridge does not start, and does not make another key, which no device would trust.
    set_bridge_key(&world, "rubbish").await?;
    world.kill_bridge().await?;
    let output = world.run_bridge(&[]).await?;
    let told = one_error(&output);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("hawser-system/hawser-bridge-key") && told.contains("restore it from a backup"), "{told}");

    // Somebody else's: the bridge starts, and both sides say why they do not come together.
    set_bridge_key(&world, &"5a".repeat(32)).await?;
    let (bridge, agent) = (world.bridge_said().len(), world.agent_said(0).len());
    world.start_bridge().await?;
    eventually("both say that the key is another", SOON, || async {
        let bridge = lines_with(&world.bridge_said(), bridge, "joined to another bridge");
        let agent = lines_with(&world.agent_said(0), agent, "the bridge refused us");
        let bridge_says =
            bridge.iter().any(|line| line.contains(world.device(0)) && line.contains("this bridge's key is"));
        let agent_says = agent.iter().any(|line| line.contains("joined to another bridge"));
        if bridge_says && agent_says { Ok(()) } else { Err((bridge, agent)) }
    })
    .await?;
    let refusal = world.agent_status(0).await?.refusal.unwrap_or_default();
    assert!(refusal.contains("another bridge"), "{refusal}");
    world.node_with_ready(0, "Unknown").await?;
    assert_eq!(witness.alive()?, 1);

    set_bridge_key(&world, &right).await?;
    world.kill_bridge().await?;
    world.start_bridge().await?;
    world.node_ready(0).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() -> Result<()> {
    let world = World::start("ports", 0).await?;
    let taken = world.hub_address().to_string();
    let password = world.folder().join("hub-password").display().to_string();
    let hub = world.hawser(&["hub", "--listen", &taken, "--bridge-password-file", &password]).await?;
    let embedded = world.hawser(&["bridge", "--namespace", SYSTEM, "--embedded-hub", &taken, "--http", "none"]).await?;
    let http = world.run_bridge(&["--http", &taken]).await?;
    for (what, output, fix) in
        [("hub", hub, "a free port"), ("embedded hub", embedded, "a free port"), ("metrics", http, "--http")]
    {
        let told = one_error(&output);
        assert_eq!(output.status.code(), Some(4), "{what}: {told}");
        assert!(told.contains(&taken) && told.contains("in use") && told.contains(fix), "{what}: {told}");
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_identity_is_said_and_harms_no_workload() -> Result<()> {
    let world = World::start("twins", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    let first = witness.pids()?;
    let before = world.agent_said(0).len();
    let twin = world.start_twin(0)?;
    eventually("one of the two says that there is another", SOON * 2, || async {
        let name = format!("another agent may be running as `{}`", world.device(0));
        let said = [lines_with(&world.agent_said(0), before, &name), lines_with(&twin.said(), 0, &name)].concat();
        if said.is_empty() { Err((world.agent_said(0), twin.said())) } else { Ok(()) }
    })
    .await?;
    twin.kill().await?;
    world.node_ready(0).await?;
    world.pod_ready(&pod).await?;
    assert!(first.iter().all(|pid| hawser_e2e::process::is_alive(*pid)), "what ran before runs on");
    world.end().await
}
