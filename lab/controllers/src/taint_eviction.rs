//! Eviction by `NoExecute` taints: at once, or when the pod's toleration runs out.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::clock::until;
use crate::cluster::{Cluster, Deletion, EventKind, Failure};
use crate::identity::ObjectKey;
use crate::placement::taints::{self, Stay};
use crate::pods;
use crate::reconcile::{Next, Reconciler};

const COMPONENT: &str = "taint-eviction-controller";

/// The controller that evicts pods from tainted nodes. Stateless: the time a taint was added is on the taint.
pub(crate) struct TaintEviction {
    pub(crate) cluster: Arc<Cluster>,
}

impl Reconciler for TaintEviction {
    const NAME: &'static str = COMPONENT;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(pod) = self.cluster.stores.pods.get(key) else { return Ok(Next::OnChange) };
        let node = pods::node_name(&pod).and_then(|name| self.cluster.stores.nodes.get(&ObjectKey::cluster(name)));
        let Some(node) = node.filter(|_| pods::is_active(&pod)) else { return Ok(Next::OnChange) };
        let now = self.cluster.now();
        match taints::stay(taints::of(&node), taints::tolerations(&pod), now) {
            Stay::Unlimited => Ok(Next::OnChange),
            Stay::Until(end) if end > now => Ok(Next::After(until(end, now))),
            Stay::Until(_) | Stay::Never => self.evict(key, &pod).await.map(|()| Next::OnChange),
        }
    }
}

impl TaintEviction {
    async fn evict(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Result<(), Failure> {
        let message = format!("Marking for deletion Pod {key}");
        self.cluster.recorder.tell(COMPONENT, pod.as_ref(), EventKind::Normal, "TaintManagerEviction", message);
        let target = disruption("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        let marked = self.cluster.mark(pod, target, None).await?;
        self.cluster.delete::<Pod>(&marked.metadata, Deletion::Graceful).await
    }
}

/// The condition that tells who counts failed pods that this one was not at fault.
pub(crate) fn disruption(reason: &str, message: &str) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..PodCondition::default()
    }
}
