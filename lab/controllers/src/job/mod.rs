//! Jobs: run pods until enough of them succeeded, or too many failed.
//!
//! Every pod of a Job carries a finalizer until its end is counted in the Job's status, in three steps that each survive
//! a crash: the ended pod's UID is written to `uncountedTerminatedPods`, the finalizer is taken away, the UID moves into
//! the count. So a pod that is deleted behind our back is still counted, and none is counted twice.

mod indexes;
mod plan;
mod pod;
mod status;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::cluster::{Cluster, Deletion, EventKind, Failure, FailureKind};
use crate::identity::{self, ObjectKey};
use crate::pods;
use crate::reconcile::{Next, Reconciler};

pub(crate) use pod::JOB_NAME;

use plan::{Plan, Settings};

const COMPONENT: &str = "job-controller";

/// The Job controller.
pub(crate) struct Jobs {
    pub(crate) cluster: Arc<Cluster>,
}

impl Reconciler for Jobs {
    const NAME: &'static str = COMPONENT;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let job = self.cluster.stores.jobs.get(key);
        self.release_orphans(key, job.as_deref()).await?;
        let Some(job) = job else { return Ok(Next::OnChange) };
        if !plan::is_ours(&job) {
            return Ok(Next::OnChange);
        }
        if let Some(field) = plan::unsupported(&job) {
            let message = format!("The job is not run: this controller does not support {field}; remove the field");
            self.tell(&job, EventKind::Warning, "UnsupportedField", message);
            return Ok(Next::OnChange);
        }
        let owned = self.pods(&job).await?;
        if let Some(condition) = status::finished(&job) {
            return self.after_the_end(&job, condition.last_transition_time.as_ref().map(|time| time.0), &owned).await;
        }
        let settings = Settings {
            backoff: self.cluster.config.job_backoff,
            longest_backoff: self.cluster.config.job_longest_backoff,
        };
        let plan = plan::plan(&job, &owned, settings, self.cluster.now());
        self.carry_out(&job, &plan).await
    }
}

impl Jobs {
    fn tell(&self, job: &Job, kind: EventKind, reason: &'static str, message: impl Into<String>) {
        self.cluster.recorder.tell(COMPONENT, job, kind, reason, message);
    }

    async fn pods(&self, job: &Arc<Job>) -> Result<Vec<Arc<Pod>>, Failure> {
        match job.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
            Some(selector) => self.cluster.claim(job.as_ref(), selector, |_| true).await,
            None => Ok(self.cluster.stores.pods.controlled_by(identity::uid(&job.metadata))),
        }
    }

    /// The order matters: what was counted is written before a finalizer goes, and the end before anything new begins.
    async fn carry_out(&self, job: &Arc<Job>, plan: &Plan) -> Result<Next, Failure> {
        let mut job = job.clone();
        if job.status.as_ref() != Some(&plan.status) {
            let mut new = Job::clone(&job);
            new.status = Some(plan.status.clone());
            job = self.cluster.replace_status(&new).await?;
            for (kind, reason, message) in &plan.events {
                self.tell(&job, *kind, reason, message.clone());
            }
        }
        for pod in &plan.release {
            self.release(pod).await?;
        }
        for pod in &plan.delete {
            self.delete(&job, pod).await?;
        }
        self.create(&job, &plan.create).await?;
        Ok(Next::after(plan.next))
    }

    /// Takes the finalizer from a pod whose end is recorded.
    async fn release(&self, pod: &Pod) -> Result<(), Failure> {
        let finalizers: Vec<_> =
            pod.metadata.finalizers.iter().flatten().filter(|one| *one != pod::FINALIZER).cloned().collect();
        // The list is replaced as a whole, so it must be the list of the version that was read.
        let patch = json!({ "metadata": {
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
            "finalizers": finalizers,
        }});
        match self.cluster.patch::<Pod>(&ObjectKey::of(&pod.metadata), &patch).await {
            Err(failure) if failure.kind() != FailureKind::NotFound => Err(failure),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn delete(&self, job: &Job, pod: &Pod) -> Result<(), Failure> {
        self.cluster.delete::<Pod>(&pod.metadata, Deletion::Graceful).await?;
        let message = format!("Deleted pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
        self.tell(job, EventKind::Normal, "SuccessfulDelete", message);
        Ok(())
    }

    async fn create(&self, job: &Job, new: &[plan::NewPod]) -> Result<(), Failure> {
        let made = |at: usize| pod::of(job, new.get(at).copied().unwrap_or_default());
        let created = self.cluster.create_gently(new.len(), made, |pod: &Pod| {
            let message = format!("Created pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
            self.tell(job, EventKind::Normal, "SuccessfulCreate", message);
        });
        let result = created.await;
        if let Err(failure) = &result {
            self.tell(job, EventKind::Warning, "FailedCreate", format!("Error creating: {}", failure.cause()));
        }
        result
    }

    /// Pods whose Job is gone must not be held by its finalizer.
    async fn release_orphans(&self, key: &ObjectKey, job: Option<&Job>) -> Result<(), Failure> {
        let uid = job.map(|job| identity::uid(&job.metadata));
        let orphans: Vec<_> = self
            .cluster
            .stores
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| pod::is_tracked(pod) && pod::is_orphan_of(pod, &key.name, uid))
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        // The cache may not show the Job yet that these pods belong to.
        let live: Option<Job> = self.cluster.get_live(key).await?;
        let uid = live.as_ref().map(|job| identity::uid(&job.metadata));
        for pod in orphans.iter().filter(|pod| pod::is_orphan_of(pod, &key.name, uid)) {
            self.release(pod).await?;
        }
        Ok(())
    }

    /// A finished Job only lets go of its pods, and goes itself when its time is over.
    async fn after_the_end(
        &self,
        job: &Job,
        ended: Option<jiff::Timestamp>,
        owned: &[Arc<Pod>],
    ) -> Result<Next, Failure> {
        for pod in owned.iter().filter(|pod| pod::is_tracked(pod)) {
            self.release(pod).await?;
        }
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        match plan::time_to_live(job, ended, self.cluster.now()) {
            None => Ok(Next::OnChange),
            Some(Duration::ZERO) => {
                // The cache may not know yet that the user changed his mind about the time.
                let live: Option<Job> = self.cluster.get_live(&ObjectKey::of(&job.metadata)).await?;
                let still = live.is_some_and(|live| {
                    live.metadata.uid == job.metadata.uid
                        && plan::time_to_live(&live, ended, self.cluster.now()) == Some(Duration::ZERO)
                });
                if still {
                    self.cluster.delete::<Job>(&job.metadata, Deletion::Foreground).await?;
                }
                Ok(Next::OnChange)
            }
            Some(left) => Ok(Next::After(left)),
        }
    }
}

/// Restarts of all containers of the pods that may still restart.
fn restarts(owned: &[Arc<Pod>]) -> i32 {
    let running = owned.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    running
        .flat_map(|pod| pods::container_statuses(pod).chain(pods::init_container_statuses(pod)))
        .map(|status| status.restart_count)
        .sum()
}
