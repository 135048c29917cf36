//! One device as the bridge sees it. Pure: events and the present moment in, effects out.
//!
//! The twin holds what the device is to run, keeps telling it until the device's heartbeat shows that it knows, serves
//! the bytes that the device asks for, passes on what the device reports, and acknowledges that only once the API server
//! holds it. It sends no index before the view of the API is complete: an index from half a view would stop workloads.
//!
//! This file holds what there is; [`life`], [`downwards`] and [`upwards`] what follows from it.

use std::net::IpAddr;
use std::time::Duration;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::report::NodeFacts;
use hawser_wire::session_messages::HelloPayload;
use hawser_wire::{AddressRange, DeviceTime, Digest, Down, Open, PodUid, Up};
use jiff::Timestamp;
use virtual_node::provider::{EventReport, Liveness, NodeReport, PodReport, Receipt};
use virtual_node::{NodeName, PodRef};

use super::clock::{DeviceClock, Moment};
pub use super::desired::Full;
use super::desired::{DesiredSet, Running, Wanted};
use super::inbox::Inbox;
pub use super::inbox::Ticket;
use super::version::Versions;
use crate::deployment::Prepared;

mod downwards;
mod life;
mod upwards;

/// The first index unanswered for this long is sent again, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(120);

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
    Synced {
        /// The addresses that the device's pods are to have.
        pod_ranges: Vec<AddressRange>,
    },
    /// The object of this pod is gone: it is not wanted any more.
    Forget(PodUid),
    /// The device has spoken in a new session.
    SessionOpened(HelloPayload),
    /// The device has said something that is not for the twin, in the present session.
    Heard,
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
    /// How far the device's wall clock was ahead of ours when it was last heard, in milliseconds.
    ahead: i64,
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
            ahead: 0,
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

    /// When it was here when it was that time there.
    pub fn to_timestamp(&self, time: DeviceTime) -> Option<Timestamp> {
        self.clock.to_timestamp(time)
    }

    /// When it was there when it was that time here.
    pub fn to_device(&self, when: Timestamp) -> Option<DeviceTime> {
        self.clock.to_device(when)
    }

    /// How far the device's wall clock was ahead of ours when it was last heard, in milliseconds.
    pub fn ahead(&self) -> i64 {
        self.ahead
    }

    /// The containers of each pod; `None`: it is not known which ones they are.
    pub fn containers(&self) -> impl Iterator<Item = (PodUid, Option<Vec<String>>)> {
        self.desired.deployments().map(|(uid, spec)| {
            let names =
                |spec: EdgeDeployment| spec.all_containers().map(|(container, _)| container.name.clone()).collect();
            (uid.clone(), spec.map(names))
        })
    }

    /// Which pod of the device this is.
    pub fn pod(&self, uid: &PodUid) -> Option<&PodRef> {
        self.desired.get(uid).map(|entry| &entry.pod)
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
            Event::Synced { pod_ranges } => {
                self.synced = true;
                self.desired.set_ranges(pod_ranges);
            }
            Event::Forget(uid) => self.remove(&uid),
            Event::SessionOpened(hello) => self.open(hello, context, effects),
            Event::SessionClosed => self.link = None,
            Event::Message(message) => self.hear(message, context, effects),
            Event::Heard if self.link.is_some() => self.heard(context.now, effects),
            Event::Heard => {}
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
            // Frames of streams are not given to the twin.
            Open::Known(Up::Stream(_)) | Open::Unknown => effects.push(Effect::Count(Counted::Unfamiliar)),
        }
    }
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
