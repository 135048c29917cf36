//! Streams meet what fails: nobody waits for ever, nothing is restarted, and afterwards it works again.

use std::time::Duration;

use anyhow::{Context, Result};
use hawser_e2e::kubectl::{Kubectl, Running};
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{Witness, World};
use hawser_lab::rope::Faults;
use k8s_openapi::api::core::v1::Pod;

/// Longer than it takes to give a device up.
const GIVEN_UP: Duration = Duration::from_secs(90);

/// A pod that signs its witness, and a command in it that has said it is ready.
async fn command_that_runs(world: &World, kubectl: &Kubectl) -> Result<(Pod, Witness, Running)> {
    let witness = world.witness("steady");
    let script = format!("{} exec sleep 1000", witness.sign());
    let pod = world.create_pod(&recipes::pod("box", world.device(0), &script)).await?;
    let pod = world.pod_ready(&pod).await?;
    witness.until_alive(1).await?;
    let mut running = kubectl.start(&["exec", "-i", "box", "--", "sh", "-c", "echo ready; cat"])?;
    assert_eq!(running.line().await?.as_deref(), Some("ready"));
    running.write(b"there and back\n").await?;
    assert_eq!(running.line().await?.as_deref(), Some("there and back"));
    Ok((pod, witness, running))
}

async fn works_again(world: &World, kubectl: &Kubectl, pod: &Pod, witness: &Witness) -> Result<()> {
    world.node_ready(0).await?;
    eventually("commands run again", SOON, || async {
        match kubectl.says(&["exec", "box", "--", "echo", "again"]).await {
            Ok(text) if text == "again\n" => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    let pod = world.pod_ready(pod).await?;
    let main = &pod.status.and_then(|status| status.container_statuses).context("a status")?[0];
    assert_eq!((main.restart_count, witness.pids()?.len(), witness.alive()?), (0, 1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_ends_its_streams() -> Result<()> {
    let world = World::start("lost-exec", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let (pod, witness, running) = command_that_runs(&world, &kubectl).await?;
    world.cut_rope(0);
    world.node_with_ready(0, "Unknown").await?;
    let (code, _, told) = tokio::time::timeout(GIVEN_UP, running.end()).await.context("kubectl hangs")??;
    assert_ne!(code, Some(0), "{told}");
    assert!(told.contains("is not heard any more"), "{told}");
    let (_, told) = kubectl.fails(&["exec", "box", "--", "true"]).await?;
    assert!(told.contains("device"), "{told}");
    world.mend_rope(0, Faults::default());
    works_again(&world, &kubectl, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_ends_its_streams_and_nothing_else() -> Result<()> {
    let world = World::start("killed-exec", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let (pod, witness, running) = command_that_runs(&world, &kubectl).await?;
    world.kill_bridge().await?;
    let (code, _, told) = tokio::time::timeout(GIVEN_UP, running.end()).await.context("kubectl hangs")??;
    assert_ne!(code, Some(0), "{told}");
    let (_, told) = kubectl.fails(&["exec", "box", "--", "true"]).await?;
    assert!(told.contains("connection refused"), "{told}");
    world.start_bridge().await?;
    works_again(&world, &kubectl, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_ends_its_streams_and_nothing_else() -> Result<()> {
    let world = World::start("agent-exec", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let (pod, witness, running) = command_that_runs(&world, &kubectl).await?;
    world.kill_agent(0).await?;
    world.start_agent(0).await?;
    let (code, _, told) = tokio::time::timeout(GIVEN_UP, running.end()).await.context("kubectl hangs")??;
    assert_ne!(code, Some(0), "{told}");
    works_again(&world, &kubectl, &pod, &witness).await?;
    world.end().await
}
