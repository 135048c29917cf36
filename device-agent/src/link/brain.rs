//! Everything the link decides, put together: inbox, outbox, fetching, heartbeats and sessions behind one `handle`. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::report::{Heartbeat, NodeFacts, ReportItem};
use hawser_wire::session_messages::{Envelope, HelloPayload, Sealed, Welcome};
use hawser_wire::{BootId, Channel, DeviceTime, Digest, Down, Open, Up, Version, decode};

use super::fetch::{Arrival, Fetch};
use super::heartbeat::Pulse;
use super::inbox::{Inbox, Verdict, refusal_event};
use super::outbox::Outbox;
use super::session::{Credentials, Sessions};
use super::{Input, LinkStatus, Moment, Note, Output};
use crate::desired::DesiredSet;
use crate::ledger::{Change, Recovered, Urgency};

/// The next step is never scheduled closer than this, whatever a timer says: a mistake in one must not spin the CPU.
const LEAST_STEP: u64 = 10;

/// What a brain is told once.
#[derive(Debug, Clone)]
pub struct BrainConfig {
    /// Who we are to the bridge.
    pub credentials: Credentials,
    /// Our version, for people.
    pub agent_version: String,
    /// Which start of the kernel this is.
    pub boot: BootId,
}

/// Everything the link decides.
#[derive(Debug)]
pub struct Brain {
    agent_version: String,
    boot: BootId,
    sessions: Sessions,
    inbox: Inbox,
    fetch: Fetch,
    outbox: Outbox,
    pulse: Pulse,
    /// The accepted index that is in the ledger: what hellos and heartbeats tell.
    confirmed: Option<(Version, Digest)>,
    /// Whether the bridge has sent it since the start. Before that its digest is not told, so that the bridge sends its
    /// index even if it is the same: only then is it certain that nothing that runs is missing in it.
    heard: bool,
    facts: Option<Box<NodeFacts>>,
    /// What becomes true when the ledger confirms, in order.
    unconfirmed: VecDeque<Unconfirmed>,
    last_ticket: u64,
    last_step: DeviceTime,
}

#[derive(Debug, Default)]
struct Unconfirmed {
    ticket: u64,
    desired: Option<Arc<DesiredSet>>,
    accepted: Option<(Version, Digest)>,
    reserved: Option<u64>,
}

impl Brain {
    /// Goes on from the ledger. The first outputs hold the desired set as it was.
    pub fn new(config: BrainConfig, recovered: &Recovered, now: &Moment) -> (Self, Vec<Output>) {
        let (inbox, changes) = Inbox::recover(recovered);
        let mut brain = Self {
            agent_version: config.agent_version,
            boot: config.boot,
            sessions: Sessions::new(config.credentials),
            confirmed: inbox.accepted(),
            heard: false,
            inbox,
            fetch: Fetch::default(),
            outbox: Outbox::recover(&recovered.said, recovered.next_sequence),
            pulse: Pulse::default(),
            facts: None,
            unconfirmed: VecDeque::new(),
            last_ticket: 0,
            last_step: now.at,
        };
        let mut out = vec![Output::Desired(Arc::new(brain.inbox.desired()))];
        if !changes.is_empty() {
            out.push(Output::Persist { ticket: None, changes, urgency: Urgency::WithNext });
        }
        brain.fetch.lack(now.at, &brain.inbox.lacking());
        brain.pump(now, &mut out);
        (brain, out)
    }

    /// One step.
    pub fn handle(&mut self, now: &Moment, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Connected => self.sessions.connected(now),
            Input::Disconnected => self.sessions.disconnected(),
            Input::Message { channel, payload } => self.message(now, channel, &payload, &mut out),
            Input::Reports(items) => items.into_iter().for_each(|item| self.say(item, &mut out)),
            Input::Facts(facts) => self.facts(facts, &mut out),
            Input::Persisted { ticket } => self.persisted(ticket, &mut out),
            Input::Stream(frame) => self.publish(Channel::UpStreams, &Up::Stream(frame), &mut out),
            Input::Tick => {}
        }
        self.pump(now, &mut out);
        out
    }

    /// When [`Input::Tick`] is due.
    pub fn deadline(&self) -> Option<DeviceTime> {
        let mut deadlines = vec![self.sessions.deadline()];
        if let Some(interval) = self.sessions.heartbeat_millis() {
            deadlines.extend([Some(self.pulse.due(interval)), self.fetch.deadline(), self.outbox.deadline()]);
            deadlines.push(self.unanswered_since().and_then(|since| self.sessions.silent_at(since)));
        }
        let least = DeviceTime(self.last_step.0.saturating_add(LEAST_STEP));
        deadlines.into_iter().flatten().min().map(|deadline| deadline.max(least))
    }

    /// How the link is.
    pub fn status(&self) -> LinkStatus {
        let times = self.sessions.since_and_heard();
        LinkStatus {
            connected: self.sessions.is_connected(),
            session_since: times.map(|(since, _)| since),
            heard: times.map(|(_, heard)| heard),
            accepted: self.confirmed.map(|(version, _)| version),
            unacknowledged: self.outbox.len(),
            lacking: self.inbox.lacking().len(),
            refusal: self.sessions.refusal().cloned(),
        }
    }

    fn message(&mut self, now: &Moment, channel: Channel, payload: &[u8], out: &mut Vec<Output>) {
        let envelope = match decode::<Open<Envelope>>(payload, MAX_PAYLOAD) {
            Ok(decoded) => decoded.value,
            Err(error) => return out.push(Output::Note(Note::Unreadable(error.to_string()))),
        };
        match (channel, envelope) {
            (Channel::Down, Open::Known(Envelope::Welcome(welcome))) => self.welcome(now, &welcome, out),
            (Channel::Down | Channel::DownStreams, Open::Known(Envelope::Sealed(sealed))) => {
                self.sealed(now, &sealed, out);
            }
            (Channel::Down, Open::Known(Envelope::Refusal(refusal))) => {
                self.sessions.refused(refusal.clone());
                out.push(Output::Note(Note::Refused(refusal)));
            }
            (Channel::Down, Open::Known(Envelope::NoSession(id))) => {
                if self.sessions.no_session(now, id) {
                    out.push(Output::Note(Note::NoSession));
                }
            }
            (_, Open::Unknown) => out.push(Output::Note(Note::Unfamiliar)),
            (_, Open::Known(_)) => {
                out.push(Output::Note(Note::Unreadable("not a message for a device on this topic".to_owned())));
            }
        }
    }

    fn welcome(&mut self, now: &Moment, welcome: &Welcome, out: &mut Vec<Output>) {
        let Some(payload) = self.sessions.welcome(now, welcome) else {
            return out.push(Output::Note(Note::StrayWelcome));
        };
        if let Some(id) = self.sessions.id() {
            out.push(Output::Note(Note::SessionBegan { id, bridge_version: payload.bridge_version }));
        }
        // The bridge may be another one, or have forgotten everything: tell all of it again.
        self.pulse.at_once();
        self.fetch.start_over(now.at);
        self.outbox.start_over();
        if let Some(facts) = self.facts.clone() {
            self.say(ReportItem::Facts(*facts), out);
        }
        out.push(Output::Resync);
    }

    fn sealed(&mut self, now: &Moment, sealed: &Sealed, out: &mut Vec<Output>) {
        let opened = match self.sessions.open(now, sealed) {
            Ok(opened) => opened,
            Err(error) => return out.push(Output::Note(Note::NotOpened(error.to_string()))),
        };
        if opened.unfamiliar {
            out.push(Output::Note(Note::Unfamiliar));
        }
        match opened.message {
            Open::Known(Down::Index(index)) => {
                let version = index.version;
                let verdict = self.inbox.index(index);
                self.judged(now, version, verdict, out);
            }
            Open::Known(Down::Chunk(chunk)) => {
                let hash = chunk.hash;
                match self.fetch.chunk(now.at, chunk) {
                    Arrival::Part => {}
                    Arrival::Whole(bytes) => self.object(now, hash, bytes, out),
                    Arrival::Corrupt => out.push(Output::Note(Note::ObjectCorrupt)),
                    Arrival::Refused(why) => out.push(Output::Note(Note::ChunkRefused(why))),
                }
            }
            Open::Known(Down::Ack(ack)) => {
                let changes = self.outbox.acknowledged(&ack.seqs);
                // If it is lost with a power cut, the bridge hears the same again and says again that it knows.
                persist_unawaited(changes, Urgency::WithNext, out);
                if let Some(told) = self.outbox.tell_dropped(now.at) {
                    self.say(told, out);
                }
            }
            Open::Known(Down::Ping(number)) => self.pulse.ping(number),
            // What is still under way of the session before knows nothing of the streams of this one.
            Open::Known(Down::Stream(_)) if !opened.live => {}
            Open::Known(Down::Stream(frame)) => out.push(Output::Stream(frame)),
            Open::Unknown => out.push(Output::Note(Note::Unfamiliar)),
        }
    }

    fn judged(&mut self, now: &Moment, version: Version, verdict: Verdict, out: &mut Vec<Output>) {
        let note = match verdict {
            Verdict::Accepted(changes) => {
                let accepted = self.inbox.accepted();
                let desired = Some(Arc::new(self.inbox.desired()));
                self.persist(changes, Unconfirmed { desired, accepted, ..Unconfirmed::default() }, out);
                self.fetch.lack(now.at, &self.inbox.lacking());
                Note::IndexAccepted(version)
            }
            Verdict::Confirmed => {
                let accepted = self.inbox.accepted();
                let desired = Some(Arc::new(self.inbox.desired()));
                // Nothing to write; through the ledger all the same, to keep its place behind what is being written.
                self.persist(Vec::new(), Unconfirmed { desired, accepted, ..Unconfirmed::default() }, out);
                return;
            }
            Verdict::Same => {
                // The bridge seems not to have heard what we have.
                self.pulse.at_once();
                return;
            }
            Verdict::Older => Note::IndexOlder(version),
            Verdict::Conflicts => Note::IndexConflicts(version),
            Verdict::Malformed => Note::IndexMalformed(version),
        };
        out.push(Output::Note(note));
    }

    fn object(&mut self, now: &Moment, hash: hawser_wire::ContentHash, bytes: Vec<u8>, out: &mut Vec<Output>) {
        let arrived = self.inbox.object(hash, bytes);
        if arrived.unfamiliar {
            out.push(Output::Note(Note::Unfamiliar));
        }
        if let Some(refused) = arrived.refused {
            self.say(ReportItem::Event(refusal_event(&refused, now.at)), out);
            out.push(Output::Note(Note::DeploymentRefused(refused.message)));
        }
        if arrived.changes.iter().any(|change| matches!(change, Change::Complete(..))) {
            let desired = Some(Arc::new(self.inbox.desired()));
            self.persist(arrived.changes, Unconfirmed { desired, ..Unconfirmed::default() }, out);
        } else {
            // Nothing is acted on yet; if it is lost with a power cut, it is fetched again.
            persist_unawaited(arrived.changes, Urgency::Soon, out);
        }
        self.fetch.lack(now.at, &self.inbox.lacking());
    }

    fn facts(&mut self, facts: Box<NodeFacts>, out: &mut Vec<Output>) {
        if self.facts.as_ref() != Some(&facts) {
            self.facts = Some(facts.clone());
            self.say(ReportItem::Facts(*facts), out);
        }
    }

    fn say(&mut self, item: ReportItem, out: &mut Vec<Output>) {
        let said = self.outbox.say(item);
        if let Some(len) = said.too_long {
            out.push(Output::Note(Note::ReportTooLong(len)));
        }
        if said.dropped {
            out.push(Output::Note(Note::EventsDropped(1)));
        }
        // Mostly it is acknowledged before "soon", and then never written.
        persist_unawaited(said.changes, Urgency::Soon, out);
    }

    fn persist(&mut self, changes: Vec<Change>, then: Unconfirmed, out: &mut Vec<Output>) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.unconfirmed.push_back(Unconfirmed { ticket, ..then });
        out.push(Output::Persist { ticket: Some(ticket), changes, urgency: Urgency::Now });
    }

    fn persisted(&mut self, ticket: u64, out: &mut Vec<Output>) {
        while let Some(confirmed) = self.unconfirmed.pop_front_if(|first| first.ticket <= ticket) {
            if confirmed.accepted.is_some() {
                self.confirmed = confirmed.accepted;
                self.heard = true;
                self.pulse.at_once();
            }
            if let Some(reserved) = confirmed.reserved {
                self.outbox.reserved(reserved);
            }
            if let Some(desired) = confirmed.desired {
                out.push(Output::Desired(desired));
            }
        }
    }

    /// Everything that is due.
    fn pump(&mut self, now: &Moment, out: &mut Vec<Output>) {
        self.last_step = now.at;
        if let Some(change) = self.outbox.reserve() {
            let reserved = Some(self.outbox.reserving());
            self.persist(vec![change], Unconfirmed { reserved, ..Unconfirmed::default() }, out);
        }
        if let Some(since) = self.unanswered_since()
            && self.sessions.answer_due_since(now, since)
        {
            out.push(Output::Note(Note::BridgeSilent));
        }
        self.greet(now, out);
        let Some(interval) = self.sessions.heartbeat_millis() else { return };
        if self.pulse.due(interval) <= now.at {
            let answers = self.pulse.send(now.at);
            let digest = self.told_digest();
            let beat = Heartbeat { boot: self.boot, now: now.at, wall_millis: now.wall_millis, digest, answers };
            self.publish(Channel::Up, &Up::Heartbeat(beat), out);
        }
        if let Some(want) = self.fetch.want(now.at, now.jitter) {
            self.publish(Channel::Up, &Up::Want(want), out);
        }
        for report in self.outbox.due(now.at, now.jitter) {
            self.publish(Channel::Up, &Up::Report(report), out);
        }
    }

    fn greet(&mut self, now: &Moment, out: &mut Vec<Output>) {
        let hello = HelloPayload {
            agent_version: self.agent_version.clone(),
            accepted: self.confirmed.map(|(version, _)| version),
            digest: self.told_digest(),
            boot: self.boot,
        };
        match self.sessions.hello_due(now, &hello) {
            Ok(Some(payload)) => out.push(Output::Publish { channel: Channel::Up, payload }),
            Ok(None) => {}
            Err(error) => out.push(Output::Note(Note::NotSealed(error.to_string()))),
        }
    }

    fn told_digest(&self) -> Option<Digest> {
        self.confirmed.filter(|_| self.heard).map(|(_, digest)| digest)
    }

    fn unanswered_since(&self) -> Option<DeviceTime> {
        let (said, asked) = (self.outbox.unanswered_since(), self.fetch.unanswered_since());
        said.into_iter().chain(asked).min()
    }

    fn publish(&mut self, channel: Channel, message: &Up, out: &mut Vec<Output>) {
        match self.sessions.seal(message) {
            Ok(Some(payload)) => out.push(Output::Publish { channel, payload }),
            // Without a session nothing is said; what must be heard is in the outbox.
            Ok(None) => {}
            Err(error) => out.push(Output::Note(Note::NotSealed(error.to_string()))),
        }
    }
}

fn persist_unawaited(changes: Vec<Change>, urgency: Urgency, out: &mut Vec<Output>) {
    if !changes.is_empty() {
        out.push(Output::Persist { ticket: None, changes, urgency });
    }
}
