//! What the engine and the device beneath it can do for pods, and what the device's owner allows. Looked up once.

use hawser_cri::StatusResponse;
use hawser_wire::deployment::sysctl_with_dots;

/// Kernel parameters that no other pod notices, and since which kernel they belong to a namespace.
const SAFE: &[(&str, (u32, u32))] = &[
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// What can be done for pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    /// The ways of the engine that can keep containers from writing what is mounted below a mount.
    read_only_below: Vec<String>,
    /// Whether the groups that an image gives its user can be left out.
    pub(super) strict_groups: bool,
    /// Whether the kernel has AppArmor.
    pub(super) apparmor: bool,
    /// Kernel parameters that pods may set; one that ends with `*` allows all that begin like it.
    sysctls: Vec<String>,
}

impl Abilities {
    /// `allowed`: parameters besides the safe ones; `kernel`: its release, as `6.1.0-rpi`.
    pub(super) fn of(told: &StatusResponse, apparmor: bool, allowed: &[String], kernel: &str) -> Self {
        let kernel = version(kernel);
        let safe = SAFE.iter().filter(|(_, since)| *since <= kernel).map(|(name, _)| (*name).to_owned());
        let can = |handler: &&hawser_cri::RuntimeHandler| {
            handler.features.is_some_and(|features| features.recursive_read_only_mounts)
        };
        Self {
            read_only_below: told.runtime_handlers.iter().filter(can).map(|handler| handler.name.clone()).collect(),
            strict_groups: told.features.is_some_and(|features| features.supplemental_groups_policy),
            apparmor,
            sysctls: safe.chain(allowed.iter().map(|name| sysctl_with_dots(name))).collect(),
        }
    }

    /// Whether the engine, running a pod in this way, keeps containers from writing below a mount.
    pub(super) fn read_only_below(&self, handler: &str) -> bool {
        self.read_only_below.iter().any(|able| able == handler)
    }

    /// Whether a pod may set a kernel parameter; a kubelet's words if not.
    pub(super) fn check_sysctl(&self, name: &str, host_network: bool, host_ipc: bool) -> Result<(), String> {
        let name = sysctl_with_dots(name);
        let fits = |allowed: &String| match allowed.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *allowed,
        };
        if !self.sysctls.iter().any(fits) {
            return Err(format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        let namespace = namespace(&name);
        if (namespace == Some("Net") && host_network) || (namespace == Some("IPC") && host_ipc) {
            let namespace = namespace.unwrap_or_default();
            return Err(format!("forbidden sysctl: {name:?} not allowed with host {namespace} enabled"));
        }
        Ok(())
    }
}

/// The kind of namespace that a parameter belongs to.
fn namespace(name: &str) -> Option<&'static str> {
    let ipc = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."];
    match name {
        _ if name.starts_with("net.") => Some("Net"),
        _ if ipc.iter().any(|beginning| name.starts_with(beginning)) => Some("IPC"),
        _ => None,
    }
}

fn version(kernel: &str) -> (u32, u32) {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_cri::{RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures};

    #[test]
    fn kernel_parameters_are_allowed_by_name_and_namespace() {
        let allowed = ["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()];
        let able = Abilities::of(&StatusResponse::default(), false, &allowed, "4.4.0-boat");
        for name in ["kernel.shm_rmid_forced", "kernel/shm_rmid_forced", "kernel.msgmax", "net.core.somaxconn"] {
            assert_eq!(able.check_sysctl(name, false, false), Ok(()), "{name}");
        }
        for (name, words) in [
            ("kernel.shmmax", "\"kernel.shmmax\" not allowlisted"),
            ("net.ipv4.tcp_keepalive_time", "\"net.ipv4.tcp_keepalive_time\" not allowlisted"),
            ("net.core.somaxconn", "\"net.core.somaxconn\" not allowed with host Net enabled"),
            ("kernel.msgmax", "\"kernel.msgmax\" not allowed with host IPC enabled"),
        ] {
            assert_eq!(able.check_sysctl(name, true, true), Err(format!("forbidden sysctl: {words}")));
        }
        let newer = Abilities::of(&StatusResponse::default(), false, &[], "6.1.0");
        assert_eq!(newer.check_sysctl("net.ipv4.tcp_keepalive_time", false, false), Ok(()));
        assert!(newer.check_sysctl("net.ipv4.tcp_keepalive_time", true, false).is_err());
    }

    #[test]
    fn an_engine_can_do_what_it_says_and_an_old_one_says_nothing() {
        let handler = |name: &str, can| RuntimeHandler {
            name: name.into(),
            features: Some(RuntimeHandlerFeatures {
                recursive_read_only_mounts: can,
                ..RuntimeHandlerFeatures::default()
            }),
        };
        let told = StatusResponse {
            runtime_handlers: vec![handler("", true), handler("old", false)],
            features: Some(RuntimeFeatures { supplemental_groups_policy: true }),
            ..StatusResponse::default()
        };
        let able = Abilities::of(&told, true, &[], "");
        assert!(able.read_only_below("") && !able.read_only_below("old") && !able.read_only_below("none"));
        assert!(able.strict_groups && able.apparmor);
        assert!(!Abilities::of(&StatusResponse::default(), false, &[], "").read_only_below(""));
    }
}
