//! Which pods a ReplicaSet gives up first. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::clock::elapsed;
use crate::identity;
use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pods sorted so that the least valuable comes first: not bound, not running, not ready, cheap by annotation, on a
/// node with many related pods, ready or created only lately, often restarted.
pub(super) fn deletion_order(pods: Vec<Arc<Pod>>, related: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for node in related.iter().filter(|pod| pods::is_active(pod)).filter_map(|pod| pods::node_name(pod)) {
        *crowd.entry(node).or_default() += 1;
    }
    let mut ranked: Vec<_> = pods
        .into_iter()
        .map(|pod| {
            let rank = pods::node_name(&pod).and_then(|node| crowd.get(node)).copied().unwrap_or(0);
            (pod, rank)
        })
        .collect();
    ranked.sort_by(|(left, left_rank), (right, right_rank)| compare(left, *left_rank, right, *right_rank, now));
    ranked.into_iter().map(|(pod, _)| pod).collect()
}

fn compare(left: &Pod, left_rank: usize, right: &Pod, right_rank: usize, now: Timestamp) -> Ordering {
    let bound = |pod: &Pod| pods::node_name(pod).is_some();
    let ready = |pod: &Pod| pods::is_ready(pod);
    bound(left)
        .cmp(&bound(right))
        .then_with(|| phase_value(left).cmp(&phase_value(right)))
        .then_with(|| ready(left).cmp(&ready(right)))
        .then_with(|| deletion_cost(left).cmp(&deletion_cost(right)))
        .then_with(|| right_rank.cmp(&left_rank))
        .then_with(|| younger_first(pods::ready_time(left), pods::ready_time(right), now))
        .then_with(|| pods::most_restarts(right).cmp(&pods::most_restarts(left)))
        .then_with(|| younger_first(pods::created_at(left), pods::created_at(right), now))
        .then_with(|| identity::uid(&left.metadata).cmp(identity::uid(&right.metadata)))
}

fn phase_value(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

/// What cannot be read counts as zero, as if it were not there; the API server refuses such a value anyway.
fn deletion_cost(pod: &Pod) -> i32 {
    identity::annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Ages are compared by magnitude (powers of two), so that among pods of about the same age chance, not the second of
/// their birth, decides; a whole generation would otherwise be given up together with its newest node.
fn younger_first(left: Option<Timestamp>, right: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |since: Timestamp| elapsed(since, now).as_secs().checked_ilog2().map_or(0, |log| log + 1);
    match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(left), Some(right)) => magnitude(left).cmp(&magnitude(right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::after_seconds;
    use crate::samples;

    fn now() -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, 1_000_000)
    }

    fn ready(name: &str, node: &str, seconds: i64) -> Pod {
        samples::ready_pod(name, node, after_seconds(now(), -seconds))
    }

    fn with_cost(mut pod: Pod, cost: &str) -> Pod {
        pod.metadata.annotations.get_or_insert_default().insert(DELETION_COST.into(), cost.into());
        pod
    }

    fn unready(mut pod: Pod) -> Pod {
        pod.status.get_or_insert_default().conditions = None;
        pod
    }

    fn order(pods: &[Pod]) -> Vec<String> {
        let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
        let ranked = deletion_order(pods.clone(), &pods, now());
        ranked.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    #[test]
    fn each_rule_before_the_next() {
        let pods = [
            ready("old", "n1", 100_000),
            ready("young", "n1", 10),
            with_cost(ready("cheap", "n1", 100_000), "-5"),
            unready(ready("not-ready", "n1", 100_000)),
            samples::with_phase(ready("pending", "n1", 10), "Pending"),
            samples::pod("not-bound"),
        ];
        assert_eq!(order(&pods), ["not-bound", "pending", "not-ready", "cheap", "young", "old"]);
    }

    #[test]
    fn a_crowded_node_gives_up_first() {
        let pods = [ready("alone", "n1", 10), ready("one", "n2", 100_000), ready("two", "n2", 100_000)];
        assert_eq!(order(&pods), ["one", "two", "alone"]);
    }

    #[test]
    fn a_nonsense_cost_counts_as_none() {
        let pods = [with_cost(ready("a", "n1", 50), "cheap"), with_cost(ready("b", "n1", 50), "-1")];
        assert_eq!(order(&pods), ["b", "a"]);
    }
}
