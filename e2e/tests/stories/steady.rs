//! A pod that must not notice what happens around it.

use anyhow::Result;
use hawser_e2e::recipes;
use hawser_e2e::world::{Witness, World};
use k8s_openapi::api::core::v1::Pod;

/// A ready pod on the first device that signs its witness each time it starts.
pub(crate) async fn steady_pod(world: &World, witness: &Witness) -> Result<Pod> {
    let script = format!("{} exec sleep 1000", witness.sign());
    let pod = world.create_pod(&recipes::pod("steady", world.device(0), &script)).await?;
    let pod = world.pod_ready(&pod).await?;
    // Ready is who was started: what it does first may come later.
    witness.until_alive(1).await?;
    Ok(pod)
}

/// The pod is ready, was never started again, and its one process is the one it always was.
pub(crate) async fn undisturbed(world: &World, pod: &Pod, witness: &Witness) -> Result<()> {
    let pod = world.pod_ready(pod).await?;
    let main = &pod.status.and_then(|status| status.container_statuses).expect("a status")[0];
    assert_eq!(main.restart_count, 0);
    assert_eq!((witness.pids()?.len(), witness.alive()?), (1, 1));
    Ok(())
}
