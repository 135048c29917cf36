//! Which pods are garbage. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::identity;
use crate::pods;

/// Why a pod is garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It ended, and there are too many that ended later.
    TooManyEnded,
    /// It is bound to a node that does not exist.
    NodeGone,
    /// It is being deleted, but no node would ever confirm that.
    NeverBound,
}

/// Nodes that pods are bound to and that do not exist.
pub(super) fn missing_nodes(pods: &[Arc<Pod>], known: &BTreeSet<&str>) -> BTreeSet<String> {
    let names = pods.iter().filter_map(|pod| pods::node_name(pod));
    names.filter(|name| !known.contains(name)).map(str::to_owned).collect()
}

/// The garbage, each pod once.
pub(super) fn plan(pods: &[Arc<Pod>], gone_nodes: &BTreeSet<String>, threshold: usize) -> Vec<(Arc<Pod>, Reason)> {
    let mut garbage = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        if pods::node_name(pod).is_some_and(|node| gone_nodes.contains(node)) {
            garbage.push((pod.clone(), Reason::NodeGone));
        } else if pods::is_terminating(pod) && pods::node_name(pod).is_none() {
            garbage.push((pod.clone(), Reason::NeverBound));
        } else if pods::is_terminal(pod) && !pods::is_terminating(pod) {
            ended.push(pod.clone());
        }
    }
    // Evicted pods first, then the oldest.
    ended.sort_by_key(|pod| {
        let evicted = pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
        (!evicted, pods::created_at(pod), identity::uid(&pod.metadata).to_owned())
    });
    let surplus = if threshold == 0 { 0 } else { ended.len().saturating_sub(threshold) };
    garbage.extend(ended.into_iter().take(surplus).map(|pod| (pod, Reason::TooManyEnded)));
    garbage
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::clock::after_seconds;
    use crate::samples;

    fn at(seconds: i64) -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, seconds)
    }

    fn ended(name: &str, created: i64) -> Arc<Pod> {
        let mut pod = samples::with_phase(samples::ready_pod(name, "n1", at(0)), "Succeeded");
        pod.metadata.creation_timestamp = Some(Time(at(created)));
        Arc::new(pod)
    }

    fn names(plan: Vec<(Arc<Pod>, Reason)>) -> Vec<(String, Reason)> {
        plan.into_iter().map(|(pod, reason)| (pod.metadata.name.clone().unwrap(), reason)).collect()
    }

    #[test]
    fn the_oldest_ended_pods_beyond_the_threshold_go() {
        let pods = [ended("c", 30), ended("a", 10), ended("b", 20), Arc::new(samples::pod("runs"))];
        let none = BTreeSet::new();
        assert_eq!(names(plan(&pods, &none, 2)), [("a".into(), Reason::TooManyEnded)]);
        assert!(plan(&pods, &none, 3).is_empty());
        assert!(plan(&pods, &none, 0).is_empty(), "zero means no limit");
    }

    #[test]
    fn pods_of_nodes_that_are_gone_go_whatever_their_phase() {
        let pods = [Arc::new(samples::ready_pod("a", "gone", at(0))), Arc::new(samples::ready_pod("b", "here", at(0)))];
        assert_eq!(missing_nodes(&pods, &["here"].into()), ["gone".to_owned()].into());
        assert_eq!(names(plan(&pods, &["gone".to_owned()].into(), 0)), [("a".into(), Reason::NodeGone)]);
    }

    #[test]
    fn a_deleted_pod_without_a_node_goes() {
        let mut pod = samples::pod("a");
        pod.metadata.deletion_timestamp = Some(Time(at(0)));
        assert_eq!(names(plan(&[Arc::new(pod)], &BTreeSet::new(), 0)), [("a".into(), Reason::NeverBound)]);
    }
}
