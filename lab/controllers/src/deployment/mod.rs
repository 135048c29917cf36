//! Deployments: roll pods from one template to the next by scaling ReplicaSets.
//!
//! Each reconcile carries out one step of the plan; the change that the step makes wakes the next one. A rollback needs
//! nothing special: kubectl puts an old template back, and the ReplicaSet that has it becomes the new one again.

mod history;
mod plan;
mod rolling;
mod sets;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use crate::cluster::{Cluster, Deletion, EventKind, Failure, FailureKind};
use crate::identity::{self, ObjectKey};
use crate::reconcile::{Next, Reconciler};
use crate::{pods, selectors, template};

use plan::Step;

const COMPONENT: &str = "deployment-controller";

/// The Deployment controller.
pub(crate) struct Deployments {
    pub(crate) cluster: Arc<Cluster>,
}

impl Reconciler for Deployments {
    const NAME: &'static str = COMPONENT;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(deployment) = self.cluster.stores.deployments.get(key) else { return Ok(Next::OnChange) };
        let Some(spec) = &deployment.spec else { return Ok(Next::OnChange) };
        if selectors::is_empty(&spec.selector) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.tell(&deployment, EventKind::Warning, "SelectingAll", message);
            return Ok(Next::OnChange);
        }
        let sets: Vec<Arc<ReplicaSet>> = self.cluster.claim(deployment.as_ref(), &spec.selector, |_| true).await?;
        let old_pods_run = self.old_pods_run(&deployment, &sets);
        let plan = plan::plan(&deployment, &sets, old_pods_run, self.cluster.now());
        for step in &plan.steps {
            self.carry_out(&deployment, step).await?;
        }
        self.write_status(key, identity::uid(&deployment.metadata), &plan).await?;
        Ok(Next::after(plan.next))
    }
}

impl Deployments {
    fn tell(&self, deployment: &Deployment, kind: EventKind, reason: &'static str, message: impl Into<String>) {
        self.cluster.recorder.tell(COMPONENT, deployment, kind, reason, message);
    }

    /// Whether pods of another template are still there; Recreate waits for them to be gone.
    fn old_pods_run(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let new = sets::find_new(deployment, sets);
        let new = new.as_ref().map(|set| identity::uid(&set.metadata));
        sets.iter()
            .map(|set| identity::uid(&set.metadata))
            .filter(|uid| Some(*uid) != new)
            .flat_map(|uid| self.cluster.stores.pods.controlled_by(uid))
            .any(|pod| !pods::is_terminal(&pod))
    }

    async fn carry_out(&self, deployment: &Deployment, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Create(set) => self.create(deployment, set).await,
            Step::Update { set, event } => {
                let updated = self.cluster.replace(set.as_ref()).await?;
                tracing::debug!(set = %ObjectKey::of(&updated.metadata), "replica set updated");
                if let Some(message) = event {
                    self.tell(deployment, EventKind::Normal, "ScalingReplicaSet", message.clone());
                }
                Ok(())
            }
            Step::Delete(set) => self.cluster.delete::<ReplicaSet>(&set.metadata, Deletion::Graceful).await,
            Step::Annotate(revision) => {
                let patch = json!({ "metadata": {
                    "uid": deployment.metadata.uid,
                    "annotations": { sets::REVISION: revision },
                }});
                self.cluster.patch::<Deployment>(&ObjectKey::of(&deployment.metadata), &patch).await.map(drop)
            }
        }
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Failure> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        match self.cluster.create(set).await {
            Ok(_) => {
                let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                if replicas > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                    self.tell(deployment, EventKind::Normal, "ScalingReplicaSet", message);
                }
                Ok(())
            }
            Err(failure) if failure.kind() == FailureKind::AlreadyExists => {
                self.collide(deployment, set, failure).await
            }
            Err(failure) => {
                let message = format!("Failed to create new replica set \"{name}\": {}", failure.cause());
                self.tell(deployment, EventKind::Warning, "ReplicaSetCreateError", message);
                Err(failure)
            }
        }
    }

    /// The name is taken: by our own set that the cache does not show yet, or by one whose template has the same hash.
    async fn collide(&self, deployment: &Deployment, set: &ReplicaSet, failure: Failure) -> Result<(), Failure> {
        let live: Option<ReplicaSet> = self.cluster.get_live(&ObjectKey::of(&set.metadata)).await?;
        let templates = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let ours = live.as_ref().is_some_and(|live| {
            identity::is_controlled_by(&live.metadata, identity::uid(&deployment.metadata))
                && template::same(&templates(live), &templates(set))
        });
        if !ours && live.is_some() {
            let mut deployment = deployment.clone();
            let status = deployment.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.cluster.replace_status(&deployment).await?;
        }
        Err(failure)
    }

    async fn write_status(&self, key: &ObjectKey, uid: &str, plan: &plan::Plan) -> Result<(), Failure> {
        let Some(deployment) = self.cluster.stores.deployments.get(key) else { return Ok(()) };
        if identity::uid(&deployment.metadata) != uid || deployment.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let mut deployment = Deployment::clone(&deployment);
        deployment.status = Some(plan.status.clone());
        self.cluster.replace_status(&deployment).await.map(drop)
    }
}
