use std::collections::BTreeMap;
use std::time::Duration;

use hawser_wire::ContentHash;
use hawser_wire::deployment::{Container as Described, Volume, VolumeSource};
use hawser_wire::report::{ContainerState, Phase};

use super::fixtures::{container, pod, sidecar, uid};
use super::*;
use crate::runtime::Handle;

mod care;
mod clock;
mod ephemeral;
mod faults;
mod images;
mod rejected;
mod resize;
mod restart;

pub(super) fn deployment(spec: &EdgeDeployment) -> Deployment {
    Deployment { hash: ContentHash::of(&hawser_wire::encode(spec)), spec: Arc::new(spec.clone()) }
}

/// A lifecycle with a runtime that does what it is told at once; the test says when containers end.
pub(super) struct Sim {
    pub(super) life: Lifecycle,
    pub(super) now: u64,
    pub(super) log: Vec<String>,
    pub(super) running: Vec<ContainerId>,
    start_problem: Option<StartProblem>,
    prepare_problem: Option<String>,
    not_enforced: Vec<String>,
    /// Why there is no room for more, and what went wrong with applying it.
    pub(super) no_room: Option<NoRoom>,
    pub(super) resize_problem: Option<String>,
    /// What probes are answered; the others are answered well. A probe or hook of `None` is not answered by itself.
    pub(super) answers: BTreeMap<(String, ProbeKind), Option<ProbeAnswer>>,
    pub(super) hook_end: Option<HookEnd>,
}

impl Sim {
    pub(super) fn new(spec: &EdgeDeployment) -> Self {
        let mut sim = Self::empty(Lifecycle::new(uid(), "process"));
        sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
        sim.run(spec);
        sim
    }

    fn empty(life: Lifecycle) -> Self {
        Self {
            life,
            now: 1_000_000,
            log: vec![],
            running: vec![],
            start_problem: None,
            prepare_problem: None,
            not_enforced: vec![],
            no_room: None,
            resize_problem: None,
            answers: BTreeMap::new(),
            hook_end: Some(HookEnd::Done),
        }
    }

    /// The agent is killed and started again; what runs goes on.
    pub(super) fn restarted(self, epoch: &str, found: Vec<Found>) -> Self {
        let life = Lifecycle::recover(uid(), "process", &self.life.encode()).unwrap();
        let mut next = Self { now: self.now, ..Self::empty(life) };
        next.running =
            found.iter().filter(|f| matches!(f.state, FoundState::Running { .. })).map(|f| f.id.clone()).collect();
        next.tell(Event::Inventory { epoch: epoch.into(), found });
        next
    }

    pub(super) fn run(&mut self, spec: &EdgeDeployment) {
        self.tell(Event::Order(Order::Run(deployment(spec))));
    }

    pub(super) fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            for effect in self.life.handle(DeviceTime(self.now), events.remove(0)) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        let short = |id: &ContainerId| format!("{}-{}", id.name, id.attempt);
        match effect {
            Effect::Prepare(_) => {
                self.log.push("prepare".into());
                Some(Event::Prepared(
                    self.prepare_problem
                        .clone()
                        .map_or(Ok(PodReady::default()), |problem| Err(PlaceProblem::volumes(problem))),
                ))
            }
            Effect::Start(id, _) => {
                self.log.push(format!("start {}", short(&id)));
                let started = Started { not_enforced: self.not_enforced.clone(), ..Started::default() };
                let result = self.start_problem.clone().map_or(Ok(started), Err);
                if result.is_ok() {
                    self.running.push(id.clone());
                }
                Some(Event::Started(id, result))
            }
            Effect::Signal(id, signal) => {
                self.log.push(format!("{signal:?} {}", short(&id)).to_lowercase());
                None
            }
            Effect::Probe(call) => {
                self.log.push(format!("{} {}", call.kind, short(&call.id)).to_lowercase());
                let answer = self.answers.get(&(call.id.name.clone(), call.kind)).cloned();
                Some(Event::Probed(call.id, call.kind, answer.unwrap_or(Some(ProbeAnswer::Good))?))
            }
            Effect::Hook(call) => {
                self.log.push(format!("{:?} {}", call.kind, short(&call.id)).to_lowercase());
                Some(Event::Hooked(call.id, call.kind, self.hook_end?))
            }
            Effect::Remove(id) => {
                self.log.push(format!("remove {}", short(&id)));
                None
            }
            Effect::RemovePod => {
                self.log.push("remove pod".into());
                Some(Event::Removed(Ok(())))
            }
            Effect::Event(event) => {
                self.log.push(format!("event {}: {}", event.reason, event.message));
                None
            }
            Effect::Gone(gone) => {
                let phase = gone.last.map(|last| last.phase);
                self.log.push(format!("gone {phase:?}"));
                None
            }
            Effect::Forget => {
                self.log.push("forget".into());
                None
            }
            Effect::SeekRoom(spec) => Some(Event::GivenRoom(spec, self.no_room.clone().map_or(Ok(()), Err))),
            Effect::Resize(to) => {
                let names: Vec<String> = to.containers.iter().map(|(id, _)| short(id)).collect();
                self.log.push(format!("resize [{}]", names.join(" ")));
                let problem = self.resize_problem.clone();
                let done = to.containers.iter().map(|(id, _)| id.clone()).filter(|_| problem.is_none()).collect();
                Some(Event::Resized(to, Resized { done, problem }))
            }
            Effect::Watch(_) => None,
        }
    }

    pub(super) fn end(&mut self, name: &str, code: i32) {
        let at = self.running.iter().position(|id| id.name == name).unwrap_or_else(|| panic!("{name} does not run"));
        let id = self.running.remove(at);
        self.tell(Event::Ended(id, exit(code)));
    }

    pub(super) fn pass(&mut self, millis: u64) {
        let until = self.now + millis;
        while let Some(wake) = self.life.wake().filter(|wake| wake.0 <= until) {
            self.now = self.now.max(wake.0);
            self.tell(Event::Tick);
        }
        self.now = until;
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log).into_iter().filter(|line| !line.starts_with("event ")).collect()
    }

    pub(super) fn take_log_with_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    pub(super) fn events(&self) -> Vec<&str> {
        self.log.iter().filter_map(|line| line.strip_prefix("event ")).collect()
    }

    pub(super) fn report(&self) -> WorkloadReport {
        self.life.report(DeviceTime(self.now)).unwrap()
    }

    pub(super) fn phase(&self) -> Phase {
        self.report().phase
    }

    /// `web:running`, `web:waiting/CrashLoopBackOff`, `web:terminated/Error/1`, in order.
    pub(super) fn states(&self) -> Vec<String> {
        let report = self.report();
        let all = report.init_containers.iter().chain(&report.containers).chain(&report.ephemeral_containers);
        all.map(|c| match &c.state {
            ContainerState::Waiting(waiting) => format!("{}:waiting/{}", c.name, waiting.reason),
            ContainerState::Running(_) => format!("{}:running", c.name),
            ContainerState::Terminated(end) => format!("{}:terminated/{}/{}", c.name, end.reason, end.exit_code),
        })
        .collect()
    }
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, cause: ExitCause::Own, message: None, ran: None, ago: None }
}

pub(super) fn id(name: &str, attempt: u32) -> ContainerId {
    ContainerId { pod: uid(), name: name.into(), attempt }
}

pub(super) fn still_running(name: &str, attempt: u32) -> Found {
    Found {
        id: id(name, attempt),
        image: None,
        handle: Handle::default(),
        state: FoundState::Running { started_ago: Duration::from_secs(5) },
    }
}

fn has_ended(name: &str, attempt: u32, exit: Exit) -> Found {
    Found { id: id(name, attempt), image: None, handle: Handle::default(), state: FoundState::Ended(exit) }
}

#[test]
fn init_containers_run_in_order_then_all_others_at_once() {
    let init = vec![container("one"), sidecar("proxy"), container("two")];
    let mut sim = Sim::new(&pod(RestartPolicy::Always, init, vec![container("a"), container("b")]));
    assert_eq!(sim.take_log(), ["prepare", "start one-0"]);
    assert_eq!(sim.phase(), Phase::Pending);
    assert_eq!(
        sim.states()[1..4],
        ["proxy:waiting/PodInitializing", "two:waiting/PodInitializing", "a:waiting/PodInitializing"]
    );
    sim.end("one", 0);
    assert_eq!(sim.take_log(), ["start proxy-0", "start two-0"]);
    sim.end("two", 0);
    assert_eq!(sim.take_log(), ["start a-0", "start b-0"]);
    assert_eq!(sim.phase(), Phase::Running);
    let report = sim.report();
    assert!(report.init_containers.iter().chain(&report.containers).all(|c| c.ready));
    assert_eq!(sim.states()[0], "one:terminated/Completed/0");
}

#[test]
fn the_first_restart_is_immediate_and_then_the_back_off_doubles_to_five_minutes() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![container("web")]));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let ended_at = sim.now;
        sim.end("web", 1);
        while sim.running.is_empty() {
            sim.pass(500);
        }
        waits.push((sim.now - ended_at) / 1_000);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(sim.report().containers[0].restart_count, 9);
    sim.pass(601_000);
    sim.end("web", 1);
    assert_eq!(sim.running.len(), 1, "ten good minutes forgive");
}

#[test]
fn waiting_to_be_restarted_reads_as_on_a_kubelet() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![container("web")]));
    sim.end("web", 1);
    sim.log.clear();
    sim.end("web", 3);
    let status = &sim.report().containers[0];
    let ContainerState::Waiting(waiting) = &status.state else { panic!("{status:?}") };
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=web pod=p_ns(u)"));
    assert_eq!(status.last.as_ref().map(|last| (last.exit_code, last.reason.as_str())), Some((3, "Error")));
    assert_eq!((status.ready, status.started, status.restart_count), (false, Some(false), 1));
    assert_eq!(sim.events(), ["BackOff: Back-off restarting failed container web in pod p_ns(u)"]);
    assert_eq!(sim.phase(), Phase::Running);
}

#[test]
fn policies_decide_what_is_restarted_and_how_the_pod_ends() {
    use RestartPolicy::*;
    for (policy, codes, restarted, phase) in [
        (Always, [0, 0], true, Phase::Running),
        (OnFailure, [0, 0], false, Phase::Succeeded),
        (OnFailure, [0, 2], true, Phase::Running),
        (Never, [0, 0], false, Phase::Succeeded),
        (Never, [0, 2], false, Phase::Failed),
    ] {
        let mut sim = Sim::new(&pod(policy, vec![], vec![container("a"), container("b")]));
        sim.end("a", codes[0]);
        sim.end("b", codes[1]);
        assert_eq!(!sim.running.is_empty(), restarted, "{policy:?} {codes:?}");
        assert_eq!(sim.phase(), phase, "{policy:?} {codes:?}");
    }
}

#[test]
fn a_failed_init_container_ends_a_pod_that_is_never_restarted() {
    let mut sim = Sim::new(&pod(RestartPolicy::Never, vec![container("init")], vec![container("a")]));
    sim.end("init", 5);
    assert_eq!(sim.phase(), Phase::Failed);
    assert_eq!(sim.states(), ["init:terminated/Error/5", "a:waiting/PodInitializing"]);
    let mut sim = Sim::new(&pod(RestartPolicy::OnFailure, vec![container("init")], vec![container("a")]));
    sim.end("init", 5);
    assert_eq!((sim.phase(), sim.running.len()), (Phase::Pending, 1));
}

#[test]
fn an_evicted_pod_ends_soon_has_failed_and_is_not_started_again() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![sidecar("proxy")], vec![container("web")]));
    sim.log.clear();
    sim.tell(Event::Evicted("The node was low on resource: memory. ".into()));
    let stopping = ["Killing: Stopping container proxy", "Killing: Stopping container web"];
    assert_eq!(sim.events()[0], "Evicted: The node was low on resource: memory. ");
    assert_eq!(sim.events()[1..], stopping);
    assert_eq!((sim.take_log(), sim.phase()), (vec!["term web-0".to_owned()], Phase::Running));
    sim.pass(999);
    assert_eq!(sim.take_log(), Vec::<String>::new());
    sim.pass(1);
    assert_eq!(sim.take_log(), ["kill web-0", "term proxy-0"], "a second is all there is");
    sim.end("web", 137);
    sim.end("proxy", 143);
    sim.pass(600_000);
    let report = sim.report();
    assert_eq!((report.phase, report.reason.as_deref()), (Phase::Failed, Some("Evicted")));
    assert_eq!(report.message.as_deref(), Some("The node was low on resource: memory. "));
    assert!(sim.running.is_empty());
    // Neither a second eviction nor a restart of the agent changes that.
    sim.log.clear();
    sim.tell(Event::Evicted("again".into()));
    assert_eq!(sim.log, Vec::<String>::new());
    let mut sim = sim.restarted("boot-1", vec![]);
    sim.run(&pod(RestartPolicy::Always, vec![sidecar("proxy")], vec![container("web")]));
    assert_eq!((sim.report().reason.as_deref(), sim.running.len()), (Some("Evicted"), 0));
}

#[test]
fn sidecars_end_after_the_others_and_in_reverse_order() {
    let init = vec![sidecar("first"), sidecar("second")];
    let mut sim = Sim::new(&pod(RestartPolicy::Never, init, vec![container("job")]));
    sim.end("first", 1);
    assert_eq!(sim.take_log().last().unwrap(), "start first-1", "a sidecar is always restarted");
    sim.end("job", 0);
    assert_eq!((sim.take_log(), sim.phase()), (vec!["term second-0".to_owned()], Phase::Running));
    sim.end("second", 143);
    assert_eq!(sim.take_log(), ["term first-1"]);
    sim.end("first", 143);
    assert_eq!((sim.take_log(), sim.phase()), (vec![], Phase::Succeeded));
}

#[test]
fn a_stop_is_term_then_kill_and_the_shorter_grace_wins() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![container("a")]));
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(60) }));
    assert_eq!(sim.events(), ["Killing: Stopping container a"]);
    assert_eq!(sim.take_log(), ["term a-0"]);
    sim.pass(10_000);
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(5) }));
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(50) }));
    sim.pass(4_999);
    assert_eq!(sim.take_log(), [""; 0]);
    sim.pass(1);
    assert_eq!(sim.take_log(), ["kill a-0"]);
    sim.pass(10_000);
    assert_eq!(sim.take_log(), ["kill a-0"], "and again, if it was not heard");
    sim.end("a", 137);
    assert_eq!(sim.take_log(), ["gone Some(Failed)"]);
    sim.tell(Event::Order(Order::Remove));
    assert_eq!(sim.take_log(), ["remove pod", "forget"]);
}

#[test]
fn no_grace_means_kill() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![sidecar("s")], vec![container("a")]));
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::ZERO }));
    // Without time there are no turns.
    assert_eq!(sim.take_log(), ["kill a-0", "kill s-0"]);
    sim.end("a", 137);
    sim.end("s", 137);
    assert_eq!(sim.take_log(), ["gone Some(Failed)"]);
}

#[test]
fn a_pod_that_left_the_set_ends_with_its_own_grace_and_leaves_nothing() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![container("a")]));
    sim.take_log();
    sim.tell(Event::Order(Order::Remove));
    sim.pass(29_999);
    assert_eq!(sim.take_log(), ["term a-0"]);
    sim.pass(1);
    sim.end("a", 137);
    assert_eq!(sim.take_log(), ["kill a-0", "gone Some(Failed)", "remove pod", "forget"]);
}

#[test]
fn what_was_stopped_and_is_wanted_again_ends_its_life_so_that_the_next_can_begin() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    // Still ending, ended, and ended before a restart of the agent.
    for (ended, restarted) in [(false, false), (true, false), (true, true)] {
        let mut sim = Sim::new(&spec);
        sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(5) }));
        if ended {
            sim.end("a", 143);
        }
        if restarted {
            sim = sim.restarted("boot-1", vec![has_ended("a", 0, exit(143))]);
        }
        sim.take_log();
        sim.run(&spec);
        if !ended {
            sim.end("a", 143);
        }
        let log = sim.take_log();
        assert!(log.ends_with(&["remove pod".into(), "forget".into()]), "{log:?}");
        assert!(!log.iter().any(|line| line.starts_with("start")), "{log:?}");
    }
}

#[test]
fn a_stop_of_what_never_ran_is_answered() {
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.tell(Event::Inventory { epoch: "e".into(), found: vec![] });
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(5) }));
    assert_eq!(sim.take_log(), ["gone None"]);
}

#[test]
fn the_deadline_counts_from_the_pods_start() {
    let spec = EdgeDeployment {
        active_deadline_seconds: Some(90),
        ..pod(RestartPolicy::Always, vec![], vec![container("a")])
    };
    let mut sim = Sim::new(&spec);
    sim.pass(80_000);
    let running = vec![still_running("a", 0)];
    let mut sim = sim.restarted("boot-1", running);
    sim.run(&spec);
    sim.pass(9_999);
    assert_eq!(sim.take_log(), ["prepare"]);
    sim.pass(1);
    assert_eq!(sim.events()[0], "DeadlineExceeded: Pod was active on the node longer than the specified deadline");
    assert_eq!(sim.take_log(), ["term a-0"]);
    sim.end("a", 0);
    let report = sim.report();
    assert_eq!((report.phase, report.reason.as_deref()), (Phase::Failed, Some("DeadlineExceeded")));
}

#[test]
fn a_changed_image_restarts_that_container_at_once_whatever_the_policy() {
    let mut spec = pod(RestartPolicy::Never, vec![], vec![container("a"), container("b")]);
    let mut sim = Sim::new(&spec);
    sim.log.clear();
    spec.containers[0].image = "host:2".into();
    sim.run(&spec);
    assert_eq!(sim.events(), ["Killing: Container a definition changed, will be restarted"]);
    assert_eq!(sim.take_log(), ["term a-0"]);
    sim.end("a", 143);
    assert_eq!(sim.take_log(), ["start a-1"]);
    assert_eq!(sim.report().containers[0].image, "host:2");
}

#[test]
fn other_changes_wait_for_the_next_start_and_files_change_at_once() {
    let mut spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let mut sim = Sim::new(&spec);
    sim.take_log();
    spec.containers[0].args = vec!["new".into()];
    sim.run(&spec);
    assert_eq!(sim.take_log(), [""; 0]);
    spec.volumes.push(Volume {
        name: "v".into(),
        source: VolumeSource::EmptyDir(hawser_wire::deployment::EmptyDir { memory: false, size_limit: None }),
    });
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare"]);
    assert_eq!(sim.running.len(), 1);
}

#[test]
fn a_restart_of_the_agent_changes_nothing() {
    let spec = pod(RestartPolicy::Always, vec![container("i")], vec![container("a")]);
    let mut sim = Sim::new(&spec);
    sim.end("i", 0);
    sim.end("a", 1);
    let before = sim.report();
    let mut sim =
        sim.restarted("boot-1", vec![has_ended("i", 0, exit(0)), has_ended("a", 0, exit(1)), still_running("a", 1)]);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare"]);
    assert_eq!(sim.report(), before);
}

#[test]
fn what_ended_without_the_agent_has_its_exact_exit() {
    let spec = pod(RestartPolicy::OnFailure, vec![], vec![container("a")]);
    let sim = Sim::new(&spec);
    let ended = Exit { ran: Some(Duration::from_secs(2)), ago: Some(Duration::from_secs(1)), ..exit(7) };
    let mut sim = Sim { now: sim.now + 3_000, ..sim }.restarted("boot-1", vec![has_ended("a", 0, ended)]);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare", "start a-1"]);
    let last = sim.report().containers[0].last.clone().unwrap();
    assert_eq!((last.exit_code, last.finished.unwrap().0), (7, sim.now - 1_000));
}

#[test]
fn an_attempt_that_was_saved_and_never_made_is_made_under_its_number() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let mut sim = Sim::new(&spec).restarted("boot-1", vec![]);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare", "start a-0"]);
}

#[test]
fn after_a_reboot_init_containers_run_again_and_what_ran_counts_as_lost() {
    let spec = pod(RestartPolicy::Always, vec![container("i")], vec![container("a")]);
    let mut sim = Sim::new(&spec);
    sim.end("i", 0);
    let mut sim = sim.restarted("boot-2", vec![has_ended("i", 0, exit(0)), has_ended("a", 0, Exit::lost("gone"))]);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare", "start i-1"]);
    sim.end("i", 0);
    assert_eq!(sim.take_log(), ["start a-1"]);
    let last = sim.report().containers[0].last.clone().unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (137, "ContainerStatusUnknown"));
}

#[test]
fn after_a_reboot_a_job_that_may_not_be_restarted_has_failed_and_a_finished_one_stays_finished() {
    let spec = pod(RestartPolicy::Never, vec![], vec![container("a")]);
    let mut sim = Sim::new(&spec).restarted("boot-2", vec![]);
    sim.run(&spec);
    assert_eq!((sim.take_log(), sim.phase()), (vec![], Phase::Failed));
    let mut sim = Sim::new(&spec);
    sim.end("a", 0);
    let mut sim = sim.restarted("boot-2", vec![]);
    sim.run(&spec);
    assert_eq!((sim.take_log(), sim.phase()), (vec![], Phase::Succeeded));
}

#[test]
fn without_a_record_what_runs_is_adopted_with_its_restart_count() {
    let spec = pod(RestartPolicy::Always, vec![container("i")], vec![container("a")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.running.push(id("a", 4));
    let found = vec![has_ended("i", 0, exit(0)), has_ended("a", 3, exit(1)), still_running("a", 4)];
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found });
    assert_eq!(sim.take_log(), [""; 0]);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare"]);
    let report = sim.report();
    assert_eq!((report.phase, report.containers[0].restart_count), (Phase::Running, 4));
    assert_eq!(report.containers[0].last.as_ref().map(|last| last.exit_code), Some(1));
}

#[test]
fn without_a_record_what_was_started_is_what_the_runtime_says_it_was() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let running = |image: Option<&str>| Found { image: image.map(str::to_owned), ..still_running("a", 4) };
    for (image, done) in [
        (Some("host"), vec!["prepare"]),
        (Some("host:old"), vec!["prepare", "term a-4"]),
        // Nobody remembers: nothing is stopped for that.
        (None, vec!["prepare"]),
    ] {
        let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
        sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![running(image)] });
        sim.run(&spec);
        assert_eq!(sim.take_log(), done, "{image:?}");
        assert_eq!(sim.report().containers[0].image, image.unwrap_or("host"));
    }
}

#[test]
fn a_record_older_than_what_runs_does_not_speak_for_its_image() {
    let spec = pod(RestartPolicy::Always, vec![], vec![Described { image: "host:1".into(), ..container("a") }]);
    let newer = pod(RestartPolicy::Always, vec![], vec![Described { image: "host:2".into(), ..container("a") }]);
    for image in [Some("host:2".to_owned()), None] {
        let mut sim = Sim::new(&spec).restarted("boot-1", vec![Found { image, ..still_running("a", 1) }]);
        sim.run(&newer);
        assert_eq!(sim.take_log(), ["prepare"]);
        assert_eq!(sim.report().containers[0].image, "host:2");
    }
}

#[test]
fn what_does_not_hold_is_told_once_and_again_when_it_is_something_else() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.not_enforced = vec!["limits.cpu: run as root".into(), "limits.memory: run as root".into()];
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&spec);
    let told = |sim: &mut Sim| sim.events().into_iter().filter(|event| event.starts_with("NotEnforced")).count();
    assert!(sim.events().contains(&"NotEnforced: limits.cpu: run as root; limits.memory: run as root"));
    sim.log.clear();
    sim.end("a", 1);
    sim.pass(1_000);
    assert_eq!((sim.report().containers[0].restart_count, told(&mut sim)), (1, 0));
    // Neither after a restart of the agent.
    let mut sim = sim.restarted("boot-1", vec![has_ended("a", 1, exit(1))]);
    sim.not_enforced = vec!["limits.cpu: run as root".into(), "limits.memory: run as root".into()];
    sim.run(&spec);
    sim.pass(1_000_000);
    assert_eq!((sim.report().containers[0].restart_count, told(&mut sim)), (2, 0));
    sim.not_enforced = vec!["limits.cpu: no such controller".into()];
    sim.end("a", 1);
    sim.pass(1_000_000);
    assert_eq!((sim.report().containers[0].restart_count, told(&mut sim)), (3, 1));
}

#[test]
fn without_an_order_nothing_is_started_or_stopped() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a"), container("b")]);
    let sim = Sim::new(&spec);
    let mut sim = sim.restarted("boot-1", vec![still_running("a", 0), has_ended("b", 0, exit(1))]);
    sim.tell(Event::Order(Order::Hold));
    sim.pass(1_000_000);
    assert_eq!(sim.take_log(), [""; 0]);
    assert_eq!(sim.states(), ["a:running", "b:terminated/Error/1"]);
}

#[test]
fn a_refused_container_waits_for_another_description_and_harms_no_other() {
    let mut spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.start_problem =
        Some(StartProblem::Refused(Refusal { reason: "ImageNotSupported".into(), message: "set image: host".into() }));
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&spec);
    sim.pass(10_000_000);
    assert_eq!(sim.events(), ["Failed: set image: host"]);
    assert_eq!(sim.take_log(), ["prepare", "start a-0"]);
    assert_eq!((sim.states(), sim.phase()), (vec!["a:waiting/ImageNotSupported".into()], Phase::Pending));
    sim.start_problem = None;
    spec.containers[0].image = "host".into();
    spec.containers[0].args = vec!["x".into()];
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["start a-0"]);
    assert_eq!(sim.report().containers[0].restart_count, 0);
}

#[test]
fn what_cannot_be_created_is_tried_again_with_back_off_and_counts_no_restart() {
    let spec = pod(RestartPolicy::Never, vec![], vec![container("a")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.start_problem = Some(StartProblem::NotCreated("disk full".into()));
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&spec);
    sim.pass(29_999);
    assert_eq!(sim.take_log(), ["prepare", "start a-0", "start a-0"]);
    assert_eq!((sim.states(), sim.phase()), (vec!["a:waiting/CreateContainerError".into()], Phase::Pending));
    sim.start_problem = None;
    sim.pass(1);
    assert_eq!((sim.states(), sim.report().containers[0].restart_count), (vec!["a:running".into()], 0));
}

#[test]
fn a_program_that_cannot_be_started_is_an_attempt_that_failed() {
    let spec = pod(RestartPolicy::Never, vec![], vec![container("a")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.start_problem = Some(StartProblem::NotStarted { code: 127, message: "no such program".into() });
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&spec);
    assert_eq!((sim.states(), sim.phase()), (vec!["a:terminated/StartError/127".into()], Phase::Failed));
    assert_eq!(sim.events()[1], "Failed: Error: no such program");
}

#[test]
fn a_place_that_cannot_be_made_is_tried_again_at_an_even_pace_and_said_less_and_less() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.prepare_problem = Some("disk full".into());
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&spec);
    sim.pass(75_000);
    let said = sim.events().iter().filter(|event| event.starts_with("FailedMount: ")).count();
    assert_eq!(said, 4, "at once, after 10, 30 and 70 seconds");
    assert_eq!(sim.take_log(), ["prepare"; 8]);
    sim.prepare_problem = None;
    sim.pass(5_000);
    assert_eq!(sim.take_log(), ["prepare", "start a-0"]);
}

#[test]
fn an_unreadable_record_is_refused_by_name() {
    let good = Sim::new(&pod(RestartPolicy::Always, vec![], vec![container("a")])).life.encode();
    assert!(matches!(Lifecycle::recover(uid(), "process", &[]), Err(RecordError::Length(0))));
    assert!(matches!(Lifecycle::recover(uid(), "process", &[9, 0xa0]), Err(RecordError::Version(9))));
    assert!(matches!(Lifecycle::recover(uid(), "process", &good[..good.len() / 2]), Err(RecordError::Corrupt(_))));
    assert!(matches!(Lifecycle::recover(uid(), "process", &vec![1; 1 << 20]), Err(RecordError::Length(_))));
}
