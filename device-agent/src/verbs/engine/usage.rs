//! `kubectl top`: what the device and an engine's containers use.
//!
//! Nothing is asked of the engine unless somebody wants to know, and not more often than every [`FRESH`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_cri::{CallError, ErrorKind, UInt64Value};
use hawser_wire::stream::{ContainerStats, PodStats, Stats, StreamRefusal, Usage};
use hawser_wire::{DeviceTime, PodUid};
use tokio::sync::Mutex;

use crate::runtime::cri::{Cri, Used};
use crate::shim::identity::since_boot;
use crate::streams::service::failed;
use crate::verbs::stats::{FRESH, machine, started};

/// How often the engine is asked. One that meets a container which is just ending gives up on all of them.
const TRIES: u32 = 3;

/// Asks, and remembers the last answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge(Arc<Mutex<Option<(Duration, Stats)>>>);

impl Gauge {
    /// Measures everything; `now` is the device's time.
    pub(super) async fn read(&self, cri: &Cri, now: DeviceTime) -> Result<Stats, StreamRefusal> {
        // One at a time: whoever comes meanwhile gets the same answer.
        let mut last = self.0.lock().await;
        if let Some((at, stats)) = &*last
            && since_boot() < *at + FRESH
        {
            return Ok(stats.clone());
        }
        let used = ask(cri).await.map_err(|error| failed(format!("measure the containers: {error}")))?;
        let names: Vec<String> = used.containers.iter().map(|container| container.name.clone()).collect();
        let looking = tokio::task::spawn_blocking(move || (machine(), processes(&names)));
        let (node, processes) = looking.await.map_err(|error| failed(format!("measure the device: {error}")))?;
        let pods = pods(used, &processes, now);
        let stats = Stats { at: now, node, started: Some(started(now)), pods, disk: None };
        *last = Some((since_boot(), stats.clone()));
        Ok(stats)
    }
}

async fn ask(cri: &Cri) -> Result<Used, CallError> {
    let mut tries = 1;
    loop {
        match cri.used().await {
            Err(CallError { kind: ErrorKind::Refused, .. }) if tries < TRIES => tries += 1,
            told => return told,
        }
    }
}

/// How many processes each of these containers has, as it is in the names of their cgroups.
fn processes(names: &[String]) -> BTreeMap<String, u32> {
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    let pids = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for cgroups in pids.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()) {
        if let Some(name) = names.iter().find(|name| cgroups.contains(*name)) {
            *count.entry(name.clone()).or_default() += 1;
        }
    }
    count
}

/// The engine's words. It tells times by the wall clock, which was `used.at` at the device's `now`.
fn pods(used: Used, processes: &BTreeMap<String, u32>, now: DeviceTime) -> Vec<PodStats> {
    let time = |nanos: i64| {
        let ago = used.at.saturating_sub(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)));
        (nanos > 0).then(|| DeviceTime(now.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))))
    };
    let number = |value: Option<UInt64Value>| value.map(|value| value.value);
    let mut pods: BTreeMap<PodUid, PodStats> = BTreeMap::new();
    for container in used.containers {
        let (cpu, memory) = (container.cpu.unwrap_or_default(), container.memory.unwrap_or_default());
        let usage = Usage {
            cpu_nanoseconds: number(cpu.usage_core_nano_seconds),
            memory_working_set_bytes: number(memory.working_set_bytes),
            memory_rss_bytes: number(memory.rss_bytes),
            at: time(cpu.timestamp),
            processes: processes.get(&container.name).copied(),
        };
        let id = container.id;
        let pod = pods.entry(id.pod.clone()).or_insert_with(|| PodStats {
            started: used.sandboxes.get(&id.pod).and_then(|nanos| time(*nanos)),
            pod: id.pod,
            containers: Vec::new(),
        });
        pod.containers.push(ContainerStats { name: id.name, started: time(container.created), usage });
    }
    for pod in pods.values_mut() {
        pod.containers.sort_by(|one, other| one.name.cmp(&other.name));
    }
    pods.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ContainerId;
    use crate::runtime::cri::UsedBy;
    use hawser_cri::{CpuUsage, MemoryUsage};

    #[test]
    fn an_engines_words_become_what_pods_use_in_the_devices_time() {
        let uid = |name: &str| PodUid::new(name).unwrap();
        let number = |value| Some(UInt64Value { value });
        let container = |pod: &str, name: &str, cpu| UsedBy {
            id: ContainerId { pod: uid(pod), name: name.into(), attempt: 3 },
            name: format!("{pod}-{name}"),
            created: 996_000_000_000,
            cpu,
            memory: Some(MemoryUsage {
                timestamp: 1,
                working_set_bytes: number(7),
                usage_bytes: None,
                rss_bytes: None,
            }),
        };
        let measured = CpuUsage { timestamp: 999_500_000_000, usage_core_nano_seconds: number(5) };
        let used = Used {
            at: Duration::from_secs(1_000),
            containers: vec![container("p", "z", Some(measured)), container("p", "a", None), container("q", "x", None)],
            sandboxes: BTreeMap::from([(uid("p"), 990_000_000_000)]),
        };
        let pods = pods(used, &BTreeMap::from([("p-z".into(), 9)]), DeviceTime(50_000));
        assert_eq!((pods.len(), pods[0].started, pods[1].started), (2, Some(DeviceTime(40_000)), None));
        let [a, z] = &pods[0].containers[..] else { panic!("{pods:?}") };
        assert_eq!((a.name.as_str(), z.name.as_str()), ("a", "z"));
        assert_eq!(z.started, Some(DeviceTime(46_000)));
        let usage = Usage {
            cpu_nanoseconds: Some(5),
            memory_working_set_bytes: Some(7),
            memory_rss_bytes: None,
            at: Some(DeviceTime(49_500)),
            processes: Some(9),
        };
        assert_eq!(z.usage, usage);
        assert_eq!(a.usage, Usage { cpu_nanoseconds: None, at: None, processes: None, ..usage });
    }
}
