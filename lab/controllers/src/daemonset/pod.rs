//! The pod of a DaemonSet on one node: how it is made, and which node a pod is for. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use kube::Resource;

use super::revisions::REVISION_HASH;
use crate::identity::{annotation, controller_reference};
use crate::placement::affinity;
use crate::placement::taints::{
    self, DISK_PRESSURE, MEMORY_PRESSURE, NETWORK_UNAVAILABLE, NO_EXECUTE, NO_SCHEDULE, NOT_READY, PID_PRESSURE,
    UNREACHABLE, UNSCHEDULABLE,
};
use crate::{pods, template};

/// Daemons belong to the node: trouble of the node is no reason to leave it, rather the contrary.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let mut wanted = vec![
        (NOT_READY, NO_EXECUTE),
        (UNREACHABLE, NO_EXECUTE),
        (DISK_PRESSURE, NO_SCHEDULE),
        (MEMORY_PRESSURE, NO_SCHEDULE),
        (PID_PRESSURE, NO_SCHEDULE),
        (UNSCHEDULABLE, NO_SCHEDULE),
    ];
    if spec.host_network == Some(true) {
        wanted.push((NETWORK_UNAVAILABLE, NO_SCHEDULE));
    }
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

/// The spec of every pod of the set, but for the node.
fn spec(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    spec.tolerations = Some(tolerations(&spec));
    spec
}

/// A new pod that the scheduler can bind to this node only.
pub(super) fn for_node(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let template = template::with_label(&template, REVISION_HASH, hash);
    let template = match annotation(&set.metadata, "deprecated.daemonset.template.generation") {
        Some(generation) => template::with_label(&template, "pod-template-generation", generation),
        None => template,
    };
    let owner = controller_reference(&DaemonSet::api_version(&()), &DaemonSet::kind(&()), &set.metadata);
    let mut pod = template::pod(&template, set.metadata.namespace.as_deref().unwrap_or_default(), owner);
    let mut spec = spec(set);
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod.spec = Some(spec);
    pod
}

/// The node a pod is bound to, or meant for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let terms = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = terms.filter(|field| field.key == "metadata.name" && field.operator == "In");
    match names.next()?.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

/// Whether a node gets a pod of the set, and whether one that is there may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) should_run: bool,
    pub(super) may_stay: bool,
}

pub(super) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let spec = spec(set);
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some() && named != node.metadata.name.as_deref() || !affinity::chooses(&spec, node) {
        return Fit { should_run: false, may_stay: false };
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let open = |effects: &[&str]| taints::untolerated(taints::of(node), tolerations, effects).is_none();
    Fit { should_run: open(&[NO_SCHEDULE, NO_EXECUTE]), may_stay: open(&[NO_EXECUTE]) }
}
