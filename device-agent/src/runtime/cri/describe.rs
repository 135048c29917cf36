//! A pod in the words of a container engine. Pure.

use std::path::Path;

use hawser_cri::{
    Capability, ContainerConfig, ContainerMetadata, Image, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, ProfileType, SecurityProfile,
};
use hawser_wire::deployment::{Confinement, Container, EdgeDeployment, HostPort, Protocol, Resources};

use super::labels;
use crate::runtime::ContainerStart;

/// What an engine hides from containers when it is told so, as it does by itself for nobody.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The period of processor quotas, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// The kernel takes no smaller quota and no smaller weight.
const MIN_QUOTA: u64 = 1_000;
const MIN_SHARES: u64 = 2;
/// How a container without a memory limit stands when memory is short: after everything that has one.
const OOM_BEST_EFFORT: i64 = 1_000;
const OOM_BURSTABLE: i64 = 900;

/// What the device adds to every pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'f> {
    /// The device's name.
    pub(super) device: &'f str,
    /// The cgroup below which all pods are.
    pub(super) cgroup_parent: &'f str,
}

pub(super) fn sandbox(frame: Frame<'_>, pod: &EdgeDeployment, attempt: u32, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.as_str().to_owned(),
            namespace: pod.namespace.clone(),
            attempt,
        }),
        hostname: pod.hostname.clone().filter(|_| !pod.host_network).unwrap_or_default(),
        log_directory: logs.display().to_string(),
        port_mappings: ports(pod),
        labels: labels::sandbox(frame.device, pod),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: frame.cgroup_parent.to_owned(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                supplemental_groups: groups(pod),
                // An engine makes no privileged container in another sandbox.
                privileged: pod.all_containers().any(|(container, _)| confinement(container).privileged),
                seccomp: Some(profile(ProfileType::RuntimeDefault)),
            }),
        }),
    }
}

pub(super) fn container(
    frame: Frame<'_>,
    start: &ContainerStart,
    container: &Container,
    image: &Image,
    mounts: Vec<Mount>,
    log: String,
) -> ContainerConfig {
    let pod = &*start.spec;
    let talks = container.interactive.unwrap_or_default();
    // Expanding changes no number of words, so the program's part ends where it did.
    let (command, args) = start.command.split_at(container.command.len().min(start.command.len()));
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: start.id.attempt }),
        image: Some(ImageSpec { image: image.id.clone(), user_specified_image: container.image.clone() }),
        command: command.to_vec(),
        args: args.to_vec(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: start.env.iter().map(variable).collect(),
        mounts,
        labels: labels::container(frame.device, pod, container),
        log_path: log,
        stdin: talks.stdin,
        stdin_once: talks.once,
        tty: talks.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&container.resources)),
            security_context: Some(security(pod, container, image)),
        }),
    }
}

fn variable((name, value): &(String, String)) -> KeyValue {
    KeyValue { key: name.clone(), value: value.clone().into_bytes() }
}

fn security(pod: &EdgeDeployment, container: &Container, image: &Image) -> LinuxContainerSecurityContext {
    // An engine wants to be told the user whenever it is told a group.
    let user = container.user.uid.map(i64::from).or(image.uid.map(|uid| uid.value));
    let asked = confinement(container);
    let hidden = |paths: &[&str]| match asked.privileged {
        true => Vec::new(),
        false => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    let username = if user.is_none() { image.username.clone() } else { String::new() };
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: asked.add_capabilities.clone(),
            drop_capabilities: asked.drop_capabilities.clone(),
        }),
        privileged: asked.privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_username: username,
        run_as_group: container.user.gid.map(|gid| Int64Value { value: i64::from(gid) }),
        readonly_rootfs: asked.read_only_root,
        supplemental_groups: groups(pod),
        no_new_privs: asked.no_new_privileges,
        masked_paths: hidden(MASKED),
        readonly_paths: hidden(READ_ONLY),
        seccomp: Some(profile(if asked.seccomp && !asked.privileged {
            ProfileType::RuntimeDefault
        } else {
            ProfileType::Unconfined
        })),
    }
}

fn confinement(container: &Container) -> Confinement {
    container.confinement.clone().unwrap_or_default()
}

/// On the device's own network there is nothing to map.
fn ports(pod: &EdgeDeployment) -> Vec<PortMapping> {
    let ports = pod.engine.iter().filter(|_| !pod.host_network).flat_map(|engine| &engine.host_ports);
    let mapping = |port: &HostPort| PortMapping {
        protocol: match port.protocol {
            Protocol::Tcp => hawser_cri::Protocol::Tcp,
            Protocol::Udp => hawser_cri::Protocol::Udp,
            Protocol::Sctp => hawser_cri::Protocol::Sctp,
        }
        .into(),
        container_port: port.pod.into(),
        host_port: port.host.into(),
        host_ip: port.address.clone().unwrap_or_default(),
    };
    ports.map(mapping).collect()
}

fn namespaces(pod: &EdgeDeployment) -> NamespaceOption {
    let network = if pod.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    NamespaceOption { network: network.into(), pid: NamespaceMode::Container.into(), ipc: NamespaceMode::Pod.into() }
}

fn groups(pod: &EdgeDeployment) -> Vec<i64> {
    pod.supplemental_groups.iter().copied().chain(pod.fs_group).map(i64::from).collect()
}

fn profile(kind: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() }
}

/// Limits and weights as a kubelet reckons them.
fn resources(resources: &Resources) -> LinuxContainerResources {
    let shares = resources.cpu_request_millis.or(resources.cpu_limit_millis).unwrap_or(0);
    let quota = resources.cpu_limit_millis.filter(|millis| *millis > 0);
    let limited = resources.memory_limit_bytes.is_some() || resources.memory_request_bytes.is_some();
    LinuxContainerResources {
        cpu_period: quota.map_or(0, |_| signed(CPU_PERIOD)),
        cpu_quota: quota.map_or(0, |millis| signed((millis.saturating_mul(CPU_PERIOD) / 1_000).max(MIN_QUOTA))),
        cpu_shares: signed((shares.saturating_mul(1_024) / 1_000).max(MIN_SHARES)),
        memory_limit_in_bytes: signed(resources.memory_limit_bytes.unwrap_or(0)),
        oom_score_adj: if limited { OOM_BURSTABLE } else { OOM_BEST_EFFORT },
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// `/etc/hosts` of a container whose pod has a network of its own.
pub(super) fn hosts(pod: &EdgeDeployment, addresses: &[String]) -> String {
    let mut text = String::from(
        "# Managed by Hawser; changes are lost when the container is started again.\n127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for address in addresses {
        text.push_str(&format!("{address}\t{}\n", pod.hostname.as_deref().unwrap_or(&pod.name)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_reckoned_as_by_a_kubelet() {
        let asked = |request: Option<u64>, limit: Option<u64>| {
            let of = Resources { cpu_request_millis: request, cpu_limit_millis: limit, ..Resources::default() };
            let got = resources(&of);
            (got.cpu_shares, got.cpu_quota, got.cpu_period)
        };
        assert_eq!(asked(None, None), (2, 0, 0));
        assert_eq!(asked(Some(250), Some(500)), (256, 50_000, 100_000));
        assert_eq!(asked(None, Some(2_000)), (2_048, 200_000, 100_000));
        assert_eq!(asked(Some(1), Some(1)), (2, 1_000, 100_000));
        assert_eq!(asked(Some(u64::MAX), Some(u64::MAX)).2, 100_000);
    }
}
