//! Waiting for what the cluster is to show: nodes, pods, Events.

use std::time::Duration;

use anyhow::{Context, Result};
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::{Event, Node, NodeCondition, Pod};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};

use super::World;
use crate::wait::{SOON, eventually};

impl World {
    // ---- nodes ----

    /// Waits until a device's node is ready.
    pub async fn node_ready(&self, number: usize) -> Result<Node> {
        self.node_with_ready(number, "True").await
    }

    /// Waits until a node's condition `Ready` has this status.
    pub async fn node_with_ready(&self, number: usize, status: &str) -> Result<Node> {
        self.node_with("Ready", number, status).await
    }

    /// Waits until a condition of a node has this status.
    pub async fn node_with(&self, kind: &str, number: usize, status: &str) -> Result<Node> {
        self.node_until(kind, number, status, |condition| condition.status == status).await
    }

    /// Waits until a condition of a node is as described.
    pub async fn node_until(
        &self,
        kind: &str,
        number: usize,
        what: &str,
        holds: impl Fn(&NodeCondition) -> bool,
    ) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = self.device(number);
        eventually(&format!("{kind} of node {name} is {what}"), SOON * 2, || async {
            let node = nodes.get(name).await.map_err(|error| error.to_string())?;
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            let found = conditions.and_then(|all| all.iter().find(|condition| condition.type_ == kind));
            match found {
                Some(condition) if holds(condition) => Ok(node),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until a device's node is gone.
    pub async fn node_gone(&self, number: usize) -> Result<()> {
        self.gone_node(self.device(number)).await
    }

    pub(super) async fn gone_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually(&format!("node {name} goes"), SOON, || async {
            match nodes.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{:?}", other.map(|node| node.map(|node| node.metadata)))),
            }
        })
        .await
    }

    // ---- pods ----

    /// Creates a pod.
    pub async fn create_pod(&self, pod: &Pod) -> Result<Pod> {
        self.pods().create(&PostParams::default(), pod).await.context("the pod cannot be created")
    }

    /// Waits until the pod is ready.
    pub async fn pod_ready(&self, pod: &Pod) -> Result<Pod> {
        self.pod_ready_within(pod, SOON).await
    }

    /// Waits until the pod is ready.
    pub async fn pod_ready_within(&self, pod: &Pod, within: Duration) -> Result<Pod> {
        self.pod_until_within(pod, "ready", within, pod_is_ready).await
    }

    /// Waits until this very pod (not a namesake) is as described.
    pub async fn pod_until(&self, pod: &Pod, what: &str, holds: impl Fn(&Pod) -> bool) -> Result<Pod> {
        self.pod_until_within(pod, what, SOON, holds).await
    }

    async fn pod_until_within(
        &self,
        pod: &Pod,
        what: &str,
        within: Duration,
        holds: impl Fn(&Pod) -> bool,
    ) -> Result<Pod> {
        let (pods, name, uid) = (self.pods(), pod.name_any(), pod.uid());
        eventually(&format!("pod {name} is {what}"), within, || async {
            let now = pods.get(&name).await.map_err(|error| error.to_string())?;
            if now.uid() == uid && holds(&now) { Ok(now) } else { Err(format!("{:#?}", now.status)) }
        })
        .await
    }

    /// Waits until this very pod is gone from the API.
    pub async fn pod_gone(&self, pod: &Pod) -> Result<()> {
        self.pod_gone_within(pod, SOON).await
    }

    /// Waits until this very pod is gone from the API.
    pub async fn pod_gone_within(&self, pod: &Pod, within: Duration) -> Result<()> {
        let (pods, name, uid) = (self.pods(), pod.name_any(), pod.uid());
        eventually(&format!("pod {name} goes"), within, || async {
            match pods.get_opt(&name).await {
                Ok(None) => Ok(()),
                Ok(Some(now)) if now.uid() != uid => Ok(()),
                other => Err(format!("{other:#?}")),
            }
        })
        .await
    }

    /// Waits until the pods of the story are as described.
    pub async fn pods_until(&self, what: &str, within: Duration, holds: impl Fn(&[Pod]) -> bool) -> Result<Vec<Pod>> {
        let pods = self.pods();
        eventually(what, within, || async {
            let now = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            if holds(&now) {
                return Ok(now);
            }
            Err(now
                .into_iter()
                .map(|pod| format!("{} {:?}", pod.name_any(), pod.status))
                .collect::<Vec<_>>()
                .join("\n"))
        })
        .await
    }

    /// Waits for an Event about a pod with this reason.
    pub async fn event(&self, pod: &str, reason: &str) -> Result<Event> {
        let events = self.api::<Event>();
        let about = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        eventually(&format!("an Event {reason} about {pod}"), SOON, || async {
            let seen = events.list(&about).await.map_err(|error| vec![error.to_string()])?.items;
            let told: Vec<_> = seen.iter().map(|e| format!("{:?}: {:?}", e.reason, e.message)).collect();
            seen.into_iter().find(|event| event.reason.as_deref() == Some(reason)).ok_or(told)
        })
        .await
    }
}
