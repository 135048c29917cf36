//! Sandboxes of the engine: found, made, replaced, removed.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use hawser_cri::{
    CallError, Container as EngineContainer, DnsConfig, PodSandbox, PodSandboxConfig, PodSandboxState, RuntimeCondition,
};
use hawser_wire::PodUid;
use hawser_wire::deployment::EdgeDeployment;

use super::admission::{check_sysctls, handler};
use super::describe::Manners;
use super::users::Users;
use super::{Cri, describe, failure, labels, names, place, security};
use crate::runtime::volumes::place::Naming;
use crate::runtime::{PodReady, PrepareError, RuntimeError, Told};

/// Far more than any resolver's configuration takes.
const MAX_RESOLVER: u64 = 64 * 1024;

impl Cri {
    pub(super) async fn sandboxes(&self, uid: &PodUid) -> Result<Vec<PodSandbox>, CallError> {
        self.0.client.list_pod_sandboxes(labels::of_pod(self.device(), uid)).await
    }

    /// The pod's sandbox, made if there is none that is ready, and what is worth telling about one that was made.
    async fn sandbox(
        &self,
        pod: &Arc<EdgeDeployment>,
        users: Option<Users>,
    ) -> Result<(String, Vec<Told>), PrepareError> {
        let failed = |error| PrepareError::Sandbox(failure("ask the engine", error));
        let all = self.sandboxes(&pod.uid).await.map_err(failed)?;
        if let Some(ready) = ready(&all) {
            return Ok((ready.id.clone(), Vec::new()));
        }
        for old in &all {
            // Gives its network back; its containers stay to be asked about.
            self.0.client.stop_pod_sandbox(&old.id).await.map_err(failed)?;
        }
        let attempts = all.iter().filter_map(|old| old.metadata.as_ref()).map(|metadata| metadata.attempt);
        let attempt = attempts.max().map_or(0, |last| last.saturating_add(1));
        if !pod.host_network {
            self.network_is_ready().await?;
        }
        let described = self.describe_sandbox(pod, attempt, users).await;
        let (described, told) = described.map_err(PrepareError::Sandbox)?;
        let made = self.0.client.run_pod_sandbox(described, handler(pod)).await.map_err(failed)?;
        Ok((made, told))
    }

    /// Some engines say at once that there is no network for sandboxes, CRI-O waits for it without a word.
    async fn network_is_ready(&self) -> Result<(), PrepareError> {
        let told = self.0.client.status(false).await;
        let told = told.map_err(|error| PrepareError::Sandbox(failure("ask the engine", error)))?;
        match told.status.iter().flat_map(|status| &status.conditions).find_map(no_network) {
            Some(why) => Err(PrepareError::NoNetwork(why)),
            None => Ok(()),
        }
    }

    /// What a pod's sandbox is to be.
    pub(super) async fn describe_sandbox(
        &self,
        pod: &Arc<EdgeDeployment>,
        attempt: u32,
        users: Option<Users>,
    ) -> Result<(PodSandboxConfig, Vec<Told>), RuntimeError> {
        let config = &self.0.config;
        let hostname = names::hostname(pod, &config.cluster).map_err(io::Error::other);
        let hostname = hostname.naming(|| "name the pod".to_owned())?;
        let (runtime, of) = (self.clone(), pod.clone());
        let looked = self.blocking(move || {
            runtime.0.cgroups.make(&of).naming(|| "make the pod's cgroup".to_owned())?;
            Ok::<_, RuntimeError>(read_resolver(&runtime.0.config.resolver))
        });
        let of_the_device = looked.await?;
        let (dns, told) = names::resolver(pod, &config.cluster, &of_the_device);
        // What a pod may not set refuses its containers; until then its sandbox is without.
        let allowed = check_sysctls(pod, &self.0.able).is_ok();
        let sysctls = if allowed { security::sysctls(pod) } else { HashMap::new() };
        let manners = Manners { hostname, dns, sysctls, cgroup_parent: self.0.cgroups.parent(pod), users };
        let logs = place::logs(&self.0.places, &pod.uid);
        let told = told.into_iter().map(|(reason, message)| Told { reason: reason.to_owned(), message });
        Ok((describe::sandbox(self.frame(), pod, manners, attempt, &logs), told.collect()))
    }

    /// The pod's sandbox is there; its addresses.
    pub(super) async fn ready_sandbox(
        &self,
        spec: &Arc<EdgeDeployment>,
        users: Option<Users>,
    ) -> Result<PodReady, PrepareError> {
        let (sandbox, told) = self.sandbox(spec, users).await?;
        let status = self.0.client.pod_sandbox_status(&sandbox).await;
        let status = status.map_err(|error| PrepareError::Sandbox(failure("ask the engine", error)))?;
        if let Some(users) = users {
            let checked = users.check(&status).map_err(io::Error::other);
            checked.naming(|| "give the pod users of its own".to_owned()).map_err(PrepareError::Sandbox)?;
        }
        let addresses = status.network.filter(|_| !spec.host_network).map(|network| {
            let more = network.additional_ips.into_iter().map(|more| more.ip);
            std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect::<Vec<_>>()
        });
        match &addresses {
            Some(own) => self.addresses().insert(spec.uid.clone(), own.clone()),
            None => self.addresses().remove(&spec.uid),
        };
        Ok(PodReady { addresses, told })
    }

    pub(super) async fn remove_sandboxes(&self, uid: &PodUid) -> Result<(), CallError> {
        for sandbox in self.sandboxes(uid).await? {
            self.0.client.stop_pod_sandbox(&sandbox.id).await?;
            self.0.client.remove_pod_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Sandboxes that an agent made which died before it put anything into them, and cgroups without a pod.
    pub(super) async fn sweep(&self, containers: &[EngineContainer]) -> Result<(), CallError> {
        let used: BTreeSet<&str> = containers.iter().map(|container| container.pod_sandbox_id.as_str()).collect();
        let mut kept: BTreeSet<PodUid> =
            containers.iter().filter_map(labels::id).map(|container| container.pod).collect();
        for sandbox in self.0.client.list_pod_sandboxes(labels::ours(self.device())).await? {
            if used.contains(sandbox.id.as_str()) {
                kept.extend(labels::pod(&sandbox));
            } else {
                self.0.client.stop_pod_sandbox(&sandbox.id).await?;
                self.0.client.remove_pod_sandbox(&sandbox.id).await?;
            }
        }
        let runtime = self.clone();
        self.blocking(move || runtime.0.cgroups.sweep(&kept)).await;
        Ok(())
    }
}

/// Why there is no network for sandboxes, in a kubelet's words.
fn no_network(condition: &RuntimeCondition) -> Option<String> {
    let RuntimeCondition { kind, status, reason, message } = condition;
    (kind == "NetworkReady" && !status)
        .then(|| format!("container runtime network not ready: NetworkReady=false reason:{reason} message:{message}"))
}

/// The one that is ready.
pub(super) fn ready(sandboxes: &[PodSandbox]) -> Option<&PodSandbox> {
    sandboxes.iter().find(|sandbox| sandbox.state() == PodSandboxState::Ready)
}

/// How the device itself resolves names. A resolver that listens on the device alone leads nowhere from within a pod, so
/// what lies behind it is read where that is known; a device without any has no names.
fn read_resolver(path: &Path) -> DnsConfig {
    const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
    let read = |path: &Path| {
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(MAX_RESOLVER).read_to_string(&mut text).ok()?;
        Some(names::parse_resolver(&text))
    };
    let own = read(path).unwrap_or_default();
    if !names::is_only_local(&own) {
        return own;
    }
    read(Path::new(BEHIND_RESOLVED)).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_not_ready_is_said_as_by_a_kubelet() {
        let condition = |kind: &str, status| RuntimeCondition {
            kind: kind.into(),
            status,
            reason: "NetworkPluginNotReady".into(),
            message: "no configuration".into(),
        };
        let words = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no configuration";
        assert_eq!(no_network(&condition("NetworkReady", false)).as_deref(), Some(words));
        assert_eq!(no_network(&condition("NetworkReady", true)), None);
        assert_eq!(no_network(&condition("RuntimeReady", false)), None);
    }
}
