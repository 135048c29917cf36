//! `kubectl top`: what the device and its containers use.
//!
//! Nothing is measured unless somebody asks, and not more often than every [`FRESH`]. Where a container has cgroups they
//! tell; what they do not tell is summed over its processes, which are the descendants of its shim.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::stream::{ContainerStats, PodStats, Stats, StreamRefusal, Usage};
use hawser_wire::{DeviceTime, PodUid};
use tokio::sync::Mutex;

use self::parse::{kilobytes, machine_ticks, resident_pages, value};
use crate::runtime::process::Process;
use crate::runtime::{ContainerId, Found, FoundState, Runtime};
use crate::shim::files::{self, STATE, StateFile};
use crate::shim::identity::{Stat, since_boot};
use crate::streams::service::failed;

mod parse;

/// For so long a measurement answers every question.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Measures, and remembers what it has measured.
#[derive(Debug, Clone, Default)]
pub(super) struct Measurer(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    /// The last answer, and when it was given, since boot.
    last: Option<(Duration, Stats)>,
    /// Processor time that was told. Some of that of dead processes cannot be found any more, and yet it never goes back.
    told: BTreeMap<ContainerId, u64>,
}

/// A container that runs, and where to look.
struct Place {
    id: ContainerId,
    started: DeviceTime,
    shim: i32,
    cgroups: Vec<PathBuf>,
}

impl Measurer {
    /// Measures everything; `now` is the device's time.
    pub(super) async fn measure(&self, process: &Process, now: DeviceTime) -> Result<Stats, StreamRefusal> {
        // One at a time: whoever comes meanwhile gets the same answer.
        let mut memory = self.0.clone().lock_owned().await;
        if let Some((at, stats)) = &memory.last
            && since_boot() < *at + FRESH
        {
            return Ok(stats.clone());
        }
        let found = process.inventory().await.map_err(|error| failed(error.line()))?;
        let (process, begun) = (process.clone(), begun(&found));
        let measuring = tokio::task::spawn_blocking(move || {
            let places: Vec<Place> = found.into_iter().filter_map(|found| place(&process, found, now)).collect();
            let mut pods = pods(&places, &mut memory.told);
            for pod in &mut pods {
                pod.started = begun.get(&pod.pod).map(|ago| earlier(now, *ago));
            }
            let stats = Stats { at: now, node: machine(), started: Some(started(now)), pods, disk: None };
            memory.last = Some((since_boot(), stats.clone()));
            stats
        });
        measuring.await.map_err(|error| failed(format!("measure the device: {error}")))
    }
}

/// When the device was started.
pub(super) fn started(now: DeviceTime) -> DeviceTime {
    earlier(now, since_boot())
}

fn earlier(now: DeviceTime, ago: Duration) -> DeviceTime {
    DeviceTime(now.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
}

/// How long ago the first container of each pod was started that is still kept.
fn begun(found: &[Found]) -> BTreeMap<PodUid, Duration> {
    let mut begun = BTreeMap::new();
    for found in found {
        let ago = match &found.state {
            FoundState::Running { started_ago } => Some(*started_ago),
            FoundState::Ended(exit) => exit.ago.zip(exit.ran).map(|(ago, ran)| ago.saturating_add(ran)),
        };
        if let Some(ago) = ago {
            let first = begun.entry(found.id.pod.clone()).or_insert(ago);
            *first = ago.max(*first);
        }
    }
    begun
}

fn place(process: &Process, found: Found, now: DeviceTime) -> Option<Place> {
    let FoundState::Running { started_ago } = found.state else { return None };
    let state: StateFile = files::read(&process.attempt_dir(&found.id).join(STATE)).ok()??;
    Some(Place { id: found.id, started: earlier(now, started_ago), shim: state.shim.pid, cgroups: state.cgroups })
}

fn pods(places: &[Place], told: &mut BTreeMap<ContainerId, u64>) -> Vec<PodStats> {
    let families = families(places, &Stat::all());
    told.retain(|id, _| places.iter().any(|place| place.id == *id));
    let mut pods: BTreeMap<PodUid, Vec<ContainerStats>> = BTreeMap::new();
    for (place, family) in places.iter().zip(&families) {
        let mut usage = container(place, family);
        if let Some(cpu) = &mut usage.cpu_nanoseconds {
            let most = told.entry(place.id.clone()).or_default();
            *most = (*most).max(*cpu);
            *cpu = *most;
        }
        let stats = ContainerStats { name: place.id.name.clone(), started: Some(place.started), usage };
        pods.entry(place.id.pod.clone()).or_default().push(stats);
    }
    pods.into_iter().map(|(pod, containers)| PodStats { pod, started: None, containers }).collect()
}

/// The processes of one container.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    pids: Vec<i32>,
    /// Of all of them, and of those that were waited for.
    ticks: u64,
}

/// The descendants of each shim. What a shim itself uses is not the container's.
fn families(places: &[Place], all: &[Stat]) -> Vec<Family> {
    let parents: BTreeMap<i32, i32> = all.iter().map(|stat| (stat.pid, stat.parent)).collect();
    let shims: BTreeMap<i32, usize> = places.iter().enumerate().map(|(at, place)| (place.shim, at)).collect();
    let mut families: Vec<Family> = places.iter().map(|_| Family::default()).collect();
    for stat in all {
        if let Some(at) = shims.get(&stat.pid) {
            families[*at].ticks += stat.waited_ticks;
            continue;
        }
        let (mut pid, mut steps) = (stat.pid, 0);
        // The list is not of one moment, so it might even go round in circles.
        while let Some(parent) = parents.get(&pid).filter(|_| steps < all.len()) {
            if let Some(at) = shims.get(parent) {
                families[*at].pids.push(stat.pid);
                families[*at].ticks += stat.ticks + stat.waited_ticks;
                break;
            }
            (pid, steps) = (*parent, steps + 1);
        }
    }
    families
}

fn container(place: &Place, family: &Family) -> Usage {
    let mut usage = Usage { processes: u32::try_from(family.pids.len()).ok(), ..Usage::default() };
    for dir in &place.cgroups {
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        if usage.cpu_nanoseconds.is_none() {
            let v2 =
                read("cpu.stat").and_then(|text| value(&text, "usage_usec")).map(|micros| micros.saturating_mul(1_000));
            usage.cpu_nanoseconds = v2.or_else(|| number("cpuacct.usage"));
        }
        let (v2, v1) = (number("memory.current"), number("memory.usage_in_bytes"));
        if let (Some(used), Some(stat)) = (v2.or(v1), read("memory.stat")) {
            let (inactive, rss) =
                if v2.is_some() { ("inactive_file", "anon") } else { ("total_inactive_file", "total_rss") };
            usage.memory_working_set_bytes = Some(used.saturating_sub(value(&stat, inactive).unwrap_or(0)));
            usage.memory_rss_bytes = value(&stat, rss);
        }
    }
    if usage.cpu_nanoseconds.is_none() {
        usage.cpu_nanoseconds = Some(nanoseconds(family.ticks));
    }
    if usage.memory_working_set_bytes.is_none() {
        let (shares, whole) =
            family.pids.iter().map(|pid| memory(*pid)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (usage.memory_working_set_bytes, usage.memory_rss_bytes) = (Some(shares), Some(whole));
    }
    usage
}

/// What a process has in memory: its share of it, and all of it. Nothing, if it has just ended.
fn memory(pid: i32) -> (u64, u64) {
    // What is shared by several processes counts once. Older kernels, and other users' processes, do not tell.
    let shares = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let shares = shares.and_then(|text| Some((kilobytes(&text, "Pss")?, kilobytes(&text, "Rss")?)));
    shares.unwrap_or_else(|| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let bytes = resident_pages(&statm).unwrap_or(0).saturating_mul(rustix::param::page_size() as u64);
        (bytes, bytes)
    })
}

/// The device as a whole.
pub(super) fn machine() -> Usage {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let ticks = machine_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default());
    // As a kubelet counts: all that is used, except pages of files that nobody has touched for a while.
    let used = kilobytes(&meminfo, "MemTotal").zip(kilobytes(&meminfo, "MemFree"));
    let inactive = kilobytes(&meminfo, "Inactive(file)").unwrap_or(0);
    Usage {
        cpu_nanoseconds: ticks.map(nanoseconds),
        memory_working_set_bytes: used.map(|(total, free)| total.saturating_sub(free).saturating_sub(inactive)),
        memory_rss_bytes: kilobytes(&meminfo, "AnonPages"),
        processes: Some(u32::from(rustix::system::sysinfo().procs)),
        at: None,
    }
}

fn nanoseconds(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32, ticks: u64, waited_ticks: u64) -> Stat {
        Stat { pid, parent, group: 0, session: 0, start: 0, zombie: false, ticks, waited_ticks }
    }

    fn place(name: &str, shim: i32, cgroups: Vec<PathBuf>) -> Place {
        let id = ContainerId { pod: PodUid::new("u").unwrap(), name: name.into(), attempt: 0 };
        Place { id, started: DeviceTime(5), shim, cgroups }
    }

    #[test]
    fn a_container_is_the_descendants_of_its_shim() {
        let all = [
            stat(1, 0, 900, 900),
            stat(10, 1, 50, 7),
            stat(11, 10, 1, 2),
            stat(12, 11, 4, 0),
            stat(20, 1, 60, 0),
            stat(21, 20, 8, 0),
            // Nobody's, and two that changed parents while the list was read.
            stat(30, 1, 99, 99),
            stat(40, 41, 1, 1),
            stat(41, 40, 1, 1),
        ];
        let families = families(&[place("a", 10, vec![]), place("b", 20, vec![]), place("gone", 77, vec![])], &all);
        assert_eq!(families[0], Family { pids: vec![11, 12], ticks: 7 + 3 + 4 });
        assert_eq!(families[1], Family { pids: vec![21], ticks: 8 });
        assert_eq!(families[2], Family::default());
    }

    #[test]
    fn cgroups_tell_better_than_processes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("v2/cpu.stat", "usage_usec 1500\nuser_usec 1\n");
        write("v2/memory.current", "1000\n");
        write("v2/memory.stat", "anon 400\ninactive_file 300\n");
        write("cpu/cpuacct.usage", "77\n");
        write("memory/memory.usage_in_bytes", "1000\n");
        write("memory/memory.stat", "inactive_file 1\ntotal_rss 600\ntotal_inactive_file 1100\n");
        let family = Family { pids: vec![], ticks: 3 };
        let usage = |dirs: &[&str]| {
            let usage = container(&place("c", 1, dirs.iter().map(|name| dir.path().join(name)).collect()), &family);
            (usage.cpu_nanoseconds, usage.memory_working_set_bytes, usage.memory_rss_bytes)
        };
        assert_eq!(usage(&["v2"]), (Some(1_500_000), Some(700), Some(400)));
        assert_eq!(usage(&["cpu", "memory"]), (Some(77), Some(0), Some(600)));
        assert_eq!(usage(&["memory"]), (Some(nanoseconds(3)), Some(0), Some(600)));
        assert_eq!(usage(&[]), (Some(nanoseconds(3)), Some(0), Some(0)));
    }

    #[test]
    fn processor_time_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let places = [place("c", i32::MAX, vec![dir.path().to_owned()])];
        let mut told = BTreeMap::new();
        let mut measure = |nanos: u64| {
            fs::write(dir.path().join("cpuacct.usage"), nanos.to_string()).unwrap();
            pods(&places, &mut told)[0].containers[0].usage.cpu_nanoseconds
        };
        assert_eq!([measure(50), measure(40), measure(60)], [Some(50), Some(50), Some(60)]);
    }
}
