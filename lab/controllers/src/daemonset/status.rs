//! The status of a DaemonSet. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::plan::by_node;
use super::pod::fit;
use super::revisions::is_updated;
use crate::pods::{self, Availability};

/// The status, and when it changes by time alone.
pub(super) fn status(
    set: &DaemonSet,
    hash: &str,
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    now: Timestamp,
) -> (DaemonSetStatus, Option<Duration>) {
    let by_node = by_node(pods);
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let old = set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation.max(old.observed_generation),
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated, mut next) = (0, 0, None::<Duration>);
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        if !fit(set, node).should_run {
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(oldest) = here.first() else { continue };
        status.current_number_scheduled += 1;
        updated += i32::from(here.iter().any(|pod| is_updated(pod, hash)));
        // During a surge the node counts as served by whichever of the two is.
        let best = here.iter().find(|pod| pods::is_ready(pod)).unwrap_or(oldest);
        match pods::availability(best, min_ready, now) {
            Availability::Available => {
                status.number_ready += 1;
                available += 1;
            }
            Availability::In(wait) => {
                status.number_ready += 1;
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
            Availability::NotReady => {}
        }
    }
    // The API server leaves zero out of these.
    let counted = |number: i32| (number != 0).then_some(number);
    status.updated_number_scheduled = counted(updated);
    status.number_available = counted(available);
    status.number_unavailable = counted(status.desired_number_scheduled - available);
    (status, next)
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{nodes, now, pod_on, set};
    use super::*;

    #[test]
    fn every_node_is_counted_once() {
        let mut nodes = nodes(&["a", "b", "c", "d"]);
        let mut closed = Node::clone(&nodes[3]);
        closed.metadata.labels = None;
        nodes[3] = Arc::new(closed);
        let mut set = set(1, 0);
        set.spec.get_or_insert_default().template.spec.get_or_insert_default().node_selector =
            Some([("kubernetes.io/hostname".to_owned(), "x".to_owned())].into());
        let (none, _) = status(&set, "new", &[pod_on("a", "new", true)], &nodes, now());
        assert_eq!((none.desired_number_scheduled, none.number_misscheduled), (0, 1));

        let set = super::super::plan::tests::set(1, 0);
        let pods = [pod_on("a", "new", true), pod_on("b", "old", false), pod_on("c", "old", true)];
        let (status, _) = status(&set, "new", &pods, &nodes, now());
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (4, 3));
        assert_eq!((status.number_ready, status.number_available, status.number_unavailable), (2, Some(2), Some(2)));
        assert_eq!(status.updated_number_scheduled, Some(1));
    }

    #[test]
    fn availability_is_waited_for() {
        let mut set = set(1, 0);
        set.spec.get_or_insert_default().min_ready_seconds = Some(1_060);
        let (status, next) = status(&set, "new", &[pod_on("a", "new", true)], &nodes(&["a"]), now());
        assert_eq!((status.number_ready, status.number_available), (1, None));
        assert_eq!(next, Some(Duration::from_secs(60)));
    }
}
