//! The desired set as the rest of the agent sees it: complete things only.
//!
//! The link makes it from the accepted index and the objects in the ledger; the workloads act on it. It is immutable and
//! travels through a `watch` channel: whoever reads it sees the latest, and nobody needs the ones between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::{AddressRange, ContentHash, PodUid, Version};

/// What the device is to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredSet {
    /// How new it is; `None` until the first index was accepted. Without a version nothing is wanted and nothing is
    /// unwanted: whatever runs goes on.
    pub version: Option<Version>,
    /// Whether the bridge has sent it, or sent it again, since the agent started. Before that it is what the ledger
    /// remembers, and a ledger whose disk was full may remember less than what runs.
    pub heard: bool,
    /// The addresses that pods are to have, if the engine wants to be told.
    pub pod_ranges: Vec<AddressRange>,
    /// The pods. One that runs and has no entry here is to be stopped with its own grace period and forgotten.
    pub pods: BTreeMap<PodUid, DesiredPod>,
}

/// What is wanted of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPod {
    /// What is wanted.
    pub wish: DesiredWish,
    /// The newest edge deployment whose objects are all here. It may be older than the one the index names, while that
    /// one is still being fetched, and missing if none was ever complete.
    pub deployment: Option<Deployment>,
}

/// What is wanted of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesiredWish {
    /// Run `deployment`.
    Run,
    /// Stop it within the grace period, report that it is gone, and keep its remains until it leaves the set.
    Stop {
        /// How long containers may take to end after TERM.
        grace: Duration,
    },
    /// It ended for good: start nothing, keep its remains (logs) until it leaves the set.
    Retain,
}

/// A complete edge deployment: all its blobs are in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// The hash of its encoding.
    pub hash: ContentHash,
    /// What it says.
    pub spec: Arc<EdgeDeployment>,
}
