//! Other limits and requests for a pod that runs.

use hawser_wire::deployment::{Ask, Engine, Resources, RestartToResize};
use hawser_wire::report::{ContainerReport, Given, Resize, ResizeInProgress, ResizePending};

use super::*;

fn resources(cpu: u64, memory: u64) -> Resources {
    Resources {
        cpu_request_millis: Some(cpu),
        cpu_limit_millis: Some(cpu),
        memory_request_bytes: Some(memory << 20),
        memory_limit_bytes: Some(memory << 20),
        ..Resources::default()
    }
}

/// The pod of this generation, whose container `web` asks for this.
fn asking(generation: u64, cpu: u64, memory: u64) -> EdgeDeployment {
    let web = Described { resources: resources(cpu, memory), ..container("web") };
    let generation = Some(generation).filter(|generation| *generation > 1);
    EdgeDeployment { generation, ..pod(RestartPolicy::Always, vec![], vec![web, container("other")]) }
}

fn restarting(mut spec: EdgeDeployment, policy: RestartToResize) -> EdgeDeployment {
    spec.containers[0].restart_to_resize = Some(policy);
    spec
}

fn resize(sim: &Sim) -> Resize {
    sim.report().resize.unwrap()
}

fn web(sim: &Sim) -> ContainerReport {
    sim.report().containers.swap_remove(0)
}

fn given(allocated: Resources, actual: Option<Resources>) -> Option<Given> {
    Some(Given { allocated, actual })
}

fn no_room(infeasible: bool) -> Option<NoRoom> {
    Some(NoRoom { infeasible, message: "Node didn't have enough resource: cpu".into() })
}

const SUMMARY: &str = r#"{"containers":[{"name":"web","resources":{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"200m","memory":"64Mi"}}},{"name":"other","resources":{}}],"generation":2}"#;

#[test]
fn what_runs_gets_more_without_being_started_again() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(100, 64), None), Resize::default()));
    sim.take_log();
    sim.run(&asking(2, 200, 64));
    let log = sim.take_log_with_events();
    let expected = [
        format!("event ResizeStarted: Pod resize started: {SUMMARY}"),
        "resize [web-0]".to_owned(),
        format!("event ResizeCompleted: Pod resize completed: {SUMMARY}"),
    ];
    assert_eq!(log, expected);
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 64), None), Resize::default()));
    assert_eq!(web(&sim).restart_count, 0);
    sim.run(&asking(3, 200, 64));
    assert_eq!(sim.take_log_with_events(), [""; 0], "nothing else is asked for");
}

#[test]
fn a_container_whose_policy_says_so_is_started_again_and_no_other() {
    let memory = RestartToResize { cpu: false, memory: true };
    let mut sim = Sim::new(&restarting(asking(1, 100, 64), memory));
    sim.take_log();
    sim.run(&restarting(asking(2, 200, 64), memory));
    assert_eq!(sim.take_log(), ["resize [web-0]"]);
    sim.run(&restarting(asking(3, 200, 128), memory));
    assert!(sim.events().contains(&"Killing: Container web resize requires restart"), "{:?}", sim.events());
    assert_eq!(sim.take_log(), ["term web-0"], "nothing is given before it has ended");
    assert_eq!(web(&sim).given, given(resources(200, 128), Some(resources(200, 64))));
    assert!(resize(&sim).in_progress.is_some());
    sim.end("web", 0);
    assert_eq!(sim.take_log(), ["resize []", "start web-1"]);
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 128), None), Resize::default()));
    assert_eq!(web(&sim).restart_count, 1);
}

#[test]
fn a_container_without_a_limit_has_that_of_its_pod_as_it_changes() {
    // Of the two, `web` has limits of its own.
    let whole = |generation, cpu, memory| EdgeDeployment {
        engine: Some(Engine { asks: vec![Ask::Resources(resources(cpu, memory))], ..Engine::default() }),
        ..asking(generation, 50, 32)
    };
    let mut sim = Sim::new(&whole(1, 100, 64));
    sim.take_log();
    sim.run(&whole(2, 200, 64));
    assert_eq!(sim.take_log(), ["resize [other-0]"]);
    assert_eq!((web(&sim).given, resize(&sim).in_progress), (given(resources(50, 32), None), None));
    assert_eq!(sim.report().containers[1].given, given(Resources::default(), None), "it was given none of its own");
    // The next agent knows what it has.
    let mut sim = sim.restarted("boot-1", vec![still_running("web", 0), still_running("other", 0)]);
    sim.run(&whole(2, 200, 64));
    assert_eq!(sim.take_log(), ["prepare"]);

    let mut last = whole(3, 200, 128);
    last.containers[1].restart_to_resize = Some(RestartToResize { cpu: false, memory: true });
    sim.run(&last);
    assert_eq!(sim.take_log(), ["term other-0"], "its policy counts for that too");
    sim.end("other", 0);
    assert_eq!(sim.take_log(), ["resize []", "start other-1"]);
}

#[test]
fn a_container_that_runs_before_the_others_gets_more_while_it_does() {
    let with = |generation, cpu| {
        let first = Described { resources: resources(cpu, 64), ..container("first") };
        EdgeDeployment { generation, ..pod(RestartPolicy::Never, vec![first], vec![container("main")]) }
    };
    let mut sim = Sim::new(&with(None, 100));
    sim.take_log();
    sim.run(&with(Some(2), 200));
    assert_eq!(sim.take_log(), ["resize [first-0]"]);
    assert_eq!(sim.report().init_containers[0].given, given(resources(200, 64), None));
    sim.end("first", 0);
    sim.take_log();
    sim.run(&with(Some(3), 300));
    assert_eq!(sim.take_log(), ["resize []"], "it has ended");
    assert_eq!(resize(&sim), Resize::default());
}

#[test]
fn a_pod_that_finds_no_room_keeps_what_it_has_until_there_is_some() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    sim.take_log();
    sim.no_room = no_room(false);
    sim.run(&asking(2, 200, 64));
    let message = "Node didn't have enough resource: cpu".to_owned();
    let pending = ResizePending { infeasible: false, message, generation: Some(2) };
    assert_eq!(resize(&sim), Resize { pending: Some(pending), ..Resize::default() });
    assert_eq!(web(&sim).given, given(resources(100, 64), None));
    assert_eq!(sim.events().len(), 1);
    assert!(sim.events()[0].starts_with("ResizeDeferred: Pod resize Deferred: {"), "{:?}", sim.events());
    assert!(sim.life.waits_for_room());
    sim.tell(Event::RoomMade);
    assert_eq!(sim.events().len(), 1, "it is said once");
    sim.take_log();
    // What is started again meanwhile has what it was given.
    sim.end("web", 0);
    assert_eq!(sim.take_log(), ["start web-1"]);
    assert_eq!(web(&sim).given, given(resources(100, 64), None));

    sim.no_room = None;
    sim.tell(Event::RoomMade);
    assert_eq!(sim.take_log(), ["resize [web-1]"]);
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 64), None), Resize::default()));
    assert!(!sim.life.waits_for_room());
}

#[test]
fn who_asks_for_what_it_has_waits_no_longer() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    sim.no_room = no_room(false);
    sim.run(&asking(2, 200, 64));
    sim.no_room = None;
    sim.take_log();
    sim.run(&asking(3, 100, 64));
    assert_eq!((resize(&sim), sim.take_log_with_events()), (Resize::default(), vec![]));
}

#[test]
fn what_can_never_be_is_not_tried_again() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    sim.no_room = no_room(true);
    sim.run(&asking(2, 200, 64));
    assert!(sim.events().iter().any(|event| event.starts_with("ResizeInfeasible: Pod resize Infeasible: {")));
    assert!(resize(&sim).pending.is_some_and(|pending| pending.infeasible) && !sim.life.waits_for_room());
}

#[test]
fn what_cannot_be_applied_is_said_and_tried_again() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    sim.resize_problem = Some("cannot decrease memory limits: m".into());
    sim.run(&asking(2, 100, 32));
    let error = Some("cannot decrease memory limits: m".to_owned());
    let in_progress = Some(ResizeInProgress { generation: Some(2), error });
    assert_eq!(resize(&sim), Resize { in_progress, ..Resize::default() });
    assert_eq!(web(&sim).given, given(resources(100, 32), Some(resources(100, 64))));
    let errors = |sim: &Sim| sim.events().iter().filter(|event| event.starts_with("ResizeError")).count();
    assert_eq!(errors(&sim), 1);
    sim.pass(600_000);
    assert_eq!(errors(&sim), 1, "the same is said once");
    sim.end("other", 0);
    assert!(sim.states().contains(&"other:running".to_owned()), "{:?}", sim.states());
    sim.resize_problem = None;
    sim.pass(600_000);
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(100, 32), None), Resize::default()));
}

#[test]
fn what_was_given_outlives_the_agent_and_the_device() {
    let (first, second) = (asking(1, 100, 64), asking(2, 200, 64));
    let both = || vec![still_running("web", 0), still_running("other", 0)];
    for (epoch, found) in [("boot-1", both()), ("boot-2", vec![])] {
        let mut sim = Sim::new(&first);
        sim.no_room = no_room(false);
        sim.run(&second);
        let mut sim = sim.restarted(epoch, found);
        sim.no_room = no_room(false);
        sim.run(&second);
        assert!(resize(&sim).pending.is_some(), "{epoch}");
        assert_eq!(web(&sim).given, given(resources(100, 64), None), "{epoch}");
        assert!(!sim.events().iter().any(|event| event.starts_with("Resize")), "{epoch}: {:?}", sim.events());
        sim.no_room = None;
        sim.tell(Event::RoomMade);
        assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 64), None), Resize::default()), "{epoch}");
    }
}

#[test]
fn a_change_that_was_being_applied_when_the_agent_died_is_applied_by_the_next() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    sim.resize_problem = Some("the engine is away".into());
    sim.run(&asking(2, 200, 64));
    let mut sim = sim.restarted("boot-1", vec![still_running("web", 0), still_running("other", 0)]);
    sim.take_log();
    sim.run(&asking(2, 200, 64));
    assert_eq!(sim.take_log(), ["prepare", "resize [web-0]"]);
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 64), None), Resize::default()));
}

#[test]
fn a_pod_of_which_nothing_was_made_has_what_its_latest_description_says() {
    let mut sim = Sim::empty(Lifecycle::new(uid(), "process"));
    sim.tell(Event::Order(Order::Run(deployment(&asking(1, 100, 64)))));
    sim.tell(Event::Order(Order::Run(deployment(&asking(2, 200, 64)))));
    sim.tell(Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 64), None), Resize::default()));
    assert!(!sim.events().iter().any(|event| event.starts_with("Resize")), "{:?}", sim.events());
}

#[test]
fn an_agent_that_finds_no_word_of_what_was_given_makes_sure_of_it_without_a_word() {
    let mut sim = Sim::new(&asking(1, 100, 64));
    for container in &mut sim.life.record.containers {
        container.given = None;
    }
    sim.life.record.allotment = None;
    let mut sim = sim.restarted("boot-1", vec![still_running("web", 0), still_running("other", 0)]);
    sim.take_log();
    sim.resize_problem = Some("the engine cannot".into());
    sim.run(&restarting(asking(2, 200, 64), RestartToResize { cpu: true, memory: true }));
    assert_eq!(sim.take_log_with_events(), ["prepare", "resize [web-0]"]);
    assert_eq!((web(&sim).given, resize(&sim)), (given(resources(200, 64), None), Resize::default()));
}
