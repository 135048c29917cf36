//! A pod in the words of a container engine. Pure.

use std::collections::HashMap;
use std::path::Path;

use hawser_cri::{
    ContainerConfig, ContainerMetadata, DnsConfig, HugepageLimit, Image, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxPodSandboxConfig, Mount, PodSandboxConfig, PodSandboxMetadata, PortMapping,
};
use hawser_wire::deployment::{Container, EdgeDeployment, HostPort, Protocol, Resources};

use super::qos::{of_container, oom_adjustment};
use super::security::Profiles;
use super::users::Users;
use super::{labels, place, security};
use crate::cgroup::{Version, shares};
use crate::huge_pages::size_name;
use crate::runtime::ContainerStart;

/// The period of processor quotas, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// The kernel takes no smaller quota.
const MIN_QUOTA: u64 = 1_000;

/// What the device adds to every pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'f> {
    /// The device's name.
    pub(super) device: &'f str,
    /// Its memory, in bytes.
    pub(super) memory: u64,
    /// The device's profiles of system calls.
    pub(super) profiles: Profiles<'f>,
    /// Which cgroups limit memory.
    pub(super) cgroups: Option<Version>,
    /// Which of them limit how much of it is swapped out.
    pub(super) swap: Option<Version>,
    /// The sizes of huge pages that it has, in bytes.
    pub(super) huge_pages: &'f [u64],
}

/// How a sandbox is called and finds others, where its cgroup is, which kernel parameters it sets, and whose users it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Manners {
    pub(super) hostname: String,
    pub(super) dns: DnsConfig,
    pub(super) sysctls: HashMap<String, String>,
    pub(super) cgroup_parent: String,
    pub(super) users: Option<Users>,
}

pub(super) fn sandbox(
    frame: Frame<'_>,
    pod: &EdgeDeployment,
    manners: Manners,
    attempt: u32,
    logs: &Path,
) -> PodSandboxConfig {
    let Manners { hostname, dns, sysctls, cgroup_parent, users } = manners;
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.as_str().to_owned(),
            namespace: pod.namespace.clone(),
            attempt,
        }),
        hostname,
        log_directory: logs.display().to_string(),
        dns_config: Some(dns),
        port_mappings: ports(pod),
        labels: labels::sandbox(frame.device, pod),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security::of_sandbox(pod, users)),
            sysctls,
        }),
    }
}

pub(super) fn container(
    frame: Frame<'_>,
    start: &ContainerStart,
    container: &Container,
    image: &Image,
    mounts: Vec<Mount>,
    target: Option<String>,
    users: Option<Users>,
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
        mounts: match users {
            Some(users) => mounts.into_iter().map(|mount| users.of_mount(mount)).collect(),
            None => mounts,
        },
        labels: labels::container(frame.device, pod, container),
        log_path: place::log_below(&start.id),
        stdin: talks.stdin,
        stdin_once: talks.once,
        tty: talks.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(limits(frame, pod, container)),
            security_context: Some(security::of_container(pod, container, image, frame.profiles, target, users)),
        }),
    }
}

fn variable((name, value): &(String, String)) -> KeyValue {
    KeyValue { key: name.clone(), value: value.clone().into_bytes() }
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

/// What a container may use, when it is made and when that is changed.
pub(super) fn limits(frame: Frame<'_>, pod: &EdgeDeployment, container: &Container) -> LinuxContainerResources {
    let usual = resources(&of_container(pod, container), oom_adjustment(pod, container, frame.memory));
    // Of all sizes: who does not ask for one gets none of it.
    let pages =
        |page: &u64| HugepageLimit { page_size: size_name(*page), limit: pod.huge_pages_of(&container.name, *page) };
    LinuxContainerResources {
        unified: files(frame),
        hugepage_limits: frame.huge_pages.iter().map(pages).collect(),
        // Memory and swap together: no swap beyond the limit. Without a limit the kernel is not asked.
        memory_swap_limit_in_bytes: match frame.swap {
            Some(Version::V1) => usual.memory_limit_in_bytes,
            Some(Version::V2) | None => 0,
        },
        ..usual
    }
}

/// Files of a container's cgroup. One that is out of memory ends as a whole, where the kernel can do that, rather than run on
/// without one of its processes; and nothing of it is swapped out, so that who is slow is who has too little memory.
fn files(frame: Frame<'_>) -> HashMap<String, String> {
    let ends_as_one = (frame.cgroups == Some(Version::V2)).then_some(("memory.oom.group", "1"));
    let no_swap = (frame.swap == Some(Version::V2)).then_some(("memory.swap.max", "0"));
    ends_as_one.into_iter().chain(no_swap).map(|(file, text)| (file.to_owned(), text.to_owned())).collect()
}

/// Limits and weights as a kubelet reckons them.
fn resources(resources: &Resources, oom_score_adj: i64) -> LinuxContainerResources {
    let requested = resources.cpu_request_millis.or(resources.cpu_limit_millis).unwrap_or(0);
    let quota = resources.cpu_limit_millis.filter(|millis| *millis > 0);
    LinuxContainerResources {
        cpu_period: quota.map_or(0, |_| signed(CPU_PERIOD)),
        cpu_quota: quota.map_or(0, |millis| signed((millis.saturating_mul(CPU_PERIOD) / 1_000).max(MIN_QUOTA))),
        cpu_shares: signed(shares(requested)),
        memory_limit_in_bytes: signed(resources.memory_limit_bytes.unwrap_or(0)),
        oom_score_adj,
        ..LinuxContainerResources::default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cri::samples;
    use hawser_wire::deployment::{Ask, Engine, HugePages};

    #[test]
    fn a_container_ends_as_one_and_is_not_swapped_out_where_the_kernel_can_do_that() {
        let of = |cgroups, swap, memory_limit_bytes| {
            let frame = Frame {
                device: "sea",
                memory: 0,
                profiles: Profiles { folder: Path::new("/"), by_default: false },
                cgroups,
                swap,
                huge_pages: &[],
            };
            let resources = Resources { memory_limit_bytes, ..Resources::default() };
            let told = limits(frame, &samples::pod(), &Container { resources, ..samples::container() });
            let mut files: Vec<_> = told.unified.into_iter().map(|(file, text)| format!("{file}={text}")).collect();
            files.sort();
            (files.join(" "), told.memory_swap_limit_in_bytes)
        };
        let (one, two) = (Some(Version::V1), Some(Version::V2));
        for (cgroups, swap, limit, expected) in [
            (two, two, None, ("memory.oom.group=1 memory.swap.max=0", 0)),
            (two, two, Some(7), ("memory.oom.group=1 memory.swap.max=0", 0)),
            (two, None, Some(7), ("memory.oom.group=1", 0)),
            (one, one, Some(7), ("", 7)),
            (one, one, None, ("", 0)),
            (one, None, Some(7), ("", 0)),
            (None, None, Some(7), ("", 0)),
        ] {
            assert_eq!(of(cgroups, swap, limit), (expected.0.to_owned(), expected.1), "{cgroups:?} {swap:?} {limit:?}");
        }
    }

    #[test]
    fn of_huge_pages_a_container_gets_what_it_asks_for_and_of_other_sizes_nothing() {
        let frame = Frame {
            device: "sea",
            memory: 0,
            profiles: Profiles { folder: Path::new("/"), by_default: false },
            cgroups: None,
            swap: None,
            huge_pages: &[2 << 20, 1 << 30],
        };
        let container = samples::container();
        let pages = HugePages { container: Some(container.name.clone()), page_bytes: 2 << 20, bytes: 6 << 20 };
        let engine = Some(Engine { asks: vec![Ask::HugePages(pages)], ..Engine::default() });
        let pod = EdgeDeployment { engine, ..samples::pod() };
        let told = |container: &Container| {
            let limits = limits(frame, &pod, container).hugepage_limits;
            limits.into_iter().map(|one| (one.page_size, one.limit)).collect::<Vec<_>>()
        };
        assert_eq!(told(&container), [("2MB".to_owned(), 6 << 20), ("1GB".to_owned(), 0)]);
        let other = Container { name: "other".into(), ..container };
        assert_eq!(told(&other), [("2MB".to_owned(), 0), ("1GB".to_owned(), 0)]);
    }

    #[test]
    fn limits_are_reckoned_as_by_a_kubelet() {
        let asked = |request: Option<u64>, limit: Option<u64>| {
            let of = Resources { cpu_request_millis: request, cpu_limit_millis: limit, ..Resources::default() };
            let got = resources(&of, 0);
            (got.cpu_shares, got.cpu_quota, got.cpu_period)
        };
        assert_eq!(asked(None, None), (2, 0, 0));
        assert_eq!(asked(Some(250), Some(500)), (256, 50_000, 100_000));
        assert_eq!(asked(None, Some(2_000)), (2_048, 200_000, 100_000));
        assert_eq!(asked(Some(1), Some(1)), (2, 1_000, 100_000));
        assert_eq!(asked(Some(u64::MAX), Some(u64::MAX)).2, 100_000);
    }
}
