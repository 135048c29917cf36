//! Sandboxes of the engine: found, made, replaced, removed.

use std::collections::BTreeSet;

use hawser_cri::{CallError, Container as EngineContainer, PodSandbox, PodSandboxState};
use hawser_wire::PodUid;
use hawser_wire::deployment::EdgeDeployment;

use super::{Cri, describe, labels, place};

impl Cri {
    pub(super) async fn sandboxes(&self, uid: &PodUid) -> Result<Vec<PodSandbox>, CallError> {
        self.0.client.list_pod_sandboxes(labels::of_pod(self.device(), uid)).await
    }

    /// The pod's sandbox, made if there is none that is ready.
    async fn sandbox(&self, pod: &EdgeDeployment) -> Result<String, CallError> {
        let all = self.sandboxes(&pod.uid).await?;
        if let Some(ready) = ready(&all) {
            return Ok(ready.id.clone());
        }
        for old in &all {
            // Gives its network back; its containers stay to be asked about.
            self.0.client.stop_pod_sandbox(&old.id).await?;
        }
        let attempts = all.iter().filter_map(|old| old.metadata.as_ref()).map(|metadata| metadata.attempt);
        let attempt = attempts.max().map_or(0, |last| last.saturating_add(1));
        let logs = place::logs(&self.0.places, &pod.uid);
        self.0.client.run_pod_sandbox(describe::sandbox(self.frame(), pod, attempt, &logs)).await
    }

    /// The addresses of the pod's sandbox, which is made if there is none; `None`: it shares the device's.
    pub(super) async fn sandbox_addresses(&self, spec: &EdgeDeployment) -> Result<Option<Vec<String>>, CallError> {
        let sandbox = self.sandbox(spec).await?;
        let status = self.0.client.pod_sandbox_status(&sandbox).await?;
        let addresses = status.network.filter(|_| !spec.host_network).map(|network| {
            let more = network.additional_ips.into_iter().map(|more| more.ip);
            std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect::<Vec<_>>()
        });
        match &addresses {
            Some(own) => self.addresses().insert(spec.uid.clone(), own.clone()),
            None => self.addresses().remove(&spec.uid),
        };
        Ok(addresses)
    }

    pub(super) async fn remove_sandboxes(&self, uid: &PodUid) -> Result<(), CallError> {
        for sandbox in self.sandboxes(uid).await? {
            self.0.client.stop_pod_sandbox(&sandbox.id).await?;
            self.0.client.remove_pod_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Sandboxes that an agent made which died before it put anything into them.
    pub(super) async fn sweep(&self, containers: &[EngineContainer]) -> Result<(), CallError> {
        let used: BTreeSet<&str> = containers.iter().map(|container| container.pod_sandbox_id.as_str()).collect();
        for sandbox in self.0.client.list_pod_sandboxes(labels::ours(self.device())).await? {
            if !used.contains(sandbox.id.as_str()) {
                self.0.client.stop_pod_sandbox(&sandbox.id).await?;
                self.0.client.remove_pod_sandbox(&sandbox.id).await?;
            }
        }
        Ok(())
    }
}

/// The one that is ready.
pub(super) fn ready(sandboxes: &[PodSandbox]) -> Option<&PodSandbox> {
    sandboxes.iter().find(|sandbox| sandbox.state() == PodSandboxState::Ready)
}
