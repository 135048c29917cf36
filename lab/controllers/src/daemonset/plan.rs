//! Which pods a DaemonSet creates and deletes in this round. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::pod::{fit, target};
use super::revisions::is_updated;
use super::rolling;
use crate::pods;

/// At most so many pods are created or deleted in one round; the rest follows in the next.
const BURST: usize = 250;

/// A pod that will not run again, and the node it was on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
    pub(super) failed: bool,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// To be deleted too, but not too often.
    pub(super) ended: Vec<Ended>,
}

impl Plan {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The pods of the set on each node, the oldest first.
pub(super) fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<&str, Vec<&Arc<Pod>>> {
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pods::node_name(pod).is_none(), pods::created_at(pod), pod.metadata.name.clone()));
    }
    by_node
}

/// Plans a round: first what must be there at all; only when that is as it should be, the update goes on.
pub(super) fn plan(set: &DaemonSet, hash: &str, pods: &[Arc<Pod>], nodes: &[Arc<Node>], now: Timestamp) -> Plan {
    let by_node = by_node(pods);
    let limits = rolling::Limits::of(set, nodes);
    let mut plan = Plan::default();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let fit = fit(set, node);
        if fit.should_run && here.is_empty() {
            plan.create.push(name.to_owned());
        } else if fit.may_stay {
            tend(&mut plan, name, here, hash, limits.max_surge > 0);
        } else {
            plan.delete.extend(here.iter().filter(|pod| !pods::is_terminating(pod)).map(|pod| (*pod).clone()));
        }
    }
    // Pods that wait for a node that no longer exists; bound ones are the pod garbage collector's.
    let known = |name: &str| nodes.iter().any(|node| node.metadata.name.as_deref() == Some(name));
    for (_, waiting) in by_node.iter().filter(|(name, _)| !known(name)) {
        let unbound = waiting.iter().filter(|pod| pods::node_name(pod).is_none() && !pods::is_terminating(pod));
        plan.delete.extend(unbound.map(|pod| (*pod).clone()));
    }
    if plan.is_nothing() {
        rolling::step(&mut plan, set, hash, &by_node, nodes, limits, now);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// Clears away what ended, and what there is too much of.
fn tend(plan: &mut Plan, node: &str, here: &[&Arc<Pod>], hash: &str, surging: bool) {
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in here.iter().filter(|pod| !pods::is_terminating(pod)) {
        match pods::phase(pod) {
            phase @ ("Failed" | "Succeeded") => {
                let ended = Ended { pod: (*pod).clone(), node: node.to_owned(), failed: phase == "Failed" };
                plan.ended.push(ended);
            }
            _ => running.push(pod),
        }
    }
    // The oldest stays; during a surge the oldest of each version.
    let (updated, outdated): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| surging && is_updated(pod, hash));
    for group in [updated, outdated] {
        plan.delete.extend(group.into_iter().skip(1).cloned());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
    use k8s_openapi::api::core::v1::Taint;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::*;
    use crate::clock::after_seconds;
    use crate::daemonset::pod::for_node;
    use crate::samples;

    pub(in crate::daemonset) fn set(max_unavailable: i32, max_surge: i32) -> DaemonSet {
        DaemonSet {
            metadata: samples::meta("agent"),
            spec: Some(DaemonSetSpec {
                selector: samples::selector("app"),
                template: samples::template("app", "busybox"),
                update_strategy: Some(DaemonSetUpdateStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDaemonSet {
                        max_unavailable: Some(IntOrString::Int(max_unavailable)),
                        max_surge: Some(IntOrString::Int(max_surge)),
                    }),
                }),
                ..DaemonSetSpec::default()
            }),
            status: None,
        }
    }

    pub(in crate::daemonset) fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
        names.iter().map(|name| Arc::new(samples::node(name))).collect()
    }

    /// A pod of the set on a node, ready or not.
    pub(in crate::daemonset) fn pod_on(node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let mut pod = for_node(&set(1, 0), hash, node);
        let name = format!("{node}-{hash}");
        pod.metadata.uid = Some(name.clone());
        pod.metadata.name = Some(name);
        pod.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        pod.status = samples::ready_pod("x", node, Timestamp::UNIX_EPOCH).status;
        if !ready {
            pod.status.get_or_insert_default().conditions = None;
        }
        Arc::new(pod)
    }

    pub(in crate::daemonset) fn now() -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, 1_000)
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
    }

    fn with_taint(node: &Arc<Node>, key: &str, effect: &str) -> Arc<Node> {
        let mut node = Node::clone(node);
        let taint = Taint { key: key.into(), effect: effect.into(), ..Taint::default() };
        node.spec.get_or_insert_default().taints.get_or_insert_default().push(taint);
        Arc::new(node)
    }

    #[test]
    fn every_node_that_will_have_one_gets_one() {
        let mut nodes = nodes(&["a", "b", "c", "d"]);
        nodes[1] = with_taint(&nodes[1], "edge", "NoSchedule");
        nodes[2] = with_taint(&nodes[2], "node.kubernetes.io/not-ready", "NoExecute");
        nodes[3] = with_taint(&nodes[3], "node.kubernetes.io/unschedulable", "NoSchedule");
        let plan = plan(&set(1, 0), "h1", &[], &nodes, now());
        assert_eq!(plan.create, ["a", "c", "d"], "trouble and cordons of the node are tolerated");
    }

    #[test]
    fn a_pod_is_made_for_its_node_and_found_there() {
        let pod = for_node(&set(1, 0), "h1", "a");
        assert_eq!(target(&pod), Some("a"));
        assert_eq!(pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"], "h1");
        let tolerations = pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap();
        assert_eq!(tolerations.len(), 6);
        let again = set(1, 0);
        let mut again = again;
        again.spec.get_or_insert_default().template.spec = pod.spec.clone();
        assert_eq!(for_node(&again, "h1", "b").spec.unwrap().tolerations.unwrap().len(), 6, "none is added twice");
    }

    #[test]
    fn a_waiting_pod_counts_as_there() {
        let mut pod = for_node(&set(1, 0), "h1", "a");
        pod.metadata.name = Some("p".into());
        let plan = plan(&set(1, 0), "h1", &[Arc::new(pod)], &nodes(&["a"]), now());
        assert!(plan.is_nothing(), "{plan:?}");
    }

    #[test]
    fn pods_leave_nodes_that_will_not_have_them() {
        let nodes = nodes(&["a", "b"]);
        let pods = [pod_on("a", "h1", true), pod_on("b", "h1", true)];
        let evicting = [with_taint(&nodes[0], "edge", "NoExecute"), with_taint(&nodes[1], "edge", "NoSchedule")];
        let plan = plan(&set(1, 0), "h1", &pods, &evicting, now());
        assert_eq!(names(&plan.delete), ["a-h1"], "NoSchedule does not drive out what is there");
        assert!(plan.create.is_empty());
    }

    #[test]
    fn ended_pods_are_set_apart_and_doubles_deleted() {
        let mut younger = Pod::clone(&pod_on("b", "h1", true));
        younger.metadata.name = Some("double".into());
        younger.metadata.creation_timestamp = Some(Time(now()));
        let failed = Arc::new(samples::with_phase(Pod::clone(&pod_on("a", "h1", true)), "Failed"));
        let pods = [failed, pod_on("b", "h1", true), Arc::new(younger)];
        let plan = plan(&set(1, 0), "h1", &pods, &nodes(&["a", "b"]), now());
        assert_eq!(names(&plan.delete), ["double"]);
        assert!(plan.ended.len() == 1 && plan.ended[0].failed);
    }

    #[test]
    fn a_pod_waiting_for_a_lost_node_goes_and_a_bound_one_is_left_to_the_collector() {
        let mut waiting = for_node(&set(1, 0), "h1", "lost");
        waiting.metadata.name = Some("waiting".into());
        let plan = plan(&set(1, 0), "h1", &[Arc::new(waiting), pod_on("gone", "h1", true)], &[], now());
        assert_eq!(names(&plan.delete), ["waiting"]);
    }
}
