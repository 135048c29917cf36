//! The owner of all twins: takes what happens, gives it to the right twin, carries out its effects.
//!
//! It never waits for anybody. Towards the virtual nodes and the status writer it keeps what they have not taken yet;
//! towards the hub it drops what finds no room; what the API has to be asked for (tokens, keys) runs beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::session::StaticKey;
use hawser_wire::session_messages::{Envelope, Sealed};
use hawser_wire::stream::Stats;
use hawser_wire::{AddressRange, Channel, DeviceId, Down, Open, PodUid, Root, SessionId, Up, codec};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use virtual_node::provider::EventReport;
use virtual_node::provider::stats::NodeStats;
use virtual_node::provider::streams::StreamError;
use virtual_node::{NodeName, PodRef, Revision};

use super::clock::Moment;
use super::objects::ObjectPool;
use super::reporting::{Line, Settled, What};
use super::slot::Slot;
use super::streams::Stock;
use super::twin::{Context, Effect, Event, Full, Observation, Settings, Wish};
use crate::hub::client::{FromHub, HubSender};
use crate::hub::rate::{Bucket, Rate};
use crate::hub::session::Heard;
use crate::kept::bell::Bell;
use crate::metrics::{Dropped, Metrics};
use crate::registry::key_store::KeyStore;
use crate::registry::record::DeviceRecord;
use crate::registry::status::DeviceNews;
use crate::streams::Reach;
use crate::streams::ready::Ready;

/// Callers wait when so many commands wait; each is dealt with in microseconds.
const COMMANDS: usize = 256;
/// Beyond this many observations that the virtual nodes have not taken, reports are dropped: devices repeat them.
const MAX_OBSERVATIONS: usize = 4096;
/// For how many observations there is room at all times.
const KEPT_LINES: usize = 64;
/// How often one device is told that its session is not known.
const COMPLAINTS: Rate = Rate { burst: 2, every: Duration::from_secs(5) };

/// What the fleet is made of.
pub struct FleetConfig {
    /// The root of the topics.
    pub root: Root,
    /// The bridge's key.
    pub key: StaticKey,
    /// What is the same for all twins.
    pub settings: Settings,
    /// Where tokens and keys are.
    pub keys: KeyStore,
    /// The way to the hub.
    pub hub: HubSender,
    /// The counters.
    pub metrics: Metrics,
    /// Whom to tell what is new about devices, if logs are kept.
    pub(crate) bell: Option<Bell>,
}

/// The fleet does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fleet has stopped")]
pub struct FleetStopped;

/// A wish that was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// There is no such device.
    #[error("there is no such device")]
    NoDevice,
    /// No more pods fit.
    #[error(transparent)]
    Full(#[from] Full),
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] FleetStopped),
}

/// How everybody else speaks to the fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FleetHandle {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Wish(Box<WishCommand>),
    Forget(NodeName, PodUid, Revision),
    Synced(NodeName, Vec<AddressRange>, Revision),
    Device(Box<DeviceRecord>),
    NoDevice(DeviceId),
    DevicesListed,
    Tell(NodeName, Box<EventReport>),
    Stock(DeviceId, oneshot::Sender<Option<Stock>>),
    Reach(NodeName, Option<Timestamp>, oneshot::Sender<Result<Reach, StreamError>>),
    NameStats(NodeName, Box<Stats>, oneshot::Sender<Result<NodeStats, StreamError>>),
}

#[derive(Debug)]
struct WishCommand {
    node: NodeName,
    uid: PodUid,
    pod: PodRef,
    wish: Wish,
    at: Revision,
    reply: oneshot::Sender<Result<bool, WishError>>,
}

impl FleetHandle {
    /// Records what is wanted of a pod. Answers whether that is something new.
    pub async fn wish(
        &self,
        node: &NodeName,
        uid: PodUid,
        pod: PodRef,
        wish: Wish,
        at: Revision,
    ) -> Result<bool, WishError> {
        let (reply, answer) = oneshot::channel();
        let command = WishCommand { node: node.clone(), uid, pod, wish, at, reply };
        self.send(Command::Wish(Box::new(command))).await?;
        answer.await.map_err(|_| FleetStopped)?
    }

    /// The pod is no more.
    pub async fn forget(&self, node: &NodeName, uid: PodUid, at: Revision) -> Result<(), FleetStopped> {
        self.send(Command::Forget(node.clone(), uid, at)).await
    }

    /// The view of the node is complete.
    pub async fn synced(
        &self,
        node: &NodeName,
        pod_ranges: Vec<AddressRange>,
        at: Revision,
    ) -> Result<(), FleetStopped> {
        self.send(Command::Synced(node.clone(), pod_ranges, at)).await
    }

    /// There is such a device.
    pub async fn device(&self, record: DeviceRecord) -> Result<(), FleetStopped> {
        self.send(Command::Device(Box::new(record))).await
    }

    /// The device is no more.
    pub async fn no_device(&self, device: DeviceId) -> Result<(), FleetStopped> {
        self.send(Command::NoDevice(device)).await
    }

    /// All devices have been told: whoever is not known does not exist.
    pub async fn devices_listed(&self) -> Result<(), FleetStopped> {
        self.send(Command::DevicesListed).await
    }

    /// Something worth telling about a pod or node.
    pub async fn tell(&self, node: &NodeName, event: EventReport) -> Result<(), FleetStopped> {
        self.send(Command::Tell(node.clone(), Box::new(event))).await
    }

    /// The way to a device for streams, and a point in time on its timeline.
    pub(crate) async fn reach(&self, node: &NodeName, since: Option<Timestamp>) -> Result<Reach, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Reach(node.clone(), since, reply)).await.map_err(stopping)?;
        answer.await.map_err(|_| stopping(FleetStopped))?
    }

    /// What a device is to have. `Ok(None)`: there is no such device.
    pub(crate) async fn stock(&self, device: &DeviceId) -> Result<Option<Stock>, FleetStopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stock(device.clone(), reply)).await?;
        answer.await.map_err(|_| FleetStopped)
    }

    /// What a device measured, in the words of the cluster.
    pub(crate) async fn name_stats(&self, node: &NodeName, stats: Stats) -> Result<NodeStats, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::NameStats(node.clone(), Box::new(stats), reply)).await.map_err(stopping)?;
        answer.await.map_err(|_| stopping(FleetStopped))?
    }

    async fn send(&self, command: Command) -> Result<(), FleetStopped> {
        self.commands.send(command).await.map_err(|_| FleetStopped)
    }
}

fn stopping(_: FleetStopped) -> StreamError {
    StreamError::Failed("the bridge is stopping".to_owned())
}

/// What the fleet listens to and speaks to.
pub(crate) struct Ends {
    pub(crate) hub: mpsc::Receiver<FromHub>,
    pub(crate) lines: mpsc::Sender<Line>,
    pub(crate) settled: mpsc::Receiver<Settled>,
    pub(crate) news: mpsc::Sender<DeviceNews>,
}

/// The owner of all twins.
pub struct Fleet {
    pub(super) config: FleetConfig,
    commands: mpsc::Receiver<Command>,
    pub(super) state: State,
}

/// Everything that the task owns.
pub(super) struct State {
    pub(super) start: tokio::time::Instant,
    /// Whose streams have something to say.
    pub(super) ready: Ready,
    /// In boxes: a map that grows has twice the places it needs.
    pub(super) devices: HashMap<DeviceId, Box<Slot>>,
    /// Which device's twin wants to be called when.
    timers: BTreeSet<(Duration, DeviceId)>,
    pool: ObjectPool,
    revision: u64,
    generation: u64,
    /// Whether all devices have been told at least once.
    pub(super) listed: bool,
    lines: VecDeque<Line>,
    news: BTreeMap<DeviceId, DeviceNews>,
    pub(super) jobs: FuturesUnordered<BoxFuture<'static, super::handshake::Job>>,
    pub(super) refusals: Bucket,
}

/// Why the task woke up.
enum Wake {
    Stop,
    Command(Option<Command>),
    Hub(Option<FromHub>),
    Settled(Option<Settled>),
    Job(super::handshake::Job),
    Timer,
    Streams,
    Sent,
    Closed(&'static str),
}

impl Fleet {
    /// Prepares the fleet.
    pub fn new(config: FleetConfig) -> (FleetHandle, Self) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let state = State {
            start: now(),
            ready: Ready::default(),
            devices: HashMap::new(),
            timers: BTreeSet::new(),
            pool: ObjectPool::default(),
            revision: 0,
            generation: 0,
            listed: false,
            lines: VecDeque::new(),
            news: BTreeMap::new(),
            jobs: FuturesUnordered::new(),
            refusals: Bucket::default(),
        };
        (FleetHandle { commands: sender }, Self { config, commands, state })
    }

    /// Runs until told to stop. An `Err` names the part whose end makes going on pointless.
    pub(crate) async fn run(mut self, mut ends: Ends, stop: CancellationToken) -> Result<(), &'static str> {
        loop {
            match self.wait(&mut ends, &stop).await {
                Wake::Stop => {
                    self.end_all_streams();
                    return Ok(());
                }
                Wake::Streams => self.pump_ready(),
                Wake::Closed(part) => return Err(part),
                Wake::Command(Some(command)) => self.obey(command),
                Wake::Command(None) => return Err("everybody who tells what is to run"),
                Wake::Hub(Some(message)) => self.hear(message),
                Wake::Hub(None) => return Err("hub client"),
                Wake::Settled(Some(settled)) => self.settle(settled),
                Wake::Settled(None) => return Err("reporting"),
                Wake::Job(job) => self.finish(job),
                Wake::Timer => self.tick(),
                Wake::Sent => {}
            }
        }
    }

    async fn wait(&mut self, ends: &mut Ends, stop: &CancellationToken) -> Wake {
        let state = &mut self.state;
        let timer = state.timers.first().map(|(at, _)| state.start + *at);
        tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => Wake::Stop,
            // Cancel-safe: `recv` takes nothing unless it returns.
            command = self.commands.recv() => Wake::Command(command),
            // Cancel-safe: as above.
            message = ends.hub.recv() => Wake::Hub(message),
            // Cancel-safe: as above.
            settled = ends.settled.recv() => Wake::Settled(settled),
            // Cancel-safe: yields a finished job only if this arm runs.
            Some(job) = state.jobs.next() => Wake::Job(job),
            // Cancel-safe: a permit not taken is given back.
            permit = ends.lines.reserve(), if !state.lines.is_empty() => match permit {
                Ok(permit) => {
                    if let Some(line) = state.lines.pop_front() {
                        permit.send(line);
                    }
                    // What a burst over all devices has needed is not kept for the next one.
                    if state.lines.is_empty() && state.lines.capacity() > KEPT_LINES {
                        state.lines.shrink_to(KEPT_LINES);
                    }
                    Wake::Sent
                }
                Err(_) => Wake::Closed("reporting"),
            },
            // Cancel-safe: as above.
            permit = ends.news.reserve(), if !state.news.is_empty() => match permit {
                Ok(permit) => {
                    if let Some((_, news)) = state.news.pop_first() {
                        permit.send(news);
                    }
                    Wake::Sent
                }
                Err(_) => Wake::Closed("status writer"),
            },
            // Cancel-safe: takes nothing.
            () = state.ready.ring() => Wake::Streams,
            // Cancel-safe: a point in time.
            () = sleep_until(timer) => Wake::Timer,
        }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { mono: now().duration_since(self.state.start), wall: wall() }
    }

    // --- from the virtual nodes and the registry

    fn obey(&mut self, command: Command) {
        match command {
            Command::Wish(command) => {
                let WishCommand { node, uid, pod, wish, at, reply } = *command;
                let recorded = self.record(&node, uid, pod, wish, at);
                // Whoever asked may have been stopped meanwhile.
                let _ = reply.send(recorded);
            }
            Command::Forget(node, uid, at) => self.give_at(&node, Event::Forget(uid), at),
            Command::Synced(node, pod_ranges, at) => self.give_at(&node, Event::Synced { pod_ranges }, at),
            Command::Device(record) => self.device(*record),
            Command::NoDevice(device) => self.no_device(&device),
            Command::DevicesListed => self.state.listed = true,
            // Whoever asked may have gone meanwhile.
            Command::Stock(device, reply) => drop(reply.send(self.stock(&device))),
            Command::Reach(node, since, reply) => drop(reply.send(self.reach(&node, since))),
            Command::NameStats(node, stats, reply) => drop(reply.send(self.name_stats(&node, *stats))),
            Command::Tell(node, event) => {
                if let Some(device) = device_of(&node) {
                    self.line(&device, What::Event(event));
                }
            }
        }
    }

    fn record(
        &mut self,
        node: &NodeName,
        uid: PodUid,
        pod: PodRef,
        wish: Wish,
        at: Revision,
    ) -> Result<bool, WishError> {
        self.state.revision = self.state.revision.max(at.0);
        let wish = match wish {
            Wish::Run(mut prepared) => {
                prepared.deployment = self.state.pool.intern(prepared.deployment);
                prepared.blobs = prepared.blobs.into_iter().map(|blob| self.state.pool.intern(blob)).collect();
                Wish::Run(prepared)
            }
            other => other,
        };
        let context = self.context();
        let device = device_of(node).ok_or(WishError::NoDevice)?;
        let slot = self.state.devices.get_mut(&device).ok_or(WishError::NoDevice)?;
        let mut effects = Vec::new();
        let recorded = slot.twin.wish(uid, pod, wish, context, &mut effects);
        self.carry_out(&device, effects);
        if matches!(recorded, Ok(true)) {
            self.ring(&device);
        }
        Ok(recorded?)
    }

    fn give_at(&mut self, node: &NodeName, event: Event, at: Revision) {
        self.state.revision = self.state.revision.max(at.0);
        if let Some(device) = device_of(node) {
            self.give(&device, event);
        }
    }

    fn device(&mut self, record: DeviceRecord) {
        let id = record.id.clone();
        if let Some(slot) = self.state.devices.get_mut(&id) {
            let (template, cut) = slot.update(record);
            if template {
                self.present(&id);
            }
            if cut {
                tracing::info!(device = %id, "the device's key changed; its session is over");
                self.streams_end(&id, "the device's key changed");
                self.give(&id, Event::SessionClosed);
            }
            return;
        }
        self.state.generation += 1;
        let Some(slot) = Slot::new(record, self.state.generation, self.config.settings, self.moment()) else { return };
        self.state.devices.insert(id.clone(), Box::new(slot));
        self.config.metrics.devices.set(self.state.devices.len() as i64);
        self.present(&id);
        self.rearm(&id);
    }

    fn no_device(&mut self, id: &DeviceId) {
        if !self.state.devices.contains_key(id) {
            return;
        }
        self.line(id, What::Removed);
        self.streams_drop(id);
        if let Some(slot) = self.state.devices.remove(id) {
            if let Some(at) = slot.timer {
                self.state.timers.remove(&(at, id.clone()));
            }
            self.config.metrics.online.inc_by(-i64::from(slot.counted));
        }
        self.state.news.remove(id);
        self.ring(id);
        self.config.metrics.devices.set(self.state.devices.len() as i64);
    }

    fn present(&mut self, id: &DeviceId) {
        if let Some(slot) = self.state.devices.get(id) {
            let template = Box::new(slot.template());
            self.line(id, What::Present(template));
        }
    }

    // --- from the hub

    fn hear(&mut self, message: FromHub) {
        let FromHub::Message(device, channel, payload) = message else { return };
        match channel {
            Channel::Presence => self.give(&device, Event::Presence),
            Channel::Up | Channel::UpStreams => match codec::decode::<Open<Envelope>>(&payload, MAX_PAYLOAD) {
                Ok(decoded) => self.hear_envelope(&device, decoded.value),
                Err(error) => {
                    tracing::debug!(%device, %error, "not an envelope");
                    self.config.metrics.on_dropped(Dropped::Malformed);
                }
            },
            // Ours, come back to us: a hub with an odd subscription.
            Channel::Down | Channel::DownStreams => self.config.metrics.on_dropped(Dropped::Topic),
        }
    }

    fn hear_envelope(&mut self, device: &DeviceId, envelope: Open<Envelope>) {
        match envelope {
            Open::Known(Envelope::Hello(hello)) => self.hear_hello(device, hello),
            Open::Known(Envelope::Sealed(sealed)) => self.hear_sealed(device, &sealed),
            Open::Known(Envelope::Welcome(_) | Envelope::Refusal(_) | Envelope::NoSession(_)) | Open::Unknown => {
                self.config.metrics.on_dropped(Dropped::Unfamiliar);
            }
        }
    }

    fn hear_sealed(&mut self, device: &DeviceId, sealed: &Sealed) {
        let now = self.moment();
        let Some(slot) = self.state.devices.get_mut(device) else {
            self.config.metrics.on_dropped(Dropped::UnknownDevice);
            return;
        };
        match slot.sessions.open(sealed) {
            Heard::Message(message) => {
                if message.unfamiliar {
                    self.config.metrics.on_dropped(Dropped::Unfamiliar);
                }
                if slot.sessions.is_worn(now.mono) {
                    self.rehandshake(device);
                    return;
                }
                self.hear_message(device, message.value);
            }
            Heard::First(key, message) => {
                self.promote(device, key);
                self.hear_message(device, message.value);
            }
            Heard::Proved(key) => self.keep_key(device, key),
            Heard::Held | Heard::Late => {}
            Heard::NoSession => {
                self.config.metrics.on_dropped(Dropped::NoSession);
                if slot.complaints.take(COMPLAINTS, now.mono) {
                    self.send(device, &Envelope::NoSession(sealed.session));
                }
            }
            Heard::Rejected(error) => {
                tracing::debug!(%device, %error, "a sealed message was not accepted");
                let replayed = matches!(error, hawser_wire::session::SessionError::Replayed);
                self.config.metrics.on_dropped(if replayed { Dropped::Replayed } else { Dropped::NotAuthentic });
            }
        }
    }

    pub(super) fn hear_message(&mut self, device: &DeviceId, message: Open<Up>) {
        let message = match message {
            Open::Known(Up::Stream(frame)) => return self.hear_stream(device, frame),
            other => other,
        };
        // A report that is dropped is said again; heartbeats and requests always get through.
        if matches!(message, Open::Known(Up::Report(_))) && self.state.lines.len() >= MAX_OBSERVATIONS {
            self.config.metrics.on_dropped(Dropped::Reports);
            return;
        }
        self.give(device, Event::Message(message));
    }

    // --- receipts and time

    fn settle(&mut self, settled: Settled) {
        let Settled { device, generation, ticket, receipt } = settled;
        if self.state.devices.get(&device).is_some_and(|slot| slot.generation == generation) {
            self.give(&device, Event::Settled(ticket, receipt));
        }
    }

    fn tick(&mut self) {
        let now = self.moment().mono;
        while let Some((at, device)) = self.state.timers.first().cloned() {
            if at > now {
                return;
            }
            self.state.timers.pop_first();
            if let Some(slot) = self.state.devices.get_mut(&device) {
                slot.timer = None;
            }
            self.give(&device, Event::Tick);
            self.pump_streams(&device);
        }
    }

    // --- carrying out

    pub(super) fn give(&mut self, device: &DeviceId, event: Event) {
        let context = self.context();
        let Some(slot) = self.state.devices.get_mut(device) else { return };
        let mut effects = Vec::new();
        let (pods, opened) = (slot.twin.pods(), matches!(event, Event::SessionOpened(_)));
        slot.twin.handle(event, context, &mut effects);
        let news = opened || slot.twin.pods() != pods;
        self.carry_out(device, effects);
        if news {
            self.ring(device);
        }
    }

    fn context(&self) -> Context {
        Context { now: self.moment(), revision: self.state.revision }
    }

    fn carry_out(&mut self, device: &DeviceId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.seal_and_send(device, &message),
                Effect::Observe(observation) => {
                    if let (Some(bell), Observation::Pod(pod, report, _)) = (&self.config.bell, &observation) {
                        bell.pod(device, pod, report);
                    }
                    self.line(device, What::Observation(observation));
                }
                Effect::Rehandshake => self.rehandshake(device),
                Effect::Count(counted) => self.config.metrics.count(counted),
            }
        }
        let now = self.moment();
        let Some(slot) = self.state.devices.get_mut(device) else { return };
        let platform = slot.learn_platform();
        if let Some(news) = slot.news(now) {
            self.state.news.insert(device.clone(), news);
        }
        let online = slot.twin.is_online();
        if std::mem::replace(&mut slot.counted, online) != online {
            self.config.metrics.online.inc_by(if online { 1 } else { -1 });
            if !online {
                self.streams_interrupt(device);
            }
        }
        if platform {
            self.present(device);
        }
        self.rearm(device);
    }

    pub(super) fn rearm(&mut self, device: &DeviceId) {
        let streams = self.streams_deadline(device);
        let Some(slot) = self.state.devices.get_mut(device) else { return };
        let deadline = slot.twin.deadline().into_iter().chain(streams).min();
        if slot.timer == deadline {
            return;
        }
        if let Some(before) = std::mem::replace(&mut slot.timer, deadline) {
            self.state.timers.remove(&(before, device.clone()));
        }
        if let Some(at) = deadline {
            self.state.timers.insert((at, device.clone()));
        }
    }

    fn rehandshake(&mut self, device: &DeviceId) {
        let closed: Option<SessionId> = self.state.devices.get_mut(device).and_then(|slot| slot.sessions.close());
        if let Some(session) = closed {
            self.send(device, &Envelope::NoSession(session));
            self.streams_end(device, "the bridge asked the device for a new session");
            self.give(device, Event::SessionClosed);
        }
    }

    pub(super) fn seal_and_send(&mut self, device: &DeviceId, message: &Down) {
        self.seal_and_send_on(Channel::Down, device, message);
    }

    pub(super) fn seal_and_send_on(&mut self, channel: Channel, device: &DeviceId, message: &Down) {
        let sealed = self.state.devices.get_mut(device).and_then(|slot| slot.sessions.seal(message));
        match sealed {
            Some(Ok(sealed)) => self.send_on(channel, device, &Envelope::Sealed(sealed)),
            Some(Err(error)) => tracing::error!(%device, %error, "a message cannot be sealed"),
            None => {}
        }
    }

    pub(super) fn send(&self, device: &DeviceId, envelope: &Envelope) {
        self.send_on(Channel::Down, device, envelope);
    }

    fn send_on(&self, channel: Channel, device: &DeviceId, envelope: &Envelope) {
        self.config.hub.send(channel.topic(&self.config.root, device), codec::encode(envelope));
    }

    fn line(&mut self, device: &DeviceId, what: What) {
        let Some(slot) = self.state.devices.get(device) else { return };
        let line = Line { device: device.clone(), generation: slot.generation, node: slot.node.clone(), what };
        self.state.lines.push_back(line);
    }
}

pub(crate) fn device_of(node: &NodeName) -> Option<DeviceId> {
    DeviceId::new(node.as_str()).ok()
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: all waiting of the twins is measured on this clock")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: the wall clock that statuses show")]
fn wall() -> Timestamp {
    Timestamp::now()
}
