//! The life of one pod. Pure: facts and `now` go in, effects come out.
//!
//! [`Lifecycle`] is owned by one task (or one simulation). It is told what happened ([`Event`]), answers with what is to
//! be done ([`Effect`]), and each effect that can succeed or fail comes back as an event. It is level-triggered: after
//! every event it looks at the whole pod again, so a lost or repeated event costs time and nothing else. When
//! [`wake`](Lifecycle::wake) has come, tell it [`Event::Tick`].
//!
//! Whoever drives it makes [`encode`](Lifecycle::encode) durable before carrying out the effects of the same call. The
//! number of an attempt is therefore known before the attempt is made, and since a runtime starts an attempt at most
//! once, nothing is ever started twice and no restart is forgotten.

use std::sync::Arc;
use std::time::Duration;

use hawser_wire::deployment::{
    Care, Container as Described, ContainerKind, EdgeDeployment, Hindrance, RestartAction, RestartPolicy,
};
use hawser_wire::report::{DeviceEvent, Gone, WorkloadReport};
use hawser_wire::{DeviceTime, PodUid};

use self::prober::{First, Next};
use self::record::{Activity, BackOff, Container, Health, Outcome, Policy, Record, Role, Stage, doubled, millis};
use self::resize::{Applying, Asking};
use crate::desired::Deployment;
use crate::runtime::{
    ContainerId, Exit, ExitCause, Found, FoundState, ImageProblem, NewSize, PodReady, Refusal, Resized, Signal,
    Started, Told,
};
use crate::workloads::plan::Order;

mod adopt;
mod advance;
mod allotment;
mod answers;
mod care;
#[cfg(test)]
pub(super) mod fixtures;
mod hook;
mod orders;
mod prober;
mod record;
mod resize;
mod restart;
mod status;
mod stop;
#[cfg(test)]
mod tests;

pub use self::hook::{HookCall, HookEnd, HookKind, ProbeCall};
pub use self::prober::{ProbeAnswer, ProbeKind};
pub use self::record::RecordError;
pub use self::resize::NoRoom;

/// The life of one pod.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    uid: PodUid,
    scheme: &'static str,
    /// What survives a restart of the agent.
    record: Record,
    /// The order in force. Where it is older than what is in `record`, the record wins: what has ended stays so.
    goal: Goal,
    /// What is wanted, with the limits and requests that it was given.
    spec: Option<Arc<EdgeDeployment>>,
    /// What is wanted, with those that it asks for.
    wished: Option<Arc<EdgeDeployment>>,
    asking: Asking,
    applying: Applying,
    /// How long to wait after the next failure to apply what it was given.
    apply_delay: u64,
    /// Nothing is decided before it is known what runs.
    inventory_known: bool,
    place: Place,
    /// [`Effect::Prepare`] is not answered yet.
    preparing: bool,
    /// The volumes have changed since `place` was made.
    place_outdated: bool,
    /// What the containers are for was guessed, because the record was lost.
    roles_guessed: bool,
    /// A stop without any grace was asked for.
    forced: bool,
    removal: Removal,
    device_addresses: Vec<String>,
    wake: Option<u64>,
}

/// What the order in force wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Nothing new.
    Hold,
    Run,
    /// End, and stay.
    Stop,
    /// End without saying that it is gone.
    Retain,
    /// End and vanish.
    Remove,
}

/// The pod's directories and volumes, or its sandbox.
#[derive(Debug, Clone)]
enum Place {
    Unmade,
    /// It is tried again at `retry`. That it still fails is said after `quiet_until`, and then after twice as long.
    Failed {
        reason: &'static str,
        message: String,
        retry: u64,
        quiet_until: u64,
        quiet: u64,
    },
    Made {
        addresses: Option<Vec<String>>,
    },
}

/// How far the removal of the remains is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    None,
    Asked { delay: u64 },
    Failed { retry: u64, delay: u64 },
    Done,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Said once, before anything else is decided: what the runtime knows of this pod, and in which
    /// [epoch](crate::runtime::Runtime::epoch).
    Inventory {
        /// The runtime's present life.
        epoch: String,
        /// What it knows of this pod.
        found: Vec<Found>,
    },
    /// What is wanted.
    Order(Order),
    /// The answer to [`Effect::Prepare`].
    Prepared(Result<PodReady, PlaceProblem>),
    /// Also an answer to [`Effect::Prepare`]: the pod can never be taken in here.
    Rejected(Refusal),
    /// The answer to [`Effect::Start`].
    Started(ContainerId, Result<Started, StartProblem>),
    /// The answer to [`Effect::Watch`].
    Ended(ContainerId, Exit),
    /// The answer to [`Effect::Probe`].
    Probed(ContainerId, ProbeKind, ProbeAnswer),
    /// The answer to [`Effect::Hook`].
    Hooked(ContainerId, HookKind, HookEnd),
    /// The answer to [`Effect::RemovePod`].
    Removed(Result<(), String>),
    /// The answer to [`Effect::SeekRoom`].
    GivenRoom(Arc<EdgeDeployment>, Result<(), NoRoom>),
    /// There may be room for pods that had none.
    RoomMade,
    /// The answer to [`Effect::Resize`].
    Resized(NewSize, Resized),
    /// The device's addresses are these now.
    Addresses(Vec<String>),
    /// The device cannot keep it, for this reason in words.
    Evicted(String),
    /// [`Lifecycle::wake`] has come.
    Tick,
}

/// Why a pod's place could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceProblem {
    /// The event's reason.
    pub reason: &'static str,
    /// What was wrong.
    pub message: String,
    /// After how many milliseconds it is tried again.
    pub pause: u64,
}

/// How soon a pod's place is tried again, as with a kubelet: what stands in the way may be gone any moment.
const PLACE_AGAIN: u64 = 10_000;
/// The same while the device has no network for pods: whoever makes it has just begun.
const NETWORK_AGAIN: u64 = 2_000;

impl PlaceProblem {
    /// Volumes or directories.
    pub fn volumes(message: String) -> Self {
        Self { reason: "FailedMount", message, pause: PLACE_AGAIN }
    }

    /// What containers share.
    pub fn sandbox(message: String) -> Self {
        Self { reason: "FailedCreatePodSandBox", message, pause: PLACE_AGAIN }
    }

    /// There is no network for it.
    pub fn network(message: String) -> Self {
        Self { reason: "NetworkNotReady", message, pause: NETWORK_AGAIN }
    }
}

/// Why a container was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartProblem {
    /// It can never run here as it is described; not tried again until the description changes.
    Refused(Refusal),
    /// There is no image. Tried again with back-off.
    NoImage(ImageProblem),
    /// It was not waited for any longer.
    Abandoned,
    /// The pod's place is gone, so it is made anew and the container started in that.
    NoPlace(String),
    /// There is no container. Tried again with back-off.
    NotCreated(String),
    /// There is no container, because what it is to be does not fit what is on the device. Tried again with back-off.
    Config(String),
    /// Its program could not be started: the attempt has ended with this code.
    NotStarted {
        /// The exit code it counts as.
        code: i32,
        /// What was wrong.
        message: String,
    },
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Make the pod's place, or bring its volumes up to date.
    Prepare(Arc<EdgeDeployment>),
    /// Start a container.
    Start(ContainerId, Arc<EdgeDeployment>),
    /// Say when it ends.
    Watch(ContainerId),
    /// Send it a signal. There is no answer: if it was not heard, it is sent again.
    Signal(ContainerId, Signal),
    /// Ask a probe, once.
    Probe(ProbeCall),
    /// Carry out a hook.
    Hook(HookCall),
    /// Remove what is left of an old attempt. There is no answer: what stays goes with the pod.
    Remove(ContainerId),
    /// Kill and remove everything of the pod.
    RemovePod,
    /// Find room for what it is to use from now on.
    SeekRoom(Arc<EdgeDeployment>),
    /// Give other limits and requests to what runs.
    Resize(NewSize),
    /// Report an event.
    Event(DeviceEvent),
    /// Report that nothing of the pod runs any more.
    Gone(Box<Gone>),
    /// Forget the record: this life is over.
    Forget,
}

/// How long the words of a failed pull are shown before its back-off is.
const SHOW_PULL_ERROR: u64 = 2_000;
/// What the containers of an evicted pod get between TERM and KILL: what it takes from the device is needed now.
const EVICTION_GRACE: u64 = 1_000;

impl Lifecycle {
    /// A pod of which nothing is known. `scheme` is how container ids begin.
    pub fn new(uid: PodUid, scheme: &'static str) -> Self {
        Self {
            uid,
            scheme,
            record: Record::default(),
            goal: Goal::Hold,
            spec: None,
            wished: None,
            asking: Asking::Due,
            applying: Applying::Idle,
            apply_delay: 0,
            inventory_known: false,
            place: Place::Unmade,
            preparing: false,
            place_outdated: false,
            roles_guessed: false,
            forced: false,
            removal: Removal::None,
            device_addresses: Vec::new(),
            wake: None,
        }
    }

    /// A pod as [`encode`](Self::encode) left it.
    pub fn recover(uid: PodUid, scheme: &'static str, bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(Self { record: record::decode(bytes)?, ..Self::new(uid, scheme) })
    }

    /// What must be durable before the effects are carried out.
    pub fn encode(&self) -> Vec<u8> {
        record::encode(&self.record)
    }

    /// Whether there is anything worth saving.
    pub fn is_blank(&self) -> bool {
        self.record == Record::default()
    }

    /// Whether nothing is started any more: it was told to end, or has ended for good.
    pub fn is_ending(&self) -> bool {
        self.record.outcome.is_some() || !matches!(self.goal, Goal::Hold | Goal::Run)
    }

    /// Whether anything of it runs or has ever run.
    pub fn has_begun(&self) -> bool {
        self.record.containers.iter().any(|c| c.is_alive() || c.exit.is_some() || c.last.is_some())
    }

    /// Whether it has ended for good, and nothing of it runs any more.
    pub fn has_ended(&self) -> bool {
        self.record.outcome.is_some() && !self.record.containers.iter().any(Container::is_alive)
    }

    /// When to say [`Event::Tick`].
    pub fn wake(&self) -> Option<DeviceTime> {
        self.wake.map(DeviceTime)
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: DeviceTime, event: Event) -> Vec<Effect> {
        let now = now.0;
        let mut out = Effects { uid: self.uid.clone(), now, list: Vec::new() };
        self.take_in(now, event, &mut out);
        self.wake = None;
        if self.inventory_known {
            self.advance(now, &mut out);
        }
        out.list
    }

    fn take_in(&mut self, now: u64, event: Event, out: &mut Effects) {
        match event {
            Event::Inventory { epoch, found } => self.adopt(now, epoch, found, out),
            Event::Order(order) => self.obey(now, order),
            Event::Prepared(result) => self.prepared(now, result, out),
            Event::Rejected(refusal) => self.reject(refusal, out),
            Event::Started(id, result) => self.started(now, &id, result, out),
            Event::Ended(id, exit) => self.ended(now, &id, exit),
            Event::Probed(id, kind, answer) => self.probed(now, &id, kind, &answer, out),
            Event::Hooked(id, kind, end) => self.hooked(now, &id, kind, &end, out),
            Event::Removed(result) => self.removed(now, result, out),
            Event::GivenRoom(of, result) => self.given_room(&of, result, out),
            Event::RoomMade => self.room_made(),
            Event::Resized(of, result) => self.resized(now, &of, result, out),
            Event::Addresses(addresses) => self.device_addresses = addresses,
            Event::Evicted(message) => self.evict(now, message, out),
            Event::Tick => {}
        }
    }

    /// The container with this id, unless it is of an older attempt.
    fn current(&mut self, id: &ContainerId) -> Option<&mut Container> {
        self.record.containers.iter_mut().find(|c| c.name == id.name && c.attempt == Some(id.attempt))
    }

    /// How the pod was when it ended, and that it is gone.
    fn say_gone(&mut self, out: &mut Effects) {
        if !self.record.gone {
            self.record.gone = true;
            out.push(Effect::Gone(Box::new(self.gone())));
        }
    }

    fn gone(&self) -> Gone {
        Gone { uid: self.uid.clone(), last: self.make_report(true) }
    }

    /// What to say when everything is to be said again.
    pub fn resync(&self, now: DeviceTime) -> Resync {
        if self.record.gone {
            Resync::Gone(Box::new(self.gone()))
        } else {
            self.report(now).map_or(Resync::Nothing, |report| Resync::Workload(Box::new(report)))
        }
    }

    fn full_name(&self) -> String {
        format!("{}_{}({})", self.record.name, self.record.namespace, self.uid)
    }
}

/// What to say about a pod when everything is to be said again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resync {
    /// Nothing is known of it.
    Nothing,
    /// How it is.
    Workload(Box<WorkloadReport>),
    /// It is gone.
    Gone(Box<Gone>),
}

/// Effects being collected.
struct Effects {
    uid: PodUid,
    now: u64,
    list: Vec<Effect>,
}

impl Effects {
    fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    fn event(&mut self, container: Option<&str>, warning: bool, reason: &str, message: &str) {
        self.event_of(container, warning, reason, message, 1);
    }

    /// An event that stands for several.
    fn event_of(&mut self, container: Option<&str>, warning: bool, reason: &str, message: &str, count: u32) {
        self.push(Effect::Event(DeviceEvent {
            pod: Some(self.uid.clone()),
            container: container.map(str::to_owned),
            at: DeviceTime(self.now),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count,
        }));
    }

    fn id(&self, name: &str, attempt: u32) -> ContainerId {
        ContainerId { pod: self.uid.clone(), name: name.to_owned(), attempt }
    }
}
