//! Pods for tests.

use hawser_wire::PodUid;
use hawser_wire::deployment::{Container as Described, EdgeDeployment, RestartPolicy};

pub(crate) fn uid() -> PodUid {
    PodUid::new("u").unwrap()
}

pub(crate) fn container(name: &str) -> Described {
    Described {
        command: vec!["x".into()],
        termination_message_path: "/dev/termination-log".into(),
        ..Described::named(name, "host")
    }
}

pub(crate) fn sidecar(name: &str) -> Described {
    Described { sidecar: true, ..container(name) }
}

pub(crate) fn pod(policy: RestartPolicy, init: Vec<Described>, containers: Vec<Described>) -> EdgeDeployment {
    EdgeDeployment {
        restart_policy: policy,
        init_containers: init,
        containers,
        ..EdgeDeployment::named(uid(), "ns", "p")
    }
}
