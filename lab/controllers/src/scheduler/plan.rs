//! The decision about one pod: a node, or the reasons of all nodes in one sentence. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::filters::Filters;
use super::scores;
use super::snapshot::{Place, Snapshot};
use crate::identity;
use crate::pods;

const OUR_NAME: &str = "default-scheduler";

/// The pods that wait for a node from us: by priority, then by age.
pub(super) fn pending(pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let mut pending: Vec<_> = pods.iter().filter(|pod| is_ours(pod)).cloned().collect();
    pending.sort_by_key(|pod| {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        (std::cmp::Reverse(priority), pods::created_at(pod), identity::uid(&pod.metadata).to_owned())
    });
    pending
}

fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    pods::node_name(pod).is_none()
        && pods::is_active(pod)
        && !gated
        && spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == OUR_NAME)
}

/// The best node for the pod, or why there is none.
pub(super) fn place(pod: &Pod, snapshot: &Snapshot) -> Result<String, String> {
    if snapshot.places.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let filters = Filters::new(pod, snapshot);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting: Vec<&Place> = Vec::new();
    for place in &snapshot.places {
        let against = filters.check(place);
        if against.is_empty() {
            fitting.push(place);
        }
        for reason in against {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if fitting.is_empty() {
        return Err(refusal(snapshot.places.len(), reasons));
    }
    let scores = scores::scores(pod, &fitting, snapshot);
    // The first by name among the best, so that the same cluster always gives the same answer.
    let best = fitting.iter().zip(scores).max_by(|(left, left_score), (right, right_score)| {
        left_score.cmp(right_score).then_with(|| right.name().cmp(left.name()))
    });
    best.map(|(place, _)| place.name().to_owned()).ok_or_else(|| refusal(snapshot.places.len(), BTreeMap::new()))
}

fn refusal(nodes: usize, reasons: BTreeMap<String, usize>) -> String {
    let mut counted: Vec<_> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counted.sort();
    format!("0/{nodes} nodes are available: {}.", counted.join(", "))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, PodSchedulingGate, ResourceRequirements, Taint};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;
    use crate::samples;

    fn requests(name: &str, cpu: &str) -> Pod {
        let mut pod = samples::pod(name);
        pod.spec.get_or_insert_default().containers[0].resources = Some(ResourceRequirements {
            requests: Some([("cpu".to_owned(), Quantity(cpu.to_owned()))].into()),
            ..ResourceRequirements::default()
        });
        pod
    }

    fn bound(name: &str, cpu: &str, node: &str) -> Arc<Pod> {
        let mut pod = requests(name, cpu);
        pod.spec.get_or_insert_default().node_name = Some(node.into());
        Arc::new(pod)
    }

    fn tainted(name: &str) -> Arc<Node> {
        let mut node = samples::node(name);
        let taint = Taint { key: "edge".into(), effect: "NoSchedule".into(), ..Taint::default() };
        node.spec.get_or_insert_default().taints = Some(vec![taint]);
        Arc::new(node)
    }

    #[test]
    fn the_reasons_of_all_nodes_are_counted() {
        let nodes = [Arc::new(samples::node("a")), tainted("b"), tainted("c")];
        let snapshot = Snapshot::new(&nodes, &[bound("x", "3", "a")], &[]);
        assert_eq!(
            place(&requests("p", "2"), &snapshot),
            Err("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).".to_owned())
        );
        assert_eq!(place(&requests("p", "1"), &snapshot), Ok("a".to_owned()));
        let none = Snapshot::new(&[], &[], &[]);
        assert_eq!(place(&requests("p", "1"), &none), Err("no nodes available to schedule pods".to_owned()));
    }

    #[test]
    fn each_pod_sees_where_those_before_it_went() {
        let nodes = [Arc::new(samples::node("a")), Arc::new(samples::node("b"))];
        let mut snapshot = Snapshot::new(&nodes, &[], &[]);
        let mut went = Vec::new();
        for name in ["p1", "p2", "p3"] {
            let pod = requests(name, "2500m");
            match place(&pod, &snapshot) {
                Ok(node) => {
                    snapshot.place(Arc::new(pod), &node);
                    went.push(node);
                }
                Err(message) => went.push(message),
            }
        }
        assert_eq!(went, ["a", "b", "0/2 nodes are available: 2 Insufficient cpu."]);
    }

    #[test]
    fn ended_pods_take_no_room() {
        let ended = Arc::new(samples::with_phase(Pod::clone(&bound("x", "4", "a")), "Succeeded"));
        let snapshot = Snapshot::new(&[Arc::new(samples::node("a"))], &[ended], &[]);
        assert!(place(&requests("p", "4"), &snapshot).is_ok());
    }

    #[test]
    fn the_important_come_first_and_others_are_not_ours() {
        let with = |name: &str, change: &dyn Fn(&mut Pod)| {
            let mut pod = samples::pod(name);
            change(&mut pod);
            Arc::new(pod)
        };
        let pods = [
            with("low", &|_| {}),
            with("high", &|pod| pod.spec.get_or_insert_default().priority = Some(5)),
            with("other", &|pod| pod.spec.get_or_insert_default().scheduler_name = Some("mine".into())),
            with("bound", &|pod| pod.spec.get_or_insert_default().node_name = Some("a".into())),
            with("gated", &|pod| {
                pod.spec.get_or_insert_default().scheduling_gates = Some(vec![PodSchedulingGate { name: "g".into() }]);
            }),
        ];
        let names: Vec<_> = pending(&pods).iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        assert_eq!(names, ["high", "low"]);
    }
}
