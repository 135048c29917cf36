//! What `kubectl describe` shows of a device's doings.

use anyhow::{Context, Result};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

/// Init containers, which are done in a moment.
const STEPS: [&str; 4] = ["one", "two", "three", "four"];

#[tokio::test(flavor = "multi_thread")]
async fn events_are_described_in_the_order_of_the_device_with_our_time() -> Result<()> {
    let world = World::start("describe", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    // Without the library that pretends it, the clock is right and the rest holds all the same.
    world.kill_agent(0).await?;
    world.start_agent_in_1970(0).await?;
    world.node_ready(0).await?;
    let begun = now();
    let steps = STEPS.map(|name| json!({ "name": name, "image": "host", "command": ["true"] }));
    let more = json!({ "initContainers": steps });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "exec sleep 1000", more)).await?;
    world.pod_ready(&pod).await?;

    // The order of a list is that in which `kubectl describe` shows what happened within one second.
    let events: Api<Event> = Api::namespaced(world.client(), world.namespace());
    let about = ListParams::default().fields("involvedObject.name=web");
    let listed = eventually("all starts are told", SOON, || async {
        let listed = events.list(&about).await.map_err(|error| error.to_string())?.items;
        let started = listed.iter().filter(|event| event.reason.as_deref() == Some("Started")).count();
        if started == STEPS.len() + 1 { Ok(listed) } else { Err(format!("{started} starts")) }
    })
    .await?;
    let mut started = Vec::new();
    for event in &listed {
        let at = event.last_timestamp.as_ref().context("a time")?.0;
        let margin = SignedDuration::from_secs(2);
        assert!(at > begun - margin && at < now() + margin, "{:?} at {at}, begun at {begun}", event.reason);
        if event.reason.as_deref() == Some("Started") {
            let path = event.involved_object.field_path.as_deref().context("a container")?;
            started.push(path.split(['{', '}']).nth(1).context("its name")?);
        }
    }
    assert_eq!(started, [&STEPS[..], &["main"]].concat());
    let described = kubectl.says(&["describe", "pod", "web"]).await?;
    assert_eq!(described.lines().filter(|line| line.contains(" Started ")).count(), STEPS.len() + 1, "{described}");
    world.end().await
}

#[expect(clippy::disallowed_methods, reason = "a story looks at the clock on the wall")]
fn now() -> Timestamp {
    Timestamp::now()
}
