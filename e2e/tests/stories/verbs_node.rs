//! What monitoring reads of a node.

use anyhow::{Context, Result};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_what_it_uses() -> Result<()> {
    let world = World::start("stats", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let pod = world.create_pod(&recipes::pod("steady", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&pod).await?;
    // One port serves all devices: which one is meant, it has to be told.
    let raw = |path: &str| format!("/api/v1/nodes/{0}/proxy/{path}?node={0}", world.device(0));
    if !world.kubelet_is_proxied() {
        let (_, told) = kubectl.fails(&["get", "--raw", &raw("stats/summary")]).await?;
        assert!(told.contains("address not allowed"), "{told}");
        println!(
            "NOT TESTED: an API server passes nothing on to nodes on loopback (HAWSER_KUBELET_ADDRESS names another address)"
        );
        return world.end().await;
    }
    let summary = eventually("the pod is in the summary", SOON, || async {
        let text = kubectl.says(&["get", "--raw", &raw("stats/summary")]).await.map_err(|error| error.to_string())?;
        let summary: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let pods = summary["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
        if pods.iter().any(|pod| pod["podRef"]["name"] == "steady") { Ok(summary) } else { Err(text) }
    })
    .await?;
    assert_eq!(summary["node"]["nodeName"], world.device(0));
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{summary:#}");
    let metrics = kubectl.says(&["get", "--raw", &raw("metrics/resource")]).await?;
    let memory = metrics.lines().find(|line| line.starts_with("node_memory_working_set_bytes"));
    memory.with_context(|| metrics.clone())?;
    assert!(metrics.contains("pod=\"steady\""), "{metrics}");
    let pods = kubectl.says(&["get", "--raw", &raw("pods")]).await?;
    let pods: Value = serde_json::from_str(&pods)?;
    let names: Vec<_> =
        pods["items"].as_array().context("a list")?.iter().map(|pod| &pod["metadata"]["name"]).collect();
    assert!(names.iter().any(|name| **name == "steady"), "{names:?}");
    let (_, told) = kubectl.fails(&["get", "--raw", &raw("no/such/thing")]).await?;
    assert!(told.contains("NotFound") || told.contains("404") || told.contains("could not find"), "{told}");
    world.end().await
}
