//! How many pods to create, which to delete, and what to say about it. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rank;
use crate::pods::{self, Availability};
use crate::template;

/// At most so many pods are created or deleted in one round; the rest follows in the next.
const BURST: usize = 500;

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub(super) enum Scale {
    Keep,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Why the last round did not get what it wanted.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn desired(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// Compares the active pods with the wish. `related` are the pods by which crowded nodes are found.
pub(super) fn scale(set: &ReplicaSet, owned: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Scale {
    if set.metadata.deletion_timestamp.is_some() {
        return Scale::Keep;
    }
    let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let desired = desired(set);
    if active.len() < desired {
        return Scale::Create((desired - active.len()).min(BURST));
    }
    let surplus = (active.len() - desired).min(BURST);
    if surplus == 0 {
        return Scale::Keep;
    }
    let mut ranked = rank::deletion_order(active, related, now);
    ranked.truncate(surplus);
    Scale::Delete(ranked)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The status after this round, and when it changes by time alone.
pub(super) fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    trouble: Option<&Trouble>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).collect();
    let terminating = owned.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
    let template_labels = spec.template.as_ref().and_then(template::labels);
    let labelled = active.iter().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    });
    let waits = active.iter().filter_map(|pod| match pods::availability(pod, min_ready, now) {
        Availability::In(wait) => Some(wait),
        Availability::Available | Availability::NotReady => None,
    });
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some_count(labelled.count()),
        ready_replicas: some_count(active.iter().filter(|pod| pods::is_ready(pod)).count()),
        available_replicas: some_count(active.iter().filter(|pod| pods::is_available(pod, min_ready, now)).count()),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation.max(old.observed_generation),
        conditions: conditions(old.conditions.unwrap_or_default(), trouble, now),
    };
    (status, waits.min())
}

/// The API server leaves zero out; a status that says zero would never compare equal to what it returns.
fn some_count(number: usize) -> Option<i32> {
    (number > 0).then(|| count(number))
}

fn conditions(
    mut old: Vec<ReplicaSetCondition>,
    trouble: Option<&Trouble>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    match trouble {
        None => old.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) if old.iter().any(|condition| condition.type_ == "ReplicaFailure") => {}
        Some(trouble) => old.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(trouble.reason.into()),
            message: Some(trouble.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
    }
    (!old.is_empty()).then_some(old)
}

pub(crate) fn condition<'a>(set: &'a ReplicaSet, kind: &str) -> Option<&'a ReplicaSetCondition> {
    set.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;

    use super::*;
    use crate::clock::after_seconds;
    use crate::samples;

    fn now() -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, 1_000_000)
    }

    fn set(replicas: i32) -> ReplicaSet {
        ReplicaSet {
            metadata: samples::meta("rs"),
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                selector: samples::selector("app"),
                template: Some(samples::template("app", "busybox")),
                min_ready_seconds: None,
            }),
            status: None,
        }
    }

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        (0..count).map(|index| Arc::new(samples::ready_pod(&format!("p{index}"), "n1", now()))).collect()
    }

    #[test]
    fn the_difference_decides() {
        for (replicas, running, expected) in [(3, 0, 3), (3, 2, 1), (600, 0, 500)] {
            assert_eq!(scale(&set(replicas), &pods(running), &[], now()), Scale::Create(expected));
        }
        assert_eq!(scale(&set(2), &pods(2), &[], now()), Scale::Keep);
        let Scale::Delete(victims) = scale(&set(1), &pods(3), &[], now()) else { panic!("expected deletions") };
        assert_eq!(victims.len(), 2);
    }

    #[test]
    fn ended_and_terminating_pods_are_replaced() {
        let mut owned = pods(3);
        owned[0] = Arc::new(samples::with_phase(Pod::clone(&owned[0]), "Failed"));
        let mut leaving = Pod::clone(&owned[1]);
        leaving.metadata.deletion_timestamp = Some(Time(now()));
        owned[1] = Arc::new(leaving);
        assert_eq!(scale(&set(3), &owned, &[], now()), Scale::Create(2));
        let (status, _) = status(&set(3), &owned, None, now());
        assert_eq!((status.replicas, status.terminating_replicas), (1, Some(1)));
    }

    #[test]
    fn a_set_that_is_being_deleted_is_left_alone() {
        let mut set = set(3);
        set.metadata.deletion_timestamp = Some(Time(now()));
        assert_eq!(scale(&set, &[], &[], now()), Scale::Keep);
    }

    #[test]
    fn availability_is_waited_for() {
        let mut set = set(2);
        set.spec.get_or_insert_default().min_ready_seconds = Some(30);
        let pods = vec![Arc::new(samples::ready_pod("a", "n", after_seconds(now(), -10))), Arc::new(samples::pod("b"))];
        let (status, next) = status(&set, &pods, None, now());
        assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), None));
        assert_eq!(next, Some(Duration::from_secs(20)));
    }

    #[test]
    fn trouble_is_a_condition_until_it_is_over() {
        let trouble = Trouble { reason: "FailedCreate", message: "quota".into() };
        let mut set = set(1);
        let (first, _) = status(&set, &[], Some(&trouble), now());
        set.status = Some(first);
        assert_eq!(condition(&set, "ReplicaFailure").and_then(|one| one.message.as_deref()), Some("quota"));
        let (second, _) = status(&set, &[], None, now());
        assert_eq!(second.conditions, None);
    }
}
