//! Pods in containers that get other limits and requests while they run.

use anyhow::Result;
use hawser_e2e::engine::BOX;
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

fn resources(cpu: &str, memory: &str) -> Value {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    json!({ "limits": amounts, "requests": amounts })
}

fn of_size(world: &World, name: &str, size: &Value) -> Pod {
    let script = "exec sleep 1000";
    let mut spec = recipes::spec(script);
    spec["containers"][0]["resources"] = size.clone();
    contained(&recipes::pod_with(name, world.device(0), script, json!({ "containers": spec["containers"] })))
}

fn elastic(world: &World) -> Pod {
    of_size(world, "elastic", &resources("100m", "32Mi"))
}

async fn resize(world: &World, to: &Value) -> Result<Pod> {
    let patch = Patch::Strategic(json!({ "spec": { "containers": [{ "name": "main", "resources": to }] } }));
    Ok(world.pods().patch_subresource("resize", "elastic", &PatchParams::default(), &patch).await?)
}

fn main_of(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    statuses.into_iter().flatten().next().unwrap_or_default()
}

fn condition(pod: &Pod, kind: &str) -> Option<PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|condition| condition.type_ == kind).cloned()
}

/// Whether the device has taken over the newest form of the pod.
fn is_observed(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.observed_generation) == pod.metadata.generation
}

fn has(pod: &Pod, wanted: &Value) -> bool {
    let main = main_of(pod);
    let under_way = ["PodResizePending", "PodResizeInProgress"].iter().any(|kind| condition(pod, kind).is_some());
    is_observed(pod)
        && !under_way
        && json!(main.resources) == *wanted
        && json!(main.allocated_resources) == wanted["requests"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_other_limits_while_it_runs_also_after_its_device_was_away() -> Result<()> {
    let Some(world) = World::start_with_containers("resized", 1).await? else { return Ok(()) };
    let pod = world.create_pod(&elastic(&world)).await?;
    let before = main_of(&world.pod_ready(&pod).await?);
    let larger = resources("200m", "64Mi");
    resize(&world, &larger).await?;
    let resized = world.pod_until(&pod, "resized", |pod| has(pod, &larger)).await?;
    let after = main_of(&resized);
    assert_eq!((&after.container_id, after.restart_count), (&before.container_id, 0));
    for reason in ["ResizeStarted", "ResizeCompleted"] {
        let words = world.event("elastic", reason).await?.message.unwrap_or_default();
        assert!(words.contains(r#""limits":{"cpu":"200m","memory":"64Mi"}"#), "{words}");
    }

    // Nothing is claimed while the device is away.
    world.kill_agent(0).await?;
    let smaller = resources("150m", "48Mi");
    resize(&world, &smaller).await?;
    let away = world.pod_until(&pod, "not observed", |pod| !is_observed(pod)).await?;
    assert_eq!(json!(main_of(&away).resources), larger);
    world.start_agent(0).await?;
    let resized = world.pod_until(&pod, "resized again", |pod| has(pod, &smaller)).await?;
    assert_eq!(main_of(&resized).container_id, before.container_id);
    world.end().await
}

/// What pods may have of the device's processors, in thousandths.
async fn processors(world: &World) -> Result<u64> {
    let allocatable = world.node_ready(0).await?.status.and_then(|status| status.allocatable).unwrap_or_default();
    let told = allocatable.get("cpu").map(|quantity| quantity.0.as_str()).unwrap_or_default();
    Ok(match told.strip_suffix('m') {
        Some(millis) => millis.parse()?,
        None => told.parse::<u64>()? * 1_000,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_waits_for_limits_for_which_there_is_no_room() -> Result<()> {
    let Some(world) = World::start_with_containers("resized-later", 1).await? else { return Ok(()) };
    // Each fits alone, and both together do not.
    let most = format!("{}m", processors(&world).await? * 3 / 4);
    let neighbour = world.create_pod(&of_size(&world, "neighbour", &resources(&most, "32Mi"))).await?;
    let pod = world.create_pod(&elastic(&world)).await?;
    world.pod_ready(&neighbour).await?;
    world.pod_ready(&pod).await?;
    let wanted = resources(&most, "32Mi");
    resize(&world, &wanted).await?;
    let deferred =
        |pod: &Pod| condition(pod, "PodResizePending").is_some_and(|one| one.reason.as_deref() == Some("Deferred"));
    let waiting = world.pod_until(&pod, "deferred", deferred).await?;
    let pending = condition(&waiting, "PodResizePending").unwrap_or_default();
    let words = pending.message.unwrap_or_default();
    assert!(words.starts_with("Node didn't have enough resource: cpu, requested: "), "{words}");
    assert_eq!(pending.observed_generation, waiting.metadata.generation);
    assert_eq!(json!(main_of(&waiting).resources), resources("100m", "32Mi"));
    world.event("elastic", "ResizeDeferred").await?;

    // It has it as soon as somebody leaves.
    world.pods().delete("neighbour", &DeleteParams::default().grace_period(1)).await?;
    let resized = world.pod_until(&pod, "resized", |pod| has(pod, &wanted)).await?;
    assert_eq!(main_of(&resized).restart_count, 0);
    world.end().await
}

/// The limit of memory that a container of the pod finds for itself.
async fn limit_inside(kubectl: &Kubectl, container: &str) -> Result<String> {
    let places = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || :";
    Ok(kubectl.says(&["exec", "shared", "-c", container, "--", "sh", "-c", places]).await?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_as_a_whole_gets_other_limits_while_its_containers_run() -> Result<()> {
    let Some(world) = World::start_with_containers("resized-whole", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    // Or an API server lets nobody ask for it.
    let declared = world.node_ready(0).await?.status.unwrap_or_default().declared_features.unwrap_or_default();
    assert!(declared.iter().any(|feature| feature == "InPlacePodLevelResourcesVerticalScaling"), "{declared:?}");
    // One container has limits of its own, the other one may use what the pod has.
    let container = |name: &str| json!({ "name": name, "image": BOX, "command": ["sh", "-c", "exec sleep 1000"] });
    let mut own = container("own");
    own["resources"] = resources("50m", "24Mi");
    let more = json!({ "resources": resources("100m", "64Mi"), "containers": [own, container("free")] });
    let pod = world.create_pod(&recipes::pod_with("shared", world.device(0), "", more)).await?;
    let before = world.pod_ready(&pod).await?.status.unwrap_or_default();
    assert_eq!(json!(before.resources), resources("100m", "64Mi"));
    assert_eq!(limit_inside(&kubectl, "free").await?, (64 << 20).to_string());

    let larger = resources("200m", "96Mi");
    let patch = json!({ "spec": { "resources": larger } }).to_string();
    kubectl.says(&["patch", "pod", "shared", "--subresource", "resize", "--patch", &patch]).await?;
    let resized = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        is_observed(pod)
            && condition(pod, "PodResizePending").is_none()
            && condition(pod, "PodResizeInProgress").is_none()
            && json!(status.resources) == larger
            && json!(status.allocated_resources) == larger["requests"]
    };
    let after = world.pod_until(&pod, "resized", resized).await?.status.unwrap_or_default();
    assert_eq!(limit_inside(&kubectl, "free").await?, (96 << 20).to_string());
    assert_eq!(limit_inside(&kubectl, "own").await?, (24 << 20).to_string());
    let lives = |status: &PodStatus| {
        let containers = status.container_statuses.iter().flatten();
        containers.map(|container| (container.container_id.clone(), container.restart_count)).collect::<Vec<_>>()
    };
    assert_eq!(lives(&after), lives(&before), "nothing was started again");
    for reason in ["ResizeStarted", "ResizeCompleted"] {
        world.event("shared", reason).await?;
    }
    world.end().await
}
