//! DaemonSets: one pod on every node that will have it.

mod plan;
mod pod;
mod revisions;
mod rolling;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::{Cluster, Deletion, EventKind, Failure, FailureKind};
use crate::identity::{self, ObjectKey};
use crate::reconcile::{Next, Reconciler};
use crate::selectors;

use plan::{Ended, Plan};
use revisions::Revision;

const COMPONENT: &str = "daemonset-controller";

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// The DaemonSet controller.
pub(crate) struct DaemonSets {
    cluster: Arc<Cluster>,
    /// Pods that fail at once would be replaced at once, for ever; per set and node the wait doubles.
    backoff: Mutex<BTreeMap<(String, String), Backoff>>,
}

#[derive(Debug, Clone, Copy)]
struct Backoff {
    wait: Duration,
    until: Instant,
}

impl Reconciler for DaemonSets {
    const NAME: &'static str = COMPONENT;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(set) = self.cluster.stores.daemon_sets.get(key) else { return Ok(Next::OnChange) };
        let Some(spec) = &set.spec else { return Ok(Next::OnChange) };
        if selectors::is_empty(&spec.selector) {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.tell(&set, EventKind::Warning, "SelectingAll", message);
            return Ok(Next::OnChange);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let Some(hash) = self.revision(&set).await? else { return Ok(Next::OnChange) };
        let owned: Vec<Arc<Pod>> = self.cluster.claim(set.as_ref(), &spec.selector, |_| true).await?;
        let nodes = self.cluster.stores.nodes.all();
        let plan = plan::plan(&set, &hash, &owned, &nodes, self.cluster.now());
        let (result, wait) = self.carry_out(&set, &hash, &plan).await;
        let next = self.write_status(key, &set, &hash).await?;
        result?;
        if plan.is_nothing() {
            self.forget_history(&set, &hash, &owned).await?;
        }
        Ok(next.or(Next::after(wait)))
    }
}

impl DaemonSets {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, backoff: Mutex::default() }
    }

    fn tell(&self, set: &DaemonSet, kind: EventKind, reason: &'static str, message: impl Into<String>) {
        self.cluster.recorder.tell(COMPONENT, set, kind, reason, message);
    }

    async fn history(&self, set: &DaemonSet) -> Result<Vec<Arc<ControllerRevision>>, Failure> {
        let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        self.cluster.claim(set, &selector, |_| true).await
    }

    /// The hash of the template's revision, which is stored first if it is new. `None` if the name is taken: the
    /// collision is then counted on the set, and that change brings us back.
    async fn revision(&self, set: &Arc<DaemonSet>) -> Result<Option<String>, Failure> {
        let history = self.history(set).await?;
        match revisions::current(set, &history) {
            Revision::Current(hash) => Ok(Some(hash)),
            Revision::Renumber { name, revision, hash } => {
                let key = ObjectKey::new(set.metadata.namespace.as_deref().unwrap_or_default(), &name);
                self.cluster.patch::<ControllerRevision>(&key, &json!({ "revision": revision })).await?;
                Ok(Some(hash))
            }
            Revision::New { revision, hash } => match self.cluster.create(revision.as_ref()).await {
                Ok(_) => Ok(Some(hash)),
                Err(failure) if failure.kind() == FailureKind::AlreadyExists => {
                    self.collide(set, &revision, failure).await.map(|()| None)
                }
                Err(failure) => Err(failure),
            },
        }
    }

    async fn collide(&self, set: &DaemonSet, new: &ControllerRevision, failure: Failure) -> Result<(), Failure> {
        let live: Option<ControllerRevision> = self.cluster.get_live(&ObjectKey::of(&new.metadata)).await?;
        if live.is_none_or(|live| live.data == new.data) {
            return Err(failure);
        }
        let mut set = set.clone();
        let status = set.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        self.cluster.replace_status(&set).await.map(drop)
    }

    async fn forget_history(&self, set: &DaemonSet, hash: &str, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let history = self.history(set).await?;
        for revision in revisions::surplus(set, hash, &history, pods) {
            self.cluster.delete::<ControllerRevision>(&revision.metadata, Deletion::Graceful).await?;
        }
        Ok(())
    }

    /// Deletes and creates; returns the failure, if any, and how long to wait for pods that ended lately.
    async fn carry_out(&self, set: &DaemonSet, hash: &str, plan: &Plan) -> (Result<(), Failure>, Option<Duration>) {
        let mut wait: Option<Duration> = None;
        for ended in &plan.ended {
            if let Some(left) = self.hold_back(set, &ended.node) {
                wait = Some(wait.map_or(left, |wait| wait.min(left)));
                continue;
            }
            if let Err(failure) = self.replace_ended(set, ended).await {
                return (Err(failure), wait);
            }
        }
        for pod in &plan.delete {
            if let Err(failure) = self.delete(set, pod).await {
                return (Err(failure), wait);
            }
        }
        (self.create(set, hash, &plan.create).await, wait)
    }

    /// How long a pod that ended on this node must still wait for its replacement; starts the next wait if not at all.
    fn hold_back(&self, set: &DaemonSet, node: &str) -> Option<Duration> {
        let now = self.cluster.config.clock.instant();
        let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
        // Twice the longest wait without a failure counts as recovered; this also bounds the map.
        backoff.retain(|_, one| now < one.until + LONGEST_BACKOFF);
        let key = (identity::uid(&set.metadata).to_owned(), node.to_owned());
        match backoff.get_mut(&key) {
            Some(one) if now < one.until => return Some(one.until - now),
            Some(one) => {
                let wait = one.wait.saturating_mul(2).min(LONGEST_BACKOFF);
                *one = Backoff { wait, until: now + wait };
            }
            None => {
                backoff.insert(key, Backoff { wait: FIRST_BACKOFF, until: now + FIRST_BACKOFF });
            }
        }
        None
    }

    async fn replace_ended(&self, set: &DaemonSet, ended: &Ended) -> Result<(), Failure> {
        let key = ObjectKey::of(&ended.pod.metadata);
        let node = &ended.node;
        if ended.failed {
            let message = format!("Found failed daemon pod {key} on node {node}, will try to kill it");
            self.tell(set, EventKind::Warning, "FailedDaemonPod", message);
        } else {
            let message = format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
            self.tell(set, EventKind::Normal, "SucceededDaemonPod", message);
        }
        self.delete(set, &ended.pod).await
    }

    async fn delete(&self, set: &DaemonSet, pod: &Pod) -> Result<(), Failure> {
        self.cluster.delete::<Pod>(&pod.metadata, Deletion::Graceful).await?;
        let message = format!("Deleted pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
        self.tell(set, EventKind::Normal, "SuccessfulDelete", message);
        Ok(())
    }

    async fn create(&self, set: &DaemonSet, hash: &str, nodes: &[String]) -> Result<(), Failure> {
        let made = |index: usize| pod::for_node(set, hash, nodes.get(index).map_or("", String::as_str));
        let created = self.cluster.create_gently(nodes.len(), made, |pod: &Pod| {
            let message = format!("Created pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
            self.tell(set, EventKind::Normal, "SuccessfulCreate", message);
        });
        let result = created.await;
        if let Err(failure) = &result {
            self.tell(set, EventKind::Warning, "FailedCreate", format!("Error creating: {}", failure.cause()));
        }
        result
    }

    async fn write_status(&self, key: &ObjectKey, was: &DaemonSet, hash: &str) -> Result<Next, Failure> {
        let Some(set) = self.cluster.stores.daemon_sets.get(key) else { return Ok(Next::OnChange) };
        if set.metadata.uid != was.metadata.uid {
            return Ok(Next::OnChange);
        }
        let pods = self.cluster.stores.pods.controlled_by(identity::uid(&set.metadata));
        let nodes = self.cluster.stores.nodes.all();
        let (status, next) = status::status(&set, hash, &pods, &nodes, self.cluster.now());
        if set.status.as_ref() != Some(&status) {
            let mut set = DaemonSet::clone(&set);
            set.status = Some(status);
            self.cluster.replace_status(&set).await?;
        }
        Ok(Next::after(next))
    }
}
