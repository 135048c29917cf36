//! What a device cannot do is said, by name.

use anyhow::Result;
use hawser_e2e::recipes;
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_a_device_cannot_honour_refuses_the_pod() -> Result<()> {
    let world = World::start("unsupported", 1).await?;
    let more = json!({ "volumes": [{ "name": "far", "nfs": { "server": "192.0.2.1", "path": "/" } }] });
    let pod = world.create_pod(&recipes::pod_with("apart", world.device(0), "exec sleep 1000", more)).await?;
    let shown = world
        .pod_until(&pod, "failed", |pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed"))
        .await?;
    let status = shown.status.unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("UnsupportedField"));
    let message = status.message.unwrap_or_default();
    assert!(message.contains("spec.volumes[0].nfs"), "{message}");
    world.event("apart", "UnsupportedField").await?;
    world.pods().delete("apart", &DeleteParams::default()).await?;
    world.pod_gone(&pod).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_runtime_cannot_run_is_said_and_harms_nobody() -> Result<()> {
    let world = World::start("image", 1).await?;
    let good = world.create_pod(&recipes::pod("good", world.device(0), "exec sleep 1000")).await?;
    let more = json!({ "containers": [{ "name": "main", "image": "nginx:1.27" }] });
    let bad = world.create_pod(&recipes::pod_with("bad", world.device(0), "", more)).await?;
    world
        .pod_until(&bad, "says why", |pod| {
            let main = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()).and_then(|all| all.first());
            let waiting = main.and_then(|main| main.state.as_ref()).and_then(|state| state.waiting.as_ref());
            waiting.and_then(|waiting| waiting.message.as_deref()).is_some_and(|text| text.contains("image: host"))
        })
        .await?;
    world.pod_ready(&good).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_wants_users_of_its_own_does_not_run_with_those_of_the_device() -> Result<()> {
    let world = World::start("users", 1).await?;
    let more = json!({ "hostUsers": false });
    let pod = world.create_pod(&recipes::pod_with("apart", world.device(0), "exec sleep 1000", more)).await?;
    world
        .pod_until(&pod, "says why", |pod| {
            let main = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()).and_then(|all| all.first());
            let waiting = main.and_then(|main| main.state.as_ref()).and_then(|state| state.waiting.as_ref());
            let told = waiting.and_then(|waiting| waiting.message.as_deref().zip(waiting.reason.as_deref()));
            told.is_some_and(|(words, reason)| reason == "UnsupportedField" && words.starts_with("hostUsers: false: "))
        })
        .await?;
    world.pods().delete("apart", &DeleteParams::default()).await?;
    world.pod_gone(&pod).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_bound_to_a_node_that_it_does_not_choose_is_rejected() -> Result<()> {
    let world = World::start("affinity", 1).await?;
    let status = async |name: &str, more: serde_json::Value| {
        let pod = world.create_pod(&recipes::pod_with(name, world.device(0), "exec sleep 1000", more)).await?;
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let shown = world.pod_until(&pod, "taken in or not", |pod| phase(pod) != "Pending").await?;
        anyhow::Ok(shown.status.unwrap_or_default())
    };
    let here = json!({ "nodeSelector": { "e2e.hawser.dev/world": world.name() } });
    assert_eq!(status("here", here).await?.phase.as_deref(), Some("Running"));
    let elsewhere = status("elsewhere", json!({ "nodeSelector": { "e2e.hawser.dev/world": "another" } })).await?;
    assert_eq!((elsewhere.phase.as_deref(), elsewhere.reason.as_deref()), (Some("Failed"), Some("NodeAffinity")));
    let said = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!(elsewhere.message, Some(format!("Pod was rejected: {said}")));
    assert_eq!(world.event("elsewhere", "NodeAffinity").await?.message.as_deref(), Some(said));
    world.end().await
}
