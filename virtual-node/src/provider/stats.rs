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
