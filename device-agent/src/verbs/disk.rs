//! What is used of the device's disks, as `/stats/summary` shows it.
//!
//! Measuring walks through all that pods have on the disk, so nobody waits for it: an answer holds what was measured last, and
//! a question that finds that old has it measured again, beside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::stream::{ContainerSpace, DiskStats, PodSpace, Space as Taken, VolumeSpace};
use hawser_wire::{DeviceTime, PodUid};
use tokio::task::JoinSet;

use super::subjects::Subjects;
use crate::runtime::{DiskUse, Runtime, Space};
use crate::shim::identity::since_boot;

/// For so long a measurement answers every question, however quickly it was made,
const AT_LEAST: Duration = Duration::from_secs(10);
/// and for so many times as long as it took: a slow disk has other things to do.
const TIMES: u32 = 20;

/// Measures, and remembers what it has measured.
#[derive(Clone, Default)]
pub(super) struct DiskGauge(Arc<Mutex<Memory>>);

/// Its end ends a measurement that is being made.
#[derive(Default)]
struct Memory {
    last: Option<Measured>,
    measuring: JoinSet<Option<Measured>>,
}

#[derive(Clone)]
struct Measured {
    /// When it was complete, and how long it had taken, since boot.
    at: Duration,
    took: Duration,
    disk: DiskStats,
}

impl Measured {
    fn is_old(&self, now: Duration) -> bool {
        now >= self.at.saturating_add(AT_LEAST.max(self.took.saturating_mul(TIMES)))
    }
}

impl DiskGauge {
    /// What was measured last, if anything was; `now` is the device's time.
    pub(super) fn told<R: Runtime + Clone>(&self, subjects: &Subjects<R>, now: DeviceTime) -> Option<DiskStats> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = memory.measuring.try_join_next() {
            if let Ok(Some(measured)) = ended {
                memory.last = Some(measured);
            }
        }
        let old = memory.last.as_ref().is_none_or(|last| last.is_old(since_boot()));
        if old && memory.measuring.is_empty() {
            memory.measuring.spawn(measure(subjects.runtime.clone(), subjects.specs(), now));
        }
        memory.last.as_ref().map(|last| last.disk.clone())
    }
}

async fn measure<R: Runtime>(
    runtime: R,
    pods: Vec<(PodUid, Arc<EdgeDeployment>)>,
    now: DeviceTime,
) -> Option<Measured> {
    let began = since_boot();
    let file_systems = runtime.file_systems().await?;
    let mut spaces = Vec::new();
    for (pod, spec) in pods {
        match runtime.disk_use(spec).await {
            Ok(used) => spaces.push(of_pod(pod, &used)),
            Err(error) => tracing::debug!(%pod, error = error.line(), "what a pod takes of the disk is not known"),
        }
    }
    let disk = DiskStats { at: now, node: file_systems.node, images: file_systems.images, pods: spaces };
    let at = since_boot();
    Some(Measured { at, took: at.saturating_sub(began), disk })
}

fn of_pod(pod: PodUid, used: &DiskUse) -> PodSpace {
    let mut ephemeral = Space::default();
    for space in used.volumes.values().chain(used.containers.values()) {
        ephemeral += *space;
    }
    let volume =
        |(name, space): (&String, &Space), memory| VolumeSpace { name: name.clone(), used: taken(*space), memory };
    let on_disk = used.volumes.iter().map(|entry| volume(entry, false));
    let volumes = on_disk.chain(used.in_memory.iter().map(|entry| volume(entry, true))).collect();
    let containers = used.containers.iter().map(|(name, all)| {
        let logs = used.logs.get(name).copied().unwrap_or_default();
        let written =
            Space { bytes: all.bytes.saturating_sub(logs.bytes), inodes: all.inodes.saturating_sub(logs.inodes) };
        ContainerSpace { name: name.clone(), written: taken(written), logs: taken(logs) }
    });
    PodSpace { pod, ephemeral: taken(ephemeral), volumes, containers: containers.collect() }
}

fn taken(Space { bytes, inodes }: Space) -> Taken {
    Taken { bytes, inodes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::stream::FileSystem;

    #[test]
    fn what_a_pod_takes_is_told_by_part_and_as_a_whole() {
        let space = |bytes, inodes| Space { bytes, inodes };
        let used = DiskUse {
            volumes: [("data".to_owned(), space(100, 3))].into(),
            in_memory: [("secret".to_owned(), space(7, 2))].into(),
            containers: [("web".to_owned(), space(50, 5)), ("db".to_owned(), space(1, 1))].into(),
            logs: [("web".to_owned(), space(20, 2))].into(),
        };
        let told = of_pod(PodUid::new("u").unwrap(), &used);
        assert_eq!(told.ephemeral, Taken { bytes: 151, inodes: 9 }, "memory is not the disk");
        let volumes: Vec<_> =
            told.volumes.iter().map(|volume| (volume.name.as_str(), volume.used.bytes, volume.memory)).collect();
        assert_eq!(volumes, [("data", 100, false), ("secret", 7, true)]);
        let [db, web] = &told.containers[..] else { panic!("{told:?}") };
        assert_eq!((db.name.as_str(), db.written.bytes, db.logs.bytes), ("db", 1, 0));
        assert_eq!((web.written, web.logs), (Taken { bytes: 30, inodes: 3 }, Taken { bytes: 20, inodes: 2 }));
    }

    #[test]
    fn what_took_long_is_not_measured_again_soon() {
        let disk = DiskStats { at: DeviceTime(0), node: FileSystem::default(), images: None, pods: vec![] };
        let old = |took: u64, after: u64| {
            let took = Duration::from_secs(took);
            Measured { at: Duration::from_secs(1_000), took, disk: disk.clone() }
                .is_old(Duration::from_secs(1_000 + after))
        };
        assert_eq!([old(0, 9), old(0, 10), old(5, 99), old(5, 100)], [false, true, false, true]);
    }
}
