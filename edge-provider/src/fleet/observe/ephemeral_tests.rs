//! What is shown of containers that were added to look at a pod.

use hawser_wire::PodUid;
use hawser_wire::report::Running;

use super::*;

fn container(name: &str) -> Container {
    Container::named(name, "busybox")
}

fn spec() -> EdgeDeployment {
    EdgeDeployment {
        containers: vec![container("main")],
        ephemeral_containers: vec![EphemeralContainer { container: container("debug"), target: None, hindrance: None }],
        ..EdgeDeployment::named(PodUid::new("u").unwrap(), "ns", "p")
    }
}

fn said(deployment: Option<ContentHash>, ephemeral_containers: Vec<ContainerReport>) -> WorkloadReport {
    WorkloadReport {
        uid: PodUid::new("u").unwrap(),
        deployment,
        phase: Phase::Running,
        reason: None,
        message: None,
        started: None,
        sandbox_ready: true,
        pod_ips: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers,
        resize: None,
    }
}

fn running() -> ContainerReport {
    ContainerReport {
        name: "debug".to_owned(),
        // Whatever an odd agent says.
        ready: true,
        started: Some(true),
        restart_count: 0,
        image: String::new(),
        image_id: "sha256:1".to_owned(),
        container_id: Some("containerd://1".to_owned()),
        state: Said::Running(Running { since: DeviceTime(1) }),
        last: None,
        given: None,
    }
}

fn shown(said: &WorkloadReport, spec: Option<(&EdgeDeployment, ContentHash)>) -> Vec<ContainerStatus> {
    pod_report(said, &DeviceClock::default(), spec, &[]).ephemeral_containers
}

#[test]
fn what_the_device_says_is_shown_as_a_kubelet_shows_it() {
    let (spec, hash) = (spec(), ContentHash([1; 32]));
    let statuses = shown(&said(Some(hash), vec![running()]), Some((&spec, hash)));
    assert_eq!(statuses.len(), 1);
    let status = &statuses[0];
    assert_eq!((status.name.as_str(), status.image.as_str()), ("debug", "busybox"));
    assert!(status.state.as_ref().unwrap().running.is_some());
    assert_eq!((status.ready, status.started), (false, None));
    // Of a pod that is to end the bridge knows no more than the device.
    assert_eq!(shown(&said(None, vec![running()]), None).len(), 1);
}

#[test]
fn one_of_which_an_old_agent_knows_nothing_is_not_said_to_come() {
    let (spec, hash) = (spec(), ContentHash([1; 32]));
    let waiting = |deployment| {
        let status = shown(&said(deployment, vec![]), Some((&spec, hash))).remove(0);
        let waiting = status.state.unwrap().waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.is_some())
    };
    assert_eq!(waiting(None), ("ContainerCreating".to_owned(), false));
    assert_eq!(
        waiting(Some(ContentHash([2; 32]))),
        ("ContainerCreating".to_owned(), false),
        "it acts on an earlier form"
    );
    assert_eq!(waiting(Some(hash)), ("AgentTooOld".to_owned(), true));
}
