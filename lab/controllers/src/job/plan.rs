//! One round of a Job. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::status::{self, COMPLETE, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED};
use super::tally::{Rules, Tally, tally};
use super::{indexes, pod, restarts};
use crate::clock::{after_seconds, elapsed, until};
use crate::cluster::EventKind;
use crate::pods;

/// At most so many pods are created in one round; the rest follows in the next.
const BURST: usize = 500;

const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// How the controller waits after failures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) backoff: Duration,
    pub(super) longest_backoff: Duration,
}

/// A pod to create.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum NewPod {
    #[default]
    Plain,
    Indexed(u32),
}

/// What to do, in the order of the fields.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    pub(super) events: Vec<(EventKind, &'static str, String)>,
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create: Vec<NewPod>,
    pub(super) next: Option<Duration>,
}

/// Jobs that name another controller are left to it.
pub(super) fn is_ours(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|manager| manager == "kubernetes.io/job-controller")
}

/// The first field that would change what the Job means and that this controller does not implement.
pub(super) fn unsupported(job: &Job) -> Option<&'static str> {
    let spec = job.spec.as_ref()?;
    [
        ("spec.podFailurePolicy", spec.pod_failure_policy.is_some()),
        ("spec.successPolicy", spec.success_policy.is_some()),
        ("spec.backoffLimitPerIndex", spec.backoff_limit_per_index.is_some()),
        ("spec.maxFailedIndexes", spec.max_failed_indexes.is_some()),
    ]
    .into_iter()
    .find_map(|(field, used)| used.then_some(field))
}

/// How much longer a finished Job is kept; `None` for ever.
pub(super) fn time_to_live(job: &Job, ended: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    Some(until(after_seconds(ended?, i64::from(seconds)), now))
}

fn rules(spec: &JobSpec) -> Rules {
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    Rules {
        indexes: indexed.then(|| spec.completions.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)),
        suspended: spec.suspend == Some(true),
        wait_for_phase: spec.pod_replacement_policy.as_deref() == Some("Failed"),
    }
}

/// Looks at a Job that is not finished.
pub(super) fn plan(job: &Job, owned: &[Arc<Pod>], settings: Settings, now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let rules = rules(&spec);
    let tally = tally(job, owned, rules);
    let mut plan = Plan {
        status: job.status.clone().unwrap_or_default(),
        events: Vec::new(),
        release: tally.release.clone(),
        delete: Vec::new(),
        create: Vec::new(),
        next: None,
    };
    let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = owned.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
    suspend_or_resume(&mut plan, &spec, now);
    if let Some((condition, reason, message)) = verdict(&plan.status, &spec, &tally, &active, rules, now) {
        status::set(&mut plan.status, condition, true, reason, message, now);
    }
    let over = [FAILURE_TARGET, SUCCESS_CRITERIA_MET].iter().any(|kind| status::holds(&plan.status, kind).is_some());
    let going = job.metadata.deletion_timestamp.is_some();
    if over || rules.suspended {
        plan.delete.clone_from(&active);
    } else if !going {
        fill(&mut plan, &spec, &tally, rules, owned, &active, terminating, settings, now);
        plan.next = earlier(plan.next, deadline(&plan.status, &spec).map(|due| until(due, now)));
    }
    count(&mut plan.status, &tally, &active, terminating, rules);
    if over && active.is_empty() && terminating == 0 && tally.is_settled() {
        finish(&mut plan, now);
    }
    plan
}

fn earlier(left: Option<Duration>, right: Option<Duration>) -> Option<Duration> {
    left.into_iter().chain(right).min()
}

fn suspend_or_resume(plan: &mut Plan, spec: &JobSpec, now: Timestamp) {
    let status = &mut plan.status;
    if spec.suspend == Some(true) {
        if status::set(status, SUSPENDED, true, "JobSuspended", "Job suspended", now) {
            plan.events.push((EventKind::Normal, "Suspended", "Job suspended".into()));
        }
        return;
    }
    if status::set(status, SUSPENDED, false, "JobResumed", "Job resumed", now) {
        plan.events.push((EventKind::Normal, "Resumed", "Job resumed".into()));
        // The time a Job slept does not count against its deadline.
        status.start_time = Some(Time(now));
    }
    status.start_time.get_or_insert(Time(now));
}

fn deadline(status: &JobStatus, spec: &JobSpec) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds.filter(|_| spec.suspend != Some(true))?;
    Some(after_seconds(status.start_time.as_ref()?.0, seconds))
}

/// Whether the Job is decided now: what to set, and why. Failure goes before success.
fn verdict(
    status: &JobStatus,
    spec: &JobSpec,
    tally: &Tally,
    active: &[Arc<Pod>],
    rules: Rules,
    now: Timestamp,
) -> Option<(&'static str, &'static str, &'static str)> {
    if status::holds(status, FAILURE_TARGET).is_some() || status::holds(status, SUCCESS_CRITERIA_MET).is_some() {
        return None;
    }
    let limit = spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
    let on_failure = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
    let restarts = if on_failure { restarts(active) } else { 0 };
    if tally.all_failed() > limit || restarts > 0 && restarts >= limit {
        return Some((FAILURE_TARGET, "BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if deadline(status, spec).is_some_and(|due| due <= now) {
        return Some((FAILURE_TARGET, "DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    let succeeded = tally.all_succeeded(rules.indexes.is_some());
    let reached = match spec.completions {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0 && active.is_empty(),
    };
    reached.then_some((SUCCESS_CRITERIA_MET, "CompletionsReached", "Reached expected number of succeeded pods"))
}

/// Brings the number of pods to what is wanted.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one decision; a struct for one caller would only rename them"
)]
fn fill(
    plan: &mut Plan,
    spec: &JobSpec,
    tally: &Tally,
    rules: Rules,
    owned: &[Arc<Pod>],
    active: &[Arc<Pod>],
    terminating: usize,
    settings: Settings,
    now: Timestamp,
) {
    let number = |number: i32| usize::try_from(number).unwrap_or(0);
    let parallelism = number(spec.parallelism.unwrap_or(1));
    let succeeded = tally.all_succeeded(rules.indexes.is_some());
    let wanted = match spec.completions {
        Some(completions) => number(completions - succeeded).min(parallelism),
        // Once one has succeeded, the others finish and no new one begins.
        None if succeeded > 0 => active.len().min(parallelism),
        None => parallelism,
    };
    let mut active = active.to_vec();
    if let Some(bound) = rules.indexes {
        let stray = strays(&mut active, &tally.completed, bound);
        plan.delete.extend(stray);
    }
    if active.len() > wanted {
        // Those that have done least go first.
        active.sort_by_key(|pod| (pods::is_ready(pod), pods::phase(pod) == "Running", pods::node_name(pod).is_some()));
        plan.delete.extend(active.iter().take(active.len() - wanted).cloned());
        return;
    }
    let held = if rules.wait_for_phase { terminating } else { 0 };
    let missing = wanted.saturating_sub(active.len() + held).min(BURST);
    if missing == 0 {
        return;
    }
    if let Some(wait) = backoff(owned, settings, now) {
        plan.next = earlier(plan.next, Some(wait));
        return;
    }
    plan.create = match rules.indexes {
        None => vec![NewPod::Plain; missing],
        Some(bound) => {
            let busy = |pod: &&Arc<Pod>| pods::is_active(pod) || rules.wait_for_phase && !pods::is_terminal(pod);
            let taken: BTreeSet<u32> = owned.iter().filter(busy).filter_map(|pod| pod::index(pod)).collect();
            let free = (0..bound).filter(|index| !taken.contains(index) && !tally.completed.contains(index));
            free.take(missing).map(NewPod::Indexed).collect()
        }
    };
}

/// Takes out of `active` the pods whose index is out of bounds, done, or somebody else's already.
fn strays(active: &mut Vec<Arc<Pod>>, completed: &BTreeSet<u32>, bound: u32) -> Vec<Arc<Pod>> {
    active.sort_by_key(|pod| (pods::created_at(pod), pod.metadata.name.clone()));
    let mut seen = BTreeSet::new();
    let (kept, stray) = std::mem::take(active).into_iter().partition(|pod| {
        pod::index(pod).is_some_and(|index| index < bound && !completed.contains(&index) && seen.insert(index))
    });
    *active = kept;
    stray
}

/// How long to wait before the next pod: doubling with every failure since the last success.
fn backoff(owned: &[Arc<Pod>], settings: Settings, now: Timestamp) -> Option<Duration> {
    let ended = |phase: &'static str| {
        owned.iter().filter(move |pod| pods::phase(pod) == phase).filter_map(|pod| pods::finished_at(pod))
    };
    let success = ended("Succeeded").max();
    let failures: Vec<_> = ended("Failed").filter(|failure| success.is_none_or(|success| *failure > success)).collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(20);
    let wait = settings.backoff.saturating_mul(1 << doublings).min(settings.longest_backoff);
    wait.checked_sub(elapsed(*last, now)).filter(|left| !left.is_zero())
}

fn count(status: &mut JobStatus, tally: &Tally, active: &[Arc<Pod>], terminating: usize, rules: Rules) {
    // The API server leaves zero out of these.
    let counted = |number: i32| (number != 0).then_some(number);
    let length = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    status.active = counted(length(active.len()));
    status.ready = Some(length(active.iter().filter(|pod| pods::is_ready(pod)).count()));
    status.terminating = Some(length(terminating));
    status.succeeded = counted(if rules.indexes.is_some() { length(tally.completed.len()) } else { tally.succeeded });
    status.failed = counted(tally.failed);
    status.completed_indexes = indexes::format(&tally.completed);
    status.uncounted_terminated_pods = Some(tally.uncounted.clone());
}

/// Everything has stopped and is counted: the decision becomes final.
fn finish(plan: &mut Plan, now: Timestamp) {
    let because = |kind: &str| {
        let condition = status::holds(&plan.status, kind)?;
        Some((condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()))
    };
    if let Some((reason, message)) = because(FAILURE_TARGET) {
        status::set(&mut plan.status, FAILED, true, &reason, &message, now);
        let reason = if reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
        plan.events.push((EventKind::Warning, reason, message));
    } else if let Some((reason, message)) = because(SUCCESS_CRITERIA_MET) {
        status::set(&mut plan.status, COMPLETE, true, &reason, &message, now);
        plan.status.completion_time = Some(Time(now));
        plan.events.push((EventKind::Normal, "Completed", "Job completed".into()));
    }
}

#[cfg(test)]
pub(super) mod tests;
