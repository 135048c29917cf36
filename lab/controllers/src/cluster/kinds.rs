//! The kinds that are cached, and how each is found.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::routes::{self, Queues};
use super::store::{Change, Store};

/// One cache for each kind.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    pub(crate) pods: Store<Pod>,
    pub(crate) nodes: Store<Node>,
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) leases: Store<Lease>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) replica_sets: Store<ReplicaSet>,
    pub(crate) daemon_sets: Store<DaemonSet>,
    pub(crate) revisions: Store<ControllerRevision>,
    pub(crate) jobs: Store<Job>,
}

impl Stores {
    /// Resolves when every cache has had its first complete list.
    pub(crate) async fn ready(&self) {
        self.pods.ready().await;
        self.nodes.ready().await;
        self.namespaces.ready().await;
        self.leases.ready().await;
        self.deployments.ready().await;
        self.replica_sets.ready().await;
        self.daemon_sets.ready().await;
        self.revisions.ready().await;
        self.jobs.ready().await;
    }
}

/// A cached kind.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Its cache.
    fn store(stores: &Stores) -> &Store<Self>;
    /// The API for one object; the namespace of a cluster-scoped kind is ignored.
    fn api(client: Client, namespace: &str) -> Api<Self>;
    /// The API for all objects that are watched.
    fn everywhere(client: Client) -> Api<Self>;
    /// Which queues a change of an object concerns.
    fn route(queues: &Queues, stores: &Stores, change: &Change<Self>);
}

/// Leases of nodes live here; others (leader election) are of no interest.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

macro_rules! namespaced {
    ($kind:ty, $store:ident, $route:path, $everywhere:expr) => {
        impl Kind for $kind {
            fn store(stores: &Stores) -> &Store<Self> {
                &stores.$store
            }
            fn api(client: Client, namespace: &str) -> Api<Self> {
                Api::namespaced(client, namespace)
            }
            fn route(queues: &Queues, stores: &Stores, change: &Change<Self>) {
                $route(queues, stores, change);
            }
            fn everywhere(client: Client) -> Api<Self> {
                $everywhere(client)
            }
        }
    };
}

namespaced!(Pod, pods, routes::pod, Api::all);
namespaced!(Lease, leases, routes::lease, |client| Api::namespaced(client, NODE_LEASES));
namespaced!(Deployment, deployments, routes::deployment, Api::all);
namespaced!(ReplicaSet, replica_sets, routes::replica_set, Api::all);
namespaced!(DaemonSet, daemon_sets, routes::daemon_set, Api::all);
namespaced!(ControllerRevision, revisions, routes::revision, Api::all);
namespaced!(Job, jobs, routes::job, Api::all);

macro_rules! cluster_scoped {
    ($kind:ty, $store:ident, $route:path) => {
        impl Kind for $kind {
            fn store(stores: &Stores) -> &Store<Self> {
                &stores.$store
            }
            fn api(client: Client, _namespace: &str) -> Api<Self> {
                Api::all(client)
            }
            fn everywhere(client: Client) -> Api<Self> {
                Api::all(client)
            }
            fn route(queues: &Queues, stores: &Stores, change: &Change<Self>) {
                $route(queues, stores, change);
            }
        }
    };
}

cluster_scoped!(Node, nodes, routes::node);
cluster_scoped!(Namespace, namespaces, routes::namespace);
