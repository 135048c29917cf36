//! The scheduler: which node a new pod goes to, or why to none.
//!
//! One task. It wakes when a pod is new or when room may have appeared, takes one snapshot of the cluster, and places the
//! waiting pods one after the other, the most important first, each seeing where those before it went. It does not
//! preempt: who waits, waits.

mod filters;
mod interpod;
mod plan;
mod requests;
mod scores;
mod snapshot;
mod spread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::{Cluster, EventKind, Failure, FailureKind};
use crate::identity::{self, ObjectKey};
use crate::pods;

use snapshot::Snapshot;

const COMPONENT: &str = "default-scheduler";

/// Pods that did not fit are tried again after this time even if no change was seen that could help them.
const TRY_ALL_EVERY: Duration = Duration::from_secs(60);

/// How long to wait after the API server refused a write, doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// The scheduler and what it remembers between two passes.
pub(crate) struct Scheduler {
    cluster: Arc<Cluster>,
    /// UIDs of pods that did not fit and what was said about it; they are left alone until room may have appeared.
    waiting: BTreeMap<String, String>,
    retry: Duration,
}

impl Scheduler {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, waiting: BTreeMap::new(), retry: FIRST_RETRY }
    }

    /// Places pods until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let cluster = self.cluster.clone();
        let (mut everything, mut due) = (true, cluster.config.clock.instant() + TRY_ALL_EVERY);
        loop {
            let Some(result) = stop.run_until_cancelled(self.pass(everything)).await else { return };
            due = match result {
                Ok(()) => {
                    self.retry = FIRST_RETRY;
                    cluster.config.clock.instant() + TRY_ALL_EVERY
                }
                Err(failure) => {
                    warn!(error = %failure, cause = failure.cause(), "scheduling failed, will be retried");
                    self.retry = self.retry.saturating_mul(2).min(LONGEST_RETRY);
                    due.min(cluster.config.clock.instant() + self.retry)
                }
            };
            tokio::select! {
                // Cancel-safe: waiting for a token holds nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: a wake-up that nobody saw stays.
                () = cluster.queues.scheduler.woken() => {}
                // Cancel-safe: the due time is kept outside.
                () = tokio::time::sleep_until(due) => {}
            }
            everything = cluster.queues.scheduler.take_retry_all() || cluster.config.clock.instant() >= due;
        }
    }

    async fn pass(&mut self, everything: bool) -> Result<(), Failure> {
        let stores = &self.cluster.stores;
        let all = stores.pods.all();
        let pending = plan::pending(&all);
        self.waiting.retain(|uid, _| pending.iter().any(|pod| identity::uid(&pod.metadata) == uid));
        if pending.is_empty() {
            return Ok(());
        }
        let mut snapshot = Snapshot::new(&stores.nodes.all(), &all, &stores.namespaces.all());
        let started = self.cluster.config.clock.instant();
        let mut trouble = None;
        for pod in pending {
            if !everything && self.waiting.contains_key(identity::uid(&pod.metadata)) {
                continue;
            }
            let result = match plan::place(&pod, &snapshot) {
                Ok(node) => self.bind(&mut snapshot, &pod, &node).await,
                Err(message) => self.refuse(&pod, message).await,
            };
            match result {
                Ok(()) => {}
                // Gone or changed since: the change wakes us again.
                Err(failure) if matches!(failure.kind(), FailureKind::NotFound | FailureKind::Conflict) => {
                    debug!(pod = %ObjectKey::of(&pod.metadata), error = %failure, "pod changed while it was placed");
                    self.waiting.remove(identity::uid(&pod.metadata));
                }
                Err(failure) => trouble = Some(failure),
            }
        }
        self.log(started);
        trouble.map_or(Ok(()), Err)
    }

    fn log(&self, started: Instant) {
        let took = self.cluster.config.clock.instant() - started;
        debug!(waiting = self.waiting.len(), ?took, "scheduling pass");
    }

    async fn bind(&mut self, snapshot: &mut Snapshot, pod: &Arc<Pod>, node: &str) -> Result<(), Failure> {
        self.cluster.bind(pod, node).await?;
        self.waiting.remove(identity::uid(&pod.metadata));
        snapshot.place(pod.clone(), node);
        let message = format!("Successfully assigned {} to {node}", ObjectKey::of(&pod.metadata));
        self.cluster.recorder.tell(COMPONENT, pod.as_ref(), EventKind::Normal, "Scheduled", message);
        Ok(())
    }

    /// Says why the pod waits, once for each reason.
    async fn refuse(&mut self, pod: &Arc<Pod>, message: String) -> Result<(), Failure> {
        let uid = identity::uid(&pod.metadata).to_owned();
        if self.waiting.get(&uid) == Some(&message) {
            return Ok(());
        }
        self.cluster.recorder.tell(COMPONENT, pod.as_ref(), EventKind::Warning, "FailedScheduling", message.clone());
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message.clone()),
            observed_generation: pods::condition(pod, "PodScheduled").and_then(|old| old.observed_generation),
            ..PodCondition::default()
        };
        self.waiting.insert(uid.clone(), message);
        let marked = self.cluster.mark(pod, condition, None).await;
        if marked.is_err() {
            self.waiting.remove(&uid);
        }
        marked.map(drop)
    }
}
