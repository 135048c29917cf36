//! A kubelet without containers: pods on its node become what their image says.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use lab_controllers::Clock;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One node, its heartbeats, and its pods.
pub(crate) struct Kubelet {
    pub(crate) node: String,
    client: Client,
    work: (CancellationToken, JoinHandle<()>),
    beats: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Kubelet {
    pub(crate) async fn start(client: Client, node: &str, test: &str) -> Result<Self> {
        let manifest: Node = serde_json::from_value(json!({
            "metadata": { "name": node, "labels": { "kubernetes.io/hostname": node, "test": test, "zone": node } },
        }))?;
        Api::<Node>::all(client.clone()).create(&PostParams::default(), &manifest).await?;
        let mut kubelet = Self { node: node.into(), work: Self::work(&client, node), client, beats: None };
        kubelet.post_status().await?;
        kubelet.resume().await?;
        Ok(kubelet)
    }

    fn work(client: &Client, node: &str) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let running = stop.clone().run_until_cancelled_owned(run_pods(client.clone(), node.to_owned()));
        (
            stop,
            tokio::spawn(async move {
                Box::pin(running).await;
            }),
        )
    }

    /// Posts that the node is ready, as a kubelet does when it starts or returns.
    pub(crate) async fn post_status(&self) -> Result<()> {
        let now = Clock::Wall.now().to_string();
        let conditions: Vec<Value> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
            .into_iter()
            .map(|kind| {
                let status = if kind == "Ready" { "True" } else { "False" };
                json!({ "type": kind, "status": status, "reason": "Posted", "message": "",
                        "lastHeartbeatTime": now, "lastTransitionTime": now })
            })
            .collect();
        let amounts = json!({ "cpu": "4", "memory": "8Gi", "pods": "110" });
        let status = json!({ "status": { "conditions": conditions, "capacity": amounts, "allocatable": amounts } });
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch_status(&self.node, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// No more heartbeats: the node has lost its network.
    pub(crate) async fn silence(&mut self) {
        if let Some((stop, running)) = self.beats.take() {
            stop.cancel();
            let _ = Box::pin(running).await;
        }
    }

    /// Heartbeats again.
    pub(crate) async fn resume(&mut self) -> Result<()> {
        let stop = CancellationToken::new();
        let beating = stop.clone().run_until_cancelled_owned(beat(self.client.clone(), self.node.clone()));
        self.beats = Some((
            stop,
            tokio::spawn(async move {
                Box::pin(beating).await;
            }),
        ));
        Ok(())
    }

    /// The node is gone for good, with nobody to end its pods.
    pub(crate) async fn remove(&mut self) -> Result<()> {
        self.silence().await;
        self.work.0.cancel();
        Api::<Node>::all(self.client.clone()).delete(&self.node, &DeleteParams::default()).await?;
        Ok(())
    }

    pub(crate) async fn finish(mut self, delete: bool) -> Result<()> {
        self.silence().await;
        self.work.0.cancel();
        let _ = self.work.1.await;
        if delete {
            let _ = Api::<Node>::all(self.client.clone()).delete(&self.node, &DeleteParams::default()).await;
        }
        Ok(())
    }
}

async fn beat(client: Client, node: String) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut interval = tokio::time::interval(Duration::from_millis(300));
    loop {
        interval.tick().await;
        let now = format!("{:.6}", Clock::Wall.now());
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": node },
            "spec": { "holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now },
        });
        let params = PatchParams::apply("kubelet").force();
        if let Err(error) = leases.patch(&node, &params, &Patch::Apply(lease)).await {
            eprintln!("lease of {node}: {error}");
        }
    }
}

async fn run_pods(client: Client, node: String) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let stream = watcher(Api::<Pod>::all(client.clone()), config).default_backoff().applied_objects();
    let mut stream = std::pin::pin!(stream);
    while let Some(pod) = stream.next().await {
        let Ok(pod) = pod else { continue };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        // The pod may be gone or changed by now; then another event follows.
        let _ = if pod.metadata.deletion_timestamp.is_some() {
            pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await.map(drop)
        } else if let Some(status) = outcome(&pod) {
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.map(drop)
        } else {
            Ok(())
        };
    }
}

/// What becomes of a pod: its image says it. `None` if it has become that already.
fn outcome(pod: &Pod) -> Option<Value> {
    let spec = pod.spec.as_ref()?;
    let image = spec.containers.first()?.image.as_deref()?;
    let now = Clock::Wall.now().to_string();
    let ended = |code: i32| json!({ "terminated": { "exitCode": code, "finishedAt": now, "startedAt": now } });
    let (phase, ready, state) = match image {
        "succeeds" => ("Succeeded", false, ended(0)),
        "fails" => ("Failed", false, ended(1)),
        "never-ready" => ("Running", false, json!({ "running": { "startedAt": now } })),
        _ => ("Running", true, json!({ "running": { "startedAt": now } })),
    };
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
        return None;
    }
    let truth = if ready { "True" } else { "False" };
    let condition = |kind: &str| json!({ "type": kind, "status": truth, "lastTransitionTime": now });
    let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": now });
    let containers: Vec<Value> = spec
        .containers
        .iter()
        .map(|one| {
            json!({ "name": one.name, "image": image, "imageID": image, "ready": ready, "started": ready,
                    "restartCount": 0, "state": state })
        })
        .collect();
    Some(json!({ "status": {
        "phase": phase, "startTime": now, "containerStatuses": containers,
        "conditions": [scheduled, condition("Ready"), condition("ContainersReady")],
    }}))
}
