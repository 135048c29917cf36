//! Topology spread constraints that must hold. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};

use super::interpod::with_own_labels;
use super::snapshot::{Place, Snapshot};
use crate::placement::{affinity, taints};
use crate::{pods, selectors};

/// The hard constraints of a pod, counted once for all nodes.
pub(super) struct Spread {
    constraints: Vec<Counted>,
}

struct Counted {
    key: String,
    max_skew: i64,
    /// How many pods the constraint counts in each domain.
    domains: BTreeMap<String, i64>,
    min_domains: usize,
    /// The pod itself would be counted.
    counts_itself: i64,
}

impl Spread {
    pub(super) fn new(pod: &Pod, snapshot: &Snapshot) -> Self {
        let hard: Vec<_> = pod
            .spec
            .iter()
            .flat_map(|spec| spec.topology_spread_constraints.iter().flatten())
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .collect();
        let keys: Vec<&str> = hard.iter().map(|constraint| constraint.topology_key.as_str()).collect();
        Self { constraints: hard.iter().map(|constraint| count(pod, constraint, &keys, snapshot)).collect() }
    }

    /// What speaks against the node.
    pub(super) fn check(&self, place: &Place) -> Option<&'static str> {
        for constraint in &self.constraints {
            let Some(here) = place.label(&constraint.key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let fewest = if constraint.domains.len() < constraint.min_domains {
                0
            } else {
                constraint.domains.values().min().copied().unwrap_or(0)
            };
            let count = constraint.domains.get(here).copied().unwrap_or(0);
            if count + constraint.counts_itself - fewest > constraint.max_skew {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }
}

fn count(pod: &Pod, constraint: &TopologySpreadConstraint, keys: &[&str], snapshot: &Snapshot) -> Counted {
    let selector =
        with_own_labels(constraint.label_selector.as_ref(), pod, constraint.match_label_keys.as_deref(), None);
    let counts = |other: &Pod| {
        other.metadata.namespace == pod.metadata.namespace
            && selector.as_ref().is_some_and(|selector| selectors::matches(selector, other.metadata.labels.as_ref()))
    };
    let mut domains: BTreeMap<String, i64> = BTreeMap::new();
    for place in snapshot.places.iter().filter(|place| is_eligible(pod, constraint, keys, place)) {
        let Some(value) = place.label(&constraint.topology_key) else { continue };
        let here = place.pods.iter().filter(|other| !pods::is_terminating(other) && counts(other)).count();
        *domains.entry(value.to_owned()).or_default() += i64::try_from(here).unwrap_or(i64::MAX / 2);
    }
    Counted {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        domains,
        min_domains: constraint.min_domains.and_then(|number| usize::try_from(number).ok()).unwrap_or(1),
        counts_itself: i64::from(counts(pod)),
    }
}

/// Only nodes that the pod could go to make a domain that must not fall behind.
fn is_eligible(pod: &Pod, constraint: &TopologySpreadConstraint, keys: &[&str], place: &Place) -> bool {
    let honors = |policy: &Option<String>, default: bool| policy.as_deref().map_or(default, |text| text == "Honor");
    let chosen = !honors(&constraint.node_affinity_policy, true)
        || pod.spec.as_ref().is_none_or(|spec| affinity::chooses(spec, &place.node));
    let hard = [taints::NO_SCHEDULE, taints::NO_EXECUTE];
    let open = !honors(&constraint.node_taints_policy, false)
        || taints::untolerated(taints::of(&place.node), taints::tolerations(pod), &hard).is_none();
    chosen && open && keys.iter().all(|key| place.label(key).is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;

    use super::*;
    use crate::samples;

    fn node(name: &str, zone: Option<&str>) -> Arc<Node> {
        let mut node = samples::node(name);
        node.metadata.labels = zone.map(|zone| samples::labels(&[("zone", zone)]));
        Arc::new(node)
    }

    fn on(node: &str, index: usize) -> Arc<Pod> {
        Arc::new(samples::ready_pod(&format!("{node}-{index}"), node, jiff::Timestamp::UNIX_EPOCH))
    }

    fn open(max_skew: i32, min_domains: Option<i32>, nodes: &[Arc<Node>], others: &[Arc<Pod>]) -> Vec<String> {
        let mut pod = samples::pod("p");
        pod.spec.get_or_insert_default().topology_spread_constraints = Some(vec![TopologySpreadConstraint {
            max_skew,
            min_domains,
            topology_key: "zone".into(),
            when_unsatisfiable: "DoNotSchedule".into(),
            label_selector: Some(samples::selector("app")),
            ..TopologySpreadConstraint::default()
        }]);
        let snapshot = Snapshot::new(nodes, others, &[]);
        let spread = Spread::new(&pod, &snapshot);
        let open = snapshot.places.iter().filter(|place| spread.check(place).is_none());
        open.map(|place| place.name().to_owned()).collect()
    }

    #[test]
    fn the_fullest_zone_waits_for_the_others() {
        let nodes = [node("a", Some("a")), node("b", Some("b")), node("c", None)];
        assert_eq!(open(1, None, &nodes, &[]), ["a", "b"], "a node without the label is out");
        assert_eq!(open(1, None, &nodes, &[on("a", 1)]), ["b"]);
        assert_eq!(open(2, None, &nodes, &[on("a", 1)]), ["a", "b"]);
        assert_eq!(open(1, None, &nodes, &[on("a", 1), on("b", 1)]), ["a", "b"]);
    }

    #[test]
    fn too_few_zones_count_as_an_empty_one() {
        let nodes = [node("a", Some("a"))];
        assert_eq!(open(1, Some(2), &nodes, &[]), ["a"]);
        assert!(open(1, Some(2), &nodes, &[on("a", 1)]).is_empty());
    }
}
