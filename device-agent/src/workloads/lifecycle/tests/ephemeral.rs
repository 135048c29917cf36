//! Containers that are added to a pod to look at it.

use hawser_wire::deployment::{EmptyDir, EphemeralContainer, Mount};

use super::*;

fn added(name: &str) -> EphemeralContainer {
    EphemeralContainer { container: container(name), target: Some("web".into()), hindrance: None }
}

fn web(policy: RestartPolicy) -> EdgeDeployment {
    pod(policy, vec![], vec![container("web")])
}

fn looked_at(mut pod: EdgeDeployment) -> EdgeDeployment {
    pod.ephemeral_containers = vec![added("debugger")];
    pod
}

#[test]
fn one_that_is_added_is_started_at_once_and_nothing_else_is_touched() {
    let mut sim = Sim::new(&web(RestartPolicy::Always));
    sim.take_log();
    sim.run(&looked_at(web(RestartPolicy::Always)));
    assert_eq!(sim.take_log(), ["start debugger-0"]);
    assert_eq!(sim.states(), ["web:running", "debugger:running"]);
    let shown = sim.report().ephemeral_containers.remove(0);
    assert_eq!((shown.ready, shown.started, shown.restart_count), (false, None, 0), "as a kubelet shows it");
}

#[test]
fn one_that_has_ended_stays_so() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        let mut sim = Sim::new(&web(policy));
        sim.run(&looked_at(web(policy)));
        sim.end("debugger", 3);
        sim.take_log();
        sim.pass(3_600_000);
        sim.run(&EdgeDeployment { grace_seconds: 7, ..looked_at(web(policy)) });
        assert_eq!(sim.take_log(), Vec::<String>::new(), "{policy:?}");
        assert_eq!(sim.states(), ["web:running", "debugger:terminated/Error/3"]);
        assert_eq!(sim.phase(), Phase::Running);
    }
}

#[test]
fn it_says_nothing_about_how_the_pod_is() {
    let mut sim = Sim::new(&looked_at(web(RestartPolicy::Always)));
    sim.end("web", 1);
    sim.end("web", 1);
    assert_eq!(sim.states(), ["web:waiting/CrashLoopBackOff", "debugger:running"]);
    assert_eq!(sim.phase(), Phase::Running, "because it is started again");
    let mut sim = Sim::new(&looked_at(web(RestartPolicy::Never)));
    sim.take_log();
    sim.end("web", 0);
    assert_eq!(sim.take_log(), ["term debugger-0"], "a pod that is over is not looked at any more");
    sim.end("debugger", 143);
    assert_eq!((sim.phase(), sim.take_log()), (Phase::Succeeded, vec![]));
}

#[test]
fn a_pod_whose_init_container_fails_can_be_looked_at() {
    let plain = pod(RestartPolicy::Always, vec![container("init")], vec![container("web")]);
    let mut sim = Sim::new(&plain);
    sim.end("init", 1);
    sim.run(&looked_at(plain));
    assert_eq!(sim.states()[1..], ["web:waiting/PodInitializing", "debugger:running"]);
    assert_eq!(sim.phase(), Phase::Pending);
}

#[test]
fn what_is_in_its_way_is_told_of_it_alone_until_it_is_not_any_more() {
    let mut sim = Sim::new(&web(RestartPolicy::Always));
    sim.take_log_with_events();
    let mut hindered = looked_at(web(RestartPolicy::Always));
    hindered.ephemeral_containers[0].hindrance =
        Some(Hindrance { reason: "CreateContainerConfigError".into(), message: "configmap \"gone\" not found".into() });
    sim.run(&hindered);
    sim.pass(600_000);
    assert_eq!(sim.take_log_with_events(), ["event Failed: Error: configmap \"gone\" not found"]);
    assert_eq!(sim.states(), ["web:running", "debugger:waiting/CreateContainerConfigError"]);
    sim.run(&looked_at(web(RestartPolicy::Always)));
    assert_eq!(sim.take_log(), ["start debugger-0"]);
    // What it was made of may go.
    sim.run(&hindered);
    assert_eq!(sim.states(), ["web:running", "debugger:running"]);
}

#[test]
fn one_that_the_runtime_refuses_leaves_the_pod_alone() {
    let mut sim = Sim::new(&web(RestartPolicy::Always));
    let refusal = Refusal { reason: "ImageNotSupported".into(), message: "no images here".into() };
    sim.start_problem = Some(StartProblem::Refused(refusal));
    sim.run(&looked_at(web(RestartPolicy::Always)));
    sim.pass(600_000);
    assert_eq!(sim.states(), ["web:running", "debugger:waiting/ImageNotSupported"]);
    assert_eq!(sim.events().iter().filter(|event| **event == "Failed: no images here").count(), 1);
}

#[test]
fn it_waits_for_a_volume_that_only_it_mounts() {
    let mut sim = Sim::new(&web(RestartPolicy::Always));
    sim.take_log();
    let mut mounting = looked_at(web(RestartPolicy::Always));
    let empty = EmptyDir { memory: false, size_limit: None };
    mounting.volumes.push(Volume { name: "v".into(), source: VolumeSource::EmptyDir(empty) });
    mounting.ephemeral_containers[0].container.mounts.push(Mount {
        volume: "v".into(),
        path: "/v".into(),
        read_only: false,
        sub_path: None,
        sub_path_expr: false,
        propagation: None,
        read_only_below: None,
    });
    sim.run(&mounting);
    assert_eq!(sim.take_log(), ["prepare", "start debugger-0"]);
}

#[test]
fn it_is_adopted_and_not_started_again_after_a_reboot() {
    let spec = looked_at(web(RestartPolicy::Always));
    let mut sim = Sim::new(&spec).restarted("boot-1", vec![still_running("web", 0), still_running("debugger", 0)]);
    assert_eq!(sim.states(), ["web:running", "debugger:running"], "before anything is heard of the bridge");
    sim.run(&spec);
    assert_eq!(
        (sim.states(), sim.take_log()),
        (vec!["web:running".into(), "debugger:running".into()], vec!["prepare".to_owned()])
    );
    let mut sim = sim.restarted("boot-1", vec![still_running("web", 0), has_ended("debugger", 0, exit(4))]);
    sim.run(&spec);
    assert_eq!(sim.states(), ["web:running", "debugger:terminated/Error/4"]);
    let mut sim = sim.restarted("boot-2", vec![]);
    sim.run(&spec);
    assert_eq!(sim.take_log(), ["prepare", "start web-1"]);
    assert_eq!(sim.states(), ["web:running", "debugger:terminated/Error/4"]);
}

#[test]
fn a_record_keeps_it_apart_for_agents_that_know_none() {
    let sim = Sim::new(&looked_at(web(RestartPolicy::Always)));
    let bytes = sim.life.encode();
    let stored: ciborium::Value = ciborium::from_reader(&bytes[1..]).unwrap();
    let field = |name: &str| stored.as_map().unwrap().iter().find(|(key, _)| key.as_text() == Some(name));
    let count = |name: &str| field(name).and_then(|(_, list)| list.as_array()).map(Vec::len);
    assert_eq!((count("containers"), count("ephemeral")), (Some(1), Some(1)));
    assert_eq!(Lifecycle::recover(uid(), "process", &bytes).unwrap().record.containers.len(), 2);
}

#[test]
fn the_pod_takes_it_along_and_no_sidecar_waits_for_it() {
    let spec = looked_at(pod(RestartPolicy::Always, vec![sidecar("proxy")], vec![container("web")]));
    let mut sim = Sim::new(&spec);
    sim.take_log();
    sim.tell(Event::Order(Order::Remove));
    assert_eq!(sim.take_log(), ["term debugger-0", "term web-0"]);
    sim.end("web", 0);
    assert_eq!(sim.take_log(), ["term proxy-0"]);
    sim.end("proxy", 0);
    sim.end("debugger", 143);
    assert_eq!(sim.take_log(), ["gone Some(Succeeded)", "remove pod", "forget"]);
}
