//! One device as the bridge sees it. Pure: events and the present moment in, effects out.
//!
//! The twin holds what the device is to run, keeps telling it until the device's heartbeat shows that it knows, serves
//! the bytes that the device asks for, passes on what the device reports, and acknowledges that only once the API server
//! holds it. It sends no index before the view of the API is complete: an index from half a view would stop workloads.

use std::net::IpAddr;
use std::time::Duration;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::desired::{Chunk, Want};
use hawser_wire::limits::{MAX_CHUNK, MAX_OBJECT, MAX_PLAINTEXT, MAX_REPORT_ITEMS, MAX_WANTED_OBJECTS};
use hawser_wire::report::{DeviceEvent, Gone, Heartbeat, NodeFacts, Numbered, Report, ReportItem, WorkloadReport};
use hawser_wire::session_messages::HelloPayload;
use hawser_wire::{Ack, Digest, Down, Open, PodUid, Up, codec};
use jiff::Timestamp;
use virtual_node::provider::{ConditionReport, EventReport, Liveness, NodeReport, PodReport, Receipt};
use virtual_node::{NodeName, PodRef};

use super::clock::{DeviceClock, Moment};
pub use super::desired::Full;
use super::desired::{DesiredSet, Running, Wanted};
use super::inbox::About;
use super::inbox::Inbox;
pub use super::inbox::Ticket;
use super::observe;
use super::version::{Stamping, Versions};
use crate::deployment::Prepared;

/// Changes within this time travel in one index.
const GATHER: Duration = Duration::from_millis(50);
/// Receipts within this time are acknowledged in one message.
const GATHER_ACKS: Duration = Duration::from_millis(50);
/// The first index unanswered for this long is sent again, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(120);
/// After so many indexes without effect the device most likely knows something newer than we do: a new handshake tells.
const RETRIES_BEFORE_HANDSHAKE: u32 = 8;
/// For how long a view of the API that is behind the device's may be a lagging server rather than a restored one.
const RESTORED_AFTER: Duration = Duration::from_secs(15);
/// How much is sent in answer to one request for objects. The device asks again for the rest.
const MAX_ANSWER: usize = 8 * MAX_CHUNK;
/// Hints of absence lead to a ping at most this often.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A device's wall clock is called skewed beyond this, and right again below half of it.
const SKEW_MILLIS: i64 = 10_000;

/// What is the same for all twins.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often devices send heartbeats.
    pub heartbeat: Duration,
}

/// What the twin cannot know by itself.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Now.
    pub now: Moment,
    /// The highest resourceVersion that the bridge has seen.
    pub revision: u64,
}

/// What happens to a twin.
#[derive(Debug)]
pub enum Event {
    /// The view of the API is complete.
    Synced,
    /// The object of this pod is gone: it is not wanted any more.
    Forget(PodUid),
    /// The device has spoken in a new session.
    SessionOpened(HelloPayload),
    /// The device can no longer be spoken to in the session there was.
    SessionClosed,
    /// The device says something, in the present session.
    Message(Open<Up>),
    /// The hub says that the device came or went.
    Presence,
    /// A report reached the API server, or has nowhere to go.
    Settled(Ticket, Receipt),
    /// The deadline has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug)]
pub enum Effect {
    /// Seal and send.
    Send(Down),
    /// Pass on to the virtual node.
    Observe(Observation),
    /// Drop the session and ask the device for a new handshake.
    Rehandshake,
    /// Count.
    Count(Counted),
}

/// What the virtual node is told.
#[derive(Debug)]
pub enum Observation {
    /// How a pod is.
    Pod(PodRef, Box<PodReport>, Ticket),
    /// Nothing of a pod runs any more.
    Gone(PodRef, Option<Box<PodReport>>, Ticket),
    /// How the device is. Without a ticket: the bridge itself found something out.
    Node(Box<NodeReport>, Option<Ticket>),
    /// Whether the device is alive.
    Liveness(Liveness),
    /// Something worth telling.
    Event(Box<EventReport>, Ticket),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// An index was sent.
    Index,
    /// An index was sent again.
    IndexAgain,
    /// Bytes of objects were sent.
    ObjectBytes(u64),
    /// The device asked for an object that is not (or no longer) its own.
    UnknownObject,
    /// A message or report of a kind that this version does not know, or that makes no sense here.
    Unfamiliar,
    /// The device's version cannot be exceeded.
    VersionExhausted,
}

/// What is wanted of a pod.
#[derive(Debug)]
pub enum Wish {
    /// Run this.
    Run(Prepared),
    /// Leave it as it is: what it would look like is not known now.
    Keep,
    /// Stop it.
    Stop {
        /// The grace period.
        grace_seconds: u32,
    },
    /// It ended for good.
    Retain,
    /// It can never run here in this form. If it was wanted in another form, it stays wanted in that one.
    Refuse,
}

/// One device as the bridge sees it.
#[derive(Debug)]
pub struct Twin {
    node: NodeName,
    settings: Settings,
    desired: DesiredSet,
    synced: bool,
    versions: Versions,
    link: Option<Link>,
    life: Life,
    clock: DeviceClock,
    skewed: Option<bool>,
    /// As the device says it: looked at when they change, kept for as long as the device is known.
    facts: Option<Box<[u8]>>,
    /// Nobody has asked for them yet.
    facts_are_new: bool,
    /// Whether the device, being heard, has been called online: not before it has said what it is. Joining is being
    /// heard too, and a node that can run nothing yet must not look ready.
    called_online: bool,
    addresses: Box<[IpAddr]>,
    inbox: Inbox,
    ack_at: Option<Duration>,
    pinged: Option<Duration>,
    pings: u32,
}

/// What is known while there is a session.
#[derive(Debug)]
struct Link {
    /// What the device said that it has.
    digest: Option<Digest>,
    sent: Option<SentIndex>,
    /// Since when the device is known to be ahead of our view.
    behind_since: Option<Duration>,
    /// A changed index is not sent before this: changes that come together travel together.
    gathered_at: Duration,
    /// When there will be something to send.
    due: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct SentIndex {
    digest: Digest,
    at: Duration,
    times: u32,
}

impl SentIndex {
    fn retry_at(self) -> Duration {
        self.at + (FIRST_RETRY * 2u32.saturating_pow(self.times - 1)).min(LAST_RETRY)
    }
}

/// Whether the device is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Not heard since the twin exists; nothing is said until a whole window has passed.
    Unheard { since: Duration, last: Option<Timestamp> },
    /// Heard within the window.
    Online { heard: Moment },
    /// Not heard within the window.
    Offline { last: Option<Timestamp> },
}

impl Twin {
    /// A device that has not been heard yet. `last_seen` is what an earlier bridge knew.
    pub fn new(node: NodeName, settings: Settings, last_seen: Option<Timestamp>, now: Moment) -> Self {
        Self {
            node,
            settings,
            desired: DesiredSet::default(),
            synced: false,
            versions: Versions::default(),
            link: None,
            life: Life::Unheard { since: now.mono, last: last_seen },
            clock: DeviceClock::default(),
            skewed: None,
            facts: None,
            facts_are_new: false,
            called_online: false,
            addresses: Box::default(),
            inbox: Inbox::default(),
            ack_at: None,
            pinged: None,
            pings: 0,
        }
    }

    /// What the device says about itself, if that is news: each time it says so, it is answered once.
    pub fn take_new_facts(&mut self) -> Option<NodeFacts> {
        if !std::mem::take(&mut self.facts_are_new) {
            return None;
        }
        self.facts()
    }

    fn facts(&self) -> Option<NodeFacts> {
        codec::decode(self.facts.as_deref()?, MAX_PLAINTEXT).ok().map(|decoded| decoded.value)
    }

    /// Whether the device was heard within its window.
    pub fn is_online(&self) -> bool {
        matches!(self.life, Life::Online { .. })
    }

    /// Whether the twin knows yet if the device is alive: a window has to pass first, or the device be heard.
    pub fn has_opinion(&self) -> bool {
        !matches!(self.life, Life::Unheard { .. })
    }

    /// When the device was last heard.
    pub fn last_seen(&self) -> Option<Timestamp> {
        match self.life {
            Life::Online { heard } => Some(heard.wall),
            Life::Unheard { last, .. } | Life::Offline { last } => last,
        }
    }

    /// How many pods the device has.
    pub fn pods(&self) -> usize {
        self.desired.len()
    }

    /// Records what is wanted of a pod. Answers whether that is something new.
    pub fn wish(
        &mut self,
        uid: PodUid,
        pod: PodRef,
        wish: Wish,
        context: Context,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Full> {
        let known = self.desired.get(&uid).map(|entry| &entry.wanted);
        let wanted = match (wish, known) {
            (Wish::Run(prepared), _) => {
                Wanted::Run(Box::new(Running { deployment: prepared.deployment, blobs: prepared.blobs.into() }))
            }
            // What cannot be resolved now, or is refused in a new form, changes nothing about what was resolved before.
            (Wish::Keep | Wish::Refuse, Some(_)) | (Wish::Refuse, None) => return Ok(false),
            (Wish::Keep, None) => Wanted::Keep,
            (Wish::Stop { grace_seconds }, Some(Wanted::Stop { grace_seconds: before })) => {
                Wanted::Stop { grace_seconds: grace_seconds.min(*before) }
            }
            (Wish::Stop { grace_seconds }, _) => Wanted::Stop { grace_seconds },
            (Wish::Retain, _) => Wanted::Retain,
        };
        let changed = self.desired.set(uid, pod, wanted)?;
        self.settle_down(context, effects);
        Ok(changed)
    }

    /// Takes an event and says what to do.
    pub fn handle(&mut self, event: Event, context: Context, effects: &mut Vec<Effect>) {
        match event {
            Event::Synced => self.synced = true,
            Event::Forget(uid) => self.remove(&uid),
            Event::SessionOpened(hello) => self.open(hello, context, effects),
            Event::SessionClosed => self.link = None,
            Event::Message(message) => self.hear(message, context, effects),
            Event::Presence => self.ping(context, effects),
            Event::Settled(ticket, _) => self.receive_receipt(&ticket, context),
            Event::Tick => {}
        }
        self.settle_down(context, effects);
    }

    /// When to call [`Twin::handle`] with [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        let life = match self.life {
            Life::Unheard { since, .. } => Some(since + self.window()),
            Life::Online { heard } => Some(heard.mono + self.window()),
            Life::Offline { .. } => None,
        };
        let index = self.link.as_ref().and_then(|link| link.due);
        [life, index, self.ack_at].into_iter().flatten().min()
    }

    /// Three heartbeats may be lost, and half an interval is for the way.
    fn window(&self) -> Duration {
        self.settings.heartbeat * 7 / 2
    }

    /// Everything that follows from the state rather than from one event.
    fn settle_down(&mut self, context: Context, effects: &mut Vec<Effect>) {
        self.say_early(context, effects);
        self.age(context, effects);
        self.converge(context, effects);
        self.flush_acks(context.now, effects);
    }

    // --- the session

    fn open(&mut self, hello: HelloPayload, context: Context, effects: &mut Vec<Effect>) {
        self.inbox.restart();
        self.ack_at = None;
        if let Some(version) = hello.accepted {
            self.versions.accepted(version, hello.digest);
        }
        let link =
            Link { digest: hello.digest, sent: None, behind_since: None, gathered_at: context.now.mono, due: None };
        self.link = Some(link);
        self.heard(context.now, effects);
    }

    fn hear(&mut self, message: Open<Up>, context: Context, effects: &mut Vec<Effect>) {
        if self.link.is_none() {
            return;
        }
        self.heard(context.now, effects);
        match message {
            Open::Known(Up::Heartbeat(heartbeat)) => self.hear_heartbeat(&heartbeat, context, effects),
            Open::Known(Up::Want(want)) => self.answer(&want, context.now, effects),
            Open::Known(Up::Report(report)) => self.hear_report(report, context, effects),
            // Streams are opened by the bridge, and none is open.
            Open::Known(Up::Stream(_)) | Open::Unknown => effects.push(Effect::Count(Counted::Unfamiliar)),
        }
    }

    // --- life

    fn heard(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.life = Life::Online { heard: now };
        self.pinged = None;
        self.call_online(effects);
    }

    fn call_online(&mut self, effects: &mut Vec<Effect>) {
        if !self.called_online && self.is_online() && self.facts.is_some() {
            self.called_online = true;
            effects.push(Effect::Observe(Observation::Liveness(Liveness::Online)));
        }
    }

    fn age(&mut self, context: Context, effects: &mut Vec<Effect>) {
        let (since, last) = match self.life {
            Life::Unheard { since, last } => (since, last),
            Life::Online { heard } => (heard.mono, Some(heard.wall)),
            Life::Offline { .. } => return,
        };
        if context.now.mono < since + self.window() {
            return;
        }
        self.life = Life::Offline { last };
        self.called_online = false;
        let message = match last.and_then(|last| last.round(jiff::Unit::Second).ok()) {
            Some(last) => format!("the device was last heard at {last}"),
            None => "the device has never been heard".to_owned(),
        };
        let offline = Liveness::Offline { reason: "DeviceOffline".to_owned(), message };
        effects.push(Effect::Observe(Observation::Liveness(offline)));
    }

    fn ping(&mut self, context: Context, effects: &mut Vec<Effect>) {
        let recently = self.pinged.is_some_and(|at| context.now.mono < at + PING_EVERY);
        if self.link.is_some() && !recently {
            self.pinged = Some(context.now.mono);
            self.pings = self.pings.wrapping_add(1);
            effects.push(Effect::Send(Down::Ping(self.pings)));
        }
    }

    fn hear_heartbeat(&mut self, heartbeat: &Heartbeat, context: Context, effects: &mut Vec<Effect>) {
        if let Some(skew) = self.clock.sample(heartbeat, context.now) {
            self.judge_clock(skew, effects);
        }
        let Some(link) = &mut self.link else { return };
        link.digest = heartbeat.digest;
        let Some(digest) = heartbeat.digest else { return };
        self.versions.confirmed(digest);
    }

    fn judge_clock(&mut self, skew: i64, effects: &mut Vec<Effect>) {
        let limit = if self.skewed == Some(true) { SKEW_MILLIS / 2 } else { SKEW_MILLIS };
        let skewed = skew.abs() > limit;
        if self.skewed.replace(skewed) != Some(skewed)
            && let Some(report) = self.node_report()
        {
            effects.push(Effect::Observe(Observation::Node(report, None)));
        }
    }

    // --- downwards

    fn remove(&mut self, uid: &PodUid) {
        self.desired.remove(uid);
        self.inbox.forget_pod(uid);
    }

    /// Sends the index if the device does not have it and it is time, and notes when it will be time.
    fn converge(&mut self, context: Context, effects: &mut Vec<Effect>) {
        let online = self.is_online();
        let Some(link) = &mut self.link else { return };
        link.due = None;
        // To a device that is not heard everything would be said in vain; it is said when the device is heard again.
        if !self.synced || !online {
            return;
        }
        let now = context.now.mono;
        let digest = self.desired.digest();
        if link.digest == Some(digest) {
            link.sent = None;
            link.behind_since = None;
            return;
        }
        let again = link.sent.filter(|sent| sent.digest == digest);
        let due = again.map_or(link.gathered_at, SentIndex::retry_at);
        if now < due {
            link.due = Some(due);
            return;
        }
        let times = again.map_or(1, |sent| sent.times.saturating_add(1));
        if times > RETRIES_BEFORE_HANDSHAKE {
            self.link = None;
            effects.push(Effect::Rehandshake);
            return;
        }
        let restored = link.behind_since.is_some_and(|since| now >= since + RESTORED_AFTER);
        match self.versions.issue(digest, context.revision, restored) {
            Stamping::Issue(version) => {
                let sent = SentIndex { digest, at: now, times };
                link.due = Some(sent.retry_at());
                link.sent = Some(sent);
                link.behind_since = None;
                link.gathered_at = now + GATHER;
                effects.push(Effect::Count(if times == 1 { Counted::Index } else { Counted::IndexAgain }));
                effects.push(Effect::Send(Down::Index(self.desired.index(version))));
            }
            Stamping::Behind => {
                let since = *link.behind_since.get_or_insert(now);
                link.due = Some(since + RESTORED_AFTER);
            }
            Stamping::Exhausted => effects.push(Effect::Count(Counted::VersionExhausted)),
        }
    }

    fn answer(&mut self, want: &Want, now: Moment, effects: &mut Vec<Effect>) {
        // Whoever fetches has the index; that it does not show in the heartbeat yet is no reason to send it again.
        if let Some(sent) = self.link.as_mut().and_then(|link| link.sent.as_mut()) {
            sent.at = now.mono;
            sent.times = 1;
        }
        let mut left = MAX_ANSWER;
        for wanted in want.objects.iter().take(MAX_WANTED_OBJECTS) {
            let Some(object) = self.desired.object(&wanted.hash) else {
                effects.push(Effect::Count(Counted::UnknownObject));
                continue;
            };
            let total = object.reference.len;
            let Ok(mut offset) = usize::try_from(wanted.offset) else { continue };
            let window = usize::try_from(wanted.window).unwrap_or(usize::MAX).min(left);
            let end = object.bytes.len().min(offset.saturating_add(window));
            // An empty object is one empty chunk.
            let mut first = object.bytes.is_empty();
            while offset < end || std::mem::take(&mut first) {
                let data = object.bytes[offset.min(end)..end.min(offset + MAX_CHUNK)].to_vec();
                left -= data.len();
                effects.push(Effect::Count(Counted::ObjectBytes(data.len() as u64)));
                let chunk = Chunk { hash: wanted.hash, total, offset: offset as u64, data };
                offset += MAX_CHUNK;
                effects.push(Effect::Send(Down::Chunk(chunk)));
            }
        }
    }

    // --- upwards

    fn hear_report(&mut self, report: Report, context: Context, effects: &mut Vec<Effect>) {
        for item in report.items.into_iter().take(MAX_REPORT_ITEMS) {
            self.hear_item(item, context, effects);
        }
    }

    /// Before the view is complete it cannot be told whether a pod is unknown or not yet known; before the first
    /// heartbeat no time can be corrected.
    fn may_observe(&self) -> bool {
        self.synced && self.clock.is_set()
    }

    fn say_early(&mut self, context: Context, effects: &mut Vec<Effect>) {
        if self.inbox.has_early() && self.may_observe() {
            for item in self.inbox.take_early() {
                self.hear_item(item, context, effects);
            }
        }
    }

    fn hear_item(&mut self, numbered: Numbered, context: Context, effects: &mut Vec<Effect>) {
        if !self.may_observe() {
            // Facts are needed at once, and need neither.
            if !matches!(numbered.item, Open::Known(ReportItem::Facts(_))) {
                self.inbox.keep_early(numbered);
                return;
            }
        }
        let seq = numbered.seq;
        match numbered.item {
            Open::Known(ReportItem::Workload(said)) => self.hear_workload(seq, &said, effects),
            Open::Known(ReportItem::Gone(gone)) => self.hear_gone(seq, &gone, effects),
            Open::Known(ReportItem::Facts(facts)) => self.hear_facts(seq, &facts, effects),
            Open::Known(ReportItem::Event(event)) => self.hear_event(seq, &event, context, effects),
            Open::Unknown => {
                effects.push(Effect::Count(Counted::Unfamiliar));
                self.inbox.acknowledge(seq);
            }
        }
    }

    fn hear_workload(&mut self, seq: u64, said: &WorkloadReport, effects: &mut Vec<Effect>) {
        let Some(entry) = self.desired.get(&said.uid) else {
            // Not wanted any more: there is nothing to write it to.
            self.inbox.acknowledge(seq);
            return;
        };
        if let Some(ticket) = self.inbox.admit(seq, About::Pod(said.uid.clone())) {
            let pod = entry.pod.clone();
            effects.push(Effect::Observe(Observation::Pod(pod, Box::new(self.pod_report(said)), ticket)));
        }
    }

    fn hear_gone(&mut self, seq: u64, gone: &Gone, effects: &mut Vec<Effect>) {
        let Some(entry) = self.desired.get(&gone.uid) else {
            self.inbox.acknowledge(seq);
            return;
        };
        if matches!(entry.wanted, Wanted::Run(_) | Wanted::Keep) {
            // A life that was ended before the cluster was restored to a time when the pod was wanted: its end must not
            // be written over the life that begins now.
            self.inbox.acknowledge(seq);
            return;
        }
        if let Some(ticket) = self.inbox.admit(seq, About::Gone(gone.uid.clone())) {
            let pod = entry.pod.clone();
            let last = gone.last.as_ref().map(|last| Box::new(self.pod_report(last)));
            effects.push(Effect::Observe(Observation::Gone(pod, last, ticket)));
        }
    }

    fn hear_facts(&mut self, seq: u64, facts: &NodeFacts, effects: &mut Vec<Effect>) {
        if let Some(ticket) = self.inbox.admit(seq, About::Facts) {
            self.addresses = observe::device_addresses(facts).into();
            self.facts = Some(codec::encode(facts).into());
            self.facts_are_new = true;
            if let Some(report) = self.node_report() {
                effects.push(Effect::Observe(Observation::Node(report, Some(ticket))));
            }
        }
        self.call_online(effects);
    }

    fn hear_event(&mut self, seq: u64, event: &DeviceEvent, context: Context, effects: &mut Vec<Effect>) {
        let pod = event.pod.as_ref().map(|uid| self.desired.get(uid).map(|entry| &entry.pod));
        let Some(pod) = pod.map_or(Some(None), |known| known.map(Some)) else {
            // About a pod that is no more.
            self.inbox.acknowledge(seq);
            return;
        };
        let report = observe::event_report(event, &self.node, pod, &self.clock, context.now);
        if let Some(ticket) = self.inbox.admit(seq, About::Event) {
            effects.push(Effect::Observe(Observation::Event(Box::new(report), ticket)));
        }
    }

    fn receive_receipt(&mut self, ticket: &Ticket, _context: Context) {
        self.inbox.settle(ticket);
        if let About::Gone(uid) = ticket.about() {
            let stopping = self.desired.get(uid).is_some_and(|entry| matches!(entry.wanted, Wanted::Stop { .. }));
            if stopping {
                self.remove(uid);
            }
        }
    }

    fn flush_acks(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let waiting = self.inbox.waiting_acks();
        if waiting == 0 || self.link.is_none() {
            self.ack_at = None;
            return;
        }
        let at = *self.ack_at.get_or_insert(now.mono + GATHER_ACKS);
        if now.mono < at && waiting < MAX_REPORT_ITEMS {
            return;
        }
        self.ack_at = None;
        for seqs in self.inbox.take_acks().chunks(MAX_REPORT_ITEMS) {
            effects.push(Effect::Send(Down::Ack(Ack { seqs: seqs.to_vec() })));
        }
    }

    fn pod_report(&self, said: &WorkloadReport) -> PodReport {
        let spec = self.desired.get(&said.uid).and_then(|entry| match &entry.wanted {
            Wanted::Run(running) => {
                codec::decode::<EdgeDeployment>(&running.deployment.bytes, MAX_OBJECT as usize).ok()
            }
            Wanted::Keep | Wanted::Stop { .. } | Wanted::Retain => None,
        });
        observe::pod_report(said, &self.clock, spec.as_ref().map(|spec| &spec.value), &self.addresses)
    }

    fn node_report(&self) -> Option<Box<NodeReport>> {
        let mut report = observe::node_report(&self.facts()?);
        report.conditions.retain(|condition| condition.kind != "ClockSkewed");
        if let Some(skewed) = self.skewed {
            report.conditions.push(clock_condition(skewed));
        }
        Some(Box::new(report))
    }
}

fn clock_condition(skewed: bool) -> ConditionReport {
    let (reason, message) = if skewed {
        (
            "ClockDiffers",
            "the device's clock differs from the cluster's by more than 10 s; times shown here are corrected",
        )
    } else {
        ("ClockAgrees", "the device's clock agrees with the cluster's")
    };
    ConditionReport {
        kind: "ClockSkewed".to_owned(),
        status: Some(skewed),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
