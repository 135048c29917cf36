//! The network of a device's pods, made of the addresses that the cluster gives to its node.

use anyhow::{Context, Result};
use hawser_e2e::engine::BOX;
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::world::World;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_addresses_of_the_range_that_the_cluster_gives_to_their_node() -> Result<()> {
    let Some(world) = World::start_with_containers("addresses", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let range = world.engine().wait_for_addresses()?;
    let node = format!("node/{}", world.device(0));
    kubectl.says(&["wait", "--for=condition=NetworkReady=false", "--timeout=120s", &node]).await?;

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
        "spec": {
            "nodeName": world.device(0),
            "containers": [{ "name": "main", "image": BOX, "command": ["sh", "-c", "exec sleep 1000"] }],
            "tolerations": [{ "key": "hawser.dev/device", "operator": "Exists" }],
            "terminationGracePeriodSeconds": 1,
        },
    });
    kubectl.answers(&["create", "-f", "-"], pod.to_string()).await?;
    let event = world.event("web", "NetworkNotReady").await?.message.unwrap_or_default();
    assert!(event.starts_with("network is not ready: container runtime network not ready: "), "{event}");

    // As the controller manager does for nodes without one (--allocate-node-cidrs).
    let given = json!({ "spec": { "podCIDR": range, "podCIDRs": [range] } }).to_string();
    kubectl.says(&["patch", &node, "--type=merge", "--patch", &given]).await?;
    kubectl.says(&["wait", "--for=condition=NetworkReady", "--timeout=120s", &node]).await?;
    kubectl.says(&["wait", "--for=condition=Ready", "--timeout=120s", "pod/web"]).await?;
    let address = kubectl.says(&["get", "pod", "web", "--output=jsonpath={.status.podIP}"]).await?;
    let (network, _) = range.rsplit_once('.').context("a range")?;
    assert!(address.starts_with(&format!("{network}.")), "{address} is not of {range}");
    world.end().await
}
