//! The networks of pods.

use std::fs::File;
use std::os::fd::OwnedFd;

use hawser_cri::ErrorKind;
use hawser_wire::PodUid;
use serde::Deserialize;

use super::{Cri, failure, sandbox};
use crate::runtime::RuntimeError;

/// The network of a pod that runs.
#[derive(Debug)]
pub(crate) struct Network {
    /// Its namespace, if the engine tells it and the pod has one of its own.
    pub(crate) namespace: Option<OwnedFd>,
    /// What the engine calls the pod.
    pub(crate) name: String,
}

/// What engines tell of a sandbox besides, of which the network is wanted.
#[derive(Debug, Deserialize)]
struct Info {
    #[serde(default)]
    pid: i32,
    #[serde(default, rename = "runtimeSpec")]
    spec: Option<Spec>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Cri {
    /// The network of a pod; `None`: it does not run.
    pub(crate) async fn network(&self, pod: &PodUid) -> Result<Option<Network>, RuntimeError> {
        let failed = |error| failure("look for the network of the pod", error);
        let all = self.sandboxes(pod).await.map_err(failed)?;
        let Some(ready) = sandbox::ready(&all) else { return Ok(None) };
        let told = match self.0.client.pod_sandbox_info(&ready.id).await {
            // It has ended in between.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            told => told.map_err(failed)?,
        };
        let id = ready.id.clone();
        let namespace = self.blocking(move || open(told.get("info")?, &id)).await;
        Ok(Some(Network { namespace, name: ready.id.clone() }))
    }
}

fn open(told: &str, sandbox: &str) -> Option<OwnedFd> {
    let info: Info = serde_json::from_str(told).ok()?;
    if let Some(path) = path(&info) {
        return File::open(path).ok().map(Into::into);
    }
    // The number may be old by now, and another's. While the namespace is held it does not matter who has it.
    let namespace = (info.pid > 0).then(|| File::open(format!("/proc/{}/ns/net", info.pid)).ok()).flatten()?;
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", info.pid)).ok()?;
    cgroups.contains(sandbox).then(|| namespace.into())
}

/// The file that the engine keeps for the network of a sandbox.
fn path(info: &Info) -> Option<&str> {
    let namespaces = info.spec.as_ref()?.linux.as_ref()?.namespaces.as_ref()?;
    let network = namespaces.iter().find(|namespace| namespace.kind == "network")?;
    Some(network.path.as_str()).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_tell_the_network_by_its_file_or_by_a_process() {
        let read = |text: &str| {
            let info: Info = serde_json::from_str(text).unwrap();
            (path(&info).map(str::to_owned), info.pid)
        };
        let file = r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}}"#;
        assert_eq!(read(file), (Some("/run/netns/x".into()), 7));
        for other in [
            r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}"#,
            r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":null}}}"#,
            r#"{"pid":7,"runtimeSpec":null,"more":[]}"#,
        ] {
            assert_eq!(read(other), (None, 7), "{other}");
        }
    }
}
