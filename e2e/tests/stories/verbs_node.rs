//! What monitoring reads of a node.

use anyhow::{Context, Result};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_what_is_used_of_its_disk() -> Result<()> {
    let world = World::start("disk-stats", 1).await?;
    let node = disk_is_told(&world, |pod| pod).await?;
    assert!(node.is_none_or(|node| node.get("runtime").is_none()), "it has no images");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_engine_tells_what_images_and_containers_use() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-disk", 1).await? else { return Ok(()) };
    if let Some(node) = disk_is_told(&world, |pod| contained(&pod)).await? {
        let images = &node["runtime"]["imageFs"];
        assert!(amount(images, "usedBytes") > 0 && amount(images, "inodesUsed") > 0, "{images}");
        assert!(amount(images, "capacityBytes") > amount(images, "availableBytes"), "{images}");
    }
    world.end().await
}

fn amount(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or(0)
}

/// Has a pod write, and looks at what the node says; what it says of itself. `None`: nobody can ask it here.
async fn disk_is_told(world: &World, kind: impl Fn(Pod) -> Pod) -> Result<Option<Value>> {
    // The last is less than what its numbers take.
    let (volume, own, logs) = (3_u64 << 20, 2_u64 << 20, 250_000);
    let Some(kubectl) = Kubectl::of(world) else { return Ok(None) };
    if !world.kubelet_is_proxied() {
        println!("NOT TESTED: an API server passes nothing on to nodes on loopback");
        return Ok(None);
    }
    let script =
        format!("head -c {volume} /dev/zero > data/big; head -c {own} /dev/zero > own; seq 50000; exec sleep 1000");
    let more = json!({
        "containers": [{
            "name": "main", "image": "host", "command": ["sh", "-c", script],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }, { "name": "fast", "mountPath": "/fast" }],
        }],
        "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "fast", "emptyDir": { "medium": "Memory" } }],
    });
    let pod = world.create_pod(&kind(recipes::pod_with("writer", world.device(0), "", more))).await?;
    world.pod_ready(&pod).await?;
    let raw = format!("/api/v1/nodes/{0}/proxy/stats/summary?node={0}", world.device(0));
    // It is measured beside, and an engine looks at its containers only so often.
    let summary = eventually("all that was written is in the summary", SOON * 2, || async {
        let text = kubectl.says(&["get", "--raw", &raw]).await.map_err(|error| error.to_string())?;
        let summary: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let pods = summary["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(pod) = pods.iter().find(|pod| pod["podRef"]["name"] == "writer").cloned() else { return Err(text) };
        let main = &pod["containers"][0];
        let volumes = pod["volume"].as_array().map(Vec::as_slice).unwrap_or_default();
        let data = volumes.iter().find(|volume| volume["name"] == "data").unwrap_or(&Value::Null);
        let told = [data, &main["rootfs"], &main["logs"]].map(|of| amount(of, "usedBytes"));
        if told[0] < volume || told[1] < own || told[2] < logs {
            return Err(text);
        }
        let all = amount(&pod["ephemeral-storage"], "usedBytes");
        let sum: u64 = told.iter().sum();
        // Volumes that the cluster adds to a pod may be on the disk too.
        if all < sum || !volumes.iter().any(|volume| volume["name"] == "fast") { Err(text) } else { Ok(summary) }
    })
    .await?;
    let fs = &summary["node"]["fs"];
    assert!(amount(fs, "capacityBytes") > amount(fs, "availableBytes") && amount(fs, "usedBytes") > 0, "{fs}");
    assert!(amount(fs, "inodes") >= amount(fs, "inodesFree") + amount(fs, "inodesUsed"), "{fs}");
    Ok(Some(summary["node"].clone()))
}
