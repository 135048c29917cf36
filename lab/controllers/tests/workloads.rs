//! Workloads from their creation to their end, on the lab's API with kubelets that only say what pods do.

mod support;

use std::collections::BTreeSet;

use anyhow::Result;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use support::manifests::{daemon_set, deployment, job};
use support::{Lab, leaving, quick};

fn rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let progressing = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
    status.observed_generation == deployment.metadata.generation
        && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(replicas); 3]
        && progressing.is_some_and(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable"))
}

fn revision(deployment: &Deployment) -> Option<&str> {
    Some(deployment.annotations().get("deployment.kubernetes.io/revision")?.as_str())
}

fn images(pods: &[Pod]) -> BTreeSet<String> {
    let images = pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone());
    images.collect()
}

#[tokio::test]
async fn a_deployment_scales_rolls_and_rolls_back() -> Result<()> {
    let lab = Lab::start(quick(), &["a", "b"]).await?;
    lab.create::<Deployment>(deployment(&lab.namespace, "web", 3, "one")).await?;
    let first = lab.until::<Deployment>("web", "3 available", |web| rolled_out(web, 3)).await?;
    assert_eq!(revision(&first), Some("1"));
    lab.until_event("web", "ScalingReplicaSet").await?;

    lab.patch::<Deployment>("web", json!({ "spec": { "replicas": 5 } })).await?;
    lab.until::<Deployment>("web", "5 available", |web| rolled_out(web, 5)).await?;

    let original = first.spec.clone().map(|spec| spec.template);
    let container = json!([{ "name": "main", "image": "two" }]);
    let patch = json!({ "spec": { "template": { "spec": { "containers": container } } } });
    lab.patch::<Deployment>("web", patch).await?;
    let second = lab.until::<Deployment>("web", "two rolled out", |web| rolled_out(web, 5)).await?;
    assert_eq!(revision(&second), Some("2"));
    let pods = lab.until_pods("only new pods", |pods| pods.iter().all(|pod| !leaving(pod)) && pods.len() == 5).await?;
    assert_eq!(images(&pods), ["two".to_owned()].into());

    // As kubectl rollout undo does: the old template comes back.
    lab.patch::<Deployment>("web", json!({ "spec": { "template": original } })).await?;
    let third = lab.until::<Deployment>("web", "one rolled out", |web| rolled_out(web, 5)).await?;
    assert_eq!(revision(&third), Some("3"));
    let sets = lab.api::<ReplicaSet>().list(&ListParams::default()).await?.items;
    assert_eq!(sets.len(), 2, "the old set came back to power");

    lab.api::<Deployment>().delete("web", &kube::api::DeleteParams::background()).await?;
    lab.until_pods("no pods", <[Pod]>::is_empty).await?;
    for set in sets {
        lab.until_gone::<ReplicaSet>(&set.name_any()).await?;
    }
    lab.finish().await
}

/// The controllers are stopped and started in the middle, and no pod too many is ever created.
#[tokio::test]
async fn no_pod_is_created_twice() -> Result<()> {
    use futures::StreamExt;
    use kube::runtime::{WatchStreamExt, watcher};
    let mut lab = Lab::start(quick(), &["a"]).await?;
    let events = watcher(lab.api::<Pod>(), watcher::Config::default()).default_backoff().touched_objects();
    let seen = tokio::spawn(async move {
        let mut seen = BTreeSet::new();
        let mut events = std::pin::pin!(events);
        while let Some(Ok(pod)) = events.next().await {
            let last = pod.name_any() == "last";
            seen.insert(pod.uid());
            if last {
                break;
            }
        }
        seen.len()
    });
    lab.create::<Deployment>(deployment(&lab.namespace, "web", 30, "one")).await?;
    lab.until_pods("some pods", |pods| pods.len() >= 5).await?;
    lab.stop_controllers().await?;
    lab.start_controllers(quick());
    lab.until::<Deployment>("web", "30 available", |web| rolled_out(web, 30)).await?;
    lab.create::<Pod>(support::manifests::pod(&lab.namespace, "last", "one", json!({}))).await?;
    let seen = tokio::time::timeout(support::PATIENCE, seen).await??;
    assert_eq!(seen, 31, "30 pods and the last one that ends the watch");
    lab.finish().await
}

#[tokio::test]
async fn a_recreated_deployment_never_mixes_versions() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    let mut manifest = deployment(&lab.namespace, "web", 3, "one");
    manifest["spec"]["strategy"] = json!({ "type": "Recreate" });
    lab.create::<Deployment>(manifest).await?;
    lab.until::<Deployment>("web", "3 available", |web| rolled_out(web, 3)).await?;
    let container = json!([{ "name": "main", "image": "two" }]);
    let patch = json!({ "spec": { "template": { "spec": { "containers": container } } } });
    lab.patch::<Deployment>("web", patch).await?;
    lab.until_pods("3 new pods", |pods| {
        let images = images(pods);
        assert!(images.len() < 2, "old and new at the same time: {images:?}");
        pods.len() == 3 && images.contains("two")
    })
    .await?;
    lab.until::<Deployment>("web", "two rolled out", |web| rolled_out(web, 3)).await?;
    lab.finish().await
}

#[tokio::test]
async fn a_replica_set_adopts_and_releases() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    let orphan = lab.create::<Pod>(support::manifests::pod(&lab.namespace, "orphan", "one", json!({}))).await?;
    lab.patch::<Pod>("orphan", json!({ "metadata": { "labels": { "app": "set" } } })).await?;
    lab.create::<ReplicaSet>(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "set" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "set" } },
            "template": support::manifests::template(&lab.namespace, "set", "one"),
        },
    }))
    .await?;
    let set = lab
        .until::<ReplicaSet>("set", "2 ready", |set| {
            set.status.as_ref().and_then(|status| status.ready_replicas) == Some(2)
        })
        .await?;
    let adopted = lab.api::<Pod>().get("orphan").await?;
    assert_eq!(adopted.uid(), orphan.uid());
    assert_eq!(adopted.owner_references().first().map(|owner| owner.uid.clone()), set.uid());
    assert_eq!(lab.pods().await?.len(), 2, "the adopted pod counts");

    lab.patch::<Pod>("orphan", json!({ "metadata": { "labels": { "app": "free" } } })).await?;
    lab.until::<Pod>("orphan", "released", |pod| pod.owner_references().is_empty()).await?;
    lab.until_pods("a replacement", |pods| pods.len() == 3).await?;
    lab.finish().await
}

fn served(set: &DaemonSet, nodes: i32) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && [status.desired_number_scheduled, status.current_number_scheduled, status.number_ready] == [nodes; 3]
        && status.updated_number_scheduled == Some(nodes)
        && status.number_available == Some(nodes)
}

async fn taint(client: &Client, node: &str, taints: serde_json::Value) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({ "spec": { "taints": taints } });
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[tokio::test]
async fn a_daemon_set_lands_on_every_node_and_rolls() -> Result<()> {
    let mut lab = Lab::start(quick(), &["a", "b", "c"]).await?;
    taint(&lab.client, &lab.node("c"), json!([{ "key": "edge", "effect": "NoSchedule" }])).await?;
    lab.create::<DaemonSet>(daemon_set(&lab.namespace, "agent", "one")).await?;
    let first = lab.until::<DaemonSet>("agent", "on 2 nodes", |set| served(set, 2)).await?;
    taint(&lab.client, &lab.node("c"), json!([])).await?;
    lab.until::<DaemonSet>("agent", "on 3 nodes", |set| served(set, 3)).await?;
    lab.add_node("d").await?;
    lab.until::<DaemonSet>("agent", "on 4 nodes", |set| served(set, 4)).await?;
    let nodes: BTreeSet<_> = lab.pods().await?.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    assert_eq!(nodes.len(), 4);

    let container = json!([{ "name": "main", "image": "two" }]);
    let patch = json!({ "spec": { "template": { "spec": { "containers": container } } } });
    lab.patch::<DaemonSet>("agent", patch).await?;
    lab.until::<DaemonSet>("agent", "updated on 4 nodes", |set| served(set, 4)).await?;
    let pods = lab.until_pods("4 pods", |pods| pods.len() == 4 && pods.iter().all(|pod| !leaving(pod))).await?;
    assert_eq!(images(&pods), ["two".to_owned()].into());

    lab.patch::<DaemonSet>("agent", json!({ "spec": { "template": first.spec.map(|spec| spec.template) } })).await?;
    lab.until::<DaemonSet>("agent", "rolled back", |set| served(set, 4) && set.metadata.generation == Some(3)).await?;
    let mut revisions: Vec<_> = lab.api::<ControllerRevision>().list(&ListParams::default()).await?.items;
    revisions.sort_by_key(|revision| revision.revision);
    assert_eq!(revisions.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [2, 3]);
    lab.finish().await
}

fn ended(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[tokio::test]
async fn a_job_completes_and_goes_when_its_time_is_over() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    let spec = json!({ "parallelism": 2, "completions": 5 });
    lab.create::<Job>(job(&lab.namespace, "work", "succeeds", spec)).await?;
    let work = lab.until::<Job>("work", "complete", |job| ended(job, "Complete")).await?;
    let status = work.status.unwrap_or_default();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    assert!(status.completion_time.is_some());
    lab.until_event("work", "Completed").await?;
    let pods = lab.until_pods("5 free pods", |pods| pods.iter().all(|pod| pod.finalizers().is_empty())).await?;
    assert_eq!(pods.len(), 5);
    lab.patch::<Job>("work", json!({ "spec": { "ttlSecondsAfterFinished": 1 } })).await?;
    lab.until_gone::<Job>("work").await?;
    lab.until_pods("no pods", <[Pod]>::is_empty).await?;
    lab.finish().await
}

#[tokio::test]
async fn a_job_fails_at_its_back_off_limit() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    lab.create::<Job>(job(&lab.namespace, "work", "fails", json!({ "backoffLimit": 2 }))).await?;
    let work = lab.until::<Job>("work", "failed", |job| ended(job, "Failed")).await?;
    let status = work.status.unwrap_or_default();
    assert_eq!((status.failed, status.succeeded), (Some(3), None));
    let failed = status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "Failed");
    assert_eq!(failed.and_then(|condition| condition.reason).as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(lab.pods().await?.len(), 3);
    lab.finish().await
}

#[tokio::test]
async fn an_indexed_job_works_on_every_index_once() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    let spec = json!({ "parallelism": 3, "completions": 4, "completionMode": "Indexed" });
    lab.create::<Job>(job(&lab.namespace, "work", "succeeds", spec)).await?;
    let work = lab.until::<Job>("work", "complete", |job| ended(job, "Complete")).await?;
    let status = work.status.unwrap_or_default();
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(4), Some("0-3")));
    lab.finish().await
}

#[tokio::test]
async fn a_job_that_is_deleted_while_it_runs_leaves_nothing() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    lab.create::<Job>(job(&lab.namespace, "work", "runs", json!({ "parallelism": 2, "completions": 2 }))).await?;
    lab.until::<Job>("work", "2 ready", |job| job.status.as_ref().and_then(|status| status.ready) == Some(2)).await?;
    lab.api::<Job>().delete("work", &kube::api::DeleteParams::background()).await?;
    lab.until_pods("no pods", <[Pod]>::is_empty).await?;
    lab.finish().await
}

#[tokio::test]
async fn a_job_with_a_field_that_is_not_supported_says_so() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    let policy = json!({ "rules": [{ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] }] });
    lab.create::<Job>(job(&lab.namespace, "work", "succeeds", json!({ "podFailurePolicy": policy }))).await?;
    let message = lab.until_event("work", "UnsupportedField").await?;
    assert!(message.contains("spec.podFailurePolicy"), "{message}");
    assert!(lab.pods().await?.is_empty());
    lab.finish().await
}
