//! Pods that are not taken in.

use super::*;

fn refusal() -> Refusal {
    Refusal { reason: "SysctlForbidden".into(), message: "forbidden sysctl: \"a\" not allowlisted".into() }
}

#[test]
fn a_pod_that_is_rejected_has_failed_and_shows_no_containers() {
    let spec = pod(RestartPolicy::Always, vec![container("i")], vec![container("a")]);
    let mut life = Lifecycle::new(uid(), "process");
    life.handle(DeviceTime(1), Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    life.handle(DeviceTime(2), Event::Order(Order::Run(deployment(&spec))));
    let effects = life.handle(DeviceTime(3), Event::Rejected(refusal()));
    let [Effect::Event(event)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((event.reason.as_str(), event.container.as_deref(), event.warning), ("SysctlForbidden", None, true));
    let report = |life: &Lifecycle| life.report(DeviceTime(4)).unwrap();
    assert_eq!((report(&life).phase, report(&life).reason.as_deref()), (Phase::Failed, Some("SysctlForbidden")));
    assert_eq!(report(&life).message.as_deref(), Some("Pod was rejected: forbidden sysctl: \"a\" not allowlisted"));
    assert!(report(&life).init_containers.is_empty() && report(&life).containers.is_empty());

    let mut again = Lifecycle::recover(uid(), "process", &life.encode()).unwrap();
    again.handle(DeviceTime(5), Event::Inventory { epoch: "boot-1".into(), found: vec![] });
    assert!(again.handle(DeviceTime(6), Event::Order(Order::Run(deployment(&spec)))).is_empty(), "it stays so");
    assert_eq!(report(&again), report(&life));
}

#[test]
fn what_runs_is_not_ended_by_a_rejection() {
    let spec = pod(RestartPolicy::Always, vec![], vec![container("a")]);
    let mut sim = Sim::new(&spec);
    assert!(sim.life.has_begun());
    sim.tell(Event::Rejected(refusal()));
    assert_eq!((sim.states(), sim.phase()), (vec!["a:running".into()], Phase::Running));
}
