//! The owner of one pod: drives its [`Lifecycle`] in the world.
//!
//! It saves the record before it carries out what follows from it. Operations on the runtime are in flight while it
//! listens to orders, so a stop is heard during a slow start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::report::{ReportItem, WorkloadReport};
use hawser_wire::{DeviceTime, PodUid};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::flight::{Flight, Landed};
use super::expand::HostFacts;
use super::lifecycle::{Effect, Event, Lifecycle};
use super::plan::Order;
use super::room::{Room, Taken};
use super::store::WorkloadStore;
use super::{Clock, Eviction, INVENTORY_PAUSE, Parts};
use crate::runtime::{ContainerId, Found, Runtime};

mod acts;
mod flight;
mod voice;

/// How long after a failed save the next one is tried.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// How long a new owner waits after its predecessor failed, so that a pod that always fails does so at leisure.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What an owner begins with.
pub(super) enum Beginning {
    /// Nothing.
    New,
    /// A record of an earlier life, and what the runtime knows.
    Recovered { record: Vec<u8>, found: Vec<Found> },
    /// Only what the runtime knows.
    Found(Vec<Found>),
    /// The owner before this one failed.
    AfterFailure,
}

pub(super) struct Owner<R, S> {
    uid: PodUid,
    lifecycle: Lifecycle,
    runtime: Arc<R>,
    store: Arc<S>,
    clock: Clock,
    orders: watch::Receiver<Option<Order>>,
    host: watch::Receiver<Arc<HostFacts>>,
    resync: watch::Receiver<u64>,
    evictions: watch::Receiver<Option<Arc<Eviction>>>,
    reports: mpsc::Sender<ReportItem>,
    stop: CancellationToken,
    flight: Flight,
    /// Ends the pulls that are under way, because the pod is to end.
    pulls: CancellationToken,
    /// Ends the probes and hooks of a container that is watched, because it has ended.
    companions: BTreeMap<ContainerId, CancellationToken>,
    /// Events and the `Gone` that wait for room in `reports`.
    waiting: VecDeque<ReportItem>,
    /// The status may differ from `said`.
    unsaid: bool,
    said: Option<WorkloadReport>,
    saved: Vec<u8>,
    /// When to try again to save, after a failure.
    save_again: Option<DeviceTime>,
    addresses: Option<Vec<String>>,
    room: Room,
    /// Whether there may be room for what found none.
    room_made: watch::Receiver<u64>,
    /// What the pod takes of it, from before its first container until after its last.
    taken: Option<Taken>,
    /// The record is forgotten: only what waits is still to be said.
    over: bool,
}

/// Why an owner woke up.
enum Woken {
    Landed(Landed),
    Ordered,
    HostChanged,
    Evicted,
    Resync,
    Room(mpsc::OwnedPermit<ReportItem>),
    RoomMade,
    Timer,
    Stop,
}

impl<R: Runtime, S: WorkloadStore> Owner<R, S> {
    pub(super) fn new(uid: PodUid, parts: &Parts<R, S>, room: Room, orders: watch::Receiver<Option<Order>>) -> Self {
        Self {
            lifecycle: Lifecycle::new(uid.clone(), parts.runtime.scheme()),
            uid,
            runtime: parts.runtime.clone(),
            store: parts.store.clone(),
            clock: parts.clock.clone(),
            orders,
            host: parts.host.clone(),
            resync: parts.resync.clone(),
            evictions: parts.evictions.clone(),
            reports: parts.reports.clone(),
            stop: parts.stop.clone(),
            flight: Flight::default(),
            pulls: CancellationToken::new(),
            companions: BTreeMap::new(),
            waiting: VecDeque::new(),
            unsaid: false,
            said: None,
            saved: Vec::new(),
            save_again: None,
            addresses: None,
            room_made: room.news(),
            room,
            taken: None,
            over: false,
        }
    }

    pub(super) async fn run(mut self, beginning: Beginning) {
        let stop = self.stop.clone();
        let Some(found) = stop.run_until_cancelled(self.begin(beginning)).await else { return };
        let epoch = self.runtime.epoch();
        let addresses = self.host.borrow_and_update().addresses.clone();
        self.resync.borrow_and_update();
        // What was decided before is not about this life.
        self.evictions.borrow_and_update();
        let mut events = vec![Event::Addresses(addresses), Event::Inventory { epoch, found }];
        if let Some(order) = self.orders.borrow_and_update().clone() {
            events.push(Event::Order(order));
        }
        let stopped = stop.run_until_cancelled(async {
            self.tell(events).await;
            self.live().await;
        });
        stopped.await;
    }

    /// Makes the lifecycle of what is known, and says what runs. Cancel-safe: it changes nothing in the world.
    async fn begin(&mut self, beginning: Beginning) -> Vec<Found> {
        match beginning {
            Beginning::New => Vec::new(),
            Beginning::Found(found) => {
                info!("adopting containers without a record");
                found
            }
            Beginning::Recovered { record, found } => {
                match Lifecycle::recover(self.uid.clone(), self.runtime.scheme(), &record) {
                    Ok(lifecycle) => {
                        self.lifecycle = lifecycle;
                        self.saved = record;
                    }
                    Err(error) => {
                        warn!(%error, bytes = record.len(), "the record of a pod is unreadable");
                        self.warn_of(
                            "WorkloadRecordLost",
                            &format!("the record of this pod is unreadable ({error}); what runs was adopted"),
                        );
                    }
                }
                found
            }
            Beginning::AfterFailure => {
                self.warn_of(
                    "WorkloadOwnerFailed",
                    "the task that looks after this pod failed; another one takes over",
                );
                tokio::time::sleep(AFTER_FAILURE).await;
                self.found_again().await
            }
        }
    }

    /// What runs of this pod; asked until there is an answer, since without one nothing may be started or stopped, and
    /// without an owner nobody would ever do so.
    async fn found_again(&mut self) -> Vec<Found> {
        let mut pause = AFTER_FAILURE;
        let mut said = false;
        loop {
            match self.runtime.inventory().await {
                Ok(found) => return found.into_iter().filter(|found| found.id.pod == self.uid).collect(),
                Err(error) => {
                    warn!(error = error.line(), "cannot learn what runs; it is asked again");
                    if !std::mem::replace(&mut said, true) {
                        self.warn_of("RuntimeUnavailable", &format!("cannot learn what runs: {}", error.line()));
                    }
                    // It may take long, and people should know meanwhile.
                    while let (Some(item), Ok(room)) = (self.waiting.front(), self.reports.try_reserve()) {
                        room.send(item.clone());
                        self.waiting.pop_front();
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(INVENTORY_PAUSE);
        }
    }

    async fn live(&mut self) {
        loop {
            match self.wait().await {
                Woken::Stop => return,
                Woken::Landed(Landed::Happened(event)) => self.tell(vec![event]).await,
                Woken::Landed(Landed::Ready(ready)) => {
                    self.addresses.clone_from(&ready.addresses);
                    self.tell(vec![Event::Prepared(Ok(ready))]).await;
                }
                Woken::Landed(Landed::Pull(want)) => self.pull(want),
                Woken::Landed(Landed::Pulling(pull)) => self.pull_on(pull),
                Woken::Landed(Landed::Image(want, had)) => self.start_with_image(want, had),
                Woken::Landed(Landed::Forgotten) => self.over = true,
                Woken::Landed(Landed::Nothing) => {}
                Woken::Ordered => {
                    let order = self.orders.borrow_and_update().clone();
                    if let Some(order) = order {
                        self.tell(vec![Event::Order(order)]).await;
                    }
                }
                Woken::HostChanged => {
                    let addresses = self.host.borrow_and_update().addresses.clone();
                    // The device may have more by now.
                    self.tell(vec![Event::Addresses(addresses), Event::RoomMade]).await;
                }
                Woken::RoomMade => {
                    self.room_made.borrow_and_update();
                    self.tell(vec![Event::RoomMade]).await;
                }
                Woken::Evicted => {
                    let eviction = self.evictions.borrow_and_update().clone();
                    if let Some(eviction) = eviction.filter(|eviction| eviction.uid == self.uid) {
                        self.tell(vec![Event::Evicted(eviction.message.clone())]).await;
                    }
                }
                Woken::Resync => {
                    self.resync.borrow_and_update();
                    self.say_again();
                }
                Woken::Room(room) => self.say_one(room),
                Woken::Timer => {
                    self.save(false).await;
                    self.tell(vec![Event::Tick]).await;
                }
            }
            if self.over && self.waiting.is_empty() {
                return;
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let now = (self.clock)();
        let wake = [self.lifecycle.wake(), self.save_again].into_iter().flatten().min();
        let pause = wake.map(|wake| Duration::from_millis(wake.millis_since(now)));
        let has_to_say = self.unsaid || !self.waiting.is_empty();
        // Every arm is cancel-safe: futures in flight stay where they are, `changed` and `reserve` lose nothing, and
        // the timer is made anew each time.
        tokio::select! {
            landed = self.flight.next() => Woken::Landed(landed),
            changed = self.orders.changed() => if changed.is_ok() { Woken::Ordered } else { Woken::Stop },
            Ok(()) = self.host.changed() => Woken::HostChanged,
            Ok(()) = self.evictions.changed() => Woken::Evicted,
            Ok(()) = self.resync.changed() => Woken::Resync,
            Ok(()) = self.room_made.changed(), if self.lifecycle.waits_for_room() => Woken::RoomMade,
            room = self.reports.clone().reserve_owned(), if has_to_say => room.map_or(Woken::Stop, Woken::Room),
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => Woken::Timer,
        }
    }

    /// Tells the lifecycle what happened, saves, and acts.
    async fn tell(&mut self, events: Vec<Event>) {
        let now = (self.clock)();
        let mut effects = Vec::new();
        for event in events {
            if let Event::Ended(id, _) = &event
                && let Some(companions) = self.companions.remove(id)
            {
                companions.cancel();
            }
            effects.extend(self.lifecycle.handle(now, event));
        }
        if self.lifecycle.is_ending() {
            self.pulls.cancel();
        }
        // Making a place can be repeated, so it alone is no reason to write: the record follows with the first start.
        let only_prepares = !effects.is_empty() && effects.iter().all(|effect| matches!(effect, Effect::Prepare(_)));
        if !only_prepares {
            self.save(true).await;
        }
        for effect in effects {
            self.carry_out(effect);
        }
        if self.lifecycle.has_ended() {
            self.taken = None;
        }
        self.unsaid = true;
    }

    async fn save(&mut self, now_due: bool) {
        let now = (self.clock)();
        let due = now_due || self.save_again.is_some_and(|again| again <= now);
        if !due || self.over || self.lifecycle.is_blank() {
            return;
        }
        let record = self.lifecycle.encode();
        if record == self.saved {
            self.save_again = None;
            return;
        }
        match self.store.save(&self.uid, record.clone()).await {
            Ok(()) => {
                if self.save_again.take().is_some() {
                    info!("the record of a pod is saved again");
                }
                self.saved = record;
            }
            Err(error) => {
                if self.save_again.is_none() {
                    warn!(error = error.line(), "the record of a pod is not saved; it goes on from memory");
                    self.warn_of(
                        "WorkloadNotSaved",
                        &format!("the pod goes on, but its record is only in memory: {}", error.line()),
                    );
                }
                self.save_again = Some(DeviceTime(now.0.saturating_add(SAVE_AGAIN.as_millis() as u64)));
            }
        }
    }
}
