//! What our Node objects look like, and whose a Node object is. Pure.
//!
//! We own what a [`NodeTemplate`] names and nothing else. What we put there is written down in an annotation, so that it
//! can be taken away again when the template no longer names it; what others put there stays.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::conditions;
use crate::ids::NodeName;
use crate::kubelet::{Endpoint, WEBSOCKETS};
use crate::merge;
use crate::provider::{Liveness, NodeReport, NodeTemplate};

/// The label that says whose a node is; the value is [`Config::component`](crate::Config::component).
pub const COMPONENT_LABEL: &str = "virtual-node.hawser.dev/component";
const OWNED: &str = "virtual-node.hawser.dev/owned";

/// What we put on a Node object.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Owned {
    component: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    annotations: Vec<String>,
    #[serde(default)]
    taints: Vec<(String, String)>,
}

/// Why a Node object is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    #[error(
        "node `{node}` belongs to a kubelet ({version}) and is left alone: give the virtual node another name, or stop that kubelet and `kubectl delete node {node}`"
    )]
    Kubelet { node: NodeName, version: String },
    #[error(
        "node `{node}` belongs to `{component}` and is left alone: give the virtual node another name, or remove it there first"
    )]
    Component { node: NodeName, component: String },
}

/// What to do with the Node object.
#[derive(Debug, PartialEq)]
pub(crate) enum Adoption {
    /// There is none.
    Create(Box<Node>),
    /// It lacks something of ours.
    Patch(Value),
    /// It is as it should be.
    Nothing,
}

/// Whether the object is ours, or free to be. A Node without kubelet was made by hand, to be filled by us.
pub(crate) fn whose(name: &NodeName, node: &Node, component: &str) -> Result<(), Foreign> {
    let by_label = node.metadata.labels.as_ref().and_then(|labels| labels.get(COMPONENT_LABEL)).cloned();
    // Somebody may have removed the label: the annotation says the same.
    let by_annotation = owned(node).map(|owned| owned.component);
    match by_label.filter(|label| !label.is_empty()).or(by_annotation) {
        Some(theirs) if theirs != component => Err(Foreign::Component { node: name.clone(), component: theirs }),
        Some(_) => Ok(()),
        None => {
            let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
            match info.map(|info| info.kubelet_version.clone()).filter(|version| !version.is_empty()) {
                Some(version) => Err(Foreign::Kubelet { node: name.clone(), version }),
                None => Ok(()),
            }
        }
    }
}

/// Compares the Node object with the template.
pub(crate) fn adopt(
    name: &NodeName,
    existing: Option<&Node>,
    template: &NodeTemplate,
    component: &str,
) -> Result<Adoption, Foreign> {
    let Some(node) = existing else { return Ok(Adoption::Create(Box::new(fresh(name, template, component)))) };
    whose(name, node, component)?;
    let before = owned(node).unwrap_or_default();
    let wanted = fresh(name, template, component);
    let mut new = node.clone();

    let ours = wanted.metadata.labels.unwrap_or_default();
    settle(new.metadata.labels.get_or_insert_default(), &ours, &before.labels);
    let ours = wanted.metadata.annotations.unwrap_or_default();
    settle(new.metadata.annotations.get_or_insert_default(), &ours, &before.annotations);
    if let Some(owner) = &template.owner {
        let owners = new.metadata.owner_references.get_or_insert_default();
        if !owners.iter().any(|present| present.uid == owner.uid) {
            owners.push(owner.clone());
        }
    }
    let spec = new.spec.get_or_insert_default();
    let taints = spec.taints.get_or_insert_default();
    taints.retain(|taint| !before.taints.contains(&identity(taint)) || template.taints.iter().any(|t| is(t, taint)));
    for taint in &template.taints {
        match taints.iter_mut().find(|present| is(present, taint)) {
            Some(present) => present.value.clone_from(&taint.value),
            None => taints.push(taint.clone()),
        }
    }
    // The API server lets it be set once and never changed.
    if spec.provider_id.as_deref().unwrap_or_default().is_empty() {
        spec.provider_id.clone_from(&template.provider_id);
    }
    Ok(match merge::difference(node, &new) {
        None => Adoption::Nothing,
        Some(mut patch) => {
            // What was computed from this version must not be put on another: lists are written whole.
            patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
            Adoption::Patch(patch)
        }
    })
}

/// What the status lacks, as a patch. `None` if it says all that is known.
pub(crate) fn status_patch(
    node: &Node,
    report: Option<&NodeReport>,
    liveness: Option<&Liveness>,
    kubelet: Option<Endpoint>,
    heartbeat: bool,
    now: Timestamp,
) -> Option<Value> {
    let old = node.status.clone().unwrap_or_default();
    let mut new = old.clone();
    if let Some(report) = report {
        new.capacity = Some(report.capacity.clone());
        new.allocatable = Some(report.allocatable.clone());
        new.node_info = Some(report.node_info.clone());
        new.addresses = Some(report.addresses.clone());
        new.images = Some(report.images.clone());
    }
    if let Some(endpoint) = kubelet {
        let kubelet_endpoint = Some(DaemonEndpoint { port: i32::from(endpoint.port) });
        new.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint });
        new.addresses = Some(reachable(endpoint.address, new.addresses.unwrap_or_default()));
        if endpoint.declares {
            let mut features = match report {
                Some(report) => report.declared_features.clone(),
                None => new.declared_features.unwrap_or_default(),
            };
            features.push(WEBSOCKETS.to_owned());
            features.sort();
            features.dedup();
            new.declared_features = Some(features);
        }
    }
    let existing = old.conditions.as_deref().unwrap_or_default();
    let unheard = Liveness::Offline {
        reason: "NodeStatusNeverUpdated".to_owned(),
        message: "the node has not been heard yet".to_owned(),
    };
    let liveness = match liveness {
        Some(liveness) => Some(liveness),
        // Nobody has said anything yet. What an earlier process wrote may well be true, and its Lease runs out by itself;
        // a restart of ours must not make every node flap.
        None if existing.iter().any(|condition| condition.type_ == "Ready") => None,
        None => Some(&unheard),
    };
    if let Some(liveness) = liveness {
        let reported = report.map(|report| report.conditions.as_slice()).unwrap_or_default();
        new.conditions = Some(conditions::of_node(existing, reported, liveness, heartbeat, now));
    }
    let change = merge::difference::<NodeStatus>(&old, &new)?;
    Some(json!({
        "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
        "status": change,
    }))
}

/// The port of the kubelet API that the object shows.
pub(crate) fn kubelet_port(node: &Node) -> Option<u16> {
    let endpoint = node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?;
    u16::try_from(endpoint.port).ok()
}

/// API servers dial the first address of the type that they prefer, and of an `InternalIP` the first. The types that are
/// preferred to it name the machine, where no kubelet listens, so they are left out.
fn reachable(ours: IpAddr, theirs: Vec<NodeAddress>) -> Vec<NodeAddress> {
    let ours = NodeAddress { type_: "InternalIP".to_owned(), address: ours.to_string() };
    let others = theirs
        .into_iter()
        .filter(|address| *address != ours && address.type_ != "Hostname" && address.type_ != "InternalDNS");
    std::iter::once(ours.clone()).chain(others).collect()
}

/// The addresses that the cluster gave to the node's pods.
pub(crate) fn pod_ranges(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.clone().unwrap_or_default();
    if all.is_empty() { spec.pod_cidr.iter().cloned().collect() } else { all }
}

/// Changes when somebody changes what we look after. Heartbeats do not count.
pub(crate) fn digest(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &node.metadata;
    (&meta.uid, &meta.labels, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    for owner in meta.owner_references.iter().flatten() {
        owner.uid.hash(&mut hasher);
    }
    if let Some(spec) = &node.spec {
        (&spec.provider_id, &spec.pod_cidr, &spec.pod_cidrs).hash(&mut hasher);
        for taint in spec.taints.iter().flatten() {
            (&taint.key, &taint.value, &taint.effect).hash(&mut hasher);
        }
    }
    for condition in node.status.iter().flat_map(|status| status.conditions.iter().flatten()) {
        (&condition.type_, &condition.status, &condition.reason, &condition.message).hash(&mut hasher);
    }
    hasher.finish()
}

fn fresh(name: &NodeName, template: &NodeTemplate, component: &str) -> Node {
    let owned = Owned {
        component: component.to_owned(),
        labels: template.labels.keys().cloned().collect(),
        annotations: template.annotations.keys().cloned().collect(),
        taints: template.taints.iter().map(identity).collect(),
    };
    let mut labels = template.labels.clone();
    labels.insert(COMPONENT_LABEL.to_owned(), component.to_owned());
    let mut annotations = template.annotations.clone();
    annotations.insert(OWNED.to_owned(), json!(owned).to_string());
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: template.owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!template.taints.is_empty()).then(|| template.taints.clone()),
            provider_id: template.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

fn owned(node: &Node) -> Option<Owned> {
    serde_json::from_str(node.metadata.annotations.as_ref()?.get(OWNED)?).ok()
}

fn settle(present: &mut BTreeMap<String, String>, wanted: &BTreeMap<String, String>, before: &[String]) {
    for key in before {
        if !wanted.contains_key(key) {
            present.remove(key);
        }
    }
    present.extend(wanted.iter().map(|(key, value)| (key.clone(), value.clone())));
}

fn identity(taint: &Taint) -> (String, String) {
    (taint.key.clone(), taint.effect.clone())
}

fn is(one: &Taint, other: &Taint) -> bool {
    one.key == other.key && one.effect == other.effect
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> NodeName {
        NodeName::new("gw-1").unwrap()
    }

    fn taint(key: &str, value: Option<&str>) -> Taint {
        Taint { key: key.into(), value: value.map(str::to_owned), effect: "NoSchedule".into(), time_added: None }
    }

    fn template(labels: &[&str], taints: &[&str]) -> NodeTemplate {
        NodeTemplate {
            labels: labels.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect(),
            taints: taints.iter().map(|key| taint(key, None)).collect(),
            provider_id: Some("hawser://gw-1".into()),
            ..NodeTemplate::default()
        }
    }

    fn created(template: &NodeTemplate) -> Node {
        match adopt(&name(), None, template, "hawser").unwrap() {
            Adoption::Create(mut node) => {
                node.metadata.resource_version = Some("5".into());
                *node
            }
            other => panic!("{other:?}"),
        }
    }

    fn patch(node: &Node, template: &NodeTemplate) -> Value {
        match adopt(&name(), Some(node), template, "hawser").unwrap() {
            Adoption::Patch(patch) => patch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn our_own_node_needs_nothing() {
        let template = template(&["a"], &["t"]);
        assert_eq!(adopt(&name(), Some(&created(&template)), &template, "hawser"), Ok(Adoption::Nothing));
    }

    #[test]
    fn what_others_put_there_stays_and_what_is_missing_comes_back() {
        let wanted = template(&["a"], &["t"]);
        let mut node = created(&wanted);
        node.metadata.labels.as_mut().unwrap().insert("theirs".into(), "1".into());
        node.spec.as_mut().unwrap().taints = Some(vec![taint("node.kubernetes.io/unreachable", None)]);
        assert_eq!(
            patch(&node, &wanted),
            json!({"metadata": {"resourceVersion": "5"}, "spec": {"taints": [
                {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}, {"key": "t", "effect": "NoSchedule"}]}})
        );
    }

    #[test]
    fn what_the_template_no_longer_names_is_taken_away() {
        let node = created(&template(&["a", "b"], &["t", "u"]));
        let patch = patch(&node, &template(&["b"], &["u"]));
        assert_eq!(patch["metadata"]["labels"], json!({"a": null}));
        assert_eq!(patch["spec"]["taints"], json!([{"key": "u", "effect": "NoSchedule"}]));
    }

    #[test]
    fn a_provider_id_is_set_once() {
        let mut node = created(&template(&[], &[]));
        node.spec.as_mut().unwrap().provider_id = Some("other".into());
        assert_eq!(adopt(&name(), Some(&node), &template(&[], &[]), "hawser"), Ok(Adoption::Nothing));
    }

    #[test]
    fn nodes_of_others_are_refused_with_the_way_out() {
        let node = |value: Value| serde_json::from_value::<Node>(value).unwrap();
        let info = |version: &str| {
            json!({"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": version, "kubeProxyVersion": "",
                "operatingSystem": "", "architecture": ""})
        };
        let refuse = |value: Value| whose(&name(), &node(value), "hawser").map_err(|foreign| foreign.to_string());
        let kubelet = refuse(json!({"status": {"nodeInfo": info("v1.36.2")}})).unwrap_err();
        assert!(kubelet.contains("belongs to a kubelet (v1.36.2)") && kubelet.contains("kubectl delete node gw-1"));
        let other = refuse(json!({"metadata": {"labels": {COMPONENT_LABEL: "other"}}})).unwrap_err();
        assert!(other.contains("belongs to `other`"), "{other}");
        assert_eq!(refuse(json!({"metadata": {}})), Ok(()), "made by hand, empty");
        assert_eq!(refuse(json!({"status": {"nodeInfo": info("")}})), Ok(()));
        let ours = json!({"metadata": {"labels": {COMPONENT_LABEL: "hawser"}}, "status": {"nodeInfo": info("hawser")}});
        assert_eq!(refuse(ours), Ok(()));
        let unlabelled = json!({"metadata": {"annotations": {OWNED: "{\"component\":\"hawser\"}"}}, "status": {"nodeInfo": info("h")}});
        assert_eq!(refuse(unlabelled), Ok(()));
    }

    #[test]
    fn a_restart_of_ours_does_not_touch_what_is_shown_until_something_is_known() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut node = created(&template(&[], &[]));
        let first = status_patch(&node, None, None, None, false, now).unwrap();
        assert_eq!(first["status"]["conditions"][0]["reason"], "NodeStatusNeverUpdated");
        node.status =
            Some(serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})).unwrap());
        assert_eq!(status_patch(&node, None, None, None, true, now), None);
        assert!(status_patch(&node, None, Some(&Liveness::Online), None, true, now).is_some());
    }

    #[test]
    fn a_status_says_what_was_reported() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut node = created(&template(&[], &[]));
        node.status = Some(serde_json::from_value(json!({"capacity": {"cpu": "1", "gone": "1"}})).unwrap());
        let report = NodeReport {
            capacity: [("cpu".to_owned(), serde_json::from_value(json!("4")).unwrap())].into(),
            ..NodeReport::default()
        };
        let endpoint = Endpoint { address: [10, 0, 0, 1].into(), port: 10250, declares: false };
        let patch = status_patch(&node, Some(&report), Some(&Liveness::Online), Some(endpoint), false, now).unwrap();
        assert_eq!(patch["status"]["capacity"], json!({"cpu": "4", "gone": null}));
        assert_eq!(patch["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
        assert_eq!(patch["metadata"]["resourceVersion"], "5");
    }

    #[test]
    fn api_servers_find_the_kubelet_api_and_nothing_else() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut node = created(&template(&[], &[]));
        let address = |kind: &str, address: &str| NodeAddress { type_: kind.into(), address: address.into() };
        let addresses = vec![
            address("Hostname", "gw-1"),
            address("InternalIP", "192.168.7.2"),
            address("InternalDNS", "gw-1.lan"),
            address("ExternalIP", "203.0.113.9"),
        ];
        let declared_features = vec!["InPlace".to_owned()];
        let report = NodeReport { addresses, declared_features, ..NodeReport::default() };
        let endpoint = Endpoint { address: [10, 0, 0, 1].into(), port: 20001, declares: true };
        let patch = status_patch(&node, Some(&report), None, Some(endpoint), false, now).unwrap();
        let expected = json!([
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "192.168.7.2"},
            {"type": "ExternalIP", "address": "203.0.113.9"},
        ]);
        assert_eq!(patch["status"]["addresses"], expected);
        assert_eq!(patch["status"]["declaredFeatures"], json!(["ExtendWebSocketsToKubelet", "InPlace"]));
        node.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
        assert_eq!(kubelet_port(&node), Some(20001));
        assert_eq!(status_patch(&node, Some(&report), None, Some(endpoint), false, now), None, "it stays");
        assert_eq!(status_patch(&node, None, None, Some(endpoint), false, now), None, "without a report too");
    }

    #[test]
    fn the_digest_ignores_heartbeats_only() {
        let mut node = created(&template(&["a"], &["t"]));
        let set = |node: &mut Node, beat: &str, status: &str| {
            let status = json!({"conditions": [{"type": "Ready", "status": status, "lastHeartbeatTime": beat}]});
            node.status = Some(serde_json::from_value(status).unwrap());
            digest(node)
        };
        let first = set(&mut node, "2026-01-01T00:00:00Z", "True");
        assert_eq!(set(&mut node, "2026-01-01T00:05:00Z", "True"), first);
        assert_ne!(set(&mut node, "2026-01-01T00:05:00Z", "Unknown"), first);
        node.spec.as_mut().unwrap().taints = None;
        assert_ne!(digest(&node), first);
    }
}
