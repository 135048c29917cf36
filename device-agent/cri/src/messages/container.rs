//! Containers.

use super::{
    FilesystemUsage, IdMapping, ImageSpec, Labels, NamespaceOption, PodSandboxConfig, SeLinuxOption, SecurityProfile,
    SupplementalGroupsPolicy,
};
use prost::{Enumeration, Message};

/// A container.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerId {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// What a container is for.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    /// Its name in the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How often it was started before.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// Make a container.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    /// In which sandbox.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// What it is to be.
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    /// What the sandbox was to be.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// What a container is to be.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    /// What it is for.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    /// The image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    /// Instead of the image's entry point.
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    /// Instead of the image's arguments.
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    /// The working directory; empty: the image's.
    #[prost(string, tag = "5")]
    pub working_dir: String,
    /// The environment, besides the image's.
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    /// What is mounted from the host.
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// Labels, by which it is found again.
    #[prost(map = "string, string", tag = "9")]
    pub labels: Labels,
    /// The log, below the sandbox's directory of logs.
    #[prost(string, tag = "11")]
    pub log_path: String,
    /// Whether it has a stdin.
    #[prost(bool, tag = "12")]
    pub stdin: bool,
    /// Whether that ends when the first client that had it goes.
    #[prost(bool, tag = "13")]
    pub stdin_once: bool,
    /// Whether its streams are a terminal.
    #[prost(bool, tag = "14")]
    pub tty: bool,
    /// What concerns Linux.
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainerConfig>,
}

/// A variable.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// A mount.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Where it appears.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// What of the host it is.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether it may not be written.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// How mounts below it pass between container and host.
    #[prost(enumeration = "MountPropagation", tag = "5")]
    pub propagation: i32,
    /// Whose users they are for the container, if it has others than the host; engines before 2023 do not know of it.
    #[prost(message, repeated, tag = "6")]
    pub uid_mappings: Vec<IdMapping>,
    /// The same for groups.
    #[prost(message, repeated, tag = "7")]
    pub gid_mappings: Vec<IdMapping>,
    /// Whether what is mounted below it may not be written either.
    #[prost(bool, tag = "8")]
    pub recursive_read_only: bool,
    /// The image that it is, in place of a path of the host; engines before 2024 do not know of it.
    #[prost(message, optional, tag = "9")]
    pub image: Option<ImageSpec>,
    /// What of the image it is; empty: all. Engines before 2025 do not know of it.
    #[prost(string, tag = "10")]
    pub image_sub_path: String,
}

/// What concerns Linux in a container.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerConfig {
    /// What it may use.
    #[prost(message, optional, tag = "1")]
    pub resources: Option<LinuxContainerResources>,
    /// What it may do.
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxContainerSecurityContext>,
}

/// What a container may use.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerResources {
    /// The period of the processor quota, in microseconds.
    #[prost(int64, tag = "1")]
    pub cpu_period: i64,
    /// How many microseconds of a processor it gets per period.
    #[prost(int64, tag = "2")]
    pub cpu_quota: i64,
    /// Its weight among others when processors are short.
    #[prost(int64, tag = "3")]
    pub cpu_shares: i64,
    /// How much memory it gets.
    #[prost(int64, tag = "4")]
    pub memory_limit_in_bytes: i64,
    /// How readily it is ended when memory is short.
    #[prost(int64, tag = "5")]
    pub oom_score_adj: i64,
    /// How much of huge pages.
    #[prost(message, repeated, tag = "8")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Files of its cgroup, where that is of version 2, and what is written into them.
    #[prost(map = "string, string", tag = "9")]
    pub unified: Labels,
    /// Bytes of memory and swap together; 0: any.
    #[prost(int64, tag = "10")]
    pub memory_swap_limit_in_bytes: i64,
}

/// How much of huge pages of one size a container may use.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HugepageLimit {
    /// The size of a page, as `2MB`.
    #[prost(string, tag = "1")]
    pub page_size: String,
    /// In bytes.
    #[prost(uint64, tag = "2")]
    pub limit: u64,
}

/// What a container may do.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerSecurityContext {
    /// Capabilities more or less than usual.
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capability>,
    /// Whether it may do everything.
    #[prost(bool, tag = "2")]
    pub privileged: bool,
    /// Which namespaces it shares.
    #[prost(message, optional, tag = "3")]
    pub namespace_options: Option<NamespaceOption>,
    /// Its label, where there is SELinux.
    #[prost(message, optional, tag = "4")]
    pub selinux_options: Option<SeLinuxOption>,
    /// The user; none: the image's.
    #[prost(message, optional, tag = "5")]
    pub run_as_user: Option<Int64Value>,
    /// Whether its own files may not be written.
    #[prost(bool, tag = "7")]
    pub readonly_rootfs: bool,
    /// Further groups.
    #[prost(int64, repeated, tag = "8")]
    pub supplemental_groups: Vec<i64>,
    /// Whether programs with the set-user-id bit gain nothing.
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    /// The user by name, when it has no number.
    #[prost(string, tag = "6")]
    pub run_as_username: String,
    /// The group.
    #[prost(message, optional, tag = "12")]
    pub run_as_group: Option<Int64Value>,
    /// What is hidden from it.
    #[prost(string, repeated, tag = "13")]
    pub masked_paths: Vec<String>,
    /// What it may only read.
    #[prost(string, repeated, tag = "14")]
    pub readonly_paths: Vec<String>,
    /// Which system calls it may make.
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<SecurityProfile>,
    /// What AppArmor lets it do.
    #[prost(message, optional, tag = "16")]
    pub apparmor: Option<SecurityProfile>,
    /// The same for engines before 2022, as text; empty: the engine's own where there is AppArmor.
    #[prost(string, tag = "9")]
    pub apparmor_profile: String,
    /// Whether the groups that the image gives the user count.
    #[prost(enumeration = "SupplementalGroupsPolicy", tag = "17")]
    pub supplemental_groups_policy: i32,
}

/// Capabilities.
#[derive(Clone, PartialEq, Message)]
pub struct Capability {
    /// These too.
    #[prost(string, repeated, tag = "1")]
    pub add_capabilities: Vec<String>,
    /// Not these.
    #[prost(string, repeated, tag = "2")]
    pub drop_capabilities: Vec<String>,
}

/// A number that may be absent.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Int64Value {
    /// The number.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// A number that may be missing.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct UInt64Value {
    /// It.
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

/// End a container.
#[derive(Clone, PartialEq, Message)]
pub struct StopContainerRequest {
    /// Which one.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// After how many seconds it is killed; 0: at once.
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}

/// Give a container other limits.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateContainerResourcesRequest {
    /// Which one.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What it may use; what is 0 stays.
    #[prost(message, optional, tag = "2")]
    pub linux: Option<LinuxContainerResources>,
}

/// Which containers.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerFilter {
    /// Those with all these labels.
    #[prost(map = "string, string", tag = "4")]
    pub label_selector: Labels,
}

/// Which containers are there?
#[derive(Clone, PartialEq, Message)]
pub struct ListContainersRequest {
    /// Only these.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<ContainerFilter>,
}

/// The containers.
#[derive(Clone, PartialEq, Message)]
pub struct ListContainersResponse {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

/// A container in a list.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its sandbox.
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    /// What it is for.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<ContainerMetadata>,
    /// The identity of its image.
    #[prost(string, tag = "5")]
    pub image_ref: String,
    /// How it is.
    #[prost(enumeration = "ContainerState", tag = "6")]
    pub state: i32,
    /// When it was made, in nanoseconds since 1970.
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    /// Its labels.
    #[prost(map = "string, string", tag = "8")]
    pub labels: Labels,
}

/// How is a container?
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatusRequest {
    /// Which one.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Whether the engine is to say more, in words of its own.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// How a container is.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatusResponse {
    /// How it is.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
    /// What the engine says besides.
    #[prost(map = "string, string", tag = "2")]
    pub info: Labels,
}

/// How a container is. Times are nanoseconds since 1970, 0: not yet.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatus {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it is for.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<ContainerMetadata>,
    /// How it is.
    #[prost(enumeration = "ContainerState", tag = "3")]
    pub state: i32,
    /// When it was made.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// When it was started.
    #[prost(int64, tag = "5")]
    pub started_at: i64,
    /// When it ended.
    #[prost(int64, tag = "6")]
    pub finished_at: i64,
    /// Its exit code.
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
    /// Its image.
    #[prost(message, optional, tag = "8")]
    pub image: Option<ImageSpec>,
    /// The identity of its image.
    #[prost(string, tag = "9")]
    pub image_ref: String,
    /// Why it is so: a CamelCase word.
    #[prost(string, tag = "10")]
    pub reason: String,
    /// Why it is so: a sentence.
    #[prost(string, tag = "11")]
    pub message: String,
    /// Its labels.
    #[prost(map = "string, string", tag = "12")]
    pub labels: Labels,
    /// What is mounted into it.
    #[prost(message, repeated, tag = "14")]
    pub mounts: Vec<Mount>,
}

/// Run a command in a container.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncRequest {
    /// In which container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The command.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// How many seconds it may take; 0: any.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// How a command ended.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncResponse {
    /// What it wrote to stdout.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    /// Its exit code.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

/// How mounts below a mount pass between container and host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum MountPropagation {
    /// Not at all.
    Private = 0,
    /// From the host to the container.
    HostToContainer = 1,
    /// Both ways.
    Bidirectional = 2,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum ContainerState {
    /// It was made and not started.
    Created = 0,
    /// It runs.
    Running = 1,
    /// It has ended.
    Exited = 2,
    /// The engine does not know.
    Unknown = 3,
}

/// What do containers use?
#[derive(Clone, PartialEq, Message)]
pub struct ListContainerStatsRequest {
    /// Only these.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<ContainerStatsFilter>,
}

/// Which containers.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatsFilter {
    /// Those with all these labels.
    #[prost(map = "string, string", tag = "3")]
    pub label_selector: Labels,
}

/// What containers use.
#[derive(Clone, PartialEq, Message)]
pub struct ListContainerStatsResponse {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub stats: Vec<ContainerStats>,
}

/// What a container uses.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStats {
    /// Which one.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<ContainerAttributes>,
    /// Processors.
    #[prost(message, optional, tag = "2")]
    pub cpu: Option<CpuUsage>,
    /// Memory.
    #[prost(message, optional, tag = "3")]
    pub memory: Option<MemoryUsage>,
    /// What it has written into its own files.
    #[prost(message, optional, tag = "4")]
    pub writable_layer: Option<FilesystemUsage>,
}

/// Which container it is.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAttributes {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it is for.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<ContainerMetadata>,
    /// Its labels.
    #[prost(map = "string, string", tag = "3")]
    pub labels: Labels,
}

/// How much processor time was used.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CpuUsage {
    /// When that was seen, in nanoseconds since 1970.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// Since the start, in nanoseconds.
    #[prost(message, optional, tag = "2")]
    pub usage_core_nano_seconds: Option<UInt64Value>,
}

/// How much memory is used.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MemoryUsage {
    /// When that was seen, in nanoseconds since 1970.
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    /// What cannot be taken back.
    #[prost(message, optional, tag = "2")]
    pub working_set_bytes: Option<UInt64Value>,
    /// All of it, with what the kernel keeps of files.
    #[prost(message, optional, tag = "4")]
    pub usage_bytes: Option<UInt64Value>,
    /// What is no file's.
    #[prost(message, optional, tag = "5")]
    pub rss_bytes: Option<UInt64Value>,
}
