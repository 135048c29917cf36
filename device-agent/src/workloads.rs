//! Workloads: what makes the desired set true on this device, and says how it is.
//!
//! Three layers, arrows pointing one way:
//!
//! - **Decisions** are pure: [`plan`] says what each pod is to be told, [`lifecycle`] is the life of one pod, [`expand`]
//!   fills in what only the device knows. They hold no clock, channel or file, and a simulation can drive them.
//! - **Owners**: each pod has one task that owns its [`Lifecycle`](lifecycle::Lifecycle), saves its record before it acts,
//!   carries out its effects on the runtime and reports. Nobody else touches the pod. A supervisor, started by
//!   [`Workloads::start`], owns the owners: it tells each what is wanted of its pod and makes a new one if one dies.
//! - **The world**: a [`Runtime`] runs containers, a [`WorkloadStore`] remembers, the link reads the reports.
//!
//! What holds it together:
//!
//! - A pod is stopped only because an accepted desired set says so, because its own spec does, or because the device is
//!   short of what this pod takes ([`Eviction`]). Never because something failed: a full disk, a corrupt record, a missing blob
//!   leave running containers alone.
//! - When the agent stops or dies, containers go on. At the next start each is found again by its deterministic id
//!   (pod, container, attempt), so it keeps its process, its restart count and its exact exit code.
//! - The number of an attempt is durable before the attempt is made, and a runtime starts an attempt at most once.
//!
//! Channels: orders, host facts and resync are `watch`es, since only the latest counts. Reports go through the link's
//! bounded queue; while it is full an owner keeps at most 64 events and one latest status.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::report::{DeviceEvent, ReportItem};
use hawser_wire::{DeviceTime, PodUid};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use self::owner::{Beginning, Owner};
use self::plan::Order;
use self::room::Room;
use crate::desired::DesiredSet;
use crate::runtime::{Found, Runtime};

mod actions;
mod env_file;
pub mod expand;
pub mod lifecycle;
mod owner;
pub mod plan;
mod pull;
mod room;
pub mod store;
#[cfg(test)]
pub(crate) mod tests;

pub use self::expand::HostFacts;
pub use self::store::{MemoryStore, StoreError, WorkloadStore};

/// The clock that owners read: the device's timeline.
pub type Clock = Arc<dyn Fn() -> DeviceTime + Send + Sync>;

/// What workloads need.
pub struct Parts<R, S> {
    /// What runs containers.
    pub runtime: Arc<R>,
    /// What is wanted.
    pub desired: watch::Receiver<Arc<DesiredSet>>,
    /// What remembers.
    pub store: Arc<S>,
    /// Where reports go: `Workload`, `Gone` and `Event` items. Full means that the link is behind; owners then wait
    /// with their latest status.
    pub reports: mpsc::Sender<ReportItem>,
    /// The device's timeline.
    pub clock: Clock,
    /// The records that the store held when the agent started.
    pub recovered: Vec<(PodUid, Vec<u8>)>,
    /// A number that the link changes when everything is to be reported again.
    pub resync: watch::Receiver<u64>,
    /// What the device knows about itself.
    pub host: watch::Receiver<Arc<HostFacts>>,
    /// The pod that has to go next because the device is short of something.
    pub evictions: watch::Receiver<Option<Arc<Eviction>>>,
    /// Ends the tasks. The workloads go on.
    pub stop: CancellationToken,
}

/// A pod that the device cannot keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Which one.
    pub uid: PodUid,
    /// Why, in words.
    pub message: String,
}

impl<R, S> Clone for Parts<R, S> {
    fn clone(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            desired: self.desired.clone(),
            store: self.store.clone(),
            reports: self.reports.clone(),
            clock: self.clock.clone(),
            recovered: Vec::new(),
            resync: self.resync.clone(),
            host: self.host.clone(),
            evictions: self.evictions.clone(),
            stop: self.stop.clone(),
        }
    }
}

/// The workloads of this device.
#[derive(Debug, Clone, Copy)]
pub struct Workloads;

impl Workloads {
    /// Starts the supervisor. The task ends when `stop` is cancelled and all owners have ended.
    pub fn start<R: Runtime, S: WorkloadStore>(parts: Parts<R, S>) -> JoinHandle<()> {
        tokio::spawn(supervise(parts).instrument(info_span!("workloads")))
    }
}

/// An owner as the supervisor sees it.
struct Known {
    orders: watch::Sender<Option<Order>>,
    given: Option<Order>,
}

struct Supervisor<R, S> {
    parts: Parts<R, S>,
    room: Room,
    known: BTreeMap<PodUid, Known>,
    owners: JoinSet<()>,
    /// Whose task is whose; a panic does not say.
    names: HashMap<Id, PodUid>,
}

/// The longest wait between two attempts to learn what runs.
const INVENTORY_PAUSE: Duration = Duration::from_secs(60);

async fn supervise<R: Runtime, S: WorkloadStore>(mut parts: Parts<R, S>) {
    let recovered = std::mem::take(&mut parts.recovered);
    let mut desired = parts.desired.clone();
    let stop = parts.stop.clone();
    let mut supervisor = Supervisor {
        parts,
        room: Room::default(),
        known: BTreeMap::new(),
        owners: JoinSet::new(),
        names: HashMap::new(),
    };
    // Cancel-safe: an inventory changes nothing.
    let inventory = tokio::select! {
        inventory = supervisor.inventory() => inventory,
        () = stop.cancelled() => return,
    };
    supervisor.recover(recovered, inventory);
    let mut wanted = true;
    loop {
        supervisor.give_orders(&desired.borrow_and_update().clone());
        // Cancel-safe: `cancelled`, `changed` and `join_next_with_id` lose nothing when dropped.
        tokio::select! {
            () = stop.cancelled() => break,
            changed = desired.changed(), if wanted => wanted = changed.is_ok(),
            Some(ended) = supervisor.owners.join_next_with_id(), if !supervisor.owners.is_empty() => match ended {
                Ok((id, ())) => supervisor.forget(id),
                Err(error) => supervisor.replace(&error),
            }
        }
    }
    // Owners watch `stop` themselves.
    while supervisor.owners.join_next().await.is_some() {}
    info!("workloads are left running");
}

impl<R: Runtime, S: WorkloadStore> Supervisor<R, S> {
    /// What the runtime knows; tried until it says it, since nothing may be started before.
    async fn inventory(&self) -> BTreeMap<PodUid, Vec<Found>> {
        let mut pause = Duration::from_secs(1);
        let mut said = false;
        loop {
            match self.parts.runtime.inventory().await {
                Ok(found) => return by_pod(found),
                Err(error) => {
                    warn!(error = error.line(), "cannot learn what runs");
                    if !said {
                        said = true;
                        self.say("RuntimeUnavailable", &format!("cannot learn what runs: {}", error.line())).await;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(INVENTORY_PAUSE);
        }
    }

    async fn say(&self, reason: &str, message: &str) {
        let event = DeviceEvent {
            pod: None,
            container: None,
            at: (self.parts.clock)(),
            warning: true,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        };
        // A closed queue means that the link is gone, and with it whoever would read this.
        let _ = self.parts.reports.send(ReportItem::Event(event)).await;
    }

    fn recover(&mut self, recovered: Vec<(PodUid, Vec<u8>)>, mut inventory: BTreeMap<PodUid, Vec<Found>>) {
        for (uid, record) in recovered {
            let found = inventory.remove(&uid).unwrap_or_default();
            self.own(uid, Beginning::Recovered { record, found });
        }
        for (uid, found) in inventory {
            self.own(uid, Beginning::Found(found));
        }
    }

    fn give_orders(&mut self, desired: &DesiredSet) {
        let known = self.known.iter().map(|(uid, known)| (uid.clone(), known.given.clone())).collect();
        for action in plan::plan(desired, &known) {
            if action.new {
                self.own(action.uid.clone(), Beginning::New);
            }
            if let Some(known) = self.known.get_mut(&action.uid) {
                known.given = Some(action.order.clone());
                known.orders.send_replace(Some(action.order));
            }
        }
    }

    fn own(&mut self, uid: PodUid, beginning: Beginning) {
        let (orders, receiver) = watch::channel(None);
        let span = info_span!("pod", %uid);
        let owner = Owner::new(uid.clone(), &self.parts, self.room.clone(), receiver);
        let handle = self.owners.spawn(owner.run(beginning).instrument(span));
        self.names.insert(handle.id(), uid.clone());
        self.known.insert(uid, Known { orders, given: None });
    }

    fn forget(&mut self, id: Id) {
        if let Some(uid) = self.names.remove(&id) {
            self.known.remove(&uid);
        }
    }

    /// An owner panicked. Its pod gets a new one, which finds out from the runtime what is there.
    fn replace(&mut self, error: &tokio::task::JoinError) {
        if let Some(uid) = self.names.remove(&error.id()) {
            warn!(%uid, %error, "the owner of a pod failed; another one takes over");
            self.own(uid, Beginning::AfterFailure);
        }
    }
}

fn by_pod(found: Vec<Found>) -> BTreeMap<PodUid, Vec<Found>> {
    let mut pods: BTreeMap<PodUid, Vec<Found>> = BTreeMap::new();
    for found in found {
        pods.entry(found.id.pod.clone()).or_default().push(found);
    }
    pods
}
