//! What only a container engine can give a pod.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use super::Resources;

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
    /// What else it asks for, each at most once unless it says otherwise.
    #[n(2)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
}

/// One thing that a pod as a whole asks of an engine. An agent that does not know one of them refuses the pod: whoever
/// runs it without would run something else.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Ask {
    /// Its processes see those of the device.
    #[n(0)]
    HostProcesses,
    /// It shares the device's System V objects and message queues.
    #[n(1)]
    HostIpc,
    /// Its containers see each other's processes.
    #[n(2)]
    SharedProcesses,
    /// A kernel parameter of its own namespaces; one each.
    #[n(3)]
    Sysctl {
        /// Its name, with dots.
        #[n(0)]
        name: String,
        /// Its value.
        #[n(1)]
        value: String,
    },
    /// Another way of the engine to run it than the usual one.
    #[n(4)]
    Handler(#[n(0)] String),
    /// A line of its hosts file; one each, in order.
    #[n(5)]
    HostAlias {
        /// The address.
        #[n(0)]
        address: String,
        /// The names.
        #[n(1)]
        names: Vec<String>,
    },
    /// How it resolves names; without this: as the cluster does, or on the device's own network as the device does.
    #[n(6)]
    Dns(#[n(0)] Dns),
    /// The name below which its host name is in the cluster's DNS.
    #[n(7)]
    Subdomain(#[n(0)] String),
    /// Its host name is the whole name in the cluster's DNS.
    #[n(8)]
    HostnameIsWhole,
    /// Its processes are in no groups but those that it names: not in those that the image gives their user.
    #[n(9)]
    StrictGroups,
    /// What all of it together may use, and was promised.
    #[n(10)]
    Resources(#[n(0)] Resources),
    /// What it costs to have it at all, besides what its containers use: requests.
    #[n(11)]
    Overhead(#[n(0)] Resources),
    /// Huge pages that a container or all of it may use, and was promised; one for each container and size.
    #[n(12)]
    HugePages(#[n(0)] HugePages),
    /// Its users and groups are its own: others for the device, root too.
    #[n(13)]
    OwnUsers,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct HugePages {
    /// Whose; `None`: the pod's as a whole.
    #[n(0)]
    pub container: Option<String>,
    /// How large a page is, in bytes.
    #[n(1)]
    pub page_bytes: u64,
    /// How many bytes all of them are.
    #[n(2)]
    pub bytes: u64,
}

/// How a pod resolves names.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Dns {
    /// What it begins with.
    #[n(0)]
    pub base: DnsBase,
    /// Servers, besides those of the base.
    #[n(1)]
    #[cbor(default)]
    pub servers: Vec<String>,
    /// Domains to search, besides those of the base.
    #[n(2)]
    #[cbor(default)]
    pub searches: Vec<String>,
    /// Options, each `name` or `name:value`, over those of the base.
    #[n(3)]
    #[cbor(default)]
    pub options: Vec<String>,
}

/// What the resolving of names begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum DnsBase {
    /// The device's own configuration.
    #[n(0)]
    Device,
    /// The cluster's DNS, if the device knows how to reach it.
    #[n(1)]
    Cluster,
    /// Nothing.
    #[n(2)]
    Nothing,
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

/// The name of a kernel parameter as it travels. People may write it with slashes, and then have dots within its parts.
pub fn sysctl_with_dots(name: &str) -> String {
    let exchanged = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.chars().map(exchanged).collect(),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_says_which_one_is_meant() {
        for (written, travels) in [
            ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("kernel/shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(sysctl_with_dots(written), travels, "{written}");
        }
    }
}
