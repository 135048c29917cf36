//! The bridge's process: the real twin and the real sessions, and around them what the fleet's task and the virtual
//! node's engine do, by their contracts. It keeps nothing: when it dies, all of this is made anew from the API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use edge_provider::fleet::clock::Moment;
use edge_provider::fleet::twin::{Context, Effect, Event, Observation, Settings, Ticket, Twin, Wish};
use edge_provider::hub::rate::{Bucket, Rate};
use edge_provider::hub::session::{Fingerprint, Greeting, Heard, Pending, Proof, SessionSlot};
use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::session::{Names, Responder};
use hawser_wire::session_messages::{Envelope, Hello, Sealed, WelcomePayload};
use hawser_wire::{Channel, Down, Open, Up, codec};
use jiff::Timestamp;
use virtual_node::NodeName;
use virtual_node::provider::{EventReport, Liveness, PodReport, Receipt};

use crate::api::{Pod, PodNo, no_of, uid_of};
use crate::hub::Way;
use crate::world::{Happening, World};

/// As the fleet's task limits them.
const HELLOS: Rate = Rate { burst: 5, every: Duration::from_secs(2) };
const COMPLAINTS: Rate = Rate { burst: 2, every: Duration::from_secs(5) };
/// How often devices send heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often what a pod refers to is looked at again.
const REFRESH: u64 = 20_000;
/// When the true clock showed nothing, it was this time.
const EPOCH_MILLIS: i64 = 1_790_000_000_000;

pub(crate) struct Bridge {
    pub(crate) life: u32,
    started: u64,
    pub(crate) twin: Twin,
    pub(crate) sessions: SessionSlot,
    hellos: Bucket,
    complaints: Bucket,
    /// How far its view of the pods has come, and how much of the API's log that is.
    view: u64,
    read: usize,
    /// The greatest revision that came with a wish.
    revision: u64,
    pods: BTreeMap<PodNo, Known>,
    /// Pods of the first list that have not had their turn.
    unsettled: BTreeSet<PodNo>,
    synced: bool,
    pub(crate) liveness: Option<Liveness>,
}

/// A pod as the virtual node's engine knows it.
#[derive(Default)]
struct Known {
    /// `None`: it is not in the API any more.
    pod: Option<Pod>,
    stage: Stage,
    gone: bool,
    gone_receipts: Vec<Ticket>,
    unwritten: Option<(PodReport, Vec<Ticket>)>,
    writing: bool,
}

#[derive(Default, PartialEq)]
enum Stage {
    #[default]
    Fresh,
    Wanted,
    Applied,
    Stopping(u32),
    Deleted,
}

/// A write on its way to the API server.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// The latest status of a pod.
    Status(PodNo),
    /// A pod is gone: its object goes.
    Delete(PodNo),
    /// An event.
    Event(Box<EventReport>, Ticket),
    /// The node's status.
    Node(Ticket),
}

impl World {
    pub(crate) fn start_bridge(&mut self) {
        let node = NodeName::new("board").expect("a node name");
        let mono = Duration::ZERO;
        let now = Moment { mono, wall: self.cluster_wall() };
        self.lives += 1;
        let life = self.lives;
        let pods = self.api.pods.iter().map(|(no, pod)| (*no, Known { pod: Some(pod.clone()), ..Known::default() }));
        let bridge = Bridge {
            life,
            started: self.now,
            twin: Twin::new(node, Settings { heartbeat: HEARTBEAT }, None, now),
            sessions: SessionSlot::default(),
            hellos: Bucket::default(),
            complaints: Bucket::default(),
            view: self.api.revision,
            read: self.api.log.len(),
            revision: 0,
            pods: pods.collect(),
            unsettled: self.api.pods.keys().copied().collect(),
            synced: false,
            liveness: None,
        };
        self.note(|| format!("bridge {life} starts with {} pods at {}", bridge.pods.len(), bridge.view));
        self.bridge = Some(bridge);
        self.witness.bridge_started();
        let listed: Vec<PodNo> = self.api.pods.keys().copied().collect();
        for no in listed {
            // In any order.
            self.turn_in(life, no, 1, 900);
        }
        self.after(100, Happening::Watch(life));
        self.sync_if_complete();
    }

    pub(crate) fn kill_bridge(&mut self, back: u64) {
        if self.bridge.take().is_some() {
            self.after(back, Happening::BridgeStarts);
        }
    }

    fn cluster_wall(&self) -> Timestamp {
        Timestamp::from_millisecond(EPOCH_MILLIS + self.now as i64).expect("a time")
    }

    fn context(&self, bridge: &Bridge) -> Context {
        let mono = Duration::from_millis(self.now - bridge.started);
        Context { now: Moment { mono, wall: self.cluster_wall() }, revision: bridge.revision }
    }

    /// When the twin wants to be called.
    pub(crate) fn twin_due(&self) -> Option<u64> {
        let bridge = self.bridge.as_ref()?;
        let deadline = bridge.twin.deadline()?;
        // Rounded up: a timer is never early.
        Some(bridge.started + deadline.as_nanos().div_ceil(1_000_000) as u64)
    }

    pub(crate) fn tell_twin(&mut self, event: Event) {
        let Some(mut bridge) = self.bridge.take() else { return };
        let mut effects = Vec::new();
        bridge.twin.handle(event, self.context(&bridge), &mut effects);
        self.bridge = Some(bridge);
        self.carry_out_for_twin(effects);
    }

    fn wish(&mut self, no: PodNo, wish: Wish) {
        let Some(mut bridge) = self.bridge.take() else { return };
        let Some(pod) = bridge.pods.get(&no).and_then(|known| known.pod.as_ref()).map(Pod::reference) else {
            self.bridge = Some(bridge);
            return;
        };
        bridge.revision = bridge.revision.max(bridge.view);
        let mut effects = Vec::new();
        let context = self.context(&bridge);
        bridge.twin.wish(uid_of(no), pod, wish, context, &mut effects).expect("there is room");
        self.bridge = Some(bridge);
        self.carry_out_for_twin(effects);
    }

    fn carry_out_for_twin(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.seal_and_send(&message),
                Effect::Observe(observation) => self.observe(observation),
                Effect::Rehandshake => self.rehandshake(),
                Effect::Count(_) => {}
            }
        }
    }

    fn seal_and_send(&mut self, message: &Down) {
        let Some(bridge) = &mut self.bridge else { return };
        if let Down::Index(index) = message {
            self.witness.issues(&self.api, index, bridge.synced);
        }
        let sealed = bridge.sessions.seal(message);
        self.note(|| format!("  bridge says {}", brief(message)));
        if let Some(sealed) = sealed {
            self.send_down(&Envelope::Sealed(sealed.expect("counters are not used up")));
        }
    }

    fn send_down(&mut self, envelope: &Envelope) {
        self.publish(Way::Down, Channel::Down, codec::encode(envelope));
    }

    fn rehandshake(&mut self) {
        let closed = self.bridge.as_mut().and_then(|bridge| bridge.sessions.close());
        if let Some(session) = closed {
            self.send_down(&Envelope::NoSession(session));
            self.tell_twin(Event::SessionClosed);
        }
    }

    // --- from the hub

    pub(crate) fn bridge_hears(&mut self, channel: Channel, payload: &[u8]) {
        if self.bridge.is_none() {
            return;
        }
        if channel == Channel::Presence {
            return self.tell_twin(Event::Presence);
        }
        let envelope = codec::decode::<Open<Envelope>>(payload, MAX_PAYLOAD).expect("an envelope").value;
        match envelope {
            Open::Known(Envelope::Hello(hello)) => self.bridge_hears_hello(&hello),
            Open::Known(Envelope::Sealed(sealed)) => self.bridge_hears_sealed(&sealed),
            _ => {}
        }
    }

    fn bridge_hears_hello(&mut self, hello: &Hello) {
        let ephemeral = self.dice.bytes();
        let wall = self.cluster_wall();
        let Some(bridge) = &mut self.bridge else { return };
        let mono = Duration::from_millis(self.now - bridge.started);
        if !bridge.hellos.take(HELLOS, mono) {
            return;
        }
        let fingerprint = Fingerprint::of(hello);
        match bridge.sessions.greet(fingerprint) {
            Greeting::New => {}
            Greeting::Again(welcome) => return self.send_down(&Envelope::Welcome(welcome)),
            Greeting::Replay => return,
        }
        let names = Names { root: &self.root, device: &self.device_id };
        let Ok(responder) = Responder::read(names, &self.bridge_key, ephemeral, hello) else {
            return self.witness.violate("a hello of the device is not readable");
        };
        let (key, hello) = (responder.device_key, responder.payload.clone());
        let payload = WelcomePayload {
            protocol: responder.protocol(),
            bridge_version: "test".to_owned(),
            heartbeat_seconds: HEARTBEAT.as_secs() as u16,
            bridge_millis: wall.as_millisecond() as u64,
        };
        let (session, welcome) = responder.answer(None, &payload).expect("an answer");
        let pending =
            Pending { session, key, hello, welcome: welcome.clone(), fingerprint, token: None, proof: Proof::Nothing };
        bridge.sessions.welcome(pending);
        self.send_down(&Envelope::Welcome(welcome));
    }

    fn bridge_hears_sealed(&mut self, sealed: &Sealed) {
        let Some(bridge) = &mut self.bridge else { return };
        let mono = Duration::from_millis(self.now - bridge.started);
        match bridge.sessions.open(sealed) {
            Heard::Message(message) => {
                if bridge.sessions.is_worn(mono) {
                    return self.rehandshake();
                }
                self.bridge_hears_message(message.value);
            }
            Heard::First(key, message) => {
                if let Some(promoted) = bridge.sessions.promote(key, mono) {
                    self.note(|| format!("  a session is in use; the device has {:?}", promoted.hello.accepted));
                    self.tell_twin(Event::SessionOpened(promoted.hello));
                }
                self.bridge_hears_message(message.value);
            }
            Heard::NoSession => {
                if bridge.complaints.take(COMPLAINTS, mono) {
                    self.send_down(&Envelope::NoSession(sealed.session));
                }
            }
            Heard::Proved(_) | Heard::Held | Heard::Late | Heard::Rejected(_) => {}
        }
    }

    fn bridge_hears_message(&mut self, message: Open<Up>) {
        if let Open::Known(Up::Report(report)) = &message {
            self.witness.hears(report);
        }
        self.tell_twin(Event::Message(message));
    }

    // --- the virtual node's engine

    pub(crate) fn watch(&mut self, life: u32) {
        let pause = self.dice.between(20, 600);
        self.after(pause, Happening::Watch(life));
        if self.api.down {
            return;
        }
        let Some(bridge) = self.bridge.as_mut().filter(|bridge| bridge.life == life) else { return };
        let news = self.api.log.get(bridge.read..).unwrap_or_default().to_vec();
        bridge.read = self.api.log.len();
        for change in news {
            let Some(bridge) = self.bridge.as_mut() else { return };
            bridge.view = bridge.view.max(change.version);
            let known = bridge.pods.entry(change.no).or_default();
            let form = |pod: &Option<Pod>| pod.as_ref().map(|pod| (pod.image, pod.deletion, pod.has_ended()));
            if form(&known.pod) != form(&change.pod) && known.stage == Stage::Applied && !has_ended(&known.pod) {
                known.stage = Stage::Wanted;
            }
            known.pod = change.pod;
            self.turn_in(life, change.no, 1, 400);
        }
    }

    fn turn_in(&mut self, life: u32, no: PodNo, low: u64, high: u64) {
        let pause = self.dice.between(low, high);
        self.after(pause, Happening::Turn(life, no));
    }

    /// A pod's turn: what is to be done about it, as the engine plans it.
    pub(crate) fn turn(&mut self, life: u32, no: PodNo, again: bool) {
        let Some(bridge) = self.bridge.as_mut().filter(|bridge| bridge.life == life) else { return };
        let Some(known) = bridge.pods.get_mut(&no) else { return };
        let Some(pod) = known.pod.clone() else {
            let known = bridge.pods.remove(&no).expect("it is known");
            bridge.unsettled.remove(&no);
            bridge.revision = bridge.revision.max(bridge.view);
            if known.stage != Stage::Fresh {
                self.tell_twin(Event::Forget(uid_of(no)));
            }
            let written = known.unwritten.into_iter().flat_map(|(_, tickets)| tickets);
            for ticket in known.gone_receipts.into_iter().chain(written) {
                self.settle_later(life, ticket, Receipt::Obsolete);
            }
            return self.sync_if_complete();
        };
        match pod.deletion {
            Some(grace) => {
                let removable = known.gone || pod.has_ended();
                let stopping = matches!(known.stage, Stage::Stopping(before) if before <= grace);
                if known.stage == Stage::Deleted || (removable && known.unwritten.is_some()) {
                    return;
                }
                if removable {
                    known.stage = Stage::Deleted;
                    self.write_later(life, Write::Delete(no));
                } else if !stopping {
                    known.stage = Stage::Stopping(grace);
                    self.wish(no, Wish::Stop { grace_seconds: grace });
                }
                self.settles(no);
            }
            None => {
                let due = match known.stage {
                    Stage::Fresh | Stage::Wanted => true,
                    Stage::Applied => again && !pod.has_ended(),
                    Stage::Stopping(_) | Stage::Deleted => false,
                };
                if due {
                    self.apply(life, no, &pod);
                }
            }
        }
    }

    fn apply(&mut self, life: u32, no: PodNo, pod: &Pod) {
        let (wish, stage, settled) = if pod.has_ended() {
            (Wish::Retain, Stage::Applied, true)
        } else if self.api.down {
            (Wish::Keep, Stage::Wanted, false)
        } else {
            match self.api.prepare(pod) {
                Some(prepared) => (Wish::Run(prepared), Stage::Applied, true),
                None => (Wish::Keep, Stage::Wanted, true),
            }
        };
        let next = if stage == Stage::Applied { REFRESH } else { 3_000 };
        self.after(next, Happening::Again(life, no));
        self.wish(no, wish);
        if let Some(known) = self.bridge.as_mut().and_then(|bridge| bridge.pods.get_mut(&no)) {
            known.stage = stage;
        }
        if settled {
            self.settles(no);
        }
    }

    fn settles(&mut self, no: PodNo) {
        if let Some(bridge) = &mut self.bridge {
            bridge.unsettled.remove(&no);
        }
        self.sync_if_complete();
    }

    fn sync_if_complete(&mut self) {
        let Some(bridge) = self.bridge.as_mut().filter(|bridge| !bridge.synced && bridge.unsettled.is_empty()) else {
            return;
        };
        bridge.synced = true;
        bridge.revision = bridge.revision.max(bridge.view);
        self.note(|| "  the bridge's view is complete".to_owned());
        self.tell_twin(Event::Synced { pod_ranges: Vec::new() });
    }

    // --- what is written to the API

    fn observe(&mut self, observation: Observation) {
        let Some(bridge) = &mut self.bridge else { return };
        let life = bridge.life;
        match observation {
            Observation::Pod(pod, report, ticket) => {
                let no = no_of(pod.uid.as_str());
                self.status_unwritten(no, *report, Some(ticket));
            }
            Observation::Gone(pod, last, ticket) => {
                let no = no_of(pod.uid.as_str());
                if let Some(last) = last {
                    self.status_unwritten(no, *last, None);
                }
                let Some(known) = self.bridge.as_mut().and_then(|bridge| bridge.pods.get_mut(&no)) else {
                    return self.settle_later(life, ticket, Receipt::Obsolete);
                };
                known.gone = true;
                known.gone_receipts.push(ticket);
                self.consider_gone(life, no);
            }
            Observation::Node(_, Some(ticket)) => self.write_later(life, Write::Node(ticket)),
            Observation::Node(_, None) => {}
            Observation::Liveness(liveness) => bridge.liveness = Some(liveness),
            Observation::Event(event, ticket) => self.write_later(life, Write::Event(event, ticket)),
        }
    }

    fn status_unwritten(&mut self, no: PodNo, report: PodReport, ticket: Option<Ticket>) {
        let Some(bridge) = &mut self.bridge else { return };
        let life = bridge.life;
        let Some(known) = bridge.pods.get_mut(&no) else {
            if let Some(ticket) = ticket {
                self.settle_later(life, ticket, Receipt::Obsolete);
            }
            return;
        };
        let mut tickets = known.unwritten.take().map(|(_, tickets)| tickets).unwrap_or_default();
        tickets.extend(ticket);
        known.unwritten = Some((report, tickets));
        if !std::mem::replace(&mut known.writing, true) {
            self.write_later(life, Write::Status(no));
        }
    }

    fn consider_gone(&mut self, life: u32, no: PodNo) {
        let Some(known) = self.bridge.as_mut().and_then(|bridge| bridge.pods.get_mut(&no)) else { return };
        if !known.gone {
            return;
        }
        let deleting = known.pod.as_ref().map(|pod| pod.deletion.is_some());
        if deleting == Some(true) {
            self.turn_in(life, no, 1, 5);
        } else if deleting == Some(false) && known.unwritten.is_none() {
            // Not to be deleted: its end is in its status.
            known.gone = false;
            for ticket in std::mem::take(&mut known.gone_receipts) {
                self.settle_later(life, ticket, Receipt::Accepted);
            }
        }
    }

    fn write_later(&mut self, life: u32, write: Write) {
        let pause = self.dice.between(1, 150);
        self.after(pause, Happening::Write(life, write));
    }

    fn settle_later(&mut self, life: u32, ticket: Ticket, receipt: Receipt) {
        let pause = self.dice.between(1, 1_500);
        self.after(pause, Happening::Settled(life, ticket, receipt));
    }

    pub(crate) fn write(&mut self, life: u32, write: Write) {
        // A write of a bridge that died on the way may still be carried out; here it is not, which loses more.
        if self.bridge.as_ref().is_none_or(|bridge| bridge.life != life) {
            return;
        }
        if self.api.down {
            return self.after(1_000, Happening::Write(life, write));
        }
        match write {
            Write::Status(no) => self.write_status(life, no),
            Write::Delete(no) => {
                self.note(|| format!("  pod {no} is gone from the API"));
                self.api.remove(no);
                let known = self.bridge.as_mut().and_then(|bridge| bridge.pods.get_mut(&no));
                for ticket in known.map(|known| std::mem::take(&mut known.gone_receipts)).unwrap_or_default() {
                    self.settle_later(life, ticket, Receipt::Accepted);
                }
            }
            Write::Event(event, ticket) => {
                self.api.write_event(&event);
                self.settle_later(life, ticket, Receipt::Accepted);
            }
            Write::Node(ticket) => self.settle_later(life, ticket, Receipt::Accepted),
        }
    }

    fn write_status(&mut self, life: u32, no: PodNo) {
        let Some(known) = self.bridge.as_mut().and_then(|bridge| bridge.pods.get_mut(&no)) else { return };
        known.writing = false;
        let Some((report, tickets)) = known.unwritten.take() else { return };
        let written = self.api.write_status(no, report);
        let receipt = if written { Receipt::Accepted } else { Receipt::Obsolete };
        for ticket in tickets {
            self.settle_later(life, ticket, receipt);
        }
        self.turn_in(life, no, 1, 5);
        self.consider_gone(life, no);
    }
}

fn has_ended(pod: &Option<Pod>) -> bool {
    pod.as_ref().is_some_and(Pod::has_ended)
}

fn brief(message: &Down) -> String {
    match message {
        Down::Index(index) => {
            let entries: Vec<String> = index
                .entries
                .iter()
                .map(|entry| {
                    let wish = format!("{:?}", entry.wish);
                    format!("{}:{}", no_of(entry.uid.as_str()), wish.split('(').next().unwrap_or_default())
                })
                .collect();
            format!("index {} [{}]", index.version, entries.join(" "))
        }
        Down::Chunk(chunk) => format!("chunk of {} at {}", chunk.hash, chunk.offset),
        other => format!("{other:?}"),
    }
}
