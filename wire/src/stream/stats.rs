//! What a device and its pods use. What could not be measured is not there.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::ids::{DeviceTime, PodUid};

/// What a device and its pods use.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Stats {
    /// When it was measured.
    #[n(0)]
    pub at: DeviceTime,
    /// The device as a whole.
    #[n(1)]
    pub node: Usage,
    /// When the device was started.
    #[n(2)]
    pub started: Option<DeviceTime>,
    /// The pods that run.
    #[n(3)]
    pub pods: Vec<PodStats>,
    /// The disk, when it was looked at last.
    #[n(4)]
    pub disk: Option<DiskStats>,
}

/// What one pod uses.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct PodStats {
    /// The pod.
    #[n(0)]
    pub pod: PodUid,
    /// When it was taken over.
    #[n(1)]
    pub started: Option<DeviceTime>,
    /// The containers that run.
    #[n(2)]
    pub containers: Vec<ContainerStats>,
}

/// What one container uses.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ContainerStats {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// When it was started.
    #[n(1)]
    pub started: Option<DeviceTime>,
    /// What it uses.
    #[n(2)]
    pub usage: Usage,
}

/// Measured use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Usage {
    /// Processor time since the start, in nanoseconds. It never goes back between two starts.
    #[n(0)]
    pub cpu_nanoseconds: Option<u64>,
    /// Memory that cannot be taken back without hurting: used, without inactive file pages.
    #[n(1)]
    pub memory_working_set_bytes: Option<u64>,
    /// Resident memory.
    #[n(2)]
    pub memory_rss_bytes: Option<u64>,
    /// When it was measured, if not at [`Stats::at`].
    #[n(3)]
    pub at: Option<DeviceTime>,
    /// How many processes there are.
    #[n(4)]
    pub processes: Option<u32>,
}

/// What is used of the device's disks. That takes long to measure, so it is older than the rest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct DiskStats {
    /// When it was measured.
    #[n(0)]
    pub at: DeviceTime,
    /// The file system of the agent: of logs, of volumes on the disk, and of containers unless there is one of images.
    #[n(1)]
    pub node: FileSystem,
    /// The file system of an engine's images and of what its containers write. What is used of it is what images take.
    #[n(2)]
    pub images: Option<FileSystem>,
    /// The pods that the device has.
    #[n(3)]
    pub pods: Vec<PodSpace>,
}

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct FileSystem {
    /// Its size.
    #[n(0)]
    pub capacity_bytes: u64,
    /// What can still be written to it.
    #[n(1)]
    pub available_bytes: u64,
    /// How many inodes it has.
    #[n(2)]
    pub inodes: u64,
    /// How many of them are free.
    #[n(3)]
    pub inodes_free: u64,
    /// What is used of it.
    #[n(4)]
    pub used: Space,
}

/// A part of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Space {
    /// Bytes.
    #[n(0)]
    pub bytes: u64,
    /// Inodes.
    #[n(1)]
    pub inodes: u64,
}

/// What one pod has on the disks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct PodSpace {
    /// The pod.
    #[n(0)]
    pub pod: PodUid,
    /// What it takes of the disk as long as it is there: containers, logs, and volumes that go with it.
    #[n(1)]
    pub ephemeral: Space,
    /// Its volumes, except those that are the device's own.
    #[n(2)]
    pub volumes: Vec<VolumeSpace>,
    /// Its containers.
    #[n(3)]
    pub containers: Vec<ContainerSpace>,
}

/// What a volume takes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct VolumeSpace {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// What is in it.
    #[n(1)]
    pub used: Space,
    /// It is in memory, so it takes nothing of a disk.
    #[n(2)]
    pub memory: bool,
}

/// What a container takes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ContainerSpace {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// What it has written outside of volumes.
    #[n(1)]
    pub written: Space,
    /// Its logs.
    #[n(2)]
    pub logs: Space,
}
