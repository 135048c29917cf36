//! Sandboxes: what the containers of a pod share.

use super::Labels;
use prost::{Enumeration, Message};

/// A sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxId {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
}

/// What a sandbox is for.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The pod's UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The pod's namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// How many sandboxes the pod had before.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

/// What a sandbox is to be.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    /// What it is for.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Its host name; empty: the host's own.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// The directory of its containers' logs.
    #[prost(string, tag = "3")]
    pub log_directory: String,
    /// How it resolves names; none: as the host does.
    #[prost(message, optional, tag = "4")]
    pub dns_config: Option<DnsConfig>,
    /// Ports of the host that lead to it.
    #[prost(message, repeated, tag = "5")]
    pub port_mappings: Vec<PortMapping>,
    /// Labels, by which it is found again.
    #[prost(map = "string, string", tag = "6")]
    pub labels: Labels,
    /// What concerns Linux.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

/// How names are resolved.
#[derive(Clone, PartialEq, Message)]
pub struct DnsConfig {
    /// The servers.
    #[prost(string, repeated, tag = "1")]
    pub servers: Vec<String>,
    /// The domains to search.
    #[prost(string, repeated, tag = "2")]
    pub searches: Vec<String>,
    /// Options.
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
}

/// A port of the host that leads to the sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct PortMapping {
    /// The protocol.
    #[prost(enumeration = "Protocol", tag = "1")]
    pub protocol: i32,
    /// The port in the sandbox.
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    /// The port of the host.
    #[prost(int32, tag = "3")]
    pub host_port: i32,
    /// The address of the host; empty: any.
    #[prost(string, tag = "4")]
    pub host_ip: String,
}

/// What concerns Linux in a sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandboxConfig {
    /// The cgroup below which everything of it is.
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    /// What it may.
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxSandboxSecurityContext>,
    /// Kernel parameters of its namespaces.
    #[prost(map = "string, string", tag = "3")]
    pub sysctls: Labels,
}

/// What a sandbox may.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxSandboxSecurityContext {
    /// Which namespaces it has of its own.
    #[prost(message, optional, tag = "1")]
    pub namespace_options: Option<NamespaceOption>,
    /// Its label, where there is SELinux.
    #[prost(message, optional, tag = "2")]
    pub selinux_options: Option<SeLinuxOption>,
    /// Further groups.
    #[prost(int64, repeated, tag = "5")]
    pub supplemental_groups: Vec<i64>,
    /// Whether privileged containers may be in it.
    #[prost(bool, tag = "6")]
    pub privileged: bool,
    /// Which system calls it may make.
    #[prost(message, optional, tag = "9")]
    pub seccomp: Option<SecurityProfile>,
    /// Whether the groups that the image gives the user count.
    #[prost(enumeration = "SupplementalGroupsPolicy", tag = "11")]
    pub supplemental_groups_policy: i32,
}

/// A label of SELinux; empty: the engine's own.
#[derive(Clone, PartialEq, Message)]
pub struct SeLinuxOption {
    /// The user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The role.
    #[prost(string, tag = "2")]
    pub role: String,
    /// The type.
    #[prost(string, tag = "3")]
    pub kind: String,
    /// The level.
    #[prost(string, tag = "4")]
    pub level: String,
}

/// Who shares which namespaces.
#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOption {
    /// The network.
    #[prost(enumeration = "NamespaceMode", tag = "1")]
    pub network: i32,
    /// The processes.
    #[prost(enumeration = "NamespaceMode", tag = "2")]
    pub pid: i32,
    /// Shared memory and the like.
    #[prost(enumeration = "NamespaceMode", tag = "3")]
    pub ipc: i32,
    /// Whose processes, if they are those of another container.
    #[prost(string, tag = "4")]
    pub target_id: String,
    /// The users and groups; none: those of the host. Engines before 2023 do not know of it.
    #[prost(message, optional, tag = "5")]
    pub users: Option<UserNamespace>,
}

/// Whose users and groups.
#[derive(Clone, PartialEq, Message)]
pub struct UserNamespace {
    /// The pod's own, or the host's.
    #[prost(enumeration = "NamespaceMode", tag = "1")]
    pub mode: i32,
    /// What its users are for the host.
    #[prost(message, repeated, tag = "2")]
    pub uids: Vec<IdMapping>,
    /// What its groups are for the host.
    #[prost(message, repeated, tag = "3")]
    pub gids: Vec<IdMapping>,
}

/// A range of users or groups, for the host and for containers.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct IdMapping {
    /// The first for the host.
    #[prost(uint32, tag = "1")]
    pub host_id: u32,
    /// The first for containers.
    #[prost(uint32, tag = "2")]
    pub container_id: u32,
    /// How many.
    #[prost(uint32, tag = "3")]
    pub length: u32,
}

/// A security profile.
#[derive(Clone, PartialEq, Message)]
pub struct SecurityProfile {
    /// Which kind.
    #[prost(enumeration = "ProfileType", tag = "1")]
    pub profile_type: i32,
    /// The file, for a profile of the host's own.
    #[prost(string, tag = "2")]
    pub localhost_ref: String,
}

/// Make a sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct RunPodSandboxRequest {
    /// What it is to be.
    #[prost(message, optional, tag = "1")]
    pub config: Option<PodSandboxConfig>,
    /// Which of the engine's ways to run it; empty: the usual one.
    #[prost(string, tag = "2")]
    pub runtime_handler: String,
}

/// Which sandboxes.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxFilter {
    /// Those with all these labels.
    #[prost(map = "string, string", tag = "3")]
    pub label_selector: Labels,
}

/// Which sandboxes are there?
#[derive(Clone, PartialEq, Message)]
pub struct ListPodSandboxRequest {
    /// Only these.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<PodSandboxFilter>,
}

/// The sandboxes.
#[derive(Clone, PartialEq, Message)]
pub struct ListPodSandboxResponse {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

/// A sandbox in a list.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandbox {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it is for.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Whether it is ready.
    #[prost(enumeration = "PodSandboxState", tag = "3")]
    pub state: i32,
    /// When it was made, in nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// Its labels.
    #[prost(map = "string, string", tag = "5")]
    pub labels: Labels,
}

/// How is a sandbox?
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxStatusRequest {
    /// Which one.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// Whether the engine is to say more, in words of its own.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// How a sandbox is.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxStatusResponse {
    /// How it is.
    #[prost(message, optional, tag = "1")]
    pub status: Option<PodSandboxStatus>,
    /// What the engine says besides.
    #[prost(map = "string, string", tag = "2")]
    pub info: Labels,
}

/// How a sandbox is.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxStatus {
    /// The engine's name for it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whether it is ready.
    #[prost(enumeration = "PodSandboxState", tag = "3")]
    pub state: i32,
    /// Its network; none when it has the host's.
    #[prost(message, optional, tag = "5")]
    pub network: Option<PodSandboxNetworkStatus>,
    /// What concerns Linux.
    #[prost(message, optional, tag = "6")]
    pub linux: Option<LinuxPodSandboxStatus>,
}

/// What concerns Linux in how a sandbox is.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandboxStatus {
    /// Its namespaces.
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<Namespace>,
}

/// Namespaces of a sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct Namespace {
    /// Who shares them.
    #[prost(message, optional, tag = "2")]
    pub options: Option<NamespaceOption>,
}

/// A sandbox's network.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxNetworkStatus {
    /// Its first address.
    #[prost(string, tag = "1")]
    pub ip: String,
    /// Further addresses.
    #[prost(message, repeated, tag = "2")]
    pub additional_ips: Vec<PodIp>,
}

/// An address.
#[derive(Clone, PartialEq, Message)]
pub struct PodIp {
    /// The address.
    #[prost(string, tag = "1")]
    pub ip: String,
}
/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Protocol {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
}

/// Who shares a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum NamespaceMode {
    /// All containers of the pod.
    Pod = 0,
    /// Nobody.
    Container = 1,
    /// The host.
    Node = 2,
    /// Another container.
    Target = 3,
}

/// Whether the groups that an image gives its user count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum SupplementalGroupsPolicy {
    /// They do.
    Merge = 0,
    /// They do not.
    Strict = 1,
}

/// Which kind of security profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum ProfileType {
    /// The engine's own.
    RuntimeDefault = 0,
    /// None.
    Unconfined = 1,
    /// One of the host's own.
    Localhost = 2,
}

/// Whether a sandbox is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum PodSandboxState {
    /// It is.
    Ready = 0,
    /// It is not: it was stopped, or its first process has ended.
    NotReady = 1,
}
