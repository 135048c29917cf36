//! The owner of one pod: drives its [`Lifecycle`] in the world.
//!
//! It saves the record before it carries out what follows from it. Operations on the runtime are in flight while it
//! listens to orders, so a stop is heard during a slow start.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hawser_wire::deployment::{Content, EdgeDeployment, VolumeSource};
use hawser_wire::report::{DeviceEvent, ReportItem, WorkloadReport};
use hawser_wire::{DeviceTime, PodUid};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::actions;
use super::env_file;
use super::expand::{HostFacts, expand_container};
use super::lifecycle::{Effect, Event, Lifecycle, NoRoom, PlaceProblem, Resync, StartProblem};
use super::plan::Order;
use super::pull::{self, Had, Pull, Went};
use super::room::{Room, Taken};
use super::store::WorkloadStore;
use super::{Clock, Eviction, INVENTORY_PAUSE, Parts};
use crate::runtime::{
    ContainerId, ContainerStart, Found, ImageState, ImageWanted, PodReady, PodSetup, PrepareError, Refusal, Runtime,
    StartError, Started, VolumeFile,
};

/// How many events wait for a full report queue. Older ones are dropped: the latest status tells the same story.
pub(super) const MAX_WAITING_EVENTS: usize = 64;
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

/// What came back from the world.
enum Landed {
    Happened(Event),
    Ready(PodReady),
    /// An image has to be fetched before its container can be started.
    Pull(ImageWanted),
    /// It is being fetched, and that takes long.
    Pulling(Pull),
    /// An image that a container needs is there.
    Image(ImageWanted, Had),
    Forgotten,
    Nothing,
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

    fn warn_of(&mut self, reason: &str, message: &str) {
        let event = DeviceEvent {
            pod: Some(self.uid.clone()),
            container: None,
            at: (self.clock)(),
            warning: true,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        };
        self.enqueue(ReportItem::Event(event));
    }

    fn enqueue(&mut self, item: ReportItem) {
        if self.waiting.len() >= MAX_WAITING_EVENTS {
            let event = self.waiting.iter().position(|item| matches!(item, ReportItem::Event(_)));
            self.waiting.remove(event.unwrap_or(0));
        }
        self.waiting.push_back(item);
    }

    fn say_again(&mut self) {
        self.said = None;
        match self.lifecycle.resync((self.clock)()) {
            Resync::Nothing => {}
            Resync::Workload(_) => self.unsaid = true,
            Resync::Gone(gone) => {
                if !self.waiting.iter().any(|item| matches!(item, ReportItem::Gone(_))) {
                    self.enqueue(ReportItem::Gone(*gone));
                }
            }
        }
    }

    /// Says one thing, in the place that was kept for it.
    fn say_one(&mut self, room: mpsc::OwnedPermit<ReportItem>) {
        if let Some(item) = self.waiting.pop_front() {
            room.send(item);
            return;
        }
        self.unsaid = false;
        let Resync::Workload(report) = self.lifecycle.resync((self.clock)()) else { return };
        if self.said.as_ref() != Some(&*report) {
            room.send(ReportItem::Workload((*report).clone()));
            self.said = Some(*report);
        }
    }

    /// Fetches an image, unless the pod is told to end meanwhile.
    fn pull(&mut self, want: ImageWanted) {
        self.note_of(&want, "Pulling", &pull::begins(&want));
        let (runtime, pulls, wanted) = (self.runtime.clone(), self.pulls.clone(), want.clone());
        let work = async move { pulls.run_until_cancelled(runtime.pull(wanted)).await };
        self.go_on(Pull::begin(want, self.clock.clone(), work));
    }

    /// Says that an image is still being fetched.
    fn pull_on(&mut self, pull: Pull) {
        self.note_of(pull.want(), "Pulling", &pull.progress());
        self.go_on(pull);
    }

    fn go_on(&mut self, pull: Pull) {
        self.flight.launch(async move {
            let (id, problem) = match pull.go_on().await {
                Went::On(pull) => return Landed::Pulling(pull),
                Went::Over(want, Some(Ok(had))) => return Landed::Image(want, had),
                Went::Over(want, Some(Err(problem))) => (want.id, StartProblem::NoImage(problem)),
                Went::Over(want, None) => (want.id, StartProblem::Abandoned),
            };
            Landed::Happened(Event::Started(id, Err(problem)))
        });
    }

    /// Goes on with the container that waited for this image.
    fn start_with_image(&mut self, want: ImageWanted, had: Had) {
        self.note_of(&want, "Pulled", &had.words(&want));
        let (id, spec) = (want.id.clone(), want.spec.clone());
        self.start(id, spec, want.next());
    }

    /// Starts a container once it has this image and those after it; `None`: it has all that it needs.
    fn start(&mut self, id: ContainerId, spec: Arc<EdgeDeployment>, mut needs: Option<ImageWanted>) {
        let (runtime, host, own) = (self.runtime.clone(), self.host.borrow().clone(), self.addresses.clone());
        self.flight.launch(async move {
            while let Some(want) = needs {
                match runtime.image(want.clone()).await {
                    Ok(ImageState::Pull) => return Landed::Pull(want),
                    Ok(ImageState::Present) => return Landed::Image(want, Had::Before),
                    Ok(ImageState::Ready) => needs = want.next(),
                    Err(problem) => {
                        return Landed::Happened(Event::Started(id, Err(StartProblem::NoImage(problem))));
                    }
                }
            }
            let result = start(&*runtime, id.clone(), spec, &host, own.as_deref()).await;
            Landed::Happened(Event::Started(id, result))
        });
    }

    /// Says something about an image: of the container whose image it is, or of the pod whose volume it is.
    fn note_of(&mut self, want: &ImageWanted, reason: &str, message: &str) {
        let event = DeviceEvent {
            pod: Some(self.uid.clone()),
            container: (!want.is_volume()).then(|| want.id.name.clone()),
            at: (self.clock)(),
            warning: false,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        };
        self.enqueue(ReportItem::Event(event));
    }

    /// Does something that makes sense only while the container runs.
    fn beside(&mut self, id: ContainerId, work: impl Future<Output = Event> + Send + 'static) {
        let Some(companions) = self.companions.get(&id).cloned() else { return };
        self.flight.launch(async move {
            companions.run_until_cancelled_owned(work).await.map_or(Landed::Nothing, Landed::Happened)
        });
    }

    /// Whether the pod is, or may be, on this device.
    fn take_in(&mut self, pod: &EdgeDeployment) -> Result<(), Refusal> {
        if self.lifecycle.has_begun() {
            self.taken = Some(self.room.hold(pod));
            return Ok(());
        }
        let taken = match self.runtime.reject(pod) {
            Some(refusal) => Err(refusal),
            None => self.room.take(pod, &self.host.borrow().allocatable),
        };
        let (taken, refused) = match taken {
            Ok(taken) => (Some(taken), Ok(())),
            Err(refusal) => (None, Err(refusal)),
        };
        self.taken = taken;
        refused
    }

    /// Whether there is room for the pod as it is to be from now on.
    fn seek_room(&self, pod: &EdgeDeployment) -> Result<(), NoRoom> {
        if let Some(message) = self.runtime.refuse_resize(pod) {
            return Err(NoRoom { infeasible: true, message });
        }
        let found = self.room.exchange(pod, &self.host.borrow().allocatable);
        found.map_err(|message| NoRoom { infeasible: false, message })
    }

    fn carry_out(&mut self, effect: Effect) {
        let runtime = self.runtime.clone();
        match effect {
            Effect::Prepare(spec) => {
                if let Err(refusal) = self.take_in(&spec) {
                    self.flight.launch(std::future::ready(Landed::Happened(Event::Rejected(refusal))));
                    return;
                }
                let (store, uid, host) = (self.store.clone(), self.uid.clone(), self.host.borrow().clone());
                let own = self.addresses.clone();
                self.flight.launch(async move {
                    match prepare(&*runtime, &*store, uid, spec, &host, own.as_deref()).await {
                        Ok(ready) => Landed::Ready(ready),
                        Err(problem) => Landed::Happened(Event::Prepared(Err(problem))),
                    }
                });
            }
            Effect::Start(id, spec) => {
                let want = ImageWanted::first(id.clone(), spec.clone());
                if let Some(refusal) = want.container().and_then(|container| runtime.refuse(&spec, container)) {
                    let refused = Landed::Happened(Event::Started(id, Err(StartProblem::Refused(refusal))));
                    self.flight.launch(std::future::ready(refused));
                    return;
                }
                self.start(id, spec, Some(want));
            }
            Effect::Watch(id) => {
                self.companions.entry(id.clone()).or_default();
                self.flight.launch(async move {
                    let exit = runtime.ended(id.clone()).await;
                    debug!(container = id.name, attempt = id.attempt, code = exit.code, "a container ended");
                    Landed::Happened(Event::Ended(id, exit))
                });
            }
            Effect::Probe(call) => self.beside(call.id.clone(), async move {
                let answer = actions::ask(&*runtime, &call).await;
                Event::Probed(call.id, call.kind, answer)
            }),
            Effect::Hook(call) => self.beside(call.id.clone(), async move {
                let end = actions::carry_out(&*runtime, &call).await;
                Event::Hooked(call.id, call.kind, end)
            }),
            Effect::Signal(id, signal) => self.flight.launch(async move {
                if let Err(error) = runtime.signal(id, signal).await {
                    warn!(error = error.line(), ?signal, "a signal did not arrive");
                }
                Landed::Nothing
            }),
            Effect::Remove(id) => self.flight.launch(async move {
                if let Err(error) = runtime.remove(id).await {
                    debug!(error = error.line(), "an old attempt was not removed");
                }
                Landed::Nothing
            }),
            Effect::RemovePod => {
                let uid = self.uid.clone();
                self.flight.launch(async move {
                    let result = runtime.remove_pod(uid).await.map_err(|error| error.line());
                    Landed::Happened(Event::Removed(result))
                });
            }
            Effect::SeekRoom(spec) => {
                let given = self.seek_room(&spec);
                self.flight.launch(std::future::ready(Landed::Happened(Event::GivenRoom(spec, given))));
            }
            Effect::Resize(to) => self.flight.launch(async move {
                let resized = runtime.resize(to.clone()).await;
                Landed::Happened(Event::Resized(to, resized))
            }),
            Effect::Event(event) => self.enqueue(ReportItem::Event(event)),
            Effect::Gone(gone) => self.enqueue(ReportItem::Gone(*gone)),
            Effect::Forget => {
                let (store, uid) = (self.store.clone(), self.uid.clone());
                self.flight.launch(async move {
                    if let Err(error) = store.forget(&uid).await {
                        // At the next start it is found, not wanted, and forgotten then.
                        warn!(error = error.line(), "the record of a pod that is gone stays for now");
                    }
                    Landed::Forgotten
                });
            }
        }
    }
}

/// Resolves the files of all volumes and makes the pod's place.
async fn prepare<R: Runtime, S: WorkloadStore>(
    runtime: &R,
    store: &S,
    uid: PodUid,
    spec: Arc<EdgeDeployment>,
    host: &HostFacts,
    own: Option<&[String]>,
) -> Result<PodReady, PlaceProblem> {
    let mut files = BTreeMap::new();
    for volume in &spec.volumes {
        let VolumeSource::Files(source) = &volume.source else { continue };
        let mut resolved = Vec::with_capacity(source.entries.len());
        for file in &source.entries {
            let content = match &file.content {
                Content::Inline(bytes) => bytes.as_slice().into(),
                Content::Device(field) => host.field(field, own).into_bytes().into(),
                Content::Blob(blob) => {
                    store.blob(blob.hash).await.map_err(|error| PlaceProblem::volumes(error.line()))?
                }
            };
            resolved.push(VolumeFile { path: file.path.clone(), mode: file.mode, content, owner: file.owner });
        }
        files.insert(volume.name.clone(), resolved);
    }
    runtime.prepare(PodSetup { uid, spec, files }).await.map_err(|error| match error {
        PrepareError::Volumes(error) => PlaceProblem::volumes(error.line()),
        error @ PrepareError::Sandbox(_) => {
            PlaceProblem { reason: "FailedCreatePodSandBox", message: error.to_string() }
        }
    })
}

async fn start<R: Runtime>(
    runtime: &R,
    id: ContainerId,
    spec: Arc<EdgeDeployment>,
    host: &HostFacts,
    own: Option<&[String]>,
) -> Result<Started, StartProblem> {
    let Some((container, _)) = spec.all_containers().find(|(container, _)| container.name == id.name) else {
        return Err(StartProblem::NotCreated(format!("the pod has no container {}", id.name)));
    };
    let container = env_file::filled(runtime, &spec, container).await.map_err(StartProblem::Config)?;
    let expanded = expand_container(&container, runtime.environment(&spec, &id), host, own);
    let start = ContainerStart {
        id,
        command: expanded.command,
        env: expanded.env,
        sub_paths: expanded.sub_paths.map_err(StartProblem::Config)?,
        spec: spec.clone(),
    };
    runtime.start(start).await.map_err(|error| match error {
        StartError::NotCreated(error) => StartProblem::NotCreated(error.line()),
        StartError::Config(message) => StartProblem::Config(message),
        StartError::NoPlace(message) => StartProblem::NoPlace(message),
        StartError::NotStarted { code, message } => StartProblem::NotStarted { code, message },
    })
}

/// What was asked of the world and has not come back. A pod has a handful of containers, so all are polled each time.
#[derive(Default)]
struct Flight(Vec<Pin<Box<dyn Future<Output = Landed> + Send>>>);

impl Flight {
    fn launch(&mut self, future: impl Future<Output = Landed> + Send + 'static) {
        self.0.push(Box::pin(future));
    }

    /// The next that lands. Cancel-safe: what has not landed stays in flight. Pending for ever while nothing is.
    async fn next(&mut self) -> Landed {
        poll_fn(|context| {
            for at in 0..self.0.len() {
                if let Poll::Ready(landed) = self.0[at].as_mut().poll(context) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(landed);
                }
            }
            Poll::Pending
        })
        .await
    }
}
