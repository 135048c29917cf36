//! By which labels sandboxes and containers are found again, and how one of ours is told from all others.
//!
//! The labels are those of a kubelet, so that tools for looking at an engine show names, and one that says which device
//! they belong to. Whatever lacks that one is never looked at, let alone touched.

use hawser_cri::{Container, ContainerAttributes, Labels, PodSandbox};
use hawser_wire::PodUid;
use hawser_wire::deployment::{Container as Described, EdgeDeployment};

use crate::runtime::ContainerId;

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The container's last lines stand in for a missing termination message after a failure.
pub(super) const MESSAGE_FROM_LOGS: &str = "hawser.dev/termination-message-from-logs";
/// The image as the pod wrote it, which the engine does not remember.
pub(super) const IMAGE: &str = "hawser.dev/image";
const DEVICE: &str = "hawser.dev/device";

/// Everything of this device.
pub(super) fn ours(device: &str) -> Labels {
    Labels::from([(DEVICE.to_owned(), device.to_owned())])
}

/// Everything of one pod.
pub(super) fn of_pod(device: &str, uid: &PodUid) -> Labels {
    let mut labels = ours(device);
    labels.insert(POD_UID.to_owned(), uid.as_str().to_owned());
    labels
}

/// All attempts of the container of this name.
pub(super) fn of_containers(device: &str, uid: &PodUid, name: &str) -> Labels {
    let mut labels = of_pod(device, uid);
    labels.insert(CONTAINER_NAME.to_owned(), name.to_owned());
    labels
}

/// All attempts of one container.
pub(super) fn of_container(device: &str, id: &ContainerId) -> Labels {
    of_containers(device, &id.pod, &id.name)
}

/// What a sandbox is labelled with.
pub(super) fn sandbox(device: &str, pod: &EdgeDeployment) -> Labels {
    let mut labels = of_pod(device, &pod.uid);
    labels.insert(POD_NAME.to_owned(), pod.name.clone());
    labels.insert(POD_NAMESPACE.to_owned(), pod.namespace.clone());
    labels
}

/// What a container is labelled with.
pub(super) fn container(device: &str, pod: &EdgeDeployment, container: &Described) -> Labels {
    let mut labels = sandbox(device, pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels.insert(IMAGE.to_owned(), container.image.clone());
    if container.termination_message_from_logs {
        labels.insert(MESSAGE_FROM_LOGS.to_owned(), "true".to_owned());
    }
    labels
}

/// Which pod a sandbox is of; `None`: none that this agent has made.
pub(super) fn pod(sandbox: &PodSandbox) -> Option<PodUid> {
    PodUid::new(sandbox.labels.get(POD_UID)?).ok()
}

/// Which container something measured is of, by name.
pub(super) fn name(measured: &ContainerAttributes) -> Option<&str> {
    measured.labels.get(CONTAINER_NAME).map(String::as_str)
}

/// Which container it is; `None`: none that this agent has made.
pub(super) fn id(container: &Container) -> Option<ContainerId> {
    Some(ContainerId {
        pod: PodUid::new(container.labels.get(POD_UID)?).ok()?,
        name: container.labels.get(CONTAINER_NAME)?.clone(),
        attempt: container.metadata.as_ref()?.attempt,
    })
}
