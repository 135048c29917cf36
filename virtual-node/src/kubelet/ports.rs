//! Which port each node shows, and what else its object says about the kubelet API.
//!
//! Without a range all nodes show the shared port. With one, a node keeps the port that its object shows already, so that
//! it survives restarts, and gets a free one otherwise.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ids::NodeName;

/// What a Node object says about where its kubelet API is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// API servers dial the first address of the types that they prefer: this must be the only one that they find.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Whether the API server knows of features that nodes declare, such as that it may speak WebSocket to us.
    pub(crate) declares: bool,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Ports {
    shared: Endpoint,
    range: Option<RangeInclusive<u16>>,
    given: Mutex<HashMap<NodeName, u16>>,
    changed: Notify,
}

impl Ports {
    pub(crate) fn new(shared: Endpoint, range: Option<RangeInclusive<u16>>) -> Self {
        Self { shared, range, given: Mutex::default(), changed: Notify::new() }
    }

    /// What the object of this node is to say; `shown` is the port that it says now.
    pub(crate) fn endpoint(&self, node: &NodeName, shown: Option<u16>) -> Endpoint {
        let Some(range) = &self.range else { return self.shared };
        let mut given = self.given();
        let port = match given.get(node) {
            Some(port) => Some(*port),
            None => {
                let port = choose(range, &given.values().copied().collect(), node, shown);
                match port {
                    Some(port) => {
                        given.insert(node.clone(), port);
                        self.changed.notify_one();
                    }
                    None => {
                        let (first, last) = (range.start(), range.end());
                        tracing::warn!(%node, "no port of {first}-{last} is left for this node: it shows the shared port");
                    }
                }
                port
            }
        };
        Endpoint { port: port.unwrap_or(self.shared.port), ..self.shared }
    }

    /// The node is no more.
    pub(crate) fn release(&self, node: &NodeName) {
        if self.given().remove(node).is_some() {
            self.changed.notify_one();
        }
    }

    /// Waits until a port is given or released. One task may wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn all(&self) -> Vec<(NodeName, u16)> {
        self.given().iter().map(|(node, port)| (node.clone(), *port)).collect()
    }

    fn given(&self) -> MutexGuard<'_, HashMap<NodeName, u16>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port that the node has, or the first free one from a place that depends on its name: nodes that are new then
/// rarely take one that another shows and has not claimed again yet.
fn choose(range: &RangeInclusive<u16>, taken: &HashSet<u16>, node: &NodeName, shown: Option<u16>) -> Option<u16> {
    if let Some(shown) = shown.filter(|shown| range.contains(shown) && !taken.contains(shown)) {
        return Some(shown);
    }
    let count = u64::from(range.end().checked_sub(*range.start())?) + 1;
    let mut hasher = DefaultHasher::new();
    node.as_str().hash(&mut hasher);
    let start = hasher.finish() % count;
    (0..count)
        .filter_map(|step| u16::try_from(u64::from(*range.start()) + (start + step) % count).ok())
        .find(|port| !taken.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(range: Option<RangeInclusive<u16>>) -> Ports {
        let shared = Endpoint { address: [10, 0, 0, 1].into(), port: 10250, declares: true };
        Ports::new(shared, range)
    }

    fn node(n: u16) -> NodeName {
        NodeName::new(format!("gw-{n}")).unwrap()
    }

    #[test]
    fn without_a_range_all_share() {
        assert_eq!(ports(None).endpoint(&node(1), Some(7)).port, 10250);
    }

    #[test]
    fn each_node_keeps_a_port_of_its_own_until_none_is_left() {
        let first = ports(Some(20000..=20009));
        let given: HashSet<u16> = (0..10).map(|n| first.endpoint(&node(n), None).port).collect();
        assert_eq!(given, (20000..=20009).collect());
        assert_eq!(first.endpoint(&node(10), None).port, 10250, "none is left");
        let again: Vec<u16> = (0..10).map(|n| first.endpoint(&node(n), None).port).collect();

        let restarted = ports(Some(20000..=20009));
        for n in (0..10).rev() {
            let shown = again[usize::from(n)];
            assert_eq!(restarted.endpoint(&node(n), Some(shown)).port, shown);
        }
        restarted.release(&node(3));
        assert_eq!(restarted.endpoint(&node(11), Some(20000)).port, again[3], "only the free one");
        assert_eq!(restarted.all().len(), 10);
    }

    #[test]
    fn a_port_outside_the_range_is_not_kept() {
        assert_ne!(ports(Some(20000..=20009)).endpoint(&node(1), Some(10250)).port, 10250);
    }
}
