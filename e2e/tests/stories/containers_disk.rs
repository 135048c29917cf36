//! The disk of the images is full in the middle of a pull.

use anyhow::Result;
use hawser_e2e::engine::{Busybox, Image, Layer, archive};
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::registry::{self, Registry};
use hawser_e2e::wait::SOON;
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::json;

use crate::containers::waiting;

/// The engine's disk, what is left of it when it is full, and an image that is more than that: megabytes.
const DISK: u32 = 160;
const LEFT: u64 = 16;
const IMAGE: usize = 24;

/// Makes an image of this size and pushes it there; nothing of it stays with the engine.
fn push_large(world: &World, to: &str) -> Result<()> {
    const NAME: &str = "hawser.test/large:1";
    let folder = world.folder().join("large");
    std::fs::create_dir(&folder)?;
    let small = Layer::of(&folder, "box", |root| Busybox::find().map_err(anyhow::Error::msg)?.unpack(root))?;
    let large = Layer::of(&folder, "large", |root| Ok(std::fs::write(root.join("data"), vec![7; IMAGE << 20])?))?;
    let engine = world.engine();
    engine.import(&archive(&folder, &[Image::new(NAME, &[&small, &large])])?)?;
    engine.push(NAME, to, None)?;
    engine.ctr(&["images", "rm", "--sync", NAME]).map(drop)
}

fn containers(pod: Pod) -> Vec<ContainerStatus> {
    pod.status.and_then(|status| status.container_statuses).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_in_the_middle_of_a_pull_is_said_and_the_pull_goes_on_when_there_is_room() -> Result<()> {
    if let Some(missing) = registry::missing() {
        println!("NOT TESTED: a full disk in the middle of a pull: {missing}");
        return Ok(());
    }
    let Some(world) = World::start_with_containers_on_disk("pull-full", DISK).await? else { return Ok(()) };
    let registry = Registry::start(world.folder())?;
    let image = format!("{}/large:1", registry.address());
    push_large(&world, &image)?;
    let well = world.create_pod(&contained(&recipes::pod("well", world.device(0), "exec sleep 1000"))).await?;
    let before = containers(world.pod_ready(&well).await?);

    world.engine().fill_disk(LEFT)?;
    let said = |message: &str| message.contains("15 % of the space") && message.contains("the images'");
    let pressed =
        |c: &k8s_openapi::api::core::v1::NodeCondition| c.status == "True" && c.message.as_deref().is_some_and(said);
    world.node_until("DiskPressure", 0, "true for the images", pressed).await?;
    let more = json!({ "containers": [{ "name": "main", "image": image, "command": ["sleep", "1000"] }] });
    let pod = world.create_pod(&recipes::pod_with("large", world.device(0), "", more)).await?;
    // On a slow machine the first of these words may have passed before anybody looks.
    let failed = |pod: &Pod| matches!(waiting(pod).0.as_str(), "ErrImagePull" | "ImagePullBackOff");
    let failed = world.pod_until(&pod, "short of room", failed).await?;
    assert!(waiting(&failed).1.contains("no space left on device"), "{failed:#?}");
    let event = world.event("large", "Failed").await?.message.unwrap_or_default();
    assert!(event.starts_with("Failed to pull image ") && event.contains("no space left on device"), "{event}");
    world.pod_until(&pod, "backing off", |pod| waiting(pod).0 == "ImagePullBackOff").await?;
    assert_eq!(containers(world.pod_ready(&well).await?), before, "who runs, runs on");

    world.engine().clear_disk()?;
    world.pod_ready_within(&pod, SOON * 2).await?;
    let pulled = world.event("large", "Pulled").await?.message.unwrap_or_default();
    assert!(pulled.contains(" including waiting). Image size: "), "{pulled}");
    assert_eq!(containers(world.pod_ready(&well).await?), before);
    world.end().await
}
