//! What the controllers read from a pod. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::clock::{after_seconds, until};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Where the pod is bound to; empty counts as not bound.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts towards what its controller wants: it runs or may still run.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn ready_since(pod: &Pod) -> Option<Option<Timestamp>> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time.as_ref().map(|time| time.0))
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// When the pod became ready, if it is.
pub(crate) fn ready_time(pod: &Pod) -> Option<Timestamp> {
    ready_since(pod).flatten()
}

/// Whether a pod has been ready for long enough to be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// Ready, but `minReadySeconds` have not passed.
    In(Duration),
    NotReady,
}

pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    // A ready condition without a time cannot be waited for; it is taken as fresh.
    let due = after_seconds(since.unwrap_or(now), i64::from(min_ready_seconds));
    if due <= now { Availability::Available } else { Availability::In(until(due, now)) }
}

pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    availability(pod, min_ready_seconds, now) == Availability::Available
}

pub(crate) fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten())
}

pub(crate) fn init_container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten())
}

/// The restart count of the container that restarted most.
pub(crate) fn most_restarts(pod: &Pod) -> i32 {
    container_statuses(pod).map(|status| status.restart_count).max().unwrap_or(0)
}

/// When the last container ended; for a pod without such a time, when it was deleted or last changed.
pub(crate) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let ended = container_statuses(pod)
        .filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max();
    ended
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

pub(crate) fn created_at(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Puts a condition into the list; the transition time changes only with the status. Returns whether anything changed.
pub(crate) fn set_condition(conditions: &mut Vec<PodCondition>, new: PodCondition, now: Timestamp) -> bool {
    let mut new = new;
    match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
        None => {
            new.last_transition_time.get_or_insert(Time(now));
            conditions.push(new);
            true
        }
        Some(old) => {
            new.last_transition_time =
                if old.status == new.status { old.last_transition_time.clone() } else { Some(Time(now)) };
            let changed = *old != new;
            *old = new;
            changed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn now() -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, 1_000_000)
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let ready = samples::ready_pod("a", "n1", after_seconds(now(), -10));
        assert_eq!(availability(&ready, 0, now()), Availability::Available);
        assert_eq!(availability(&ready, 10, now()), Availability::Available);
        assert_eq!(availability(&ready, 15, now()), Availability::In(Duration::from_secs(5)));
        assert_eq!(availability(&samples::pod("a"), 0, now()), Availability::NotReady);
    }

    #[test]
    fn a_terminating_pod_is_not_active() {
        let mut pod = samples::pod("a");
        assert!(is_active(&pod));
        pod.metadata.deletion_timestamp = Some(Time(now()));
        assert!(!is_active(&pod) && !is_terminal(&pod));
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let condition = |status: &str, message: &str| PodCondition {
            type_: "PodScheduled".into(),
            status: status.into(),
            message: Some(message.into()),
            ..PodCondition::default()
        };
        let mut list = Vec::new();
        assert!(set_condition(&mut list, condition("False", "a"), now()));
        let later = after_seconds(now(), 60);
        assert!(!set_condition(&mut list, condition("False", "a"), later));
        assert!(set_condition(&mut list, condition("False", "b"), later));
        assert_eq!(list[0].last_transition_time, Some(Time(now())));
        assert!(set_condition(&mut list, condition("True", "b"), later));
        assert_eq!(list[0].last_transition_time, Some(Time(later)));
    }
}
