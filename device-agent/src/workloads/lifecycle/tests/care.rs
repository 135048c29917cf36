//! Probes and hooks.

use hawser_wire::deployment::{Action, Probe};

use super::*;

fn probe(period: u32, failures: u32) -> Probe {
    Probe {
        action: Action::Exec(vec!["ok".into()]),
        initial_delay_seconds: 0,
        period_seconds: period,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: failures,
        grace_seconds: None,
    }
}

fn cared_for(name: &str, care: Care) -> Described {
    Described { care: Some(care), ..container(name) }
}

fn ready(name: &str, period: u32) -> Described {
    cared_for(name, Care { readiness: Some(probe(period, 1)), ..Care::default() })
}

fn alive(name: &str, failures: u32) -> Described {
    cared_for(name, Care { liveness: Some(probe(10, failures)), ..Care::default() })
}

fn always(containers: Vec<Described>) -> EdgeDeployment {
    pod(RestartPolicy::Always, vec![], containers)
}

fn bad(why: &str) -> Option<ProbeAnswer> {
    Some(ProbeAnswer::Bad(why.into()))
}

impl Sim {
    /// A lifecycle in which this probe is answered so from the beginning.
    fn answering(spec: &EdgeDeployment, kind: ProbeKind, name: &str, answer: Option<ProbeAnswer>) -> Self {
        let mut sim = Self::empty(Lifecycle::new(uid(), "process"));
        sim.answer(kind, name, answer);
        sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
        sim.run(spec);
        sim
    }

    fn answer(&mut self, kind: ProbeKind, name: &str, answer: Option<ProbeAnswer>) {
        self.answers.insert((name.to_owned(), kind), answer);
    }

    /// `ready` and `started` of a container.
    fn health(&self, name: &str) -> (bool, bool) {
        let report = self.report();
        let all = report.init_containers.iter().chain(&report.containers);
        let container = all.into_iter().find(|container| container.name == name).unwrap();
        (container.ready, container.started.unwrap())
    }
}

#[test]
fn a_container_without_probes_is_ready_while_it_runs() {
    let mut sim = Sim::new(&always(vec![container("web")]));
    assert_eq!(sim.health("web"), (true, true));
    sim.end("web", 1);
    sim.pass(0);
    assert_eq!(sim.report().containers[0].restart_count, 1);
    sim.end("web", 1);
    assert_eq!(sim.health("web"), (false, false), "it waits to be started again");
}

#[test]
fn readiness_comes_and_goes_with_its_probe_and_restarts_nothing() {
    let spec = always(vec![ready("web", 10)]);
    let mut sim = Sim::answering(&spec, ProbeKind::Readiness, "web", bad("no such file"));
    assert_eq!(sim.take_log_with_events().last().unwrap(), "event Unhealthy: Readiness probe failed: no such file");
    assert_eq!(sim.health("web"), (false, true));
    sim.answer(ProbeKind::Readiness, "web", Some(ProbeAnswer::Good));
    sim.pass(9_999);
    assert_eq!(sim.health("web"), (false, true), "it was asked at the start, and is asked again after a period");
    sim.pass(1);
    assert_eq!(sim.health("web"), (true, true));
    sim.answer(ProbeKind::Readiness, "web", bad("gone"));
    sim.pass(10_000);
    assert_eq!(sim.health("web"), (false, true));
    assert_eq!(sim.take_log(), ["readiness web-0", "readiness web-0"]);
}

#[test]
fn a_failed_liveness_probe_starts_the_container_anew() {
    let mut sim = Sim::new(&always(vec![alive("web", 2)]));
    sim.answer(ProbeKind::Liveness, "web", bad("sick"));
    sim.take_log();
    sim.pass(19_999);
    assert_eq!(sim.take_log(), ["liveness web-0"], "the first question comes after a period");
    sim.pass(1);
    assert_eq!(
        sim.take_log_with_events(),
        ["liveness web-0", "event Killing: Container web failed liveness probe, will be restarted", "term web-0"]
    );
    sim.pass(30_000);
    assert_eq!(sim.take_log(), ["kill web-0"], "what ends is not asked any more");
    sim.end("web", 137);
    assert_eq!(sim.take_log(), ["start web-1"]);
    assert_eq!(sim.report().containers[0].restart_count, 1);
    sim.pass(10_000);
    assert_eq!(sim.take_log(), ["liveness web-1"], "the next attempt begins at the beginning");
}

#[test]
fn a_liveness_probe_that_was_never_well_is_told_as_it_fails() {
    let mut sim = Sim::new(&always(vec![alive("web", 3)]));
    sim.answer(ProbeKind::Liveness, "web", bad("sick"));
    sim.log.clear();
    sim.pass(20_000);
    assert_eq!(sim.events(), ["Unhealthy: Liveness probe failed: sick"], "the same words are not said again at once");
}

#[test]
fn what_a_probe_ends_is_started_again_unless_the_pod_says_never() {
    for (policy, message, after) in [
        (RestartPolicy::OnFailure, "Container web failed liveness probe, will be restarted", vec!["start web-1"]),
        (RestartPolicy::Never, "Container web failed liveness probe", vec![]),
    ] {
        let mut sim = Sim::new(&pod(policy, vec![], vec![alive("web", 1)]));
        sim.answer(ProbeKind::Liveness, "web", bad("sick"));
        sim.pass(10_000);
        assert!(sim.events().contains(&format!("Killing: {message}").as_str()), "{:?}", sim.events());
        sim.take_log();
        sim.end("web", 0);
        assert_eq!(sim.take_log(), after, "{policy:?}: it ended well, but not by itself");
    }
}

#[test]
fn a_probe_may_have_a_grace_period_of_its_own() {
    let care = Care { liveness: Some(Probe { grace_seconds: Some(3), ..probe(10, 1) }), ..Care::default() };
    let mut sim = Sim::new(&always(vec![cared_for("web", care)]));
    sim.answer(ProbeKind::Liveness, "web", bad("sick"));
    sim.take_log();
    sim.pass(12_999);
    assert_eq!(sim.take_log(), ["liveness web-0", "term web-0"]);
    sim.pass(1);
    assert_eq!(sim.take_log(), ["kill web-0"]);
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    let care = Care {
        startup: Some(probe(5, 3)),
        liveness: Some(probe(10, 1)),
        readiness: Some(probe(10, 1)),
        ..Care::default()
    };
    let spec = always(vec![cared_for("web", care)]);
    let mut sim = Sim::answering(&spec, ProbeKind::Startup, "web", bad("not yet"));
    sim.pass(10_000);
    assert_eq!(sim.take_log(), ["prepare", "start web-0", "startup web-0", "startup web-0"]);
    assert_eq!(sim.health("web"), (false, false));
    sim.answer(ProbeKind::Startup, "web", Some(ProbeAnswer::Good));
    sim.answer(ProbeKind::Readiness, "web", bad("not yet"));
    sim.pass(5_000);
    assert_eq!(sim.take_log(), ["startup web-0", "readiness web-0"]);
    assert_eq!(sim.health("web"), (false, true));
    sim.pass(10_000);
    assert_eq!(
        sim.take_log(),
        ["liveness web-0", "readiness web-0"],
        "it is not asked any more whether it has started"
    );
}

#[test]
fn a_container_that_does_not_start_in_time_is_started_anew() {
    let care = Care { startup: Some(probe(5, 2)), ..Care::default() };
    let spec = always(vec![cared_for("web", care)]);
    let mut sim = Sim::answering(&spec, ProbeKind::Startup, "web", bad("not yet"));
    sim.pass(10_000);
    assert!(sim.events().contains(&"Killing: Container web failed startup probe, will be restarted"));
    sim.end("web", 143);
    assert_eq!(sim.health("web"), (false, false), "the new attempt has not started");
}

#[test]
fn a_probe_that_hangs_is_asked_once_and_its_late_answer_is_of_its_own_attempt() {
    let spec = always(vec![ready("web", 1)]);
    let mut sim = Sim::answering(&spec, ProbeKind::Readiness, "web", None);
    sim.pass(5_000);
    assert_eq!(sim.take_log(), ["prepare", "start web-0", "readiness web-0"]);
    sim.end("web", 1);
    sim.tell(Event::Probed(id("web", 0), ProbeKind::Readiness, ProbeAnswer::Good));
    assert_eq!(sim.take_log(), ["start web-1", "readiness web-1"]);
    assert_eq!(sim.health("web"), (false, true));
}

#[test]
fn what_cannot_be_asked_changes_nothing_and_is_said() {
    let mut sim = Sim::new(&always(vec![alive("web", 1)]));
    sim.answer(ProbeKind::Liveness, "web", Some(ProbeAnswer::Unclear("the engine is away".into())));
    sim.log.clear();
    sim.pass(60_000);
    assert_eq!(sim.events(), ["Unhealthy: Liveness probe errored and resulted in unknown state: the engine is away"]);
    assert_eq!(sim.states(), ["web:running"]);
}

#[test]
fn a_restart_of_the_agent_keeps_what_the_probes_said() {
    let care = Care { startup: Some(probe(5, 3)), readiness: Some(probe(10, 1)), ..Care::default() };
    let spec = always(vec![cared_for("web", care), ready("slow", 10)]);
    let mut sim = Sim::answering(&spec, ProbeKind::Readiness, "slow", bad("no"));
    sim.pass(5_000);
    let mut sim = sim.restarted("boot-1", vec![still_running("web", 0), still_running("slow", 0)]);
    assert_eq!((sim.health("web"), sim.health("slow")), ((true, true), (false, true)), "before anything is wanted");
    sim.answer(ProbeKind::Readiness, "web", bad("broken meanwhile"));
    sim.run(&spec);
    assert_eq!(sim.health("web"), (true, true), "not before it was asked");
    assert!(!sim.take_log().iter().any(|line| line.starts_with("startup")));
    sim.pass(10_000);
    assert_eq!((sim.health("web"), sim.health("slow")), ((false, true), (true, true)));
}

#[test]
fn a_sidecar_that_has_not_started_holds_up_what_comes_after_it() {
    let care = Care { startup: Some(probe(5, 30)), readiness: Some(probe(10, 1)), ..Care::default() };
    let mesh = Described { sidecar: true, ..cared_for("mesh", care) };
    let spec = pod(RestartPolicy::Always, vec![mesh, container("init")], vec![container("web")]);
    let mut sim = Sim::answering(&spec, ProbeKind::Startup, "mesh", bad("not yet"));
    sim.answer(ProbeKind::Readiness, "mesh", bad("not yet"));
    sim.pass(5_000);
    assert_eq!(sim.take_log(), ["prepare", "start mesh-0", "startup mesh-0"]);
    sim.answer(ProbeKind::Startup, "mesh", Some(ProbeAnswer::Good));
    sim.pass(5_000);
    assert_eq!(sim.take_log(), ["startup mesh-0", "start init-0", "readiness mesh-0"]);
    sim.end("init", 0);
    assert_eq!(sim.states(), ["mesh:running", "init:terminated/Completed/0", "web:running"]);
    assert_eq!(sim.health("mesh"), (false, true), "it counts for the pod, and holds up nothing");
}

#[test]
fn a_container_that_ends_is_asked_only_whether_it_is_ready() {
    let care = Care { liveness: Some(probe(10, 1)), readiness: Some(probe(10, 1)), ..Care::default() };
    let mut sim = Sim::new(&always(vec![cared_for("web", care)]));
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(30) }));
    sim.answer(ProbeKind::Readiness, "web", bad("going"));
    sim.answer(ProbeKind::Liveness, "web", bad("going"));
    sim.take_log();
    sim.pass(15_000);
    assert_eq!(sim.take_log(), ["readiness web-0"]);
    assert_eq!(sim.health("web"), (false, true));
}

fn hooked(name: &str) -> Described {
    let act = |word: &str| Some(Action::Exec(vec![word.into()]));
    cared_for(name, Care { post_start: act("hello"), pre_stop: act("bye"), ..Care::default() })
}

#[test]
fn a_container_runs_when_its_post_start_hook_is_done_and_the_next_one_waits_for_that() {
    let spec = always(vec![hooked("first"), container("second")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.hook_end = None;
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare", "start first-0", "poststart first-0"]);
    assert_eq!(sim.states(), ["first:waiting/ContainerCreating", "second:waiting/ContainerCreating"]);
    sim.tell(Event::Hooked(id("first", 0), HookKind::PostStart, HookEnd::Done));
    assert_eq!(sim.take_log(), ["start second-0"]);
    assert_eq!(sim.states(), ["first:running", "second:running"]);
}

#[test]
fn a_failed_post_start_hook_ends_the_container() {
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.hook_end = Some(HookEnd::Failed);
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&always(vec![hooked("web")]));
    assert_eq!(
        sim.events()[2..],
        [
            "FailedPostStartHook: PostStartHook failed",
            "Killing: FailedPostStartHook",
            "FailedPreStopHook: PreStopHook failed"
        ]
    );
    assert_eq!(sim.take_log()[2..], ["poststart web-0", "prestop web-0", "term web-0"]);
    sim.hook_end = Some(HookEnd::Done);
    sim.end("web", 143);
    assert_eq!(sim.take_log(), ["start web-1", "poststart web-1"]);
    assert_eq!(sim.states(), ["web:running"]);
}

#[test]
fn the_pre_stop_hook_comes_before_term_and_within_the_grace_period() {
    let spec = always(vec![hooked("web")]);
    let mut sim = Sim::new(&spec);
    sim.hook_end = None;
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(30) }));
    sim.pass(20_000);
    assert_eq!(sim.take_log(), ["prestop web-0"]);
    sim.tell(Event::Hooked(id("web", 0), HookKind::PreStop, HookEnd::Done));
    assert_eq!(sim.take_log(), ["term web-0"]);
    sim.pass(9_999);
    assert_eq!(sim.take_log(), [""; 0]);
    sim.pass(1);
    assert_eq!(sim.take_log(), ["kill web-0"]);
}

#[test]
fn a_pre_stop_hook_that_never_ends_is_cut_and_the_container_still_hears_term() {
    let mut sim = Sim::new(&always(vec![hooked("web")]));
    sim.hook_end = None;
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(30) }));
    sim.pass(30_000);
    assert_eq!(sim.take_log(), ["prestop web-0", "term web-0"]);
    sim.pass(2_000);
    assert_eq!(sim.take_log(), ["kill web-0"]);
    sim.tell(Event::Hooked(id("web", 0), HookKind::PreStop, HookEnd::Cut));
    assert_eq!(sim.take_log(), [""; 0], "late, and nobody waits for it");
}

#[test]
fn a_stop_without_grace_runs_no_hook() {
    let mut sim = Sim::new(&always(vec![hooked("web")]));
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::ZERO }));
    assert_eq!(sim.take_log(), ["kill web-0"]);
}

#[test]
fn a_stop_during_the_post_start_hook_does_not_wait_for_it() {
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.hook_end = None;
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    sim.run(&always(vec![hooked("web")]));
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(30) }));
    assert_eq!(sim.take_log(), ["prestop web-0"]);
    sim.tell(Event::Hooked(id("web", 0), HookKind::PostStart, HookEnd::Failed));
    assert_eq!(sim.take_log(), [""; 0]);
}

#[test]
fn hooks_of_sidecars_run_at_once_and_term_comes_in_their_turn() {
    let side = |name: &str| Described { sidecar: true, ..hooked(name) };
    let spec = pod(RestartPolicy::Always, vec![side("a"), side("b")], vec![container("web")]);
    let mut sim = Sim::new(&spec);
    sim.take_log();
    sim.tell(Event::Order(Order::Stop { grace: Duration::from_secs(30) }));
    assert_eq!(sim.take_log(), ["prestop a-0", "prestop b-0", "term web-0"]);
    sim.end("web", 0);
    assert_eq!(sim.take_log(), ["term b-0"]);
    sim.end("b", 0);
    assert_eq!(sim.take_log(), ["term a-0"]);
    sim.end("a", 0);
    assert_eq!(sim.take_log(), ["gone Some(Succeeded)"]);
}
