//! One container of an edge deployment.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use super::Care;

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
    /// How it is looked after; `None`: it is started again as the pod says.
    #[n(15)]
    pub care: Option<Care>,
    /// Which changes of its limits and requests it has to be started again for; `None`: none.
    #[n(16)]
    pub restart_to_resize: Option<RestartToResize>,
}

/// Which changes of its limits and requests a container has to be started again for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct RestartToResize {
    /// Those of processors.
    #[n(0)]
    pub cpu: bool,
    /// Those of memory.
    #[n(1)]
    pub memory: bool,
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
    /// What else it asks for.
    #[n(6)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub asks: Vec<ConfinementAsk>,
    /// It says by itself that it may make all system calls, so a device that restricts those that say nothing lets it.
    #[n(7)]
    #[cbor(default, skip_if = "core::ops::Not::not")]
    pub all_calls: bool,
}

/// One thing that a container asks for in how it is confined. An agent that does not know one of them refuses the pod.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum ConfinementAsk {
    /// Only the system calls of a profile of the device's may be made: a path below the device's profiles.
    #[n(0)]
    SeccompFile(#[n(0)] String),
    /// A profile of AppArmor's.
    #[n(1)]
    AppArmor(#[n(0)] AppArmor),
    /// A label of SELinux, where the device has it.
    #[n(2)]
    SeLinux(#[n(0)] SeLinux),
    /// Nothing of `/proc` is hidden from it. Only for a pod with users of its own.
    #[n(3)]
    UnmaskedProc,
}

/// A label of SELinux; empty: the engine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct SeLinux {
    /// The user.
    #[n(0)]
    pub user: String,
    /// The role.
    #[n(1)]
    pub role: String,
    /// The type.
    #[n(2)]
    pub kind: String,
    /// The level.
    #[n(3)]
    pub level: String,
}

/// A profile of AppArmor's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum AppArmor {
    /// The engine's own.
    #[n(0)]
    Engine,
    /// None.
    #[n(1)]
    None,
    /// One that the device has loaded.
    #[n(2)]
    Loaded(#[n(0)] String),
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
    /// A value from a file that a container before has written.
    #[n(3)]
    File(#[n(0)] FileKey),
}

/// A key in a file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct FileKey {
    /// The volume's name.
    #[n(0)]
    pub volume: String,
    /// The file's path below the volume: relative, without `..`.
    #[n(1)]
    pub path: String,
    /// The key.
    #[n(2)]
    pub key: String,
    /// Whether the variable is left out where the file does not have the key.
    #[n(3)]
    #[cbor(default)]
    pub optional: bool,
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
    /// How mounts below it pass between container and device; `None`: not at all.
    #[n(5)]
    pub propagation: Option<Propagation>,
    /// Whether what is mounted below it may not be written either; `None`: it may.
    #[n(6)]
    pub read_only_below: Option<ReadOnlyBelow>,
}

/// How mounts below a mount pass between container and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum Propagation {
    /// From the device to the container.
    #[n(0)]
    FromDevice,
    /// Both ways.
    #[n(1)]
    BothWays,
}

/// Whether what is mounted below a mount may not be written either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum ReadOnlyBelow {
    /// Where the engine can do that.
    #[n(0)]
    IfPossible,
    /// In any case, or the container does not start.
    #[n(1)]
    Always,
}

impl Container {
    /// A container that asks for nothing more.
    pub fn named(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            pull_policy: PullPolicy::IfNotPresent,
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            resources: Resources::default(),
            sidecar: false,
            user: User::default(),
            termination_message_path: String::new(),
            termination_message_from_logs: false,
            interactive: None,
            confinement: None,
            care: None,
            restart_to_resize: None,
        }
    }
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
    /// `requests.ephemeral-storage` in bytes.
    #[n(4)]
    pub storage_request_bytes: Option<u64>,
    /// `limits.ephemeral-storage` in bytes.
    #[n(5)]
    pub storage_limit_bytes: Option<u64>,
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
