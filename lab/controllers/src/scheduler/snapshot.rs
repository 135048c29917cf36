//! The cluster as one scheduling pass sees it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use super::requests::{self, HostPort, Resources};
use crate::placement::quantity::{self, Nano};
use crate::pods;

/// A node and what is on it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) node: Arc<Node>,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) taken: Resources,
    pub(super) ports: Vec<HostPort>,
}

impl Place {
    pub(super) fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// How much of a resource the node has for pods in all.
    pub(super) fn allocatable(&self, resource: &str) -> Nano {
        let status = self.node.status.as_ref();
        let amounts = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        amounts.and_then(|amounts| amounts.get(resource)).map_or(0, quantity::offered)
    }

    pub(super) fn taken(&self, resource: &str) -> Nano {
        self.taken.get(resource).copied().unwrap_or(0)
    }

    fn add(&mut self, pod: Arc<Pod>) {
        for (name, amount) in requests::of_pod(&pod) {
            let place = self.taken.entry(name).or_insert(0);
            *place = place.saturating_add(amount);
        }
        self.ports.extend(pod.spec.as_ref().map(requests::host_ports).unwrap_or_default());
        self.pods.push(pod);
    }
}

/// All nodes with their pods, and the labels of the namespaces.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) places: Vec<Place>,
    pub(super) namespaces: BTreeMap<String, Arc<Namespace>>,
}

impl Snapshot {
    pub(super) fn new(nodes: &[Arc<Node>], pods: &[Arc<Pod>], namespaces: &[Arc<Namespace>]) -> Self {
        let empty = |node: &Arc<Node>| Place {
            node: node.clone(),
            pods: Vec::new(),
            taken: Resources::new(),
            ports: Vec::new(),
        };
        let live = nodes.iter().filter(|node| node.metadata.deletion_timestamp.is_none());
        let named = namespaces.iter().map(|one| (one.metadata.name.clone().unwrap_or_default(), one.clone()));
        let mut snapshot = Self { places: live.map(empty).collect(), namespaces: named.collect() };
        let at: BTreeMap<String, usize> =
            snapshot.places.iter().enumerate().map(|(at, place)| (place.name().to_owned(), at)).collect();
        // An ended pod takes nothing; one that is being deleted still does.
        for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
            let place = pods::node_name(pod).and_then(|node| snapshot.places.get_mut(*at.get(node)?));
            if let Some(place) = place {
                place.add(pod.clone());
            }
        }
        snapshot
    }

    /// Puts a pod where it was just bound to.
    pub(super) fn place(&mut self, pod: Arc<Pod>, node: &str) {
        if let Some(place) = self.places.iter_mut().find(|place| place.name() == node) {
            place.add(pod);
        }
    }
}
