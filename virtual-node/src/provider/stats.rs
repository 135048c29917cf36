//! What `kubectl top` asks of a provider.

use jiff::Timestamp;

use crate::ids::PodRef;

/// What a machine and its pods use.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeStats {
    /// The machine as a whole.
    pub node: Usage,
    /// When the machine was started.
    pub started: Option<Timestamp>,
    /// The file system of the machine: of logs, and of volumes on the disk.
    pub fs: Option<FsUsage>,
    /// The file system of images and of what containers write; what is used of it is what images take. `None` where
    /// containers have none of their own.
    pub image_fs: Option<FsUsage>,
    /// What is known about pods.
    pub pods: Vec<PodStats>,
}

/// What one pod uses.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStats {
    /// Which pod.
    pub pod: PodRef,
    /// When it was taken over.
    pub started: Option<Timestamp>,
    /// The containers that run.
    pub containers: Vec<ContainerStats>,
    /// What it takes of the disk as long as it is there: containers, logs, and volumes that go with it.
    pub ephemeral_storage: Option<FsUsage>,
    /// Its volumes, as far as they can be measured.
    pub volumes: Vec<VolumeStats>,
}

/// What one container uses.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    /// Its name.
    pub name: String,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// What it uses.
    pub usage: Usage,
    /// What it has written outside of volumes.
    pub rootfs: Option<FsUsage>,
    /// Its logs.
    pub logs: Option<FsUsage>,
}

/// What a volume takes.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeStats {
    /// Its name in the pod.
    pub name: String,
    /// What is in it.
    pub fs: FsUsage,
}

/// A file system, and what of it is used by what this is about. What could not be measured is not there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FsUsage {
    /// When it was measured (corrected time).
    pub at: Option<Timestamp>,
    /// Its size.
    pub capacity_bytes: Option<u64>,
    /// What can still be written to it.
    pub available_bytes: Option<u64>,
    /// What is used.
    pub used_bytes: Option<u64>,
    /// How many inodes it has.
    pub inodes: Option<u64>,
    /// How many of them are free.
    pub inodes_free: Option<u64>,
    /// How many are used.
    pub inodes_used: Option<u64>,
}

/// Measured use. What could not be measured is not there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// When it was measured (corrected time).
    pub at: Option<Timestamp>,
    /// Processor time since the start, in nanoseconds. It never goes back between two starts.
    pub cpu_nanoseconds: Option<u64>,
    /// Memory that cannot be taken back without hurting: used, without inactive file pages.
    pub memory_working_set_bytes: Option<u64>,
    /// Resident memory.
    pub memory_rss_bytes: Option<u64>,
}
