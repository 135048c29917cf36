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
