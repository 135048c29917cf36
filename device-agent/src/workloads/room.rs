//! Whether there is room for one more pod. The scheduler thinks so of those that it has placed, but a pod may be bound to
//! its node by hand, and two schedulers may each see the same room. Who finds none is rejected with a kubelet's words; who
//! is there already and asks for more waits for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_wire::PodUid;
use hawser_wire::deployment::{Ask, EdgeDeployment, HostPort, Protocol, Resources};

use tokio::sync::watch;

use crate::huge_pages;
use crate::runtime::Refusal;
use crate::runtime::cri::is_guaranteed;

/// What pods take of the device, by resource name as in [`HostFacts`](super::HostFacts).
type Amounts = BTreeMap<String, u64>;

/// How much of one thing a container asks for.
type Asked = fn(&Resources) -> Option<u64>;

const PODS: &str = "pods";
/// What is looked at, in the order in which it is complained about; huge pages come after these.
const RESOURCES: [(&str, Asked); 3] = [
    ("cpu", |resources| resources.cpu_request_millis),
    ("memory", |resources| resources.memory_request_bytes),
    ("ephemeral-storage", |resources| resources.storage_request_bytes),
];

/// What the pods of this device have taken. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    /// Changes when a pod that had found no room may have some now.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Book {
    held: BTreeMap<PodUid, Held>,
    /// Those that have something and ask for something else.
    waiting: BTreeMap<PodUid, Waiting>,
    /// What there is, as it was told last.
    allocatable: BTreeMap<String, u64>,
    /// Numbers who takes something and who waits.
    next: u64,
}

#[derive(Debug)]
struct Held {
    needs: Needs,
    /// Who gives it back: not whoever held it before.
    by: u64,
}

/// A pod that asks for something else than it has.
#[derive(Debug)]
struct Waiting {
    needs: Needs,
    priority: i32,
    guaranteed: bool,
    since: u64,
}

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
    by: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut book = self.room.lock();
        if book.held.get(&self.uid).is_some_and(|held| held.by == self.by) {
            book.held.remove(&self.uid);
            book.waiting.remove(&self.uid);
            book.grant();
            self.room.tell(&book);
        }
    }
}

impl Room {
    /// Takes what the pod needs, if there is as much. What the device does not tell of itself is not looked at.
    pub(super) fn take(&self, pod: &EdgeDeployment, allocatable: &BTreeMap<String, u64>) -> Result<Taken, Refusal> {
        let needs = Needs::of(pod);
        let mut book = self.lock();
        book.allocatable.clone_from(allocatable);
        if let Some((name, message)) = book.lacks(&pod.uid, &needs, |_, _| true) {
            return Err(Refusal { reason: format!("OutOf{name}"), message });
        }
        if book.others(&pod.uid).any(|other| other.clashes(&needs)) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal { reason: "NodePorts".to_owned(), message: message.to_owned() });
        }
        Ok(self.enter(&mut book, pod, needs))
    }

    /// Takes it whether it is there or not: the pod has begun, and goes on.
    pub(super) fn hold(&self, pod: &EdgeDeployment) -> Taken {
        self.enter(&mut self.lock(), pod, Needs::of(pod))
    }

    fn enter(&self, book: &mut Book, pod: &EdgeDeployment, needs: Needs) -> Taken {
        let by = book.number();
        book.held.insert(pod.uid.clone(), Held { needs, by });
        Taken { room: self.clone(), uid: pod.uid.clone(), by }
    }

    /// Exchanges what a pod holds for what it is to have from now on, or says what there is too little of. It then waits:
    /// who asks again has it once there is room, in the order of a kubelet.
    pub(super) fn exchange(&self, pod: &EdgeDeployment, allocatable: &BTreeMap<String, u64>) -> Result<(), String> {
        let mut book = self.lock();
        book.allocatable.clone_from(allocatable);
        let since = match book.waiting.get(&pod.uid) {
            Some(waiting) => waiting.since,
            None => book.number(),
        };
        let (priority, guaranteed) = (pod.priority.unwrap_or(0), is_guaranteed(pod));
        let needs = Needs::of(pod);
        book.waiting.insert(pod.uid.clone(), Waiting { needs: needs.clone(), priority, guaranteed, since });
        let granted = book.grant();
        // Others may have more now, or this one less.
        if granted.iter().any(|uid| *uid != pod.uid) {
            self.tell(&book);
        }
        if granted.contains(&pod.uid) {
            return Ok(());
        }
        Err(book.hindrance(&pod.uid, &needs).unwrap_or_else(|| "the pod has given up its place".to_owned()))
    }

    /// Changes when a pod that had found no room may have some now.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }

    fn tell(&self, book: &Book) {
        self.0.news.send_replace(book.next);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing in here can be half done.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn others<'b>(&'b self, uid: &'b PodUid) -> impl Iterator<Item = &'b Needs> {
        self.held.iter().filter(move |(other, _)| *other != uid).map(|(_, held)| &held.needs)
    }

    /// The first thing of which there is not enough beside what others hold, and what is to be said about it. Only what is
    /// `counted`, given its name and amount, is looked at.
    fn lacks(&self, uid: &PodUid, needs: &Needs, counted: impl Fn(&str, u64) -> bool) -> Option<(String, String)> {
        let usual = || std::iter::once(PODS).chain(RESOURCES.map(|(name, _)| name));
        let pages = needs.amounts.keys().map(String::as_str).filter(|name| usual().all(|usual| usual != *name));
        for name in usual().chain(pages) {
            let requested = needs.amounts.get(name).copied().unwrap_or(0);
            if requested == 0 || !counted(name, requested) {
                continue;
            }
            // A device that tells of anything tells of all sizes of pages that it has.
            let none = || (usual().all(|usual| usual != name) && !self.allocatable.is_empty()).then_some(0);
            let Some(capacity) = self.allocatable.get(name).copied().or_else(none) else { continue };
            let of = self.others(uid).filter_map(|needs| needs.amounts.get(name));
            let used = of.fold(0, |sum: u64, of| sum.saturating_add(*of));
            if requested > capacity.saturating_sub(used) {
                let message = format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                );
                return Some((name.to_owned(), message));
            }
        }
        None
    }

    /// Why a pod cannot have this instead of what it holds. To have less is always possible.
    fn hindrance(&self, uid: &PodUid, needs: &Needs) -> Option<String> {
        let held = &self.held.get(uid)?.needs.amounts;
        let more = |name: &str, amount: u64| held.get(name).is_none_or(|held| amount > *held);
        self.lacks(uid, needs, more).map(|(_, message)| message)
    }

    /// Gives those that wait what there is for them. First come those that do not ask for more, then by priority, then those
    /// that get no more than they were promised, then who has waited longest.
    fn grant(&mut self) -> Vec<PodUid> {
        let more = |book: &Self, uid: &PodUid, needs: &Needs| {
            let held = book.held.get(uid).map(|held| &held.needs.amounts);
            needs
                .amounts
                .iter()
                .any(|(name, amount)| held.and_then(|held| held.get(name)).is_none_or(|had| amount > had))
        };
        let mut queue: Vec<_> = self
            .waiting
            .iter()
            .map(|(uid, one)| {
                let increases = more(self, uid, &one.needs);
                ((increases, Reverse(one.priority), !one.guaranteed, one.since), uid.clone())
            })
            .collect();
        queue.sort();
        let mut granted = Vec::new();
        for (_, uid) in queue {
            let Some(needs) = self.waiting.get(&uid).map(|one| one.needs.clone()) else { continue };
            if self.hindrance(&uid, &needs).is_some() {
                continue;
            }
            let Some(held) = self.held.get_mut(&uid) else { continue };
            held.needs = needs;
            self.waiting.remove(&uid);
            granted.push(uid);
        }
        granted
    }
}

impl Needs {
    fn of(pod: &EdgeDeployment) -> Self {
        let mut amounts: Amounts = RESOURCES.map(|(name, of)| (name.to_owned(), needed(pod, of))).into();
        amounts.insert(PODS.to_owned(), 1);
        amounts.extend(pod.huge_pages().into_iter().map(|(page, bytes)| (huge_pages::resource(page), bytes)));
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
mod tests;
