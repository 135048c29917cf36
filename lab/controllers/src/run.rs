//! Starting everything, and stopping it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Client;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use crate::cluster::{self, Cluster, Queues, Recorder, Stores};
use crate::config::{Config, InvalidConfig};
use crate::daemonset::DaemonSets;
use crate::deployment::Deployments;
use crate::garbage::GarbageCollector;
use crate::job::Jobs;
use crate::node_lifecycle::NodeLifecycle;
use crate::pod_gc::PodGc;
use crate::reconcile;
use crate::replicaset::ReplicaSets;
use crate::scheduler::Scheduler;
use crate::taint_eviction::TaintEviction;

/// Longer than any part needs to stop; a part that takes longer is dropped where it stands.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Why the controllers do not run.
#[derive(Debug, Error)]
pub enum Error {
    /// A setting cannot work.
    #[error("the controllers cannot start")]
    Config(#[from] InvalidConfig),
    /// The API server did not answer the first question.
    #[error("the controllers cannot reach the API server; check its address and the credentials")]
    Unreachable(#[source] Box<kube::Error>),
    /// A part ended that must not end.
    #[error("the controllers stopped because {part} ended")]
    Ended {
        /// Which part.
        part: &'static str,
    },
    /// A part panicked.
    #[error("the controllers stopped because a part panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// All controllers and the scheduler, not yet running.
pub struct Controllers {
    client: Client,
    config: Config,
}

impl Controllers {
    /// Prepares the controllers for the cluster that `client` talks to.
    #[must_use]
    pub fn new(client: Client, config: Config) -> Self {
        Self { client, config }
    }

    /// Runs until `stop`; then lets requests under way finish, for a few seconds at most.
    ///
    /// # Errors
    /// When a setting cannot work, the API server cannot be reached at the start, or a part ends unexpectedly. Later
    /// trouble with the API server is retried, not returned.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        self.config.check()?;
        let version = match stop.run_until_cancelled(self.client.apiserver_version()).await {
            None => return Ok(()),
            Some(version) => version.map_err(|error| Error::Unreachable(Box::new(error)))?,
        };
        info!(version = %version.git_version, "controllers start");
        let parts_stop = stop.child_token();
        let mut parts = self.start(&parts_stop);
        let ended = tokio::select! {
            // Cancel-safe: waiting for a token holds nothing.
            () = stop.cancelled() => None,
            // Cancel-safe: `join_next` gives out a result only when it returns it.
            ended = parts.join_next() => ended,
        };
        let reason = match ended {
            // A part that ends because of `stop` may be seen before `stop` itself.
            _ if stop.is_cancelled() => Ok(()),
            None => Ok(()),
            Some(Ok(part)) => Err(Error::Ended { part }),
            Some(Err(error)) => Err(Error::Panicked(error)),
        };
        parts_stop.cancel();
        let drained = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, drained).await.is_err() {
            parts.shutdown().await;
        }
        info!("controllers stopped");
        reason
    }

    fn start(self, stop: &CancellationToken) -> JoinSet<&'static str> {
        let (recorder, event_writer) = Recorder::new();
        let queues = Queues::new(self.config.clock);
        let cluster =
            Arc::new(Cluster { client: self.client, stores: Stores::default(), queues, recorder, config: self.config });
        let mut parts = Parts { set: JoinSet::new(), cluster: cluster.clone(), stop: stop.clone() };

        parts.part("the watch of pods", cluster::watch::<Pod>);
        parts.part("the watch of nodes", cluster::watch::<Node>);
        parts.part("the watch of namespaces", cluster::watch::<Namespace>);
        parts.part("the watch of leases", cluster::watch::<Lease>);
        parts.part("the watch of deployments", cluster::watch::<Deployment>);
        parts.part("the watch of replica sets", cluster::watch::<ReplicaSet>);
        parts.part("the watch of daemon sets", cluster::watch::<DaemonSet>);
        parts.part("the watch of controller revisions", cluster::watch::<ControllerRevision>);
        parts.part("the watch of jobs", cluster::watch::<Job>);
        parts.part("the writer of events", |cluster, stop| {
            event_writer.run(cluster.client.clone(), cluster.config.clock, stop)
        });
        parts.controller("the deployment controller", |cluster, stop| async move {
            reconcile::run(Deployments { cluster: cluster.clone() }, &cluster.queues.deployments, stop).await;
        });
        parts.controller("the replica set controller", |cluster, stop| async move {
            reconcile::run(ReplicaSets { cluster: cluster.clone() }, &cluster.queues.replica_sets, stop).await;
        });
        parts.controller("the daemon set controller", |cluster, stop| async move {
            reconcile::run(DaemonSets::new(cluster.clone()), &cluster.queues.daemon_sets, stop).await;
        });
        parts.controller("the job controller", |cluster, stop| async move {
            reconcile::run(Jobs { cluster: cluster.clone() }, &cluster.queues.jobs, stop).await;
        });
        parts.controller("the node lifecycle controller", |cluster, stop| async move {
            reconcile::run(NodeLifecycle::new(cluster.clone()), &cluster.queues.nodes, stop).await;
        });
        parts.controller("the taint eviction controller", |cluster, stop| async move {
            reconcile::run(TaintEviction { cluster: cluster.clone() }, &cluster.queues.taint_eviction, stop).await;
        });
        parts.controller("the scheduler", |cluster, stop| Scheduler::new(cluster).run(stop));
        parts.part("the garbage collector", |cluster, stop| GarbageCollector::new(cluster).run(stop));
        parts.controller("the pod garbage collector", |cluster, stop| async move {
            cluster.queues.pod_gc.add(cluster::sweep());
            reconcile::run(PodGc::new(cluster.clone()), &cluster.queues.pod_gc, stop).await;
        });
        parts.set
    }
}

/// The tasks of the controllers; the owner waits for all of them.
struct Parts {
    set: JoinSet<&'static str>,
    cluster: Arc<Cluster>,
    stop: CancellationToken,
}

impl Parts {
    /// Starts a part at once.
    fn part<F>(&mut self, name: &'static str, part: impl FnOnce(Arc<Cluster>, CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = part(self.cluster.clone(), self.stop.clone());
        let span = info_span!("part", name);
        self.set.spawn(
            async move {
                running.await;
                name
            }
            .instrument(span),
        );
    }

    /// Starts a part when all caches are complete: deciding on half a cluster would delete the other half.
    fn controller<F>(&mut self, name: &'static str, part: impl FnOnce(Arc<Cluster>, CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = part(self.cluster.clone(), self.stop.clone());
        self.part(name, |cluster, stop| async move {
            if stop.run_until_cancelled(cluster.stores.ready()).await.is_some() {
                running.await;
            }
        });
    }
}
