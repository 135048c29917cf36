//! Which of the nodes that fit is best. Pure.
//!
//! Every aspect gives each node 0 to 100 points, relative to the other nodes; the weights are those of the real
//! scheduler.

use k8s_openapi::api::core::v1::Pod;

use super::interpod;
use super::requests::{self, Resources};
use super::snapshot::{Place, Snapshot};
use crate::identity::controller_of;
use crate::placement::quantity::Nano;
use crate::placement::{affinity, taints};

const MOST: i64 = 100;

/// What a pod that asks for nothing is taken to need, so that such pods spread too.
const UNSPOKEN: [(&str, Nano); 2] = [("cpu", 100_000_000), ("memory", 200 * 1024 * 1024 * 1_000_000_000)];

/// The points of each node, in the same order.
pub(super) fn scores(pod: &Pod, places: &[&Place], snapshot: &Snapshot) -> Vec<i64> {
    let spec = pod.spec.clone().unwrap_or_default();
    let requests = requests::of_pod(pod);
    let aspects: [(i64, Vec<i64>); 5] = [
        (
            3,
            inverted(places, |place| {
                i64::try_from(taints::disliked(&place.node, taints::tolerations(pod))).unwrap_or(0)
            }),
        ),
        (2, scaled(places, |place| affinity::preference(&spec, &place.node))),
        (2, inverted(places, |place| siblings(pod, place))),
        (2, scaled(places, |place| interpod::preference(pod, place, snapshot))),
        (1, places.iter().map(|place| free(&requests, place)).collect()),
    ];
    (0..places.len()).map(|at| aspects.iter().map(|(weight, points)| weight * points[at]).sum()).collect()
}

/// Points from the lowest to the highest value.
fn scaled(places: &[&Place], value: impl Fn(&Place) -> i64) -> Vec<i64> {
    let values: Vec<i64> = places.iter().map(|place| value(place)).collect();
    let (low, high) = (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0));
    if low == high {
        return vec![0; values.len()];
    }
    values.into_iter().map(|value| MOST * (value - low) / (high - low)).collect()
}

fn inverted(places: &[&Place], value: impl Fn(&Place) -> i64) -> Vec<i64> {
    scaled(places, |place| -value(place))
}

/// Pods of the same workload on the node.
fn siblings(pod: &Pod, place: &Place) -> i64 {
    let Some(owner) = controller_of(&pod.metadata) else { return 0 };
    let same = |other: &Pod| controller_of(&other.metadata).is_some_and(|other| other.uid == owner.uid);
    i64::try_from(place.pods.iter().filter(|other| same(other)).count()).unwrap_or(i64::MAX)
}

/// How much of the node would be free, the mean over CPU and memory.
fn free(requests: &Resources, place: &Place) -> i64 {
    let shares = UNSPOKEN.map(|(resource, unspoken)| {
        let total = place.allocatable(resource);
        if total <= 0 {
            return 0;
        }
        let wanted = requests.get(resource).copied().filter(|wanted| *wanted > 0).unwrap_or(unspoken);
        let uncounted = i128::try_from(place.pods.len()).unwrap_or(0);
        let taken = place.taken(resource).max(uncounted.saturating_mul(unspoken));
        let left = total.saturating_sub(taken).saturating_sub(wanted).max(0);
        i64::try_from(left.saturating_mul(i128::from(MOST)) / total).unwrap_or(0)
    });
    shares.iter().sum::<i64>() / 2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Taint};

    use super::*;
    use crate::identity::controller_reference;
    use crate::samples;
    use crate::scheduler::plan::place;

    fn member(name: &str, node: Option<&str>) -> Pod {
        let mut pod = samples::pod(name);
        pod.spec.get_or_insert_default().node_name = node.map(str::to_owned);
        pod.metadata.owner_references =
            Some(vec![controller_reference("apps/v1", "ReplicaSet", &samples::meta("web"))]);
        pod
    }

    fn best(pod: &Pod, nodes: &[Node], others: &[Pod]) -> String {
        let nodes: Vec<_> = nodes.iter().cloned().map(Arc::new).collect();
        let others: Vec<_> = others.iter().cloned().map(Arc::new).collect();
        place(pod, &Snapshot::new(&nodes, &others, &[])).expect("a node")
    }

    #[test]
    fn pods_of_one_workload_spread() {
        let nodes = [samples::node("a"), samples::node("b")];
        assert_eq!(best(&member("p", None), &nodes, &[]), "a");
        assert_eq!(best(&member("p", None), &nodes, &[member("x", Some("a"))]), "b");
    }

    #[test]
    fn the_emptier_node_is_better() {
        let nodes = [samples::node("a"), samples::node("b")];
        let mut other = samples::pod("x");
        other.spec.get_or_insert_default().node_name = Some("a".into());
        assert_eq!(best(&samples::pod("p"), &nodes, &[other]), "b");
    }

    #[test]
    fn a_soft_taint_is_avoided_but_no_obstacle() {
        let mut soft = samples::node("a");
        let taint = Taint { key: "edge".into(), effect: "PreferNoSchedule".into(), ..Taint::default() };
        soft.spec.get_or_insert_default().taints = Some(vec![taint]);
        assert_eq!(best(&samples::pod("p"), &[soft.clone(), samples::node("b")], &[]), "b");
        assert_eq!(best(&samples::pod("p"), &[soft], &[]), "a");
    }
}
