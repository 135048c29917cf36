//! Pods for tests.

use hawser_wire::PodUid;
use hawser_wire::deployment::{Container as Described, EdgeDeployment, PullPolicy, Resources, RestartPolicy, User};

pub(crate) fn uid() -> PodUid {
    PodUid::new("u").unwrap()
}

pub(crate) fn container(name: &str) -> Described {
    Described {
        name: name.into(),
        image: "host".into(),
        pull_policy: PullPolicy::IfNotPresent,
        command: vec!["x".into()],
        args: vec![],
        working_dir: None,
        env: vec![],
        mounts: vec![],
        resources: Resources::default(),
        sidecar: false,
        user: User::default(),
        termination_message_path: "/dev/termination-log".into(),
        termination_message_from_logs: false,
        interactive: None,
        confinement: None,
        care: None,
    }
}

pub(crate) fn sidecar(name: &str) -> Described {
    Described { sidecar: true, ..container(name) }
}

pub(crate) fn pod(policy: RestartPolicy, init: Vec<Described>, containers: Vec<Described>) -> EdgeDeployment {
    EdgeDeployment {
        uid: uid(),
        namespace: "ns".into(),
        name: "p".into(),
        restart_policy: policy,
        grace_seconds: 30,
        active_deadline_seconds: None,
        init_containers: init,
        containers,
        volumes: vec![],
        hostname: None,
        host_network: false,
        fs_group: None,
        supplemental_groups: vec![],
        engine: None,
        priority: None,
        ephemeral_containers: Vec::new(),
    }
}
