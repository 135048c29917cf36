//! The engine itself.

use super::Labels;
use prost::{Enumeration, Message};

/// Nothing.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Empty {}

/// Which engine is it?
#[derive(Clone, PartialEq, Message)]
pub struct VersionRequest {
    /// The version of the interface that is spoken.
    #[prost(string, tag = "1")]
    pub version: String,
}

/// Which engine it is.
#[derive(Clone, PartialEq, Message)]
pub struct VersionResponse {
    /// Its name.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    /// The version of the interface that it speaks.
    #[prost(string, tag = "4")]
    pub runtime_api_version: String,
}

/// What the engine is to know.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateRuntimeConfigRequest {
    /// What.
    #[prost(message, optional, tag = "1")]
    pub runtime_config: Option<RuntimeConfig>,
}

/// What the engine is to know.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeConfig {
    /// Of the network.
    #[prost(message, optional, tag = "1")]
    pub network_config: Option<NetworkConfig>,
}

/// What the engine is to know of the network.
#[derive(Clone, PartialEq, Message)]
pub struct NetworkConfig {
    /// The ranges of the pods' addresses, with commas between them.
    #[prost(string, tag = "1")]
    pub pod_cidr: String,
}

/// How is the engine?
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StatusRequest {
    /// Whether it is to say more, in words of its own.
    #[prost(bool, tag = "1")]
    pub verbose: bool,
}

/// How the engine is.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// Its conditions.
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
    /// What it says besides.
    #[prost(map = "string, string", tag = "2")]
    pub info: Labels,
    /// The ways in which it can run containers; engines before 2024 do not tell.
    #[prost(message, repeated, tag = "3")]
    pub runtime_handlers: Vec<RuntimeHandler>,
    /// What it can do; engines before 2024 do not tell.
    #[prost(message, optional, tag = "4")]
    pub features: Option<RuntimeFeatures>,
}

/// A way in which an engine can run containers.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeHandler {
    /// Its name; empty: the usual one.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What can be done in this way.
    #[prost(message, optional, tag = "2")]
    pub features: Option<RuntimeHandlerFeatures>,
}

/// What can be done in one way of running containers.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RuntimeHandlerFeatures {
    /// Mounts that may not be written, with all that is mounted below them.
    #[prost(bool, tag = "1")]
    pub recursive_read_only_mounts: bool,
    /// Users and groups of a pod's own.
    #[prost(bool, tag = "2")]
    pub user_namespaces: bool,
}

/// What an engine can do.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RuntimeFeatures {
    /// Leaving out the groups that an image gives its user.
    #[prost(bool, tag = "1")]
    pub supplemental_groups_policy: bool,
}

/// Conditions of the engine.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeStatus {
    /// `RuntimeReady` and `NetworkReady` at least.
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

/// A condition of the engine.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeCondition {
    /// Its name.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Whether it holds.
    #[prost(bool, tag = "2")]
    pub status: bool,
    /// A CamelCase word.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// A sentence.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// How the engine wants things.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RuntimeConfigResponse {
    /// On Linux.
    #[prost(message, optional, tag = "1")]
    pub linux: Option<LinuxRuntimeConfiguration>,
}

/// How the engine wants things on Linux.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LinuxRuntimeConfiguration {
    /// Who makes cgroups.
    #[prost(enumeration = "CgroupDriver", tag = "1")]
    pub cgroup_driver: i32,
}
/// Who makes cgroups, and so how a cgroup's parent is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum CgroupDriver {
    /// systemd: `name.slice`.
    Systemd = 0,
    /// The engine: a path.
    Cgroupfs = 1,
}
