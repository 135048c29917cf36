//! A Job, its pods, and a cluster that obeys at once.

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
    let pod = |name: &str, phase: &str, seconds| Arc::new(ended_at(Pod::clone(&pod_of(&work, name, phase)), seconds));
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
    work.spec.get_or_insert_default().template.spec.get_or_insert_default().restart_policy = Some("OnFailure".into());
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
