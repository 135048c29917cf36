//! What the engine says that our containers use.

use std::collections::BTreeMap;
use std::time::Duration;

use hawser_cri::{CallError, ContainerState, CpuUsage, MemoryUsage};
use hawser_wire::PodUid;

use super::{Cri, exit, labels};
use crate::runtime::ContainerId;

/// What our containers use.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    /// When that was asked, by the wall clock, since 1970.
    pub(crate) at: Duration,
    /// Those that run.
    pub(crate) containers: Vec<UsedBy>,
    /// When the pods' sandboxes were made, in nanoseconds since 1970; of several the first.
    pub(crate) sandboxes: BTreeMap<PodUid, i64>,
}

/// What one container uses.
#[derive(Debug, Clone)]
pub(crate) struct UsedBy {
    pub(crate) id: ContainerId,
    /// The engine's name for it, which is in that of its cgroup.
    pub(crate) name: String,
    /// When it was made, in nanoseconds since 1970.
    pub(crate) created: i64,
    pub(crate) cpu: Option<CpuUsage>,
    pub(crate) memory: Option<MemoryUsage>,
}

impl Cri {
    /// Asks the engine.
    pub(crate) async fn used(&self) -> Result<Used, CallError> {
        let client = &self.0.client;
        let stats = client.list_container_stats(labels::ours(self.device())).await?;
        let (at, listed) = (exit::wall(), client.list_containers(labels::ours(self.device())).await?);
        // Some engines list what has ended as well.
        let running = listed.iter().filter(|container| container.state() == ContainerState::Running);
        let known: BTreeMap<&str, (ContainerId, i64)> =
            running.filter_map(|c| Some((c.id.as_str(), (labels::id(c)?, c.created_at)))).collect();
        let containers = stats.iter().filter_map(|stats| {
            let name = stats.attributes.as_ref()?.id.clone();
            let (id, created) = known.get(name.as_str())?.clone();
            Some(UsedBy { id, name, created, cpu: stats.cpu, memory: stats.memory })
        });
        let containers = containers.collect();
        let mut sandboxes = BTreeMap::new();
        for sandbox in client.list_pod_sandboxes(labels::ours(self.device())).await? {
            if let Some(pod) = labels::pod(&sandbox) {
                let first = sandboxes.entry(pod).or_insert(sandbox.created_at);
                *first = (*first).min(sandbox.created_at);
            }
        }
        Ok(Used { at, containers, sandboxes })
    }
}
