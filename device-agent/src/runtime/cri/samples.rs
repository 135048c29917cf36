//! A pod and a container that ask for nothing, for tests.

use hawser_wire::PodUid;
use hawser_wire::deployment::{Container, EdgeDeployment, PullPolicy, RestartPolicy};

pub(super) fn container() -> Container {
    Container { pull_policy: PullPolicy::Never, ..Container::named("c", "i") }
}

pub(super) fn pod() -> EdgeDeployment {
    EdgeDeployment {
        restart_policy: RestartPolicy::Never,
        ..EdgeDeployment::named(PodUid::new("u-1").unwrap(), "shop", "web")
    }
}
