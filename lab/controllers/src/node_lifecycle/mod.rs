//! Nodes that fall silent: what is said about them, and what is kept off them.

mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::{Cluster, EventKind, Failure, FailureKind, NODE_LEASES};
use crate::identity::ObjectKey;
use crate::pods;
use crate::reconcile::{Next, Reconciler};

use plan::{Health, Heartbeat, Plan};

const COMPONENT: &str = "node-controller";

/// The node lifecycle controller.
pub(crate) struct NodeLifecycle {
    pub(crate) cluster: Arc<Cluster>,
    /// When each node was last heard of, by our clock: the node's own clock may be anything.
    pub(crate) heard: Mutex<BTreeMap<String, Heard>>,
}

/// The last sign of life and when it was first seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    heartbeat: Heartbeat,
    at: Instant,
}

impl Reconciler for NodeLifecycle {
    const NAME: &'static str = COMPONENT;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(node) = self.cluster.stores.nodes.get(key) else {
            if self.forget(&key.name) {
                let node = Node {
                    metadata: ObjectMeta { name: Some(key.name.clone()), ..Default::default() },
                    ..Node::default()
                };
                let message = format!("Node {0} event: Removing Node {0} from Controller", key.name);
                self.cluster.recorder.tell(COMPONENT, &node, EventKind::Normal, "RemovingNode", message);
            }
            return Ok(Next::OnChange);
        };
        if !self.knows(&key.name) {
            let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
            self.cluster.recorder.tell(COMPONENT, node.as_ref(), EventKind::Normal, "RegisteredNode", message);
        }
        let silent_for = self.silent_for(&node);
        let config = &self.cluster.config;
        let grace =
            if plan::has_reported(&node) { config.node_monitor_grace_period } else { config.node_startup_grace_period };
        let plan = plan::plan(&node, Health { silent_for, grace }, self.cluster.now());
        self.apply(&node, plan).await?;
        Ok(Next::After(config.node_monitor_period))
    }
}

impl NodeLifecycle {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, heard: Mutex::default() }
    }

    /// Whether the node was known until now.
    fn forget(&self, node: &str) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(node).is_some()
    }

    fn knows(&self, node: &str) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).contains_key(node)
    }

    fn silent_for(&self, node: &Node) -> std::time::Duration {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let lease = self.cluster.stores.leases.get(&ObjectKey::new(NODE_LEASES, name));
        let heartbeat = plan::heartbeat(node, lease.as_deref());
        let now = self.cluster.config.clock.instant();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = heard.entry(name.to_owned()).or_insert_with(|| Heard { heartbeat: heartbeat.clone(), at: now });
        if entry.heartbeat != heartbeat {
            *entry = Heard { heartbeat, at: now };
        }
        now.duration_since(entry.at)
    }

    async fn apply(&self, node: &Node, plan: Plan) -> Result<(), Failure> {
        let mut current = node.clone();
        if let Some(conditions) = plan.conditions {
            current.status.get_or_insert_default().conditions = Some(conditions);
            current = Node::clone(&*self.cluster.replace_status(&current).await?);
        }
        if let Some(message) = plan.became_not_ready {
            self.cluster.recorder.tell(COMPONENT, node, EventKind::Normal, "NodeNotReady", message);
        }
        // Pods first: whoever waits for the taint may then rely on the pods being marked.
        if plan.pods_not_ready {
            self.mark_pods_not_ready(node).await?;
        }
        if let Some(taints) = plan.taints {
            // The whole list is replaced, so it must be the list of the version that was read.
            let patch = json!({
                "metadata": { "resourceVersion": current.metadata.resource_version },
                "spec": { "taints": taints },
            });
            self.cluster.patch::<Node>(&ObjectKey::of(&current.metadata), &patch).await?;
        }
        Ok(())
    }

    async fn mark_pods_not_ready(&self, node: &Node) -> Result<(), Failure> {
        let name = node.metadata.name.as_deref();
        for pod in self.cluster.stores.pods.all() {
            if pods::node_name(&pod) != name || !pods::is_ready(&pod) {
                continue;
            }
            let mut marked = Pod::clone(&pod);
            let now = self.cluster.now();
            for condition in marked.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
                if condition.type_ == "Ready" {
                    condition.status = "False".into();
                    condition.last_transition_time = Some(Time(now));
                }
            }
            match self.cluster.replace_status(&marked).await {
                Ok(_) => {
                    let recorder = &self.cluster.recorder;
                    recorder.tell(COMPONENT, pod.as_ref(), EventKind::Warning, "NodeNotReady", "Node is not ready");
                }
                Err(failure) if failure.kind() == FailureKind::NotFound => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}
