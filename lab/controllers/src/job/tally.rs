//! Counting ends: what is in the status, what is on its way there, what is new. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::{indexes, pod};
use crate::identity;
use crate::pods;

/// At most so many ends are in the status as UIDs at a time, as in the real controller: the status must stay small.
const MOST_UNCOUNTED: usize = 500;

/// How a pod ended, as far as the Job is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed,
}

/// The numbers of a Job.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// Settled in the status.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Recorded by UID, not settled.
    pub(super) uncounted: UncountedTerminatedPods,
    /// Pods whose end is recorded in the status that was read: their finalizer may go.
    pub(super) release: Vec<Arc<Pod>>,
    /// Indexes that are done.
    pub(super) completed: BTreeSet<u32>,
    /// Not all ends fit into this round.
    pub(super) more: bool,
}

impl Tally {
    /// Everything that ended in success, settled or not.
    pub(super) fn all_succeeded(&self, indexed: bool) -> i32 {
        if indexed {
            return i32::try_from(self.completed.len()).unwrap_or(i32::MAX);
        }
        self.succeeded.saturating_add(length(&self.uncounted.succeeded))
    }

    /// Everything that ended in failure, settled or not.
    pub(super) fn all_failed(&self) -> i32 {
        self.failed.saturating_add(length(&self.uncounted.failed))
    }

    pub(super) fn is_settled(&self) -> bool {
        !self.more && length(&self.uncounted.succeeded) == 0 && length(&self.uncounted.failed) == 0
    }
}

fn length(uids: &Option<Vec<String>>) -> i32 {
    i32::try_from(uids.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX)
}

/// How a pod ended; `None` while it may still succeed. Unless `wait_for_phase`, a pod that is being deleted is not waited
/// for: it counts as failed.
fn end(pod: &Pod, wait_for_phase: bool) -> Option<End> {
    match pods::phase(pod) {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ if pods::is_terminating(pod) && !wait_for_phase => Some(End::Failed),
        _ => None,
    }
}

/// What the Job's spec says about counting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The number of indexes of an Indexed Job.
    pub(super) indexes: Option<u32>,
    /// Pods that are being deleted were sent away by us and are not held against the Job.
    pub(super) suspended: bool,
    /// `podReplacementPolicy: Failed`.
    pub(super) wait_for_phase: bool,
}

/// Counts.
pub(super) fn tally(job: &Job, owned: &[Arc<Pod>], rules: Rules) -> Tally {
    let status = job.status.clone().unwrap_or_default();
    let before = status.uncounted_terminated_pods.unwrap_or_default();
    let mut tally = Tally {
        succeeded: status.succeeded.unwrap_or(0),
        failed: status.failed.unwrap_or(0),
        completed: rules
            .indexes
            .map(|bound| indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), bound))
            .unwrap_or_default(),
        ..Tally::default()
    };
    let tracked: BTreeSet<&str> =
        owned.iter().filter(|pod| pod::is_tracked(pod)).map(|pod| identity::uid(&pod.metadata)).collect();
    // Recorded and without finalizer, or gone: settled.
    let (kept, settled) = split(before.succeeded, &tracked);
    tally.succeeded = tally.succeeded.saturating_add(settled);
    let (kept_failed, settled) = split(before.failed, &tracked);
    tally.failed = tally.failed.saturating_add(settled);
    let (mut succeeded, mut failed) = (kept, kept_failed);

    for pod in owned.iter().filter(|pod| pod::is_tracked(pod)) {
        let uid = identity::uid(&pod.metadata).to_owned();
        if succeeded.contains(&uid) || failed.contains(&uid) {
            tally.release.push(pod.clone());
            continue;
        }
        let Some(end) = end(pod, rules.wait_for_phase) else { continue };
        if rules.suspended && pods::is_terminating(pod) && !pods::is_terminal(pod) {
            tally.release.push(pod.clone());
            continue;
        }
        if succeeded.len() + failed.len() >= MOST_UNCOUNTED {
            tally.more = true;
            continue;
        }
        match (end, rules.indexes) {
            // An index is done once, however many pods did it; its pod needs no entry by UID.
            (End::Succeeded, Some(bound)) => {
                let index = pod::index(pod).filter(|index| *index < bound);
                if index.is_none_or(|index| tally.completed.contains(&index)) {
                    tally.release.push(pod.clone());
                } else {
                    tally.completed.extend(index);
                }
            }
            (End::Succeeded, None) => {
                succeeded.insert(uid);
            }
            (End::Failed, _) => {
                failed.insert(uid);
            }
        }
    }
    tally.uncounted = UncountedTerminatedPods { succeeded: listed(succeeded), failed: listed(failed) };
    tally
}

fn split(uids: Option<Vec<String>>, tracked: &BTreeSet<&str>) -> (BTreeSet<String>, i32) {
    let (kept, settled): (Vec<_>, Vec<_>) = uids.into_iter().flatten().partition(|uid| tracked.contains(uid.as_str()));
    (kept.into_iter().collect(), i32::try_from(settled.len()).unwrap_or(i32::MAX))
}

fn listed(uids: BTreeSet<String>) -> Option<Vec<String>> {
    (!uids.is_empty()).then(|| uids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::plan::tests::{job, pod_of};
    use super::*;
    use crate::samples;

    const PLAIN: Rules = Rules { indexes: None, suspended: false, wait_for_phase: false };

    fn apply(job: &mut Job, tally: &Tally) {
        let status = job.status.get_or_insert_default();
        (status.succeeded, status.failed) = (Some(tally.succeeded), Some(tally.failed));
        status.uncounted_terminated_pods = Some(tally.uncounted.clone());
        status.completed_indexes = indexes::format(&tally.completed);
    }

    fn released(pod: &Arc<Pod>) -> Arc<Pod> {
        let mut pod = Pod::clone(pod);
        pod.metadata.finalizers = None;
        Arc::new(pod)
    }

    #[test]
    fn an_end_is_recorded_released_and_settled_once() {
        let mut job = job(1, 1);
        let pod = pod_of(&job, "a", "Failed");
        let first = tally(&job, std::slice::from_ref(&pod), PLAIN);
        assert_eq!((first.failed, first.all_failed(), first.release.len()), (0, 1, 0));
        apply(&mut job, &first);
        // A crash here: the same again, and the finalizer may go now.
        let second = tally(&job, std::slice::from_ref(&pod), PLAIN);
        assert_eq!((second.all_failed(), second.release.len()), (1, 1));
        apply(&mut job, &second);
        for rest in [vec![released(&pod)], vec![]] {
            let third = tally(&job, &rest, PLAIN);
            assert_eq!((third.failed, third.all_failed(), third.is_settled()), (1, 1, true));
        }
        let third = tally(&job, &[released(&pod)], PLAIN);
        apply(&mut job, &third);
        assert_eq!(tally(&job, &[released(&pod)], PLAIN).all_failed(), 1, "not counted again");
    }

    #[test]
    fn an_index_is_done_once() {
        let mut job = job(2, 2);
        let rules = Rules { indexes: Some(2), ..PLAIN };
        let indexed = |name: &str, index: u32| {
            let mut pod = Pod::clone(&pod_of(&job, name, "Succeeded"));
            pod.metadata.annotations =
                Some(samples::labels(&[("batch.kubernetes.io/job-completion-index", &index.to_string())]));
            Arc::new(pod)
        };
        let pods = [indexed("a", 0), indexed("b", 0), indexed("c", 7)];
        let first = tally(&job, &pods, rules);
        assert_eq!((first.all_succeeded(true), first.release.len()), (1, 2), "a double and a stray are let go");
        apply(&mut job, &first);
        assert_eq!(tally(&job, &pods, rules).release.len(), 3);
    }

    #[test]
    fn a_pod_on_its_way_out_failed_unless_we_sent_it_or_must_wait() {
        let job = job(1, 1);
        let mut leaving = Pod::clone(&pod_of(&job, "a", "Running"));
        leaving.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let pods = [Arc::new(leaving)];
        assert_eq!(tally(&job, &pods, PLAIN).all_failed(), 1);
        let sent = tally(&job, &pods, Rules { suspended: true, ..PLAIN });
        assert_eq!((sent.all_failed(), sent.release.len()), (0, 1));
        let waiting = tally(&job, &pods, Rules { wait_for_phase: true, ..PLAIN });
        assert_eq!((waiting.all_failed(), waiting.release.len()), (0, 0));
    }

    #[test]
    fn too_many_ends_at_once_are_counted_in_rounds() {
        let job = job(1, 1);
        let pods: Vec<_> = (0..MOST_UNCOUNTED + 1).map(|at| pod_of(&job, &format!("p{at}"), "Failed")).collect();
        let first = tally(&job, &pods, PLAIN);
        assert!(first.more && !first.is_settled());
        assert_eq!(first.all_failed(), 500);
    }
}
