//! What a device says: workloads, facts about itself, events. And that it is alive.
//!
//! Times are the device's own ([`DeviceTime`]); the bridge corrects them by the offset that heartbeats measure.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::codec::Open;
use crate::deployment::Resources;
use crate::ids::{BootId, ContentHash, DeviceTime, Digest, PodUid};

/// Several things said at once. Each has its own number and is acknowledged by it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Report {
    /// At most [`MAX_REPORT_ITEMS`](crate::limits::MAX_REPORT_ITEMS) items.
    #[n(0)]
    pub items: Vec<Numbered>,
}

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Numbered {
    /// Its number: grows with everything the device ever says, and never goes back.
    #[n(0)]
    pub seq: u64,
    /// What is said. An item of an unknown kind is acknowledged and counted.
    #[n(1)]
    pub item: Open<ReportItem>,
}

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum ReportItem {
    /// How a pod is. Replaces what was said about it before.
    #[n(0)]
    Workload(#[n(0)] WorkloadReport),
    /// Nothing of the pod runs any more.
    #[n(1)]
    Gone(#[n(0)] Gone),
    /// How the device is. Replaces what was said before.
    #[n(2)]
    Facts(#[n(0)] NodeFacts),
    /// Something worth telling.
    #[n(3)]
    Event(#[n(0)] DeviceEvent),
}

/// Nothing of the pod runs any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Gone {
    /// The pod.
    #[n(0)]
    pub uid: PodUid,
    /// How it ended, if it ever ran.
    #[n(1)]
    pub last: Option<WorkloadReport>,
}

/// How a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct WorkloadReport {
    /// The pod.
    #[n(0)]
    pub uid: PodUid,
    /// Which edge deployment it was that the device acted on.
    #[n(1)]
    pub deployment: Option<ContentHash>,
    /// Where the pod is in its life.
    #[n(2)]
    pub phase: Phase,
    /// Why the pod as a whole is in this state.
    #[n(3)]
    pub reason: Option<String>,
    /// The sentence to `reason`.
    #[n(4)]
    pub message: Option<String>,
    /// When the device took the pod over.
    #[n(5)]
    pub started: Option<DeviceTime>,
    /// Whether sandbox, network and volumes are there.
    #[n(6)]
    pub sandbox_ready: bool,
    /// The pod's addresses.
    #[n(7)]
    pub pod_ips: Vec<String>,
    /// One per init container, in order.
    #[n(8)]
    pub init_containers: Vec<ContainerReport>,
    /// One per container, in order.
    #[n(9)]
    pub containers: Vec<ContainerReport>,
    /// One per container that was added to look at the pod, in order.
    #[n(10)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub ephemeral_containers: Vec<ContainerReport>,
    /// How far it is with changes of its limits and requests; `None`: the device does not know how to make them.
    #[n(11)]
    pub resize: Option<Resize>,
}

/// How far a pod is with changes of its limits and requests. Nothing in it: it has what its edge deployment says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct Resize {
    /// Why it does not get what its edge deployment says.
    #[n(0)]
    pub pending: Option<ResizePending>,
    /// It gets it, but not all of it has been applied.
    #[n(1)]
    pub in_progress: Option<ResizeInProgress>,
    /// What the pod as a whole was given, if it asks for that.
    #[n(2)]
    pub whole: Option<Resources>,
}

/// Why a pod does not get other limits and requests.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ResizePending {
    /// Whether it never will; else it does when there is room.
    #[n(0)]
    pub infeasible: bool,
    /// A sentence.
    #[n(1)]
    pub message: String,
    /// The generation of the pod that asks for it.
    #[n(2)]
    pub generation: Option<u64>,
}

/// Other limits and requests that are being applied.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ResizeInProgress {
    /// The generation of the pod that asked for it.
    #[n(0)]
    pub generation: Option<u64>,
    /// Why they could not be applied the last time it was tried.
    #[n(1)]
    pub error: Option<String>,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum Phase {
    /// Not all containers have started.
    #[n(0)]
    Pending,
    /// At least one container runs, or will run again.
    #[n(1)]
    Running,
    /// All containers ended well, for good.
    #[n(2)]
    Succeeded,
    /// All containers ended for good, at least one of them badly.
    #[n(3)]
    Failed,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ContainerReport {
    /// The container's name.
    #[n(0)]
    pub name: String,
    /// Whether it counts as ready.
    #[n(1)]
    pub ready: bool,
    /// Whether it has started (`None`: not said).
    #[n(2)]
    pub started: Option<bool>,
    /// How often it was started again.
    #[n(3)]
    pub restart_count: u32,
    /// The image as the runtime names it.
    #[n(4)]
    pub image: String,
    /// The image's identity.
    #[n(5)]
    pub image_id: String,
    /// The container's identity, `<runtime>://<id>`.
    #[n(6)]
    pub container_id: Option<String>,
    /// How it is now.
    #[n(7)]
    pub state: ContainerState,
    /// How it ended the last time.
    #[n(8)]
    pub last: Option<Terminated>,
    /// What it was given; `None`: not said.
    #[n(9)]
    pub given: Option<Given>,
}

/// What a container was given, of what can be changed while it runs: processors and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Given {
    /// What it may use, as the device has decided.
    #[n(0)]
    pub allocated: Resources,
    /// What holds at the moment; `None`: the same.
    #[n(1)]
    pub actual: Option<Resources>,
}

/// How a container is now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum ContainerState {
    /// Not started, or waiting to be started again.
    #[n(0)]
    Waiting(#[n(0)] Waiting),
    /// Runs.
    #[n(1)]
    Running(#[n(0)] Running),
    /// Has ended.
    #[n(2)]
    Terminated(#[n(0)] Terminated),
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Waiting {
    /// A CamelCase word.
    #[n(0)]
    pub reason: String,
    /// A sentence.
    #[n(1)]
    pub message: Option<String>,
}

/// Since when a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Running {
    /// Since when.
    #[n(0)]
    pub since: DeviceTime,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Terminated {
    /// Its exit code; 128 + signal if a signal ended it.
    #[n(0)]
    pub exit_code: i32,
    /// The signal that ended it.
    #[n(1)]
    pub signal: Option<i32>,
    /// A CamelCase word: `Completed`, `Error`, `OOMKilled`, `ContainerStatusUnknown`…
    #[n(2)]
    pub reason: String,
    /// The termination message.
    #[n(3)]
    pub message: Option<String>,
    /// When it started.
    #[n(4)]
    pub started: Option<DeviceTime>,
    /// When it ended.
    #[n(5)]
    pub finished: Option<DeviceTime>,
    /// The container's identity, `<runtime>://<id>`.
    #[n(6)]
    pub container_id: Option<String>,
}

/// How the device is. Everything is measured.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct NodeFacts {
    /// What there is: name and quantity as Kubernetes writes them.
    #[n(0)]
    pub capacity: Vec<Resource>,
    /// What pods may use of it.
    #[n(1)]
    pub allocatable: Vec<Resource>,
    /// The architecture in Go's spelling (`arm64`).
    #[n(2)]
    pub arch: String,
    /// The operating system in Go's spelling (`linux`).
    #[n(3)]
    pub os: String,
    /// The kernel's release.
    #[n(4)]
    pub kernel: String,
    /// The distribution, for people.
    #[n(5)]
    pub os_image: String,
    /// `/etc/machine-id`.
    #[n(6)]
    pub machine_id: String,
    /// The board's serial or DMI UUID.
    #[n(7)]
    pub system_uuid: String,
    /// The kernel's boot id.
    #[n(8)]
    pub boot_id: String,
    /// The agent's version.
    #[n(9)]
    pub agent_version: String,
    /// The runtime, `<name>://<version>`.
    #[n(10)]
    pub runtime: String,
    /// The host name.
    #[n(11)]
    pub hostname: String,
    /// Addresses.
    #[n(12)]
    pub addresses: Vec<String>,
    /// Images on the device, largest first, at most 50.
    #[n(13)]
    pub images: Vec<Image>,
    /// Conditions other than Ready.
    #[n(14)]
    pub conditions: Vec<Condition>,
}

/// A resource and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Resource {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// A Kubernetes quantity.
    #[n(1)]
    pub quantity: String,
}

/// An image on the device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Image {
    /// Its names.
    #[n(0)]
    pub names: Vec<String>,
    /// Its size.
    #[n(1)]
    pub bytes: u64,
}

/// A condition of the device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Condition {
    /// `MemoryPressure`, `DiskPressure`, `PIDPressure`, `Throttled`, `ClockSkewed`…
    #[n(0)]
    pub kind: String,
    /// Whether it holds; `None`: unknown.
    #[n(1)]
    pub holds: Option<bool>,
    /// A CamelCase word.
    #[n(2)]
    pub reason: String,
    /// A sentence.
    #[n(3)]
    pub message: String,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct DeviceEvent {
    /// The pod it is about; `None`: the device.
    #[n(0)]
    pub pod: Option<PodUid>,
    /// The container it is about.
    #[n(1)]
    pub container: Option<String>,
    /// When it happened.
    #[n(2)]
    pub at: DeviceTime,
    /// Whether it is a warning.
    #[n(3)]
    pub warning: bool,
    /// A CamelCase word.
    #[n(4)]
    pub reason: String,
    /// A sentence.
    #[n(5)]
    pub message: String,
    /// How often it happened since it was last said.
    #[n(6)]
    pub count: u32,
}

/// "I am alive, and this is what I have."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Heartbeat {
    /// Which start of the kernel this is.
    #[n(0)]
    pub boot: BootId,
    /// The device's timeline.
    #[n(1)]
    pub now: DeviceTime,
    /// The device's wall clock: milliseconds since 1970.
    #[n(2)]
    pub wall_millis: u64,
    /// The digest of the desired set that the device last accepted.
    #[n(3)]
    pub digest: Option<Digest>,
    /// The ping that this answers.
    #[n(4)]
    pub answers: Option<u32>,
}
