//! What rules a node out, in the order and with the words of the real scheduler. Pure.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::interpod::InterPod;
use super::requests::{self, HostPort, Resources};
use super::snapshot::{Place, Snapshot};
use super::spread::Spread;
use crate::placement::quantity::whole;
use crate::placement::{affinity, taints};

/// Everything about the pod that is the same for every node.
pub(super) struct Filters<'a> {
    pod: &'a Pod,
    spec: PodSpec,
    requests: Resources,
    ports: Vec<HostPort>,
    /// The pod can only go to these nodes by name.
    named: Option<Vec<String>>,
    spread: Spread,
    interpod: InterPod<'a>,
}

impl<'a> Filters<'a> {
    pub(super) fn new(pod: &'a Pod, snapshot: &'a Snapshot) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        Self {
            requests: requests::of_pod(pod),
            ports: requests::host_ports(&spec),
            named: named(&spec),
            spread: Spread::new(pod, snapshot),
            interpod: InterPod::new(pod, snapshot),
            pod,
            spec,
        }
    }

    /// What speaks against the node: the words of the first rule that does.
    pub(super) fn check(&self, place: &Place) -> Vec<String> {
        let one = |reason: &str| vec![reason.to_owned()];
        let tolerations = taints::tolerations(self.pod);
        if self.named.as_ref().is_some_and(|names| !names.iter().any(|name| name == place.name())) {
            return one("node(s) didn't satisfy plugin(s) [NodeAffinity]");
        }
        if taints::is_cordoned_for(&place.node, tolerations) {
            return one("node(s) were unschedulable");
        }
        let hard = [taints::NO_SCHEDULE, taints::NO_EXECUTE];
        if taints::untolerated(taints::of(&place.node), tolerations, &hard).is_some() {
            return one("node(s) had untolerated taint(s)");
        }
        if !affinity::chooses(&self.spec, &place.node) {
            return one("node(s) didn't match Pod's node affinity/selector");
        }
        if requests::conflict(&self.ports, &place.ports) {
            return one("node(s) didn't have free ports for the requested pod ports");
        }
        let short = self.short_of(place);
        if !short.is_empty() {
            return short;
        }
        let rest = self.spread.check(place).or_else(|| self.interpod.check(place));
        rest.map(one).unwrap_or_default()
    }

    fn short_of(&self, place: &Place) -> Vec<String> {
        let count = i128::try_from(place.pods.len()).unwrap_or(i128::MAX);
        let mut short = Vec::new();
        if whole(count.saturating_add(1)) > place.allocatable("pods") {
            short.push("Too many pods".to_owned());
        }
        for (resource, wanted) in &self.requests {
            if *wanted > 0 && *wanted > place.allocatable(resource).saturating_sub(place.taken(resource)) {
                short.push(format!("Insufficient {resource}"));
            }
        }
        short
    }
}

/// The nodes that the required affinity names, if every one of its terms does.
fn named(spec: &PodSpec) -> Option<Vec<String>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut names = Vec::new();
    for term in &required.node_selector_terms {
        let fields = term.match_fields.iter().flatten();
        let field = fields.clone().find(|field| field.key == "metadata.name" && field.operator == "In")?;
        names.extend(field.values.iter().flatten().cloned());
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{
        Affinity, ContainerPort, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
        ResourceRequirements, Toleration,
    };
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;
    use crate::samples;

    fn against(pod: &Pod, node: Node, others: &[Arc<Pod>]) -> Vec<String> {
        let snapshot = Snapshot::new(&[Arc::new(node)], others, &[]);
        Filters::new(pod, &snapshot).check(&snapshot.places[0])
    }

    fn pod(change: impl FnOnce(&mut PodSpec)) -> Pod {
        let mut pod = samples::pod("p");
        change(pod.spec.get_or_insert_default());
        pod
    }

    #[test]
    fn a_cordon_has_its_own_words_even_when_it_is_also_a_taint() {
        let mut node = samples::node("n");
        node.spec.get_or_insert_default().unschedulable = Some(true);
        assert_eq!(against(&samples::pod("p"), node.clone(), &[]), ["node(s) were unschedulable"]);
        let tolerant = pod(|spec| {
            spec.tolerations = Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]);
        });
        assert!(against(&tolerant, node, &[]).is_empty());
    }

    #[test]
    fn selectors_and_names() {
        let selecting = pod(|spec| spec.node_selector = Some(samples::labels(&[("disk", "ssd")])));
        assert_eq!(against(&selecting, samples::node("n"), &[]), ["node(s) didn't match Pod's node affinity/selector"]);
        let by_name = pod(|spec| {
            let field = NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec!["other".into()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![field]), ..NodeSelectorTerm::default() };
            let required = Some(NodeSelector { node_selector_terms: vec![term] });
            let affinity = NodeAffinity {
                required_during_scheduling_ignored_during_execution: required,
                ..NodeAffinity::default()
            };
            spec.affinity = Some(Affinity { node_affinity: Some(affinity), ..Affinity::default() });
        });
        assert_eq!(against(&by_name, samples::node("n"), &[]), ["node(s) didn't satisfy plugin(s) [NodeAffinity]"]);
        assert!(against(&by_name, samples::node("other"), &[]).is_empty());
    }

    #[test]
    fn every_resource_that_is_short_is_named() {
        let greedy = pod(|spec| {
            let amounts = [("cpu", "5"), ("memory", "9Gi"), ("example.com/gpio", "1"), ("ephemeral-storage", "0")];
            spec.containers[0].resources = Some(ResourceRequirements {
                requests: Some(
                    amounts.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect(),
                ),
                ..ResourceRequirements::default()
            });
        });
        let expected = ["Insufficient cpu", "Insufficient example.com/gpio", "Insufficient memory"];
        assert_eq!(against(&greedy, samples::node("n"), &[]), expected);
        let mut full = samples::node("n");
        let status = full.status.get_or_insert_default();
        status.allocatable.get_or_insert_default().insert("pods".into(), Quantity("1".into()));
        let other = Arc::new(samples::ready_pod("x", "n", jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(against(&samples::pod("p"), full, &[other]), ["Too many pods"]);
    }

    #[test]
    fn a_taken_port_rules_the_node_out() {
        let serving = |name: &str, node: Option<&str>| {
            let mut pod = samples::pod(name);
            let spec = pod.spec.get_or_insert_default();
            spec.node_name = node.map(str::to_owned);
            spec.containers[0].ports =
                Some(vec![ContainerPort { host_port: Some(80), container_port: 80, ..ContainerPort::default() }]);
            pod
        };
        assert_eq!(
            against(&serving("p", None), samples::node("n"), &[Arc::new(serving("x", Some("n")))]),
            ["node(s) didn't have free ports for the requested pod ports"]
        );
    }
}
