//! Between the words of the wire and those of the virtual nodes. Pure.

use hawser_wire::stream::mux::{End, NotOpened};
use hawser_wire::stream::{self, StreamRefusal};
use hawser_wire::{DeviceTime, PodUid};
use jiff::Timestamp;
use virtual_node::PodRef;
use virtual_node::provider::stats::{ContainerStats, FsUsage, NodeStats, PodStats, Usage, VolumeStats};
use virtual_node::provider::streams::{Channels, StreamError};

pub(super) fn uid_of(pod: &PodRef) -> Result<PodUid, StreamError> {
    // One that cannot travel was refused at the beginning, so nothing runs for it.
    PodUid::new(pod.uid.as_str()).map_err(|error| StreamError::NotFound(error.to_string()))
}

pub(super) fn channels_of(channels: Channels) -> stream::Channels {
    let Channels { stdin, stdout, stderr, tty } = channels;
    stream::Channels { stdin, stdout, stderr, tty }
}

pub(super) fn not_opened(why: NotOpened) -> StreamError {
    match why {
        NotOpened::Down(why) => StreamError::Unreachable(format!("there is no session with the device: {why}")),
        NotOpened::TooMany(limit) => {
            StreamError::TooMany(format!("{limit} streams to this device are open already; close some of them"))
        }
    }
}

pub(super) fn error_of(end: End) -> StreamError {
    match end {
        End::Finished(_) => StreamError::Failed("the device ended the stream and did not say how".to_owned()),
        End::Refused(refusal) => refused(refusal),
        End::Aborted(why) => StreamError::Failed(why),
        End::Lost(why) => StreamError::Unreachable(format!("the connection to the device was lost: {why}")),
    }
}

fn refused(StreamRefusal { status, message }: StreamRefusal) -> StreamError {
    match status {
        404 | 410 => StreamError::NotFound(message),
        400 | 409 | 412 => StreamError::NotPossible(message),
        405 | 501 => StreamError::NotSupported(message),
        429 => StreamError::TooMany(message),
        503 | 504 => StreamError::Unreachable(message),
        _ => StreamError::Failed(message),
    }
}

/// `when` maps the device's timeline to ours, `pod` finds pods. What the device has and we do not know is left out.
pub(crate) fn named(
    stats: stream::Stats,
    when: impl Fn(DeviceTime) -> Option<Timestamp>,
    pod: impl Fn(&PodUid) -> Option<PodRef>,
) -> NodeStats {
    let measured = stats.at;
    let usage = |usage: stream::Usage| Usage {
        at: when(usage.at.unwrap_or(measured)),
        cpu_nanoseconds: usage.cpu_nanoseconds,
        memory_working_set_bytes: usage.memory_working_set_bytes,
        memory_rss_bytes: usage.memory_rss_bytes,
    };
    let disk = stats.disk.as_ref().map(|disk| Disks { at: when(disk.at), told: disk });
    let pods = stats.pods.into_iter().filter_map(|stats| {
        let space = disk.as_ref().and_then(|disk| disk.told.pods.iter().find(|space| space.pod == stats.pod));
        let space = disk.as_ref().zip(space);
        let container = |container: stream::ContainerStats| {
            let of = |(disk, space): (_, &stream::PodSpace)| {
                Some((disk, space.containers.iter().find(|space| space.name == container.name)?.clone()))
            };
            let space: Option<(&Disks, _)> = space.and_then(of);
            ContainerStats {
                started: container.started.and_then(&when),
                usage: usage(container.usage),
                rootfs: space.as_ref().map(|(disk, space)| disk.of_images(space.written)),
                logs: space.as_ref().map(|(disk, space)| disk.of_node(space.logs)),
                name: container.name,
            }
        };
        Some(PodStats {
            pod: pod(&stats.pod)?,
            started: stats.started.and_then(&when),
            containers: stats.containers.into_iter().map(container).collect(),
            ephemeral_storage: space.map(|(disk, space)| disk.of_node(space.ephemeral)),
            volumes: space.map(|(disk, space)| disk.volumes(&space.volumes)).unwrap_or_default(),
        })
    });
    let pods = pods.collect();
    NodeStats {
        node: usage(stats.node),
        started: stats.started.and_then(&when),
        fs: disk.as_ref().map(|disk| disk.of_node(disk.told.node.used)),
        image_fs: disk.as_ref().and_then(|disk| Some(disk.of(disk.told.images?, disk.told.images?.used))),
        pods,
    }
}

/// The device's file systems, and when they were looked at.
struct Disks<'a> {
    at: Option<Timestamp>,
    told: &'a stream::DiskStats,
}

impl Disks<'_> {
    fn of(&self, file_system: stream::FileSystem, used: stream::Space) -> FsUsage {
        FsUsage {
            capacity_bytes: Some(file_system.capacity_bytes),
            available_bytes: Some(file_system.available_bytes),
            inodes: Some(file_system.inodes),
            inodes_free: Some(file_system.inodes_free),
            ..self.of_memory(used)
        }
    }

    fn of_node(&self, used: stream::Space) -> FsUsage {
        self.of(self.told.node, used)
    }

    /// Of containers, which write to the file system of images where there is one.
    fn of_images(&self, used: stream::Space) -> FsUsage {
        self.of(self.told.images.unwrap_or(self.told.node), used)
    }

    fn of_memory(&self, used: stream::Space) -> FsUsage {
        FsUsage { at: self.at, used_bytes: Some(used.bytes), inodes_used: Some(used.inodes), ..FsUsage::default() }
    }

    fn volumes(&self, volumes: &[stream::VolumeSpace]) -> Vec<VolumeStats> {
        let of = |volume: &stream::VolumeSpace| {
            let fs = if volume.memory { self.of_memory(volume.used) } else { self.of_node(volume.used) };
            VolumeStats { name: volume.name.clone(), fs }
        };
        volumes.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::stream::{ContainerSpace, DiskStats, FileSystem, PodSpace, Space, VolumeSpace};

    #[test]
    fn disks_are_told_of_with_the_file_system_that_each_part_is_on() {
        let space = |bytes| Space { bytes, inodes: 1 };
        let file_system =
            |capacity_bytes, used| FileSystem { capacity_bytes, used: space(used), ..FileSystem::default() };
        let uid = PodUid::new("u").unwrap();
        let container =
            |name: &str| stream::ContainerStats { name: name.into(), started: None, usage: Default::default() };
        let volume = |name: &str, memory| VolumeSpace { name: name.into(), used: space(5), memory };
        let told = PodSpace {
            pod: uid.clone(),
            ephemeral: space(9),
            volumes: vec![volume("disk", false), volume("memory", true)],
            containers: vec![ContainerSpace { name: "main".into(), written: space(2), logs: space(3) }],
        };
        let disk = DiskStats {
            at: DeviceTime(4_000),
            node: file_system(100, 50),
            images: Some(file_system(200, 70)),
            pods: vec![told],
        };
        let pod = stream::PodStats { pod: uid, started: None, containers: vec![container("main"), container("new")] };
        let node = stream::Usage::default();
        let stats = stream::Stats { at: DeviceTime(9_000), node, started: None, pods: vec![pod], disk: Some(disk) };
        let name = PodRef { namespace: "n".into(), name: "p".into(), uid: virtual_node::PodUid::new("u") };
        let when = |at: DeviceTime| Timestamp::from_millisecond(at.0 as i64).ok();
        let named = named(stats, when, |_| Some(name.clone()));
        let sizes = |fs: FsUsage| (fs.capacity_bytes, fs.used_bytes.unwrap());
        assert_eq!(named.fs.map(sizes), Some((Some(100), 50)));
        assert_eq!(named.fs.unwrap().at, Timestamp::from_second(4).ok());
        assert_eq!(named.image_fs.map(sizes), Some((Some(200), 70)));
        let pod = &named.pods[0];
        assert_eq!(pod.ephemeral_storage.map(sizes), Some((Some(100), 9)));
        assert_eq!(pod.containers[0].rootfs.map(sizes), Some((Some(200), 2)));
        assert_eq!(pod.containers[0].logs.map(sizes), Some((Some(100), 3)));
        assert_eq!((pod.containers[1].rootfs, pod.containers[1].logs), (None, None), "it came after the measurement");
        assert_eq!([sizes(pod.volumes[0].fs), sizes(pod.volumes[1].fs)], [(Some(100), 5), (None, 5)]);
    }
}
