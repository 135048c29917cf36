//! ReplicaSets: keep a number of pods.

mod plan;
mod rank;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;

use crate::cluster::{Cluster, Deletion, EventKind, Failure, FailureKind};
use crate::identity::{self, ObjectKey};
use crate::pods;
use crate::reconcile::{Next, Reconciler};
use crate::template;

pub(crate) use plan::condition;
use plan::{Scale, Trouble};

const COMPONENT: &str = "replicaset-controller";

/// The ReplicaSet controller.
pub(crate) struct ReplicaSets {
    pub(crate) cluster: Arc<Cluster>,
}

impl Reconciler for ReplicaSets {
    const NAME: &'static str = COMPONENT;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(set) = self.cluster.stores.replica_sets.get(key) else { return Ok(Next::OnChange) };
        let Some(spec) = &set.spec else { return Ok(Next::OnChange) };
        let owned: Vec<Arc<Pod>> = self.cluster.claim(set.as_ref(), &spec.selector, pods::is_active).await?;
        let now = self.cluster.now();
        let plan = plan::scale(&set, &owned, &self.related(&set, &owned), now);
        let result = match plan {
            Scale::Keep => Ok(()),
            Scale::Create(count) => self.create(&set, count).await.map_err(|failure| ("FailedCreate", failure)),
            Scale::Delete(victims) => self.delete(&set, &victims).await.map_err(|failure| ("FailedDelete", failure)),
        };
        let trouble = result.as_ref().err().map(|(reason, failure)| Trouble { reason, message: failure.cause() });
        let next = self.write_status(key, identity::uid(&set.metadata), trouble.as_ref()).await?;
        match result {
            // The namespace is going away: nothing can be created in it any more, and soon this set is gone too.
            Err((_, failure)) if failure.kind() == FailureKind::NotFound => Ok(next),
            Err((_, failure)) => Err(failure),
            Ok(()) => Ok(next),
        }
    }
}

impl ReplicaSets {
    /// Active pods of all sets of the same owner: where many of them share a node, the set that shrinks gives up there.
    fn related(&self, set: &ReplicaSet, owned: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = identity::controller_of(&set.metadata) else { return owned.to_vec() };
        let siblings = self.cluster.stores.replica_sets.controlled_by(&owner.uid);
        siblings.iter().flat_map(|set| self.cluster.stores.pods.controlled_by(identity::uid(&set.metadata))).collect()
    }

    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
        let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Ok(()) };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let owner =
            identity::controller_reference(&ReplicaSet::api_version(&()), &ReplicaSet::kind(&()), &set.metadata);
        let pod = template::pod(template, namespace, owner);
        let recorder = &self.cluster.recorder;
        let created = self.cluster.create_gently(
            count,
            |_| pod.clone(),
            |pod: &Pod| {
                let message = format!("Created pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
                recorder.tell(COMPONENT, set, EventKind::Normal, "SuccessfulCreate", message);
            },
        );
        let result = created.await;
        if let Err(failure) = &result {
            let message = format!("Error creating: {}", failure.cause());
            recorder.tell(COMPONENT, set, EventKind::Warning, "FailedCreate", message);
        }
        result
    }

    async fn delete(&self, set: &ReplicaSet, victims: &[Arc<Pod>]) -> Result<(), Failure> {
        for pod in victims {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match self.cluster.delete::<Pod>(&pod.metadata, Deletion::Graceful).await {
                Ok(()) => {
                    let message = format!("Deleted pod: {name}");
                    self.cluster.recorder.tell(COMPONENT, set, EventKind::Normal, "SuccessfulDelete", message);
                }
                Err(failure) => {
                    let message = format!("Error deleting: {}", failure.cause());
                    self.cluster.recorder.tell(COMPONENT, set, EventKind::Warning, "FailedDelete", message);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// The status counts what is there after this round, so that nobody sees yesterday's numbers with today's
    /// `observedGeneration`.
    async fn write_status(&self, key: &ObjectKey, uid: &str, trouble: Option<&Trouble>) -> Result<Next, Failure> {
        let Some(set) = self.cluster.stores.replica_sets.get(key) else { return Ok(Next::OnChange) };
        if identity::uid(&set.metadata) != uid {
            return Ok(Next::OnChange);
        }
        let owned = self.cluster.stores.pods.controlled_by(uid);
        let (status, next) = plan::status(&set, &owned, trouble, self.cluster.now());
        if set.status.as_ref() != Some(&status) {
            let mut set = ReplicaSet::clone(&set);
            set.status = Some(status);
            self.cluster.replace_status(&set).await?;
        }
        Ok(Next::after(next))
    }
}

/// The condition of this type, if it is true.
pub(crate) fn failing(set: &ReplicaSet) -> Option<&ReplicaSetCondition> {
    condition(set, "ReplicaFailure").filter(|condition| condition.status == "True")
}
