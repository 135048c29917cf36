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

use hawser_wire::deployment::{EdgeDeployment, RestartPolicy};
use hawser_wire::report::{DeviceEvent, Gone, WorkloadReport};
use hawser_wire::{DeviceTime, PodUid};

use self::record::{Activity, BackOff, Container, Outcome, Policy, Record, Role, doubled, millis};
use crate::desired::Deployment;
use crate::runtime::{
    ContainerId, Exit, ExitCause, Found, FoundState, ImageProblem, PodReady, Refusal, Signal, Started,
};
use crate::workloads::plan::Order;

mod record;
mod status;
#[cfg(test)]
mod tests;

pub use self::record::RecordError;

/// The life of one pod.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    uid: PodUid,
    scheme: &'static str,
    /// What survives a restart of the agent.
    record: Record,
    /// The order in force. Where it is older than what is in `record`, the record wins: what has ended stays so.
    goal: Goal,
    spec: Option<Arc<EdgeDeployment>>,
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
    Failed { message: String, retry: u64, delay: u64 },
    Made { addresses: Option<Vec<String>> },
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
    /// The answer to [`Effect::Start`].
    Started(ContainerId, Result<Started, StartProblem>),
    /// The answer to [`Effect::Watch`].
    Ended(ContainerId, Exit),
    /// The answer to [`Effect::RemovePod`].
    Removed(Result<(), String>),
    /// The device's addresses are these now.
    Addresses(Vec<String>),
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
}

impl PlaceProblem {
    /// Volumes or directories.
    pub fn volumes(message: String) -> Self {
        Self { reason: "FailedMount", message }
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
    /// Remove what is left of an old attempt. There is no answer: what stays goes with the pod.
    Remove(ContainerId),
    /// Kill and remove everything of the pod.
    RemovePod,
    /// Report an event.
    Event(DeviceEvent),
    /// Report that nothing of the pod runs any more.
    Gone(Box<Gone>),
    /// Forget the record: this life is over.
    Forget,
}

/// A killed container that has not ended is killed again after this time.
const KILL_AGAIN: u64 = 10_000;
/// How long the words of a failed pull are shown before its back-off is.
const SHOW_PULL_ERROR: u64 = 2_000;
/// What a sidecar gets at least between TERM and KILL, even if the containers before it used up the grace period.
const SIDECAR_GRACE: u64 = 2_000;

impl Lifecycle {
    /// A pod of which nothing is known. `scheme` is how container ids begin.
    pub fn new(uid: PodUid, scheme: &'static str) -> Self {
        Self {
            uid,
            scheme,
            record: Record::default(),
            goal: Goal::Hold,
            spec: None,
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
            Event::Started(id, result) => self.started(now, &id, result, out),
            Event::Ended(id, exit) => self.ended(now, &id, exit),
            Event::Removed(result) => self.removed(now, result, out),
            Event::Addresses(addresses) => self.device_addresses = addresses,
            Event::Tick => {}
        }
    }

    fn obey(&mut self, now: u64, order: Order) {
        match order {
            Order::Hold => {}
            Order::Run(deployment) => {
                if matches!(self.goal, Goal::Hold | Goal::Run) && !self.record.gone {
                    self.goal = Goal::Run;
                    self.describe(now, deployment);
                } else if self.goal == Goal::Stop || self.record.gone {
                    // What was told to end is not called back. It is wanted again (the cluster was restored to a time
                    // before the deletion), so this life is brought to its end, and the next one starts afresh.
                    self.goal = Goal::Remove;
                }
            }
            Order::Stop { grace } => {
                if self.goal != Goal::Remove {
                    self.goal = Goal::Stop;
                }
                self.forced |= grace.is_zero();
                self.shorten(now.saturating_add(millis(grace)));
            }
            Order::Retain => {
                if matches!(self.goal, Goal::Hold | Goal::Run) {
                    self.goal = Goal::Retain;
                }
            }
            Order::Remove => self.goal = Goal::Remove,
        }
    }

    /// The shorter grace period wins.
    fn shorten(&mut self, kill_at: u64) {
        let kill_at = self.record.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at));
        self.record.kill_at = Some(kill_at);
        for container in &mut self.record.containers {
            if let Activity::Stopping { kill_at: old, .. } = &mut container.activity {
                *old = kill_at.min(*old);
            }
        }
    }

    /// Takes over what the pod is to be.
    fn describe(&mut self, now: u64, deployment: Deployment) {
        let hash = Some(deployment.hash.0);
        if self.spec.is_some() && self.record.deployment == hash {
            return;
        }
        let spec = deployment.spec;
        let record = &mut self.record;
        record.deployment = hash;
        record.namespace.clone_from(&spec.namespace);
        record.name.clone_from(&spec.name);
        record.grace_seconds = spec.grace_seconds;
        record.policy = match spec.restart_policy {
            RestartPolicy::Always => Policy::Always,
            RestartPolicy::OnFailure => Policy::OnFailure,
            RestartPolicy::Never => Policy::Never,
        };
        record.taken_at.get_or_insert(now);
        self.describe_containers(&spec);
        if std::mem::take(&mut self.roles_guessed) {
            // A main container was started, so the init containers had done their work.
            self.record.initialised =
                self.record.containers.iter().any(|c| c.role == Role::Main && c.attempt.is_some());
        }
        self.place_outdated |= self.spec.as_ref().is_some_and(|old| old.volumes != spec.volumes);
        if let Place::Failed { retry, .. } = &mut self.place {
            *retry = now;
        }
        self.spec = Some(spec);
    }

    fn describe_containers(&mut self, spec: &EdgeDeployment) {
        let mut old = std::mem::take(&mut self.record.containers);
        for (described, init) in spec.all_containers() {
            let role = match (init, described.sidecar) {
                (true, true) => Role::Sidecar,
                (true, false) => Role::Init,
                (false, _) => Role::Main,
            };
            let mut container = match old.iter().position(|c| c.name == described.name) {
                Some(at) => old.remove(at),
                None => Container::new(&described.name, role),
            };
            container.role = role;
            // The image of what runs is compared later; one that neither the record nor the runtime remembers is taken to be
            // the right one, since nothing is stopped for what was forgotten.
            if container.image.is_empty() || (!container.is_alive() && container.image != described.image) {
                container.image.clone_from(&described.image);
                container.back_off = None;
            }
            if matches!(container.activity, Activity::Blocked { .. } | Activity::NoImage { .. }) {
                container.activity = Activity::Idle;
            }
            self.record.containers.push(container);
        }
        for mut stray in old {
            if stray.is_alive() || (stray.exit.is_none() && stray.attempt.is_some()) {
                stray.role = Role::Stray;
                self.record.containers.push(stray);
            }
        }
    }

    /// Compares what was decided with what the runtime knows.
    fn adopt(&mut self, now: u64, epoch: String, mut found: Vec<Found>, out: &mut Effects) {
        let rebooted = self.record.epoch.as_ref().is_some_and(|last| *last != epoch);
        self.record.epoch = Some(epoch);
        self.inventory_known = true;
        found.sort_by_key(|found| found.id.attempt);
        for Found { id, image, handle, state } in found {
            let at = self.position_or_new(&id.name);
            let container = &mut self.record.containers[at];
            match container.attempt {
                Some(newer) if newer > id.attempt => {
                    if matches!(state, FoundState::Running { .. }) {
                        out.push(Effect::Signal(id, Signal::Kill));
                    }
                    continue;
                }
                Some(same) if same == id.attempt => {}
                // The record is older than what ran, or was lost.
                _ => {
                    if let Some(exit) = container.exit.take() {
                        container.last = Some(exit);
                    }
                    container.attempt = Some(id.attempt);
                    container.since = None;
                    // The record told of another attempt.
                    container.image.clear();
                }
            }
            if container.image.is_empty() {
                container.image = image.unwrap_or_default();
            }
            container.handle = handle;
            match state {
                FoundState::Running { started_ago } => {
                    container.exit = None;
                    container.since.get_or_insert(now.saturating_sub(millis(started_ago)));
                    container.activity = Activity::Running;
                    out.push(Effect::Watch(id));
                }
                FoundState::Ended(exit) if container.exit.is_none() => {
                    if let (None, Some(ran)) = (container.since, exit.ran) {
                        let ago = millis(exit.ago.unwrap_or_default());
                        container.since = Some(now.saturating_sub(ago + millis(ran)));
                    }
                    container.end(now, exit);
                }
                FoundState::Ended(_) => {}
            }
        }
        if rebooted {
            self.start_over(now);
        }
    }

    fn position_or_new(&mut self, name: &str) -> usize {
        let containers = &mut self.record.containers;
        containers.iter().position(|c| c.name == name).unwrap_or_else(|| {
            // What it is for is said by the next order.
            self.roles_guessed = true;
            containers.push(Container::new(name, Role::Main));
            containers.len() - 1
        })
    }

    /// Everything that ran is gone: init containers run again, and back-off is forgotten, as after a kubelet's reboot.
    fn start_over(&mut self, now: u64) {
        let policy = self.record.policy;
        for container in &mut self.record.containers {
            if container.attempt.is_some() && container.exit.is_none() && !container.is_alive() {
                container.end(now, Exit::lost(LOST));
            }
            container.back_off = None;
        }
        let any_started = self.record.containers.iter().any(|c| c.attempt.is_some());
        let mains = || self.record.containers.iter().filter(|c| c.role == Role::Main);
        if self.record.outcome.is_some() || !any_started || mains().all(|c| c.exit.is_some() && !c.wants_start(policy))
        {
            return;
        }
        if policy == Policy::Never {
            self.record.outcome = Some(Outcome { succeeded: false, reason: None, message: None });
            return;
        }
        self.record.initialised = false;
        for container in &mut self.record.containers {
            if container.role == Role::Init && container.exit.is_some() {
                container.afresh = true;
            }
        }
    }

    fn prepared(&mut self, now: u64, result: Result<PodReady, PlaceProblem>, out: &mut Effects) {
        self.preparing = false;
        match result {
            Ok(ready) => self.place = Place::Made { addresses: ready.addresses },
            Err(PlaceProblem { reason, message }) => {
                let delay = match &self.place {
                    Place::Failed { delay, .. } => doubled(*delay),
                    Place::Unmade | Place::Made { .. } => doubled(0),
                };
                out.event(None, true, reason, &message);
                // Where a place was made before, what runs in it goes on; only the change has to wait.
                self.place = Place::Failed { message, retry: now + delay, delay };
            }
        }
    }

    fn started(&mut self, now: u64, id: &ContainerId, result: Result<Started, StartProblem>, out: &mut Effects) {
        let Some(container) = self.current(id) else { return };
        if container.activity != Activity::Starting {
            return;
        }
        match result {
            Ok(Started { handle, not_enforced }) => {
                container.handle = handle;
                container.create_delay = 0;
                // A slow start (a pull) is worth another write; a fast one is not, and the time of the decision is
                // close enough, and the same after every restart of the agent.
                if container.since.is_none_or(|since| now.saturating_sub(since) > 1_000) {
                    container.since = Some(now);
                }
                container.activity = Activity::Running;
                out.event(Some(&id.name), false, "Created", "Container created");
                out.event(Some(&id.name), false, "Started", "Container started");
                out.push(Effect::Watch(id.clone()));
                // Told once, not at every restart.
                if !not_enforced.is_empty() && container.not_enforced != not_enforced {
                    out.event(Some(&id.name), true, "NotEnforced", &not_enforced.join("; "));
                    container.not_enforced = not_enforced;
                }
            }
            Err(StartProblem::Refused(Refusal { reason, message })) => {
                out.event(Some(&id.name), true, "Failed", &message);
                container.activity = Activity::Blocked { reason, message, retry: None };
            }
            Err(StartProblem::NoImage(ImageProblem { reason, message })) => {
                let image = container.image.clone();
                if reason == "ErrImagePull" {
                    out.event(Some(&id.name), true, "Failed", &format!("Failed to pull image \"{image}\": {message}"));
                }
                out.event(Some(&id.name), true, "Failed", &format!("Error: {reason}"));
                let delay = doubled(container.create_delay);
                container.create_delay = delay;
                container.activity =
                    Activity::NoImage { reason, message, since: now, retry: now + delay, announced: false };
            }
            Err(StartProblem::Abandoned) => container.activity = Activity::Idle,
            Err(StartProblem::NoPlace(message)) => {
                // At once the first time, then at leisure.
                let retry = now + container.create_delay;
                container.create_delay = doubled(container.create_delay);
                container.activity =
                    Activity::Blocked { reason: "ContainerCreating".to_owned(), message, retry: Some(retry) };
                if matches!(self.place, Place::Made { .. }) {
                    out.event(None, false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
                    self.place = Place::Unmade;
                }
            }
            Err(ref problem @ (StartProblem::NotCreated(ref message) | StartProblem::Config(ref message))) => {
                out.event(Some(&id.name), true, "Failed", &format!("Error: {message}"));
                let delay = doubled(container.create_delay);
                container.create_delay = delay;
                let reason = match problem {
                    StartProblem::Config(_) => "CreateContainerConfigError",
                    _ => "CreateContainerError",
                };
                container.activity =
                    Activity::Blocked { reason: reason.to_owned(), message: message.clone(), retry: Some(now + delay) };
            }
            Err(StartProblem::NotStarted { code, message }) => {
                out.event(Some(&id.name), false, "Created", "Container created");
                out.event(Some(&id.name), true, "Failed", &format!("Error: {message}"));
                let exit = Exit { code, cause: ExitCause::Start, ..Exit::lost(&message) };
                container.end(now, exit);
            }
        }
    }

    fn ended(&mut self, now: u64, id: &ContainerId, exit: Exit) {
        if let Some(container) = self.current(id)
            && container.exit.is_none()
        {
            container.end(now, exit);
        }
    }

    fn removed(&mut self, now: u64, result: Result<(), String>, out: &mut Effects) {
        let Removal::Asked { delay } = self.removal else { return };
        self.removal = match result {
            Ok(()) => {
                out.push(Effect::Forget);
                Removal::Done
            }
            Err(message) => {
                let delay = doubled(delay);
                out.event(None, true, "FailedKillPod", &format!("cannot remove what is left of the pod: {message}"));
                Removal::Failed { retry: now + delay, delay }
            }
        };
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

const LOST: &str = "nobody saw how the container ended: the device was restarted, or what watched over it was killed";

mod advance;

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
        self.push(Effect::Event(DeviceEvent {
            pod: Some(self.uid.clone()),
            container: container.map(str::to_owned),
            at: DeviceTime(self.now),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        }));
    }

    fn id(&self, name: &str, attempt: u32) -> ContainerId {
        ContainerId { pod: self.uid.clone(), name: name.to_owned(), attempt }
    }
}
