//! A pod and a container that ask for nothing, for tests.

use hawser_wire::PodUid;
use hawser_wire::deployment::{Container, EdgeDeployment, PullPolicy, Resources, RestartPolicy, User};

pub(super) fn container() -> Container {
    Container {
        name: "c".into(),
        image: "i".into(),
        pull_policy: PullPolicy::Never,
        command: vec![],
        args: vec![],
        working_dir: None,
        env: vec![],
        mounts: vec![],
        resources: Resources::default(),
        sidecar: false,
        user: User::default(),
        termination_message_path: String::new(),
        termination_message_from_logs: false,
        interactive: None,
        confinement: None,
        care: None,
    }
}

pub(super) fn pod() -> EdgeDeployment {
    EdgeDeployment {
        uid: PodUid::new("u-1").unwrap(),
        namespace: "shop".into(),
        name: "web".into(),
        restart_policy: RestartPolicy::Never,
        grace_seconds: 30,
        active_deadline_seconds: None,
        init_containers: vec![],
        containers: vec![],
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
