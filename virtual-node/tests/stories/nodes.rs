//! Stories about Node objects and Leases.

use crate::support::{Call, World, condition, template};
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use virtual_node::provider::{Liveness, NodeReport, Receipt};
use virtual_node::{COMPONENT_LABEL, NodeName};

fn has_taint(node: &Node, key: &str) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == key)
}

fn renew_time(lease: &Lease) -> Timestamp {
    let time = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    time.map(|time| time.0).unwrap_or_default()
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[tokio::test]
async fn a_node_is_registered_and_lives_by_its_lease() -> Result<()> {
    let world = World::with_node().await?;
    let node = world.node_is(|_| true).await?;
    assert_eq!(label(&node, "story"), Some("yes"));
    assert!(has_taint(&node, "story"));

    let first = world.lease_is(|lease| lease.spec.is_some()).await?;
    let spec = first.spec.clone().unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some(world.node.as_str()), Some(40)));
    assert_eq!(first.metadata.owner_references.as_ref().map(|owners| owners[0].uid.clone()), node.metadata.uid);
    world.lease_is(|lease| renew_time(lease) > renew_time(&first)).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_not_heard_is_unknown_and_its_lease_runs_out() -> Result<()> {
    let world = World::with_node().await?;
    world.lease_is(|_| true).await?;
    let offline = Liveness::Offline { reason: "DeviceOffline".into(), message: "not heard since noon".into() };
    world.reporter.node_liveness(world.node.clone(), offline).await?;
    world.node_is(|node| condition(node, "Ready") == Some(("Unknown".into(), "DeviceOffline".into()))).await?;
    // A neighbour's renewals are the clock: one period for what was under way, then three without a renewal.
    let neighbour = NodeName::new(format!("{}-neighbour", world.node))?;
    world.reporter.node_present(neighbour.clone(), template()).await?;
    world.reporter.node_liveness(neighbour.clone(), Liveness::Online).await?;
    let renewed = async |times: usize| {
        for _ in 0..times {
            let before = world.leases().get_opt(neighbour.as_str()).await?;
            crate::support::eventually("the neighbour's lease to be renewed", async || {
                let now = world.leases().get_opt(neighbour.as_str()).await.ok()??;
                (Some(renew_time(&now)) > before.as_ref().map(renew_time)).then_some(())
            })
            .await?;
        }
        anyhow::Ok(())
    };
    renewed(2).await?;
    let last = world.lease_is(|_| true).await?;
    renewed(3).await?;
    assert_eq!(renew_time(&world.lease_is(|_| true).await?), renew_time(&last));

    world.reporter.node_liveness(world.node.clone(), Liveness::Online).await?;
    world.node_is(|node| condition(node, "Ready").is_some_and(|ready| ready.0 == "True")).await?;
    world.lease_is(|lease| renew_time(lease) > renew_time(&last)).await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_node_and_a_deleted_lease_come_back() -> Result<()> {
    let world = World::with_node().await?;
    let lease = world.lease_is(|_| true).await?;
    world.leases().delete(world.node.as_str(), &DeleteParams::default()).await?;
    world.lease_is(|again| again.metadata.uid != lease.metadata.uid).await?;

    let node = world.node_is(|_| true).await?;
    world.nodes().delete(world.node.as_str(), &DeleteParams::default()).await?;
    let again = world.node_is(|again| again.metadata.uid != node.metadata.uid).await?;
    assert!(has_taint(&again, "story"));
    world.node_is(|node| condition(node, "Ready").is_some_and(|ready| ready.0 == "True")).await?;
    let owner = again.metadata.uid;
    world
        .lease_is(|lease| lease.metadata.owner_references.iter().flatten().any(|o| Some(&o.uid) == owner.as_ref()))
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_others_put_on_a_node_stays_and_what_they_take_away_comes_back() -> Result<()> {
    let world = World::with_node().await?;
    let theirs = json!({"metadata": {"labels": {"theirs": "1", "story": null}}, "spec": {"taints": [
        {"key": "theirs", "effect": "NoSchedule"}]}});
    world.nodes().patch(world.node.as_str(), &PatchParams::default(), &Patch::Merge(theirs)).await?;
    let node = world.node_is(|node| label(node, "story") == Some("yes") && has_taint(node, "story")).await?;
    assert_eq!(label(&node, "theirs"), Some("1"));
    assert!(has_taint(&node, "theirs"));

    // A template that no longer names something takes it away, and only that.
    let mut changed = template();
    changed.labels = [("other".to_owned(), "yes".to_owned())].into();
    world.reporter.node_present(world.node.clone(), changed).await?;
    let node = world.node_is(|node| label(node, "other").is_some()).await?;
    assert_eq!((label(&node, "story"), label(&node, "theirs")), (None, Some("1")));
    Ok(())
}

#[tokio::test]
async fn a_ready_condition_overwritten_by_the_cluster_is_put_right() -> Result<()> {
    let world = World::with_node().await?;
    let lost = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status."}]}});
    world.nodes().patch_status(world.node.as_str(), &PatchParams::default(), &Patch::Strategic(lost)).await?;
    world.node_is(|node| condition(node, "Ready").is_some_and(|ready| ready.0 == "True")).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_of_a_kubelet_is_left_alone_until_it_is_gone() -> Result<()> {
    let mut world = World::empty().await?;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": world.node.as_str()}}))?;
    world.nodes().create(&PostParams::default(), &node).await?;
    let kubelet = json!({"status": {"nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6",
        "osImage": "Debian", "containerRuntimeVersion": "containerd://1", "kubeletVersion": "v1.36.2",
        "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"}}});
    world.nodes().patch_status(world.node.as_str(), &PatchParams::default(), &Patch::Merge(kubelet)).await?;
    let pod = world.create_pod("theirs").await?;

    world.start().await?;
    let event = world.event("default", world.node.as_str(), "NodeNameTaken", |_| true).await?;
    assert!(event.message.unwrap().contains(&format!("kubectl delete node {}", world.node)));
    let node = world.node_is(|_| true).await?;
    assert_eq!(label(&node, COMPONENT_LABEL), None);
    assert_eq!(world.provider.calls(), [], "a pod on a kubelet's node is none of ours");

    // The fix that the message names.
    world.nodes().delete(world.node.as_str(), &DeleteParams::default()).await?;
    let ours = world.component.clone();
    world.node_is(|node| label(node, COMPONENT_LABEL) == Some(&ours)).await?;
    world.provider.asked(&Call::Apply(pod)).await
}

#[tokio::test]
async fn a_removed_node_is_gone_with_its_lease() -> Result<()> {
    let world = World::with_node().await?;
    world.lease_is(|_| true).await?;
    let receipt = world.reporter.node_removed(world.node.clone()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    assert!(world.nodes().get_opt(world.node.as_str()).await?.is_none());
    crate::support::eventually("the lease to be gone", async || {
        world.leases().get_opt(world.node.as_str()).await.ok()?.is_none().then_some(())
    })
    .await?;
    let late = world.reporter.node_status(world.node.clone(), NodeReport::default()).await?;
    assert_eq!(late.outcome().await?, Receipt::Obsolete);

    // And may come back.
    world.reporter.node_present(world.node.clone(), template()).await?;
    world.node_is(|node| has_taint(node, "story")).await?;
    Ok(())
}

#[tokio::test]
async fn a_report_is_written_and_acknowledged() -> Result<()> {
    let world = World::with_node().await?;
    let mut report = NodeReport {
        capacity: [("cpu".to_owned(), serde_json::from_value(json!("4"))?)].into(),
        conditions: vec![virtual_node::provider::ConditionReport {
            kind: "Throttled".into(),
            status: Some(true),
            reason: "UnderVoltage".into(),
            message: "4.6 V".into(),
        }],
        ..NodeReport::default()
    };
    report.node_info.kubelet_version = "hawser-agent 0.1".into();
    let receipt = world.reporter.node_status(world.node.clone(), report).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let node = world.node_is(|_| true).await?;
    assert_eq!(condition(&node, "Throttled"), Some(("True".into(), "UnderVoltage".into())));
    let status = node.status.unwrap();
    assert_eq!(status.node_info.unwrap().kubelet_version, "hawser-agent 0.1");
    assert_eq!(status.capacity.unwrap()["cpu"].0, "4");
    Ok(())
}

#[tokio::test]
async fn a_node_taken_over_by_somebody_else_is_let_go_with_its_pods() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("ours").await?;
    let theirs = json!({"metadata": {"labels": {COMPONENT_LABEL: "somebody-else"}}});
    world.nodes().patch(world.node.as_str(), &PatchParams::default(), &Patch::Merge(theirs)).await?;
    world.event("default", world.node.as_str(), "NodeNameTaken", |_| true).await?;
    world.delete_pod("ours", 0).await?;
    let later = world.create_pod("theirs").await?;

    // What was handed over before is not wanted any more, whosever the node is: the machine must not go on with it.
    world.provider.asked(&Call::Forget(pod)).await?;
    assert!(!world.provider.calls().contains(&Call::Apply(later.clone())), "the pods are theirs");

    // Given back, it is ours again, and so is what is on it now.
    let back = json!({"metadata": {"labels": {COMPONENT_LABEL: world.component}}});
    world.nodes().patch(world.node.as_str(), &PatchParams::default(), &Patch::Merge(back)).await?;
    world.provider.asked(&Call::Apply(later)).await
}

#[tokio::test]
async fn the_addresses_that_a_cluster_gives_to_a_nodes_pods_reach_the_provider() -> Result<()> {
    let mut world = World::with_node().await?;
    world.provider.asked(&Call::Synced(world.node.clone(), Vec::new())).await?;
    // As the controller manager does, a moment after the node has appeared.
    let ranges = ["10.42.7.0/24", "fd00:10:42:7::/64"].map(str::to_owned);
    let given = json!({"spec": {"podCIDR": ranges[0], "podCIDRs": ranges}});
    world.nodes().patch(world.node.as_str(), &PatchParams::default(), &Patch::Merge(given)).await?;
    let told = Call::Synced(world.node.clone(), ranges.to_vec());
    world.provider.asked(&told).await?;
    // After a restart they are known before the view is complete.
    world.stop().await?;
    world.start().await?;
    world.provider.asked(&told).await?;
    assert_eq!(world.provider.calls(), [told]);
    Ok(())
}
