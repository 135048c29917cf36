//! An edge deployment: what one pod becomes for one device. Self-contained, every reference resolved.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::desired::ObjectRef;
use crate::ids::PodUid;

/// One pod for one device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct EdgeDeployment {
    /// The pod's UID.
    #[n(0)]
    pub uid: PodUid,
    /// The pod's namespace.
    #[n(1)]
    pub namespace: String,
    /// The pod's name.
    #[n(2)]
    pub name: String,
    /// Whether containers that end are started again.
    #[n(3)]
    pub restart_policy: RestartPolicy,
    /// How long containers may take to end after TERM.
    #[n(4)]
    pub grace_seconds: u32,
    /// How long the pod may be active, counted from its start on the device.
    #[n(5)]
    pub active_deadline_seconds: Option<u64>,
    /// Containers that run before the others, in order.
    #[n(6)]
    pub init_containers: Vec<Container>,
    /// Containers.
    #[n(7)]
    pub containers: Vec<Container>,
    /// Volumes that containers may mount.
    #[n(8)]
    pub volumes: Vec<Volume>,
    /// The host name that the pod is to see, if the runtime can give it one.
    #[n(9)]
    pub hostname: Option<String>,
    /// Whether the pod asks for the device's own network.
    #[n(10)]
    #[cbor(default)]
    pub host_network: bool,
    /// The group that owns the files of the volumes.
    #[n(11)]
    pub fs_group: Option<u32>,
    /// Further groups of every process.
    #[n(12)]
    #[cbor(default)]
    pub supplemental_groups: Vec<u32>,
    /// What only a container engine can give it; `None`: nothing.
    #[n(13)]
    pub engine: Option<Engine>,
}

/// What only a container engine can give a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct Engine {
    /// Who asks registries for the pod's images.
    #[n(0)]
    #[cbor(default)]
    pub logins: Vec<RegistryLogin>,
    /// Ports of the device that lead to the pod.
    #[n(1)]
    #[cbor(default)]
    pub host_ports: Vec<HostPort>,
}

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct RegistryLogin {
    /// The registry as the pull secret names it: a host with or without scheme, port and path; `*` in a host's part.
    #[n(0)]
    pub registry: String,
    /// The user.
    #[n(1)]
    pub username: String,
    /// The password.
    #[n(2)]
    pub password: String,
}

impl core::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RegistryLogin").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// A port of the device that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct HostPort {
    /// The device's port.
    #[n(0)]
    pub host: u16,
    /// The pod's port.
    #[n(1)]
    pub pod: u16,
    /// The protocol.
    #[n(2)]
    pub protocol: Protocol,
    /// The device's address; `None`: all of them.
    #[n(3)]
    pub address: Option<String>,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum Protocol {
    /// TCP.
    #[n(0)]
    Tcp,
    /// UDP.
    #[n(1)]
    Udp,
    /// SCTP.
    #[n(2)]
    Sctp,
}

/// Whether containers that end are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum RestartPolicy {
    /// Always.
    #[n(0)]
    Always,
    /// When they failed.
    #[n(1)]
    OnFailure,
    /// Never.
    #[n(2)]
    Never,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Container {
    /// The container's name.
    #[n(0)]
    pub name: String,
    /// The image as written in the pod.
    #[n(1)]
    pub image: String,
    /// When to pull the image.
    #[n(2)]
    pub pull_policy: PullPolicy,
    /// The program and its first arguments; empty: the image's own. `$(VAR)` is expanded on the device.
    #[n(3)]
    pub command: Vec<String>,
    /// The arguments. `$(VAR)` is expanded on the device.
    #[n(4)]
    pub args: Vec<String>,
    /// The working directory; `None`: the image's own.
    #[n(5)]
    pub working_dir: Option<String>,
    /// The environment, in order; a later variable of the same name replaces an earlier one.
    #[n(6)]
    pub env: Vec<EnvVar>,
    /// Volume mounts.
    #[n(7)]
    pub mounts: Vec<Mount>,
    /// Limits and requests.
    #[n(8)]
    pub resources: Resources,
    /// A restartable init container (sidecar).
    #[n(9)]
    #[cbor(default)]
    pub sidecar: bool,
    /// Who the process is.
    #[n(10)]
    pub user: User,
    /// Where the process may write why it ended.
    #[n(11)]
    pub termination_message_path: String,
    /// Whether the last lines of the log stand in for a missing termination message after a failure.
    #[n(12)]
    #[cbor(default)]
    pub termination_message_from_logs: bool,
    /// How clients may talk to the process; `None`: not at all.
    #[n(13)]
    pub interactive: Option<Interactive>,
    /// How it is confined; `None`: as the runtime does it by itself.
    #[n(14)]
    pub confinement: Option<Confinement>,
}

/// How clients may talk to a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct Interactive {
    /// It has a stdin.
    #[n(0)]
    pub stdin: bool,
    /// That ends when the first client that had it goes.
    #[n(1)]
    pub once: bool,
    /// Its streams are a terminal.
    #[n(2)]
    pub tty: bool,
}

/// How a container is confined, which takes a container engine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct Confinement {
    /// Not at all: it may do everything that the device's root may.
    #[n(0)]
    #[cbor(default)]
    pub privileged: bool,
    /// Its own files may not be written.
    #[n(1)]
    #[cbor(default)]
    pub read_only_root: bool,
    /// Programs with the set-user-ID bit gain nothing.
    #[n(2)]
    #[cbor(default)]
    pub no_new_privileges: bool,
    /// Capabilities more than usual.
    #[n(3)]
    #[cbor(default)]
    pub add_capabilities: Vec<String>,
    /// Capabilities less than usual.
    #[n(4)]
    #[cbor(default)]
    pub drop_capabilities: Vec<String>,
    /// Whether only the system calls of the engine's own profile may be made.
    #[n(5)]
    #[cbor(default)]
    pub seccomp: bool,
}

/// When to pull an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum PullPolicy {
    /// Before every start.
    #[n(0)]
    Always,
    /// When it is not on the device.
    #[n(1)]
    IfNotPresent,
    /// Never.
    #[n(2)]
    Never,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct EnvVar {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its value.
    #[n(1)]
    pub value: EnvValue,
}

/// The value of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum EnvValue {
    /// A text in which `$(VAR)` is expanded on the device.
    #[n(0)]
    Template(#[n(0)] String),
    /// A text as it is (from a ConfigMap, a Secret, a field).
    #[n(1)]
    Literal(#[n(0)] String),
    /// Something that only the device knows.
    #[n(2)]
    Device(#[n(0)] DeviceField),
}

/// Something that only the device knows, for environment variables and downward files.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum DeviceField {
    /// The pod's first address.
    #[n(0)]
    PodIp,
    /// All addresses of the pod, separated by commas.
    #[n(1)]
    PodIps,
    /// The device's first address.
    #[n(2)]
    HostIp,
    /// All addresses of the device, separated by commas.
    #[n(3)]
    HostIps,
    /// What the device can allocate of a resource, divided (rounding up) by the divisor: cpu in thousandths, all else
    /// in whole units.
    #[n(4)]
    Allocatable(#[n(0)] String, #[n(1)] u64),
}

/// One volume mount.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Mount {
    /// The volume's name.
    #[n(0)]
    pub volume: String,
    /// Where it appears.
    #[n(1)]
    pub path: String,
    /// Whether it may not be written.
    #[n(2)]
    pub read_only: bool,
    /// The part of the volume that is mounted. `$(VAR)` is expanded on the device if `sub_path_expr`.
    #[n(3)]
    pub sub_path: Option<String>,
    /// Whether `sub_path` holds `$(VAR)`s to expand.
    #[n(4)]
    #[cbor(default)]
    pub sub_path_expr: bool,
}

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct Resources {
    /// `requests.cpu` in thousandths.
    #[n(0)]
    pub cpu_request_millis: Option<u64>,
    /// `limits.cpu` in thousandths.
    #[n(1)]
    pub cpu_limit_millis: Option<u64>,
    /// `requests.memory` in bytes.
    #[n(2)]
    pub memory_request_bytes: Option<u64>,
    /// `limits.memory` in bytes.
    #[n(3)]
    pub memory_limit_bytes: Option<u64>,
}

/// Who a container's process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct User {
    /// The user.
    #[n(0)]
    pub uid: Option<u32>,
    /// The group.
    #[n(1)]
    pub gid: Option<u32>,
    /// Whether root is refused.
    #[n(2)]
    #[cbor(default)]
    pub non_root: bool,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Volume {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// What is in it.
    #[n(1)]
    pub source: VolumeSource,
}

/// What is in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum VolumeSource {
    /// Nothing at first; lives as long as the pod.
    #[n(0)]
    EmptyDir(#[n(0)] EmptyDir),
    /// Files that the bridge resolved: ConfigMaps, Secrets, downward API, tokens, or several of them projected.
    #[n(1)]
    Files(#[n(0)] Files),
}

/// A volume that is empty at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct EmptyDir {
    /// Whether it is kept in memory.
    #[n(0)]
    pub memory: bool,
    /// How much may be in it.
    #[n(1)]
    pub size_limit: Option<u64>,
}

/// Files given by the bridge. A change of them reaches running containers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Files {
    /// Whether any of it is secret, and so may never be written to the device's disk in the clear.
    #[n(0)]
    pub secret: bool,
    /// The files.
    #[n(1)]
    pub entries: Vec<File>,
}

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct File {
    /// Its path below the volume: relative, without `..`.
    #[n(0)]
    pub path: String,
    /// Its permission bits.
    #[n(1)]
    pub mode: u32,
    /// Its content.
    #[n(2)]
    pub content: Content,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Content {
    /// A few bytes.
    #[n(0)]
    Inline(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// A blob.
    #[n(1)]
    Blob(#[n(0)] ObjectRef),
    /// Something that only the device knows.
    #[n(2)]
    Device(#[n(0)] DeviceField),
}

/// Content of at most this many bytes travels inline; more travels as a blob, so that one changed file moves alone.
pub const MAX_INLINE: usize = 256;

impl EdgeDeployment {
    /// The blobs without which it cannot run.
    pub fn blobs(&self) -> impl Iterator<Item = ObjectRef> + '_ {
        self.volumes
            .iter()
            .filter_map(|volume| match &volume.source {
                VolumeSource::Files(files) => Some(files.entries.iter()),
                VolumeSource::EmptyDir(_) => None,
            })
            .flatten()
            .filter_map(|file| match &file.content {
                Content::Blob(blob) => Some(*blob),
                Content::Inline(_) | Content::Device(_) => None,
            })
    }

    /// All containers, init containers first, with whether they are init containers.
    pub fn all_containers(&self) -> impl Iterator<Item = (&Container, bool)> {
        self.init_containers.iter().map(|c| (c, true)).chain(self.containers.iter().map(|c| (c, false)))
    }
}
