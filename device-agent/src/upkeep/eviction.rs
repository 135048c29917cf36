//! Which pod goes when the device is short of something. Pure.
//!
//! A kubelet's rules and words: one pod at a time; first those that use more than they asked for, then those of the least
//! priority, then the one that is furthest beyond what it asked for. What the cluster itself stands on never goes.
//!
//! Unlike a kubelet it only takes pods whose end would help: a disk that something else has filled is no reason to stop what
//! a device is there for.

use std::cmp::Reverse;

use hawser_wire::PodUid;
use hawser_wire::amounts::Bytes;
use hawser_wire::deployment::{Container, ContainerKind, EdgeDeployment, VolumeSource};

use crate::runtime::DiskUse;

/// A pod of this priority or a higher one never goes.
const CRITICAL: i32 = 2_000_000_000;

/// What a device can be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// Memory, in bytes.
    Memory,
    /// Space on the disk, in bytes.
    Storage,
    /// Inodes of the disk.
    Inodes,
    /// Space on a disk of its own that holds images and what containers write, in bytes.
    LayerStorage,
    /// Inodes of that.
    LayerInodes,
    /// Process ids.
    Processes,
}

impl Short {
    /// Whether it is a disk that is full.
    pub(super) fn is_disk(self) -> bool {
        !matches!(self, Self::Memory | Self::Processes)
    }
}

/// The device is short of something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) of: Short,
    /// So much should be there.
    pub(crate) threshold: u64,
    /// So much is.
    pub(crate) available: u64,
}

/// A pod that may have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) uid: PodUid,
    pub(super) priority: i32,
    pub(super) containers: Vec<Consumer>,
    /// What its volumes take of the disk.
    pub(super) volumes: Amounts,
}

/// A container of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) used: Amounts,
    pub(super) requested: Amounts,
}

/// So much of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) memory: u64,
    pub(crate) storage: u64,
    pub(crate) inodes: u64,
    pub(crate) processes: u64,
}

impl Amounts {
    fn of(self, short: Short) -> u64 {
        match short {
            Short::Memory => self.memory,
            Short::Storage | Short::LayerStorage => self.storage,
            Short::Inodes | Short::LayerInodes => self.inodes,
            Short::Processes => self.processes,
        }
    }
}

impl Candidate {
    fn used(&self, short: Short) -> u64 {
        let volumes = match short {
            // They are on the other disk.
            Short::LayerStorage | Short::LayerInodes => 0,
            _ => self.volumes.of(short),
        };
        self.containers.iter().map(|container| container.used.of(short)).sum::<u64>() + volumes
    }

    fn requested(&self, short: Short) -> u64 {
        self.containers.iter().map(|container| container.requested.of(short)).sum()
    }
}

/// A pod has to give back at least this part of what is lacking.
const WORTH_IT: u64 = 10;

/// The pod that goes, and why, in words; `None`: none may, or none would help.
pub(super) fn choose(shortage: Shortage, candidates: &[Candidate]) -> Option<(PodUid, String)> {
    let of = shortage.of;
    let rank = |pod: &&Candidate| {
        let (used, requested) = (pod.used(of), pod.requested(of));
        // Nobody asks for processes.
        let exceeds = of != Short::Processes && used > requested;
        let beyond = i128::from(used) - i128::from(requested);
        (Reverse(exceeds), pod.priority, Reverse(beyond))
    };
    let lacking = shortage.threshold.saturating_sub(shortage.available);
    let helps = |pod: &&Candidate| pod.used(of) > 0 && pod.used(of) >= lacking / WORTH_IT;
    let chosen = candidates.iter().filter(|pod| pod.priority < CRITICAL).filter(helps).min_by_key(rank)?;
    Some((chosen.uid.clone(), message(shortage, chosen)))
}

fn message(shortage: Shortage, pod: &Candidate) -> String {
    let of = shortage.of;
    let resource = match of {
        Short::Memory => "memory",
        Short::Storage | Short::LayerStorage => "ephemeral-storage",
        Short::Inodes | Short::LayerInodes => "inodes",
        Short::Processes => "pids",
    };
    let amount = |amount: u64| match of {
        Short::Memory | Short::Storage | Short::LayerStorage => Bytes(amount).to_string(),
        Short::Inodes | Short::LayerInodes | Short::Processes => amount.to_string(),
    };
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(shortage.threshold),
        amount(shortage.available)
    );
    for container in &pod.containers {
        let (used, requested) = (container.used.of(of), container.requested.of(of));
        if used > requested {
            message += &format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                amount(used),
                amount(requested)
            );
        }
    }
    message
}

/// Whether a pod has a limit on its use of the disk.
pub(super) fn is_limited(pod: &EdgeDeployment) -> bool {
    limited_volumes(pod).next().is_some()
        || pod.all_containers().any(|(container, _)| container.resources.storage_limit_bytes.is_some())
}

/// Why a pod goes that takes more of the disk than it may; `None`: it does not.
pub(super) fn over_limit(pod: &EdgeDeployment, used: &DiskUse) -> Option<String> {
    for (name, limit) in limited_volumes(pod) {
        if used.volumes.get(name).is_some_and(|space| space.bytes > limit) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", Bytes(limit)));
        }
    }
    let limit = |container: &Container| container.resources.storage_limit_bytes;
    // Init containers run before the others, so only sidecars count with them.
    let side_by_side = || {
        let counts = |container: &Container, kind| kind == ContainerKind::Main || container.sidecar;
        pod.all_containers().filter(move |(container, kind)| counts(container, *kind)).map(|(container, _)| container)
    };
    let limits: Vec<u64> = side_by_side().filter_map(limit).collect();
    let total: u64 = limits.iter().copied().fold(0, u64::saturating_add);
    let all = used.volumes.values().chain(used.containers.values()).map(|space| space.bytes);
    if limits.len() == side_by_side().count() && total > 0 && all.sum::<u64>() > total {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            Bytes(total)
        ));
    }
    pod.all_containers().find_map(|(container, _)| {
        let (limit, name) = (limit(container)?, &container.name);
        let over = used.containers.get(name).is_some_and(|space| space.bytes > limit);
        over.then(|| format!("Container {name} exceeded its local ephemeral storage limit \"{}\". ", Bytes(limit)))
    })
}

fn limited_volumes(pod: &EdgeDeployment) -> impl Iterator<Item = (&str, u64)> {
    pod.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::EmptyDir(empty) if !empty.memory => Some((volume.name.as_str(), empty.size_limit?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use hawser_wire::deployment::{EmptyDir, Volume};

    use super::*;
    use crate::runtime::Space;

    const MIB: u64 = 1024 * 1024;

    fn pod(name: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let memory = |memory| Amounts { memory, ..Amounts::default() };
        let container = Consumer { name: "web".to_owned(), used: memory(used), requested: memory(requested) };
        Candidate {
            uid: PodUid::new(name).unwrap(),
            priority,
            containers: vec![container],
            volumes: Amounts::default(),
        }
    }

    fn chosen(of: Short, candidates: &[Candidate]) -> Option<String> {
        choose(Shortage { of, threshold: 0, available: 0 }, candidates).map(|(uid, _)| uid.to_string())
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_before_everybody_else() {
        let pods = [pod("modest", 0, 900, 1_000), pod("greedy", 7, 11, 10), pod("small", 0, 1, 1)];
        assert_eq!(chosen(Short::Memory, &pods).as_deref(), Some("greedy"));
    }

    #[test]
    fn then_priority_decides_and_then_how_far_beyond_it_is() {
        let pods = [pod("high", 5, 500, 0), pod("low", 1, 20, 10), pod("lower-use", 1, 105, 100)];
        assert_eq!(chosen(Short::Memory, &pods).as_deref(), Some("low"));
        let pods = [pod("asked", 0, 110, 100), pod("did-not-ask", 0, 50, 0)];
        assert_eq!(chosen(Short::Memory, &pods).as_deref(), Some("did-not-ask"));
    }

    #[test]
    fn what_the_cluster_stands_on_never_goes() {
        let critical = [pod("critical", CRITICAL, 500, 0)];
        assert_eq!(chosen(Short::Memory, &critical), None);
        assert_eq!(chosen(Short::Memory, &[]), None);
        let both = [critical[0].clone(), pod("modest", CRITICAL - 1, 1, 10)];
        assert_eq!(chosen(Short::Memory, &both).as_deref(), Some("modest"));
    }

    #[test]
    fn nobody_goes_whose_end_would_not_help() {
        let shortage = Shortage { of: Short::Memory, threshold: 1_000, available: 0 };
        let gives = |used| choose(shortage, &[pod("a", 0, used, 0)]).is_some();
        assert_eq!([gives(0), gives(99), gives(100)], [false, false, true]);
        let two = [pod("first-in-rank", -9, 99, 0), pod("helps", 7, 200, 300)];
        assert_eq!(choose(shortage, &two).map(|(uid, _)| uid.to_string()).as_deref(), Some("helps"));
    }

    #[test]
    fn volumes_count_for_the_disk_and_processes_are_never_asked_for() {
        let disk = |name: &str, storage| Candidate {
            volumes: Amounts { storage, inodes: 100 - storage, ..Amounts::default() },
            ..pod(name, 0, 0, 0)
        };
        let pods = [disk("a", 10), disk("b", 20)];
        assert_eq!(chosen(Short::Storage, &pods).as_deref(), Some("b"));
        assert_eq!(chosen(Short::Inodes, &pods).as_deref(), Some("a"));
        let mut writer = pod("c", 0, 0, 0);
        (writer.containers[0].used.storage, writer.containers[0].used.inodes) = (1, 1);
        let pods = [disk("a", 10), disk("b", 20), writer];
        assert_eq!(chosen(Short::LayerStorage, &pods).as_deref(), Some("c"), "volumes are on the other disk");
        assert_eq!(chosen(Short::LayerInodes, &pods).as_deref(), Some("c"));
        let processes = |name: &str, priority, processes| {
            let mut pod = pod(name, priority, 0, 0);
            pod.containers[0].used.processes = processes;
            pod
        };
        let pods = [processes("bomb", 1, 4_000), processes("quiet", 1, 2), processes("idle", 9, 1)];
        assert_eq!(chosen(Short::Processes, &pods).as_deref(), Some("bomb"));
    }

    #[test]
    fn the_reason_is_told_in_a_kubelets_words() {
        let mut pod = pod("a", 0, 300 * MIB + 1024, 64 * MIB);
        pod.containers.push(Consumer {
            name: "modest".to_owned(),
            used: Amounts { memory: 1, ..Amounts::default() },
            requested: Amounts { memory: MIB, ..Amounts::default() },
        });
        let shortage = Shortage { of: Short::Memory, threshold: 100 * MIB, available: 48_244 * 1024 };
        assert_eq!(
            choose(shortage, &[pod]).unwrap().1,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 48244Ki. Container web was using \
             307201Ki, request is 64Mi, has larger consumption of memory. "
        );
    }

    fn limited(container_limit: Option<u64>, volume_limit: Option<u64>) -> EdgeDeployment {
        let mut spec = crate::workloads::tests::pod("a");
        spec.containers[0].resources.storage_limit_bytes = container_limit;
        let empty = |name: &str, memory, size_limit| Volume {
            name: name.to_owned(),
            source: VolumeSource::EmptyDir(EmptyDir { memory, size_limit }),
        };
        spec.volumes =
            vec![empty("free", false, None), empty("memory", true, Some(1)), empty("v", false, volume_limit)];
        spec
    }

    fn taken(container: u64, volume: u64) -> DiskUse {
        let space = |bytes| Space { bytes, inodes: 1 };
        let volumes = [("free", 5 * MIB), ("v", volume)];
        DiskUse {
            volumes: volumes.map(|(name, bytes)| (name.to_owned(), space(bytes))).into(),
            containers: [("web".to_owned(), space(container))].into(),
            ..DiskUse::default()
        }
    }

    #[test]
    fn who_takes_more_of_the_disk_than_it_may_goes_and_is_told_of_which_limit() {
        let volume = limited(None, Some(2 * MIB));
        assert_eq!(over_limit(&volume, &taken(90 * MIB, 2 * MIB)), None);
        assert_eq!(
            over_limit(&volume, &taken(0, 2 * MIB + 1)).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". ")
        );
        let pod = limited(Some(8 * MIB), None);
        assert_eq!(over_limit(&pod, &taken(2 * MIB, MIB)), None);
        assert_eq!(
            over_limit(&pod, &taken(2 * MIB, MIB + 1)).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. ")
        );
        let mut other = pod.containers[0].clone();
        (other.name, other.resources.storage_limit_bytes) = ("other".to_owned(), None);
        let two = EdgeDeployment { containers: vec![pod.containers[0].clone(), other], ..pod };
        assert_eq!(over_limit(&two, &taken(8 * MIB, 90 * MIB)), None, "one has no limit, so the pod has none");
        assert_eq!(
            over_limit(&two, &taken(8 * MIB + 1, 0)).as_deref(),
            Some("Container web exceeded its local ephemeral storage limit \"8Mi\". ")
        );
        assert!(is_limited(&two) && is_limited(&volume) && !is_limited(&limited(None, None)));
    }

    #[test]
    fn bytes_are_written_as_kubernetes_does() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1Ki"), (1536, "1536"), (5 << 30, "5Gi")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Bytes(1 << 63).to_string(), "8Ei");
    }
}
