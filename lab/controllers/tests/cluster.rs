//! Nodes, placing, and garbage, on the lab's API with kubelets that only say what pods do.

mod support;

use anyhow::Result;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use support::manifests::{deployment, pod};
use support::{Lab, leaving, quick, until_in};

fn ready(node: &Node) -> Option<String> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.clone())
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)).collect()
}

fn pod_ready(pod: &Pod) -> Option<String> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.clone())
}

fn tolerating(seconds: Option<i64>) -> serde_json::Value {
    let tolerations: Vec<_> = ["not-ready", "unreachable"]
        .into_iter()
        .map(|key| {
            let mut toleration = json!({
                "key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
            });
            if let Some(seconds) = seconds {
                toleration["tolerationSeconds"] = json!(seconds);
            }
            toleration
        })
        .collect();
    json!({ "tolerations": tolerations })
}

#[tokio::test]
async fn a_silent_node_loses_its_pods_and_returns() -> Result<()> {
    let mut lab = Lab::start(quick(), &["a"]).await?;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let name = lab.node("a");
    let test = lab.namespace.clone();
    lab.create::<Pod>(pod(&test, "stays", "one", tolerating(None))).await?;
    lab.create::<Pod>(pod(&test, "leaves", "one", tolerating(Some(1)))).await?;
    for one in ["stays", "leaves"] {
        lab.until::<Pod>(one, "ready", |pod| pod_ready(pod).as_deref() == Some("True")).await?;
    }
    lab.until_event("stays", "Scheduled").await?;

    lab.kubelet("a").silence().await;
    let silent = until_in(nodes.clone(), &name, "unknown", |node| ready(node).as_deref() == Some("Unknown")).await?;
    let conditions = silent.status.and_then(|status| status.conditions).unwrap_or_default();
    let condition = conditions.into_iter().find(|one| one.type_ == "Ready").unwrap_or_default();
    assert_eq!(condition.reason.as_deref(), Some("NodeStatusUnknown"));
    assert_eq!(condition.message.as_deref(), Some("Kubelet stopped posting node status."));
    let expected = ["unreachable:NoSchedule", "unreachable:NoExecute"];
    until_in(nodes.clone(), &name, "tainted", |node| taints(node) == expected).await?;
    lab.until::<Pod>("stays", "not ready", |pod| pod_ready(pod).as_deref() == Some("False")).await?;
    lab.until_gone::<Pod>("leaves").await?;
    lab.until_event("leaves", "TaintManagerEviction").await?;
    assert!(!leaving(&lab.api::<Pod>().get("stays").await?));

    lab.kubelet("a").resume().await?;
    lab.kubelet("a").post_status().await?;
    until_in(nodes, &name, "open again", |node| ready(node).as_deref() == Some("True") && taints(node).is_empty())
        .await?;
    lab.finish().await
}

#[tokio::test]
async fn pods_of_a_node_that_is_gone_are_collected() -> Result<()> {
    let mut lab = Lab::start(quick(), &["a"]).await?;
    let test = lab.namespace.clone();
    lab.create::<Pod>(pod(&test, "lost", "one", tolerating(None))).await?;
    lab.until::<Pod>("lost", "ready", |pod| pod_ready(pod).as_deref() == Some("True")).await?;
    lab.kubelet("a").remove().await?;
    lab.until_gone::<Pod>("lost").await?;
    lab.finish().await
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_goes_when_it_can() -> Result<()> {
    let mut lab = Lab::start(quick(), &["a", "b"]).await?;
    let test = lab.namespace.clone();
    let wants = |cpu: &str| json!([{ "name": "main", "image": "one", "resources": { "requests": { "cpu": cpu } } }]);
    lab.create::<Pod>(pod(&test, "first", "one", json!({ "containers": wants("3") }))).await?;
    lab.until::<Pod>("first", "ready", |pod| pod_ready(pod).as_deref() == Some("True")).await?;
    lab.create::<Pod>(pod(&test, "second", "one", json!({ "containers": wants("3") }))).await?;
    lab.until::<Pod>("second", "ready", |pod| pod_ready(pod).as_deref() == Some("True")).await?;
    lab.create::<Pod>(pod(&test, "third", "one", json!({ "containers": wants("3") }))).await?;
    let message = lab.until_event("third", "FailedScheduling").await?;
    // The real scheduler goes on to say that preemption would not help.
    assert!(message.starts_with("0/2 nodes are available: 2 Insufficient cpu."), "{message}");
    let waiting = lab
        .until::<Pod>("third", "condition", |pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions
                .into_iter()
                .any(|one| one.type_ == "PodScheduled" && one.reason.as_deref() == Some("Unschedulable"))
        })
        .await?;
    assert!(waiting.spec.is_some_and(|spec| spec.node_name.is_none()));

    lab.api::<Pod>().delete("first", &DeleteParams::default()).await?;
    lab.until::<Pod>("third", "ready", |pod| pod_ready(pod).as_deref() == Some("True")).await?;
    lab.create::<Pod>(pod(&test, "fourth", "one", json!({ "containers": wants("3") }))).await?;
    lab.until_event("fourth", "FailedScheduling").await?;
    lab.add_node("c").await?;
    let fourth = lab.until::<Pod>("fourth", "ready", |pod| pod_ready(pod).as_deref() == Some("True")).await?;
    assert_eq!(fourth.spec.and_then(|spec| spec.node_name), Some(lab.node("c")));
    lab.finish().await
}

#[tokio::test]
async fn dependents_go_in_the_background_foreground_or_not_at_all() -> Result<()> {
    let lab = Lab::start(quick(), &["a"]).await?;
    let available = |wanted: i32| {
        move |web: &Deployment| web.status.as_ref().and_then(|status| status.available_replicas) == Some(wanted)
    };
    lab.create::<Deployment>(deployment(&lab.namespace, "web", 2, "one")).await?;
    lab.until::<Deployment>("web", "2 available", available(2)).await?;
    lab.api::<Deployment>().delete("web", &DeleteParams::foreground()).await?;
    lab.until_gone::<Deployment>("web").await?;
    let sets = lab.api::<ReplicaSet>().list(&ListParams::default()).await?.items;
    assert!(sets.is_empty() && lab.pods().await?.is_empty(), "the owner goes after its dependents");

    lab.create::<Deployment>(deployment(&lab.namespace, "web", 2, "one")).await?;
    lab.until::<Deployment>("web", "2 available", available(2)).await?;
    lab.api::<Deployment>().delete("web", &DeleteParams::orphan()).await?;
    lab.until_gone::<Deployment>("web").await?;
    let sets = lab.api::<ReplicaSet>().list(&ListParams::default()).await?.items;
    assert_eq!((sets.len(), lab.pods().await?.len()), (1, 2));
    assert!(sets.iter().all(|set| set.owner_references().is_empty()));

    // The orphaned set is adopted again by a Deployment that matches it.
    lab.create::<Deployment>(deployment(&lab.namespace, "web", 2, "one")).await?;
    let set = sets.first().map(ResourceExt::name_any).unwrap_or_default();
    lab.until::<ReplicaSet>(&set, "adopted", |set| !set.owner_references().is_empty()).await?;
    lab.finish().await
}

#[tokio::test]
async fn an_owner_that_never_was_or_was_replaced_is_no_owner() -> Result<()> {
    let lab = Lab::start(quick(), &[]).await?;
    let owned = |name: &str, owner: &str, uid: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "ownerReferences": [
                { "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid },
            ]},
        })
    };
    let owner: ConfigMap =
        lab.create(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owner" } })).await?;
    let uid = owner.uid().unwrap_or_default();
    lab.create::<ConfigMap>(owned("kept", "owner", &uid)).await?;
    lab.create::<ConfigMap>(owned("other-uid", "owner", "00000000-0000-0000-0000-000000000000")).await?;
    lab.create::<ConfigMap>(owned("absent", "nobody", "00000000-0000-0000-0000-000000000001")).await?;
    lab.until_gone::<ConfigMap>("other-uid").await?;
    lab.until_gone::<ConfigMap>("absent").await?;
    assert!(lab.api::<ConfigMap>().get_opt("kept").await?.is_some());
    lab.api::<ConfigMap>().delete("owner", &DeleteParams::default()).await?;
    lab.until_gone::<ConfigMap>("kept").await?;
    lab.finish().await
}

#[tokio::test]
async fn controllers_without_an_api_server_say_so() {
    let uri = "http://127.0.0.1:1".parse().expect("a valid address");
    let mut config = kube::Config::new(uri);
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let stop = tokio_util::sync::CancellationToken::new();
    let error = lab_controllers::Controllers::new(client, quick()).run(stop).await.expect_err("no API server");
    assert!(matches!(error, lab_controllers::Error::Unreachable(_)), "{error}");
}
