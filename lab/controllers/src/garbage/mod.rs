//! Garbage: objects whose owners are gone go too; owners that wait for their dependents go after them.
//!
//! The collector watches the metadata of everything the API offers, custom resources included, and keeps the graph of who
//! owns whom. The graph only says where to look: before anything is written the object is read from the API server, and an
//! owner that the graph does not know is asked for by name. So a watch that lags behind never deletes anything.

mod act;
mod decide;
mod graph;
mod kinds;
mod monitor;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::discovery::Discovery;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cluster::{Cluster, Failure};
use crate::identity::ObjectKey;
use crate::queue::WorkQueue;
use crate::reconcile;

use act::Collector;
use graph::{Graph, Uid};
use kinds::{KindId, Kinds};

/// How long the first lists of all kinds may take; after that the collector begins without the late ones. What they
/// would have shown is asked for by name, only a foreground deletion may end a little early.
const FIRST_LISTS_WITHIN: Duration = Duration::from_secs(30);

/// What monitors and workers share.
pub(crate) struct Shared {
    cluster: Arc<Cluster>,
    graph: Mutex<Graph>,
    kinds: Mutex<Arc<Kinds>>,
    /// UIDs, as names of cluster-scoped keys.
    queue: WorkQueue<ObjectKey>,
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        // No code runs under the lock that could panic and leave the maps at odds.
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kinds(&self) -> Arc<Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look_at(&self, uids: impl IntoIterator<Item = Uid>) {
        self.queue.add_all(uids.into_iter().map(|uid| ObjectKey::cluster(&uid)));
    }
}

/// The garbage collector: owns the monitors, one for each kind.
pub(crate) struct GarbageCollector {
    shared: Arc<Shared>,
    monitors: JoinSet<KindId>,
    stops: BTreeMap<KindId, CancellationToken>,
}

impl GarbageCollector {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        let queue = WorkQueue::new(cluster.config.clock);
        let shared = Shared { cluster, graph: Mutex::default(), kinds: Mutex::default(), queue };
        Self { shared: Arc::new(shared), monitors: JoinSet::new(), stops: BTreeMap::new() }
    }

    /// Collects until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut first_lists = Vec::new();
        let discovered = async {
            while let Err(failure) = self.discover(&stop, &mut first_lists).await {
                warn!(error = %failure, cause = failure.cause(), "cannot discover what the API offers, will be retried");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let all = futures::future::join_all(first_lists.drain(..));
            if tokio::time::timeout(FIRST_LISTS_WITHIN, all).await.is_err() {
                warn!("garbage collection begins although some kinds cannot be listed");
            }
        };
        if stop.run_until_cancelled(discovered).await.is_some() {
            info!(kinds = self.stops.len(), "garbage collection begins");
            let shared = self.shared.clone();
            let collector = Collector { shared: shared.clone() };
            tokio::join!(reconcile::run(collector, &shared.queue, stop.clone()), self.keep_up(&stop));
        }
        for monitor in self.stops.values() {
            monitor.cancel();
        }
        while self.monitors.join_next().await.is_some() {}
    }

    /// Looks for new kinds again and again.
    async fn keep_up(&mut self, stop: &CancellationToken) {
        let period = self.shared.cluster.config.garbage_discovery_period;
        while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
            let found = stop.run_until_cancelled(self.discover(stop, &mut Vec::new())).await;
            if let Some(Err(failure)) = found {
                debug!(error = %failure, cause = failure.cause(), "kinds stay as they were");
            }
        }
    }

    /// Starts a monitor for every new kind and stops those of kinds that are gone.
    async fn discover(
        &mut self,
        stop: &CancellationToken,
        first_lists: &mut Vec<tokio::sync::oneshot::Receiver<()>>,
    ) -> Result<(), Failure> {
        let discovery = Discovery::new(self.shared.cluster.client.clone()).run().await;
        let discovery = discovery.map_err(|error| Failure::request("discover", "the API", error))?;
        let kinds = Arc::new(Kinds::of(&discovery));
        let gone: Vec<_> = self.stops.keys().filter(|id| !kinds.is_watched(id)).cloned().collect();
        for id in gone {
            debug!(kind = %id, "kind is gone");
            if let Some(monitor) = self.stops.remove(&id) {
                monitor.cancel();
            }
            let dirty = self.shared.graph().relisted(&id, &Default::default());
            self.shared.look_at(dirty);
        }
        for (id, resource) in kinds.watched() {
            if self.stops.contains_key(id) {
                continue;
            }
            let (listed, first_list) = tokio::sync::oneshot::channel();
            first_lists.push(first_list);
            let stop = stop.child_token();
            self.stops.insert(id.clone(), stop.clone());
            self.monitors.spawn(monitor::run(self.shared.clone(), id.clone(), resource.clone(), listed, stop));
        }
        *self.shared.kinds.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
        // Monitors of kinds that are gone have nothing to tell any more.
        while self.monitors.try_join_next().is_some() {}
        Ok(())
    }
}
