//! Which change wakes which controller. The whole wiring is on this page.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource;
use tokio::sync::Notify;

use super::kinds::Stores;
use super::store::{Change, Store};
use crate::clock::Clock;
use crate::identity::{ObjectKey, controller_of, label};
use crate::job::JOB_NAME;
use crate::queue::WorkQueue;
use crate::{pods, selectors};

/// The queues of all controllers.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) deployments: WorkQueue<ObjectKey>,
    pub(crate) replica_sets: WorkQueue<ObjectKey>,
    pub(crate) daemon_sets: WorkQueue<ObjectKey>,
    pub(crate) jobs: WorkQueue<ObjectKey>,
    pub(crate) nodes: WorkQueue<ObjectKey>,
    pub(crate) taint_eviction: WorkQueue<ObjectKey>,
    pub(crate) pod_gc: WorkQueue<ObjectKey>,
    pub(crate) scheduler: Wake,
}

impl Queues {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            deployments: WorkQueue::new(clock),
            replica_sets: WorkQueue::new(clock),
            daemon_sets: WorkQueue::new(clock),
            jobs: WorkQueue::new(clock),
            nodes: WorkQueue::new(clock),
            taint_eviction: WorkQueue::new(clock),
            pod_gc: WorkQueue::new(clock),
            scheduler: Wake::default(),
        }
    }
}

/// Wakes the scheduler: for the pods that are new, or for all that wait because room may have appeared.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    notify: Notify,
    retry_all: AtomicBool,
}

impl Wake {
    pub(crate) fn new_pod(&self) {
        self.notify.notify_one();
    }

    pub(crate) fn room_may_have_appeared(&self) {
        self.retry_all.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Waits for either; cancel-safe, a wake-up that nobody saw stays.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Whether pods that did not fit before should be tried again.
    pub(crate) fn take_retry_all(&self) -> bool {
        self.retry_all.swap(false, Ordering::AcqRel)
    }
}

fn keys<'a, K: Resource + 'a>(change: &'a Change<K>) -> impl Iterator<Item = ObjectKey> + 'a {
    change.latest().map(|object| ObjectKey::of(object.meta())).into_iter()
}

/// The managing owners of this kind, before and after the change.
fn owners<K: Resource>(change: &Change<K>, kind: &str) -> Vec<ObjectKey> {
    [&change.old, &change.new]
        .into_iter()
        .flatten()
        .filter_map(|object| {
            let owner = controller_of(object.meta()).filter(|owner| owner.kind == kind)?;
            Some(ObjectKey::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name))
        })
        .collect()
}

/// Workloads of the namespace whose selector chooses an object that nobody manages: they may adopt it.
fn adopters<K: Resource + Clone>(
    store: &Store<K>,
    orphan: &ObjectMeta,
    selector: impl Fn(&K) -> Option<LabelSelector>,
) -> Vec<ObjectKey> {
    if controller_of(orphan).is_some() {
        return Vec::new();
    }
    let namespace = orphan.namespace.as_deref().unwrap_or_default();
    store
        .in_namespace(namespace)
        .iter()
        .filter(|workload| {
            selector(workload).is_some_and(|selector| {
                !selectors::is_empty(&selector) && selectors::matches(&selector, orphan.labels.as_ref())
            })
        })
        .map(|workload| ObjectKey::of(workload.meta()))
        .collect()
}

pub(super) fn pod(queues: &Queues, stores: &Stores, change: &Change<Pod>) {
    queues.replica_sets.add_all(owners(change, "ReplicaSet"));
    queues.daemon_sets.add_all(owners(change, "DaemonSet"));
    queues.jobs.add_all(owners(change, "Job"));
    if let Some(pod) = change.new.as_deref() {
        let meta = &pod.metadata;
        let selector = |set: &ReplicaSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        queues.replica_sets.add_all(adopters(&stores.replica_sets, meta, selector));
        let selector = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        queues.daemon_sets.add_all(adopters(&stores.daemon_sets, meta, selector));
        let selector = |job: &Job| job.spec.as_ref().and_then(|spec| spec.selector.clone());
        queues.jobs.add_all(adopters(&stores.jobs, meta, selector));
    }
    if let Some(pod) = change.new.as_deref()
        && let Some(name) = label(&pod.metadata, JOB_NAME)
    {
        // The owner may be gone from the pod; its Job must still let go of it.
        queues.jobs.add(ObjectKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name));
    }
    let ended = |pod: &Pod| !pods::is_active(pod);
    let stopped = change.new.as_deref().is_none_or(ended) && !change.old.as_deref().is_some_and(ended);
    if change.new.is_none() || stopped {
        // A Recreate rollout waits for the last old pod to be gone.
        for set in owners(change, "ReplicaSet") {
            if let Some(set) = stores.replica_sets.get(&set)
                && let Some(owner) = controller_of(&set.metadata)
            {
                queues
                    .deployments
                    .add(ObjectKey::new(set.metadata.namespace.as_deref().unwrap_or_default(), &owner.name));
            }
        }
    }
    if change.new.as_deref().is_some_and(|pod| pods::node_name(pod).is_some()) {
        queues.taint_eviction.add_all(keys(change));
    }
    scheduler_pod(queues, change);
}

fn scheduler_pod(queues: &Queues, change: &Change<Pod>) {
    let waits = |pod: &Pod| pods::node_name(pod).is_none() && pods::is_active(pod);
    match (change.old.as_deref(), change.new.as_deref()) {
        (None, Some(new)) if waits(new) => queues.scheduler.new_pod(),
        (Some(old), Some(new))
            if waits(new) && (old.spec != new.spec || old.metadata.labels != new.metadata.labels) =>
        {
            queues.scheduler.room_may_have_appeared();
        }
        (Some(old), Some(new)) => {
            // Room appears when a bound pod ends; affinity may be met when one is bound or changes its labels.
            let ended = pods::is_terminal(new) && !pods::is_terminal(old);
            let bound = pods::node_name(old) != pods::node_name(new);
            if ended || bound || old.metadata.labels != new.metadata.labels {
                queues.scheduler.room_may_have_appeared();
            }
        }
        (Some(old), None) if pods::node_name(old).is_some() => queues.scheduler.room_may_have_appeared(),
        (None, Some(_)) => queues.scheduler.room_may_have_appeared(),
        _ => {}
    }
}

pub(super) fn node(queues: &Queues, stores: &Stores, change: &Change<Node>) {
    queues.nodes.add_all(keys(change));
    let spec = |node: &Node| node.spec.clone();
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    let labels = |node: &Node| node.metadata.labels.clone();
    let room = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let (old, new) = (change.old.as_deref(), change.new.as_deref());
    let came_or_went = old.is_none() || new.is_none();
    let differs = came_or_went || old.map(spec) != new.map(spec) || old.map(labels) != new.map(labels);
    if differs {
        queues.daemon_sets.add_all(stores.daemon_sets.all().iter().map(|set| ObjectKey::of(&set.metadata)));
    }
    if differs || old.map(room) != new.map(room) {
        queues.scheduler.room_may_have_appeared();
    }
    if came_or_went || old.map(taints) != new.map(taints) {
        let name = change.latest().and_then(|node| node.metadata.name.as_deref());
        let pods = stores.pods.all();
        let on_node = pods.iter().filter(|pod| name.is_some() && pods::node_name(pod) == name);
        let on_node: Vec<_> = on_node.map(|pod| ObjectKey::of(&pod.metadata)).collect();
        if new.is_none() {
            queues.pod_gc.add(sweep());
        }
        queues.taint_eviction.add_all(on_node);
    }
}

/// The one key of the pod garbage collector: it always looks at everything.
pub(crate) fn sweep() -> ObjectKey {
    ObjectKey::cluster("sweep")
}

/// Labels of a namespace decide whom affinity speaks of.
pub(super) fn namespace(queues: &Queues, _: &Stores, change: &Change<Namespace>) {
    let labels = |namespace: &Namespace| namespace.metadata.labels.clone();
    if change.old.as_deref().map(labels) != change.new.as_deref().map(labels) {
        queues.scheduler.room_may_have_appeared();
    }
}

/// A node that renews its lease is looked at on the next round of the monitor; a renewal itself wakes nobody.
pub(super) fn lease(_: &Queues, _: &Stores, _: &Change<Lease>) {}

pub(super) fn deployment(queues: &Queues, _: &Stores, change: &Change<Deployment>) {
    queues.deployments.add_all(keys(change));
}

pub(super) fn replica_set(queues: &Queues, stores: &Stores, change: &Change<ReplicaSet>) {
    queues.replica_sets.add_all(keys(change));
    queues.deployments.add_all(owners(change, "Deployment"));
    if let Some(set) = change.new.as_deref() {
        let selector = |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.selector.clone());
        queues.deployments.add_all(adopters(&stores.deployments, &set.metadata, selector));
    }
}

pub(super) fn daemon_set(queues: &Queues, _: &Stores, change: &Change<DaemonSet>) {
    queues.daemon_sets.add_all(keys(change));
}

pub(super) fn revision(queues: &Queues, stores: &Stores, change: &Change<ControllerRevision>) {
    queues.daemon_sets.add_all(owners(change, "DaemonSet"));
    if let Some(revision) = change.new.as_deref() {
        let selector = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        queues.daemon_sets.add_all(adopters(&stores.daemon_sets, &revision.metadata, selector));
    }
}

pub(super) fn job(queues: &Queues, _: &Stores, change: &Change<Job>) {
    queues.jobs.add_all(keys(change));
}
