//! Pods that nobody will ever clean up: ended ones beyond a threshold, those of nodes that are gone, and those that are
//! being deleted but were never bound.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use crate::cluster::{Cluster, Deletion, Failure};
use crate::identity::ObjectKey;
use crate::pods;
use crate::reconcile::{Next, Reconciler};
use crate::taint_eviction::disruption;

use plan::Reason;

/// The pod garbage collector.
pub(crate) struct PodGc {
    pub(crate) cluster: Arc<Cluster>,
    /// Since when each missing node has been missing. One sweep at a time runs, so the lock is never waited for.
    pub(crate) missing: Mutex<BTreeMap<String, Instant>>,
}

impl Reconciler for PodGc {
    const NAME: &'static str = "pod-garbage-collector";

    async fn reconcile(&self, _sweep: &ObjectKey) -> Result<Next, Failure> {
        let config = &self.cluster.config;
        let (pods, nodes) = (self.cluster.stores.pods.all(), self.cluster.stores.nodes.all());
        let known: BTreeSet<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
        let long_missing = self.long_missing(&plan::missing_nodes(&pods, &known));
        let mut gone = BTreeSet::new();
        for node in long_missing {
            // The cache may lag behind; a pod deleted by force because of that would run twice.
            if self.cluster.get_live::<Node>(&ObjectKey::cluster(&node)).await?.is_none() {
                gone.insert(node);
            }
        }
        for (pod, reason) in plan::plan(&pods, &gone, config.terminated_pod_threshold) {
            self.collect(&pod, reason).await?;
        }
        Ok(Next::After(config.pod_gc_period))
    }
}

impl PodGc {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, missing: Mutex::default() }
    }

    fn long_missing(&self, missing: &BTreeSet<String>) -> Vec<String> {
        let now = self.cluster.config.clock.instant();
        let quarantine = self.cluster.config.pod_gc_quarantine;
        let mut since = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|node, _| missing.contains(node));
        for node in missing {
            since.entry(node.clone()).or_insert(now);
        }
        since
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= quarantine)
            .map(|(node, _)| node.clone())
            .collect()
    }

    async fn collect(&self, pod: &Arc<Pod>, reason: Reason) -> Result<(), Failure> {
        tracing::info!(pod = %ObjectKey::of(&pod.metadata), ?reason, "pod is garbage");
        let mut pod = pod.clone();
        if reason == Reason::NodeGone && !pods::is_terminal(&pod) {
            // Whoever counts this pod (a Job) must see that it ended, and why.
            let condition = disruption("DeletionByPodGC", "PodGC: node no longer exists");
            pod = self.cluster.mark(&pod, condition, Some("Failed")).await?;
        }
        self.cluster.delete::<Pod>(&pod.metadata, Deletion::Forced).await
    }
}
