//! Whether there is room for one more pod. The scheduler thinks so of those that it has placed, but a pod may be bound to
//! its node by hand, and two schedulers may each see the same room. Who finds none is rejected with a kubelet's words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_wire::PodUid;
use hawser_wire::deployment::{Ask, EdgeDeployment, HostPort, Protocol, Resources};

use crate::runtime::Refusal;

/// What pods take of the device, by resource name as in [`HostFacts`](super::HostFacts).
type Amounts = BTreeMap<&'static str, u64>;

/// How much of one thing a container asks for.
type Asked = fn(&Resources) -> Option<u64>;

const PODS: &str = "pods";
/// What is looked at, in the order in which it is complained about.
const RESOURCES: [(&str, Asked); 3] = [
    ("cpu", |resources| resources.cpu_request_millis),
    ("memory", |resources| resources.memory_request_bytes),
    ("ephemeral-storage", |resources| resources.storage_request_bytes),
];

/// What the pods of this device have taken. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Mutex<BTreeMap<PodUid, Needs>>>);

/// What one pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needs {
    amounts: Amounts,
    ports: BTreeSet<(u16, Option<String>, u8)>,
}

/// What a pod has taken; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    uid: PodUid,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.lock().remove(&self.uid);
    }
}

impl Room {
    /// Takes what the pod needs, if there is as much. What the device does not tell of itself is not looked at.
    pub(super) fn take(&self, pod: &EdgeDeployment, allocatable: &BTreeMap<String, u64>) -> Result<Taken, Refusal> {
        let needs = Needs::of(pod);
        let mut held = self.lock();
        let others = || held.iter().filter(|(uid, _)| **uid != pod.uid).map(|(_, needs)| needs);
        for name in std::iter::once(PODS).chain(RESOURCES.map(|(name, _)| name)) {
            let requested = needs.amounts.get(name).copied().unwrap_or(0);
            let Some(capacity) = allocatable.get(name).copied().filter(|_| requested > 0) else { continue };
            let used =
                others().filter_map(|needs| needs.amounts.get(name)).fold(0, |sum: u64, of| sum.saturating_add(*of));
            if requested > capacity.saturating_sub(used) {
                let message = format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                );
                return Err(Refusal { reason: format!("OutOf{name}"), message });
            }
        }
        if others().any(|other| other.clashes(&needs)) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal { reason: "NodePorts".to_owned(), message: message.to_owned() });
        }
        held.insert(pod.uid.clone(), needs);
        Ok(Taken { room: self.clone(), uid: pod.uid.clone() })
    }

    /// Takes it whether it is there or not: the pod has begun, and goes on.
    pub(super) fn hold(&self, pod: &EdgeDeployment) -> Taken {
        self.lock().insert(pod.uid.clone(), Needs::of(pod));
        Taken { room: self.clone(), uid: pod.uid.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodUid, Needs>> {
        // Nothing in here can be half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Needs {
    fn of(pod: &EdgeDeployment) -> Self {
        let mut amounts: Amounts = RESOURCES.map(|(name, of)| (name, needed(pod, of))).into();
        amounts.insert(PODS, 1);
        let ports = pod.engine.iter().flat_map(|engine| &engine.host_ports).map(place_of).collect();
        Self { amounts, ports }
    }

    /// Whether both want the same port of the device: all of its addresses are each of them.
    fn clashes(&self, other: &Self) -> bool {
        self.ports.iter().any(|(port, address, protocol)| {
            other.ports.iter().any(|(taken, at, by)| {
                let same = address == at || address.is_none() || at.is_none();
                same && port == taken && protocol == by
            })
        })
    }
}

fn place_of(port: &HostPort) -> (u16, Option<String>, u8) {
    let address = port.address.clone().filter(|address| !["", "0.0.0.0", "::"].contains(&address.as_str()));
    let protocol = match port.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    };
    (port.host, address, protocol)
}

/// What the pod asks for as a whole, or else its containers, and what it costs to have it. (What follows from a limit of the
/// pod the API server has written down.)
fn needed(pod: &EdgeDeployment, of: Asked) -> u64 {
    let (mut whole, mut overhead) = (None, None);
    for ask in pod.engine.iter().flat_map(|engine| &engine.asks) {
        match ask {
            Ask::Resources(resources) => whole = of(resources),
            Ask::Overhead(resources) => overhead = of(resources),
            _ => {}
        }
    }
    whole.unwrap_or_else(|| pod.at_once(of)).saturating_add(overhead.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use hawser_wire::deployment::Engine;

    use super::*;
    use crate::workloads::tests::pod;

    fn device() -> BTreeMap<String, u64> {
        [("cpu", 2_000), ("memory", 1_000), (PODS, 3)].map(|(name, amount)| (name.to_owned(), amount)).into()
    }

    fn asking(name: &str, cpu: u64, memory: u64) -> EdgeDeployment {
        let mut pod = pod(name);
        pod.containers[0].resources.cpu_request_millis = Some(cpu);
        pod.containers[0].resources.memory_request_bytes = Some(memory);
        pod
    }

    fn on_port(name: &str, host: u16, protocol: Protocol, address: Option<&str>) -> EdgeDeployment {
        let port = HostPort { host, pod: 80, protocol, address: address.map(str::to_owned) };
        EdgeDeployment { engine: Some(Engine { host_ports: vec![port], ..Engine::default() }), ..pod(name) }
    }

    #[test]
    fn what_does_not_fit_is_rejected_in_a_kubelets_words() {
        let room = Room::default();
        let first = room.take(&asking("a", 1_500, 600), &device()).unwrap();
        let refused = |name: &str, cpu, memory| room.take(&asking(name, cpu, memory), &device()).unwrap_err();
        assert_eq!(
            refused("b", 600, 0),
            Refusal {
                reason: "OutOfcpu".into(),
                message: "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000".into(),
            }
        );
        assert_eq!(refused("b", 500, 401).reason, "OutOfmemory");
        let _second = room.take(&asking("b", 500, 400), &device()).unwrap();
        let _third = room.take(&pod("c"), &device()).unwrap();
        assert_eq!(
            refused("d", 0, 0),
            Refusal {
                reason: "OutOfpods".into(),
                message: "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3".into(),
            }
        );
        drop(first);
        let _fourth = room.take(&asking("d", 1_500, 600), &device()).unwrap();
    }

    #[test]
    fn who_has_begun_is_counted_and_never_rejected() {
        let room = Room::default();
        let _begun = room.hold(&asking("a", 9_000, 0));
        assert_eq!(room.take(&asking("b", 1, 0), &device()).unwrap_err().reason, "OutOfcpu");
        // A pod is not in its own way, and one that asks for nothing is in nobody's.
        let _again = room.take(&asking("a", 2_000, 0), &device()).unwrap();
        let _nothing = room.take(&pod("b"), &device()).unwrap();
        assert!(room.take(&asking("c", 1, 0), &BTreeMap::new()).is_ok(), "the device does not say what it has");
    }

    #[test]
    fn the_most_that_is_asked_for_at_once_counts() {
        let mut many = asking("a", 500, 0);
        let init = |cpu: u64, sidecar: bool| {
            let mut container = asking("i", cpu, 0).containers.remove(0);
            container.sidecar = sidecar;
            container
        };
        many.init_containers = vec![init(1_000, false), init(300, true), init(400, false)];
        assert_eq!(Needs::of(&many).amounts["cpu"], 1_000);
        many.init_containers.push(init(800, false));
        assert_eq!(Needs::of(&many).amounts["cpu"], 1_100);
        many.containers.push(many.containers[0].clone());
        assert_eq!(Needs::of(&many).amounts["cpu"], 1_300);
    }

    #[test]
    fn a_pod_needs_what_it_asks_for_as_a_whole_and_its_overhead() {
        let resources = |cpu| Resources { cpu_request_millis: Some(cpu), ..Resources::default() };
        let mut pod = asking("a", 500, 100);
        let asks = vec![Ask::Resources(resources(800)), Ask::Overhead(resources(50))];
        pod.engine = Some(Engine { asks, ..Engine::default() });
        let needs = Needs::of(&pod).amounts;
        assert_eq!((needs["cpu"], needs["memory"]), (850, 100));
    }

    #[test]
    fn two_pods_cannot_have_the_same_port_of_the_device() {
        let room = Room::default();
        let _held = room.take(&on_port("a", 80, Protocol::Tcp, Some("192.0.2.1")), &device()).unwrap();
        for (address, protocol, port, fits) in [
            (Some("192.0.2.1"), Protocol::Tcp, 80, false),
            (None, Protocol::Tcp, 80, false),
            (Some("0.0.0.0"), Protocol::Tcp, 80, false),
            (Some("192.0.2.2"), Protocol::Tcp, 80, true),
            (None, Protocol::Udp, 80, true),
            (None, Protocol::Tcp, 81, true),
        ] {
            let result = room.take(&on_port("b", port, protocol, address), &device());
            assert_eq!(result.as_ref().err().map(|refusal| refusal.reason.as_str()), (!fits).then_some("NodePorts"));
        }
    }
}
