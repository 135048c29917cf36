//! Images that are not there, places that are lost, and what the runtime calls what it has made.

use super::*;

fn no_image(reason: &str) -> StartProblem {
    StartProblem::NoImage(ImageProblem {
        image: "host".into(),
        reason: reason.into(),
        message: "the registry says no".into(),
    })
}

fn waiting(sim: &Sim) -> (String, String) {
    match sim.report().containers[0].state.clone() {
        ContainerState::Waiting(waiting) => (waiting.reason, waiting.message.unwrap_or_default()),
        state => panic!("{state:?}"),
    }
}

#[test]
fn a_failed_pull_shows_its_words_then_its_back_off_and_is_tried_again() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![]));
    sim.start_problem = Some(no_image("ErrImagePull"));
    sim.run(&pod(RestartPolicy::Always, vec![], vec![container("web")]));
    assert_eq!(waiting(&sim), ("ErrImagePull".into(), "the registry says no".into()));
    assert_eq!(
        sim.events(),
        ["Failed: Failed to pull image \"host\": the registry says no", "Failed: Error: ErrImagePull"]
    );
    sim.pass(3_000);
    assert_eq!(
        waiting(&sim),
        ("ImagePullBackOff".into(), "Back-off pulling image \"host\": ErrImagePull: the registry says no".into())
    );
    assert_eq!(sim.events().last(), Some(&"BackOff: Back-off pulling image \"host\""));
    sim.take_log();
    sim.pass(7_000);
    assert_eq!(sim.take_log(), ["start web-0"], "ten seconds after the first failure");
    sim.pass(19_000);
    assert_eq!(sim.take_log(), [""; 0]);
    sim.start_problem = None;
    sim.pass(1_000);
    assert_eq!(sim.take_log(), ["start web-0"], "twenty seconds after the second");
    assert_eq!(sim.report().containers[0].restart_count, 0);
    assert_eq!(sim.phase(), Phase::Running);
}

#[test]
fn an_image_that_may_not_be_pulled_keeps_its_reason() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![]));
    sim.start_problem = Some(no_image("ErrImageNeverPull"));
    sim.run(&pod(RestartPolicy::Always, vec![], vec![container("web")]));
    sim.pass(5_000);
    assert_eq!(waiting(&sim).0, "ErrImageNeverPull");
    assert_eq!(sim.events(), ["Failed: Error: ErrImageNeverPull"]);
}

#[test]
fn a_pull_that_was_given_up_leaves_nothing_to_stop() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![]));
    sim.take_log();
    // The order to end comes first, the answer of the runtime after it.
    let spec = pod(RestartPolicy::Always, vec![], vec![container("web")]);
    let effects = sim.life.handle(DeviceTime(sim.now), Event::Order(Order::Run(deployment(&spec))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Start(..))));
    sim.tell(Event::Order(Order::Remove));
    assert!(sim.life.is_ending());
    assert_eq!(sim.take_log(), [""; 0], "the pull may still end in a container");
    sim.tell(Event::Started(id("web", 0), Err(StartProblem::Abandoned)));
    assert_eq!(sim.take_log(), ["gone Some(Failed)", "remove pod", "forget"]);
}

#[test]
fn a_place_that_was_lost_is_made_again_and_then_the_same_attempt() {
    let mut sim = Sim::new(&pod(RestartPolicy::Always, vec![], vec![container("web")]));
    sim.take_log();
    sim.start_problem = Some(StartProblem::NoPlace("its first process has ended".into()));
    sim.end("web", 1);
    let log = sim.take_log();
    assert_eq!(log[..3], ["start web-1", "prepare", "start web-1"]);
    assert!(log.len() < 8, "a place that is lost again and again is made at leisure: {log:?}");
    sim.start_problem = None;
    sim.pass(20_000);
    assert_eq!(sim.take_log().last().map(String::as_str), Some("start web-1"));
    assert_eq!(sim.phase(), Phase::Running);
}

#[test]
fn the_runtimes_own_names_are_told_and_survive_the_agent() {
    let handle = |id: &str| Handle { container: id.into(), image: "sha256:1".into() };
    let started = |id: &str| Started { handle: handle(id), ..Started::default() };
    let spec = pod(RestartPolicy::Always, vec![], vec![container("web")]);
    let mut sim = Sim::empty(Lifecycle::new(uid(), "containerd"));
    sim.tell(Event::Inventory { epoch: "1".into(), found: vec![] });
    for event in [Event::Order(Order::Run(deployment(&spec))), Event::Prepared(Ok(PodReady::default()))] {
        sim.life.handle(DeviceTime(sim.now), event);
    }
    sim.life.handle(DeviceTime(sim.now), Event::Started(id("web", 0), Ok(started("abc"))));
    let status = sim.report().containers[0].clone();
    assert_eq!(status.container_id.as_deref(), Some("containerd://abc"));
    assert_eq!(status.image_id, "sha256:1");
    sim.life.handle(DeviceTime(sim.now), Event::Ended(id("web", 0), exit(1)));
    sim.life.handle(DeviceTime(sim.now), Event::Started(id("web", 1), Ok(started("def"))));
    let mut sim = Sim { life: Lifecycle::recover(uid(), "containerd", &sim.life.encode()).unwrap(), ..sim };
    let found = Found { handle: handle("def"), ..still_running("web", 1) };
    sim.tell(Event::Inventory { epoch: "1".into(), found: vec![found] });
    sim.run(&spec);
    let status = sim.report().containers[0].clone();
    assert_eq!(status.container_id.as_deref(), Some("containerd://def"));
    assert_eq!(status.last.unwrap().container_id.as_deref(), Some("containerd://abc"));
}
