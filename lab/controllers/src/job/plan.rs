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
pub(super) mod tests {
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

    use super::*;
    use crate::samples;

    const SETTINGS: Settings = Settings { backoff: Duration::from_secs(10), longest_backoff: Duration::from_secs(360) };

    pub(in crate::job) fn job(parallelism: i32, completions: i32) -> Job {
        Job {
            metadata: samples::meta("work"),
            spec: Some(JobSpec {
                parallelism: Some(parallelism),
                completions: Some(completions),
                backoff_limit: Some(2),
                template: samples::template("work", "busybox"),
                ..JobSpec::default()
            }),
            status: None,
        }
    }

    /// A pod of the Job in some phase; an ended one ended at the time zero.
    pub(in crate::job) fn pod_of(job: &Job, name: &str, phase: &str) -> Arc<Pod> {
        let mut pod = samples::with_phase(pod::of(job, NewPod::Plain), phase);
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        Arc::new(ended_at(pod, 0))
    }

    fn ended_at(mut pod: Pod, seconds: i64) -> Pod {
        let terminated = ContainerStateTerminated { finished_at: Some(Time(at(seconds))), ..Default::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![ContainerStatus {
            state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
            ..ContainerStatus::default()
        }]);
        pod
    }

    fn at(seconds: i64) -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, seconds)
    }

    /// A Job, its pods, and a cluster that obeys at once.
    struct World {
        job: Job,
        pods: Vec<Arc<Pod>>,
        now: i64,
        made: usize,
        events: Vec<&'static str>,
    }

    impl World {
        fn new(job: Job) -> Self {
            Self { job, pods: Vec::new(), now: 0, made: 0, events: Vec::new() }
        }

        fn round(&mut self) -> Plan {
            let plan = plan(&self.job, &self.pods, SETTINGS, at(self.now));
            self.job.status = Some(plan.status.clone());
            self.events.extend(plan.events.iter().map(|(_, reason, _)| *reason));
            let named = |list: &[Arc<Pod>], pod: &Arc<Pod>| list.iter().any(|one| one.metadata.uid == pod.metadata.uid);
            for pod in &mut self.pods {
                if named(&plan.release, pod) {
                    let mut released = Pod::clone(pod);
                    released.metadata.finalizers = None;
                    *pod = Arc::new(released);
                }
            }
            for gone in &plan.delete {
                self.change(gone.metadata.name.as_deref().unwrap(), |pod| {
                    pod.metadata.deletion_timestamp = Some(Time(at(0)));
                });
            }
            for new in &plan.create {
                self.made += 1;
                let mut pod = pod::of(&self.job, *new);
                pod.metadata.uid = Some(format!("p{}", self.made));
                pod.metadata.name = pod.metadata.uid.clone();
                pod.status = samples::ready_pod("x", "n", at(0)).status;
                self.pods.push(Arc::new(pod));
            }
            plan
        }

        /// Rounds until nothing more happens without time or pods.
        fn settle(&mut self) {
            for _ in 0..20 {
                if status::finished(&self.job).is_some() {
                    return;
                }
                let before = (self.job.clone(), self.pods.clone());
                self.round();
                // Pods on their way out go as soon as nothing holds them.
                self.pods.retain(|pod| {
                    pod.metadata.deletion_timestamp.is_none()
                        || pod.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty())
                });
                if (self.job.clone(), self.pods.clone()) == before {
                    return;
                }
            }
            panic!("does not come to rest");
        }

        fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
            let pod = self.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
            let mut changed = Pod::clone(pod);
            change(&mut changed);
            *pod = Arc::new(changed);
        }

        fn end(&mut self, name: &str, phase: &str) {
            let now = self.now;
            self.change(name, |pod| *pod = ended_at(samples::with_phase(pod.clone(), phase), now));
        }

        fn active(&self) -> Vec<&str> {
            let active = self.pods.iter().filter(|pod| pods::is_active(pod));
            active.filter_map(|pod| pod.metadata.name.as_deref()).collect()
        }

        fn status(&self) -> JobStatus {
            self.job.status.clone().unwrap_or_default()
        }

        fn conditions(&self) -> Vec<String> {
            let status = self.status();
            status.conditions.into_iter().flatten().filter(|one| one.status == "True").map(|one| one.type_).collect()
        }
    }

    #[test]
    fn completions_are_reached_in_parallel() {
        let mut world = World::new(job(2, 3));
        world.settle();
        assert_eq!(world.active(), ["p1", "p2"]);
        world.end("p1", "Succeeded");
        world.settle();
        assert_eq!(world.active(), ["p2", "p3"]);
        world.end("p2", "Succeeded");
        world.settle();
        assert_eq!(world.active(), ["p3"], "only as many as are still needed");
        world.end("p3", "Succeeded");
        world.settle();
        assert_eq!(world.conditions(), [SUCCESS_CRITERIA_MET, COMPLETE]);
        assert_eq!((world.status().succeeded, world.status().failed), (Some(3), None));
        assert!(world.status().completion_time.is_some());
        assert_eq!(world.events, ["Completed"]);
        assert!(world.pods.iter().all(|pod| !pod::is_tracked(pod)));
    }

    #[test]
    fn failures_wait_doubling_until_the_limit() {
        let mut world = World::new(job(1, 1));
        world.settle();
        for (failure, wait) in [(1, 10), (2, 20)] {
            world.end(&format!("p{failure}"), "Failed");
            world.settle();
            assert!(world.active().is_empty(), "the next pod waits");
            assert_eq!(world.round().next, Some(Duration::from_secs(wait)));
            world.now += i64::try_from(wait).unwrap();
            world.settle();
            assert_eq!(world.active(), [format!("p{}", failure + 1)]);
        }
        world.end("p3", "Failed");
        world.settle();
        assert_eq!(world.conditions(), [FAILURE_TARGET, FAILED]);
        assert_eq!(world.status().failed, Some(3));
        assert_eq!(world.events, ["BackoffLimitExceeded"]);
        assert_eq!(world.status().completion_time, None);
    }

    #[test]
    fn a_success_resets_the_wait_and_the_wait_is_capped() {
        let work = job(1, 5);
        let pod =
            |name: &str, phase: &str, seconds| Arc::new(ended_at(Pod::clone(&pod_of(&work, name, phase)), seconds));
        let mut owned = vec![pod("a", "Failed", 1), pod("b", "Failed", 2), pod("c", "Succeeded", 3)];
        assert_eq!(backoff(&owned, SETTINGS, at(3)), None);
        owned.push(pod("d", "Failed", 4));
        assert_eq!(backoff(&owned, SETTINGS, at(4)), Some(Duration::from_secs(10)));
        let many: Vec<_> = (0..40).map(|at| pod(&format!("f{at}"), "Failed", at)).collect();
        assert_eq!(backoff(&many, SETTINGS, at(39)), Some(Duration::from_secs(360)));
    }

    #[test]
    fn restarts_in_place_count_too() {
        let mut work = job(1, 1);
        work.spec.get_or_insert_default().template.spec.get_or_insert_default().restart_policy =
            Some("OnFailure".into());
        let mut world = World::new(work);
        world.settle();
        let restarted = |count| {
            move |pod: &mut Pod| {
                pod.status.get_or_insert_default().container_statuses =
                    Some(vec![ContainerStatus { restart_count: count, ..ContainerStatus::default() }]);
            }
        };
        world.change("p1", restarted(1));
        world.settle();
        assert_eq!(world.active(), ["p1"]);
        world.change("p1", restarted(2));
        world.settle();
        assert_eq!(world.conditions(), [FAILURE_TARGET, FAILED]);
        assert!(world.pods.is_empty());
    }

    #[test]
    fn a_pod_that_vanishes_is_counted() {
        let mut world = World::new(job(1, 1));
        world.settle();
        world.change("p1", |pod| pod.metadata.deletion_timestamp = Some(Time(at(0))));
        world.settle();
        assert_eq!((world.status().failed, world.active()), (Some(1), vec!["p2"]));
    }

    #[test]
    fn the_deadline_ends_the_job() {
        let mut work = job(1, 1);
        work.spec.get_or_insert_default().active_deadline_seconds = Some(100);
        let mut world = World::new(work);
        world.settle();
        assert_eq!(world.round().next, Some(Duration::from_secs(100)));
        world.now = 100;
        world.settle();
        assert_eq!(world.conditions(), [FAILURE_TARGET, FAILED]);
        assert_eq!(world.events, ["DeadlineExceeded"]);
        assert!(world.active().is_empty());
    }

    #[test]
    fn a_suspended_job_sends_its_pods_away_without_blame() {
        let mut world = World::new(job(2, 2));
        world.settle();
        world.job.spec.get_or_insert_default().suspend = Some(true);
        world.settle();
        assert_eq!(
            (world.active().len(), world.status().failed, world.conditions()),
            (0, None, vec![SUSPENDED.to_owned()])
        );
        world.now = 500;
        world.job.spec.get_or_insert_default().suspend = Some(false);
        world.settle();
        assert_eq!((world.active().len(), world.status().start_time), (2, Some(Time(at(500)))));
        assert_eq!(world.events, ["Suspended", "Resumed"]);
    }

    #[test]
    fn a_job_without_completions_ends_when_one_succeeded_and_all_stopped() {
        let mut work = job(2, 0);
        work.spec.get_or_insert_default().completions = None;
        let mut world = World::new(work);
        world.settle();
        world.end("p1", "Succeeded");
        world.settle();
        assert_eq!(world.active(), ["p2"], "no new pod begins");
        world.end("p2", "Succeeded");
        world.settle();
        assert_eq!(world.conditions(), [SUCCESS_CRITERIA_MET, COMPLETE]);
    }

    #[test]
    fn every_index_is_worked_on_until_it_is_done() {
        let mut work = job(2, 3);
        work.spec.get_or_insert_default().completion_mode = Some("Indexed".into());
        let mut world = World::new(work);
        world.settle();
        let indexes = |world: &World| {
            world.pods.iter().filter(|pod| pods::is_active(pod)).filter_map(|pod| pod::index(pod)).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&world), [0, 1]);
        world.end("p2", "Succeeded");
        world.settle();
        assert_eq!(indexes(&world), [0, 2]);
        world.end("p1", "Failed");
        world.now = 10;
        world.settle();
        assert_eq!(indexes(&world), [2, 0], "a failed index is tried again");
        world.end("p3", "Succeeded");
        world.end("p4", "Succeeded");
        world.settle();
        assert_eq!(world.status().completed_indexes.as_deref(), Some("0-2"));
        assert_eq!((world.status().succeeded, world.status().failed), (Some(3), Some(1)));
    }

    #[test]
    fn less_parallelism_sends_pods_away() {
        let mut world = World::new(job(3, 9));
        world.settle();
        world.job.spec.get_or_insert_default().parallelism = Some(1);
        world.settle();
        assert_eq!(world.active().len(), 1);
    }

    #[test]
    fn unsupported_fields_and_other_managers() {
        let mut work = job(1, 1);
        assert!(unsupported(&work).is_none() && is_ours(&work));
        work.spec.get_or_insert_default().pod_failure_policy = Some(Default::default());
        assert_eq!(unsupported(&work), Some("spec.podFailurePolicy"));
        work.spec.get_or_insert_default().managed_by = Some("example.com/other".into());
        assert!(!is_ours(&work));
    }

    #[test]
    fn time_to_live_counts_from_the_end() {
        let mut work = job(1, 1);
        assert_eq!(time_to_live(&work, Some(at(0)), at(5)), None);
        work.spec.get_or_insert_default().ttl_seconds_after_finished = Some(30);
        assert_eq!(time_to_live(&work, Some(at(0)), at(5)), Some(Duration::from_secs(25)));
        assert_eq!(time_to_live(&work, Some(at(0)), at(30)), Some(Duration::ZERO));
    }
}
