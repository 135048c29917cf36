//! Restart policies and rules of single containers.

use hawser_wire::deployment::RestartRule;

use super::*;

fn rule(codes: &[i32], not_in: bool, action: RestartAction) -> RestartRule {
    RestartRule { codes: codes.to_vec(), not_in, action }
}

fn ruled(name: &str, restart: RestartPolicy, rules: Vec<RestartRule>) -> Described {
    let care = Care { restart: Some(restart), restart_rules: rules, ..Care::default() };
    Described { care: Some(care), ..container(name) }
}

#[test]
fn a_containers_own_policy_and_rules_come_before_the_pods() {
    use RestartAction::Container;
    use RestartPolicy::{Always, Never, OnFailure};
    for (case, pods, own, rules, code, again) in [
        ("its own policy", Never, Always, vec![], 0, true),
        ("its own policy, too", Always, Never, vec![], 1, false),
        ("on failure", Never, OnFailure, vec![], 1, true),
        ("on failure, without one", Always, OnFailure, vec![], 0, false),
        ("a rule that holds", Never, Never, vec![rule(&[42], false, Container)], 42, true),
        ("a rule that does not", Never, Never, vec![rule(&[42], false, Container)], 41, false),
        ("a rule for all others", Never, Never, vec![rule(&[42], true, Container)], 41, true),
        ("not for this one", Never, Never, vec![rule(&[42], true, Container)], 42, false),
        ("the second rule", Never, Never, vec![rule(&[1], false, Container), rule(&[2], false, Container)], 2, true),
    ] {
        // Another container keeps the pod from ending.
        let mut sim = Sim::new(&pod(pods, vec![], vec![ruled("web", own, rules), container("other")]));
        sim.take_log();
        sim.end("web", code);
        let expected: &[&str] = if again { &["start web-1"] } else { &[] };
        assert_eq!(sim.take_log(), expected, "{case}");
    }
}

#[test]
fn a_pod_ends_when_none_of_its_containers_is_started_again() {
    let rules = vec![rule(&[42], false, RestartAction::Container)];
    let mut sim = Sim::new(&pod(RestartPolicy::Never, vec![], vec![ruled("web", RestartPolicy::Never, rules)]));
    sim.end("web", 42);
    sim.end("web", 42);
    assert_eq!((sim.phase(), sim.states()), (Phase::Running, vec!["web:waiting/CrashLoopBackOff".to_owned()]));
    sim.pass(10_000);
    sim.end("web", 1);
    assert_eq!(sim.phase(), Phase::Failed);
}

#[test]
fn an_init_container_may_be_tried_again_in_a_pod_that_is_not() {
    let rules = vec![rule(&[42, 0], false, RestartAction::Container)];
    let init = ruled("init", RestartPolicy::Never, rules);
    let mut sim = Sim::new(&pod(RestartPolicy::Never, vec![init], vec![container("web")]));
    sim.take_log();
    sim.end("init", 42);
    assert_eq!(sim.take_log(), ["start init-1"]);
    sim.end("init", 0);
    assert_eq!(sim.take_log(), ["start web-0"], "it has done its work");
}

#[test]
fn one_exit_code_may_start_all_containers_again() {
    let rules = vec![rule(&[88], false, RestartAction::Pod)];
    let watcher = ruled("watcher", RestartPolicy::Never, rules);
    let init = vec![container("init"), sidecar("mesh")];
    let spec = pod(RestartPolicy::Never, init, vec![watcher, container("web")]);
    let mut sim = Sim::new(&spec);
    sim.end("init", 0);
    sim.take_log();
    sim.end("watcher", 88);
    assert_eq!(sim.take_log(), ["term web-0", "term mesh-0"]);
    sim.end("mesh", 0);
    // The agent may die in between.
    let ended = |name: &str, code| Found { state: FoundState::Ended(exit(code)), ..still_running(name, 0) };
    let found = vec![ended("init", 0), ended("mesh", 0), ended("watcher", 88), still_running("web", 0)];
    let mut sim = sim.restarted("boot-1", found);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare", "term web-0"]);
    sim.pass(2_000);
    assert_eq!(sim.take_log(), ["kill web-0"]);
    sim.end("web", 137);
    assert_eq!(sim.take_log(), ["start init-1"]);
    sim.end("init", 0);
    assert_eq!(sim.take_log(), ["start mesh-1", "start watcher-1", "start web-1"]);
    let counts: Vec<u32> = sim.report().containers.iter().map(|container| container.restart_count).collect();
    assert_eq!((counts, sim.phase()), (vec![1, 1], Phase::Running));
    // From the second time on each waits as after a crash.
    sim.end("watcher", 88);
    sim.end("web", 143);
    sim.end("mesh", 143);
    assert_eq!(sim.take_log(), ["term web-1", "term mesh-1"]);
    sim.pass(10_000);
    assert_eq!(sim.take_log(), ["remove init-0", "start init-2"]);
}
