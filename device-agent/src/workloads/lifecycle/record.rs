//! What of a pod's life survives the agent, and its encoding.
//!
//! Times are milliseconds on the device's timeline ([`DeviceTime`](hawser_wire::DeviceTime)).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::allotment::{Allotment, Amounts};
use super::prober::{ProbeKind, Prober};
use super::restart::Rule;
use crate::runtime::{Exit, ExitCause, Handle};

/// The first byte of an encoded record. A later version that cannot be read by this one has another.
const VERSION: u8 = 1;
/// A record longer than this is none of ours.
const MAX_RECORD: usize = 256 * 1024;

/// One pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The hash of the edge deployment that is acted on.
    pub(super) deployment: Option<[u8; 32]>,
    pub(super) policy: Policy,
    pub(super) grace_seconds: u32,
    /// The runtime's life in which the containers were started.
    pub(super) epoch: Option<String>,
    /// When the device took the pod over.
    pub(super) taken_at: Option<u64>,
    /// All init containers have done their work in this epoch.
    pub(super) initialised: bool,
    /// A container ended in a way that means that all are started again, and not all have ended yet.
    pub(super) restarting_all: bool,
    /// The pod has ended for good.
    pub(super) outcome: Option<Outcome>,
    /// When what still runs of a stopping or ended pod is killed.
    pub(super) kill_at: Option<u64>,
    /// Nothing runs any more and nothing will: said once with `Gone`.
    pub(super) gone: bool,
    /// What the device lets it use; `None`: what its description says.
    pub(super) allotment: Option<Allotment>,
    /// Why that is not what its description says.
    pub(super) pending: Option<Pending>,
    /// It is, and not all of it has been applied.
    pub(super) resizing: Option<Resizing>,
    /// What holds for the pod as a whole is not what it was given.
    pub(super) outgrown: bool,
    /// Init containers first, as in the pod; those that were added to look at it last.
    pub(super) containers: Vec<Container>,
    /// Where those that were added are while the record is encoded: an agent that does not know them skips them.
    ephemeral: Vec<Container>,
}

/// Why a pod does not get what its description says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// It never will; else it does when there is room.
    pub(super) infeasible: bool,
    pub(super) message: String,
    pub(super) generation: Option<u64>,
}

/// What a pod was given is being applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resizing {
    pub(super) generation: Option<u64>,
    /// Why that failed the last time.
    pub(super) error: Option<String>,
}

/// Whether containers that end are started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Policy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// How a pod ended for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) succeeded: bool,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    /// It was never taken in.
    #[serde(default)]
    pub(super) rejected: bool,
}

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// A restartable init container.
    Sidecar,
    Main,
    /// Was added to look at the pod: started once, and nothing follows from how it does.
    Ephemeral,
    /// Runs, but is not part of the pod any more.
    Stray,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) role: Role,
    /// The image of the newest attempt.
    pub(super) image: String,
    /// The newest attempt that was decided on; it is saved before it is acted on.
    pub(super) attempt: Option<u32>,
    /// What the runtime calls the newest attempt that it has made.
    #[serde(default)]
    pub(super) handle: Handle,
    /// When the newest attempt was started.
    pub(super) since: Option<u64>,
    /// How the newest attempt ended.
    pub(super) exit: Option<Ended>,
    /// How the attempt before it ended.
    pub(super) last: Option<Ended>,
    pub(super) back_off: Option<BackOff>,
    /// It is started again at once and whatever the policy says: its definition or its epoch has changed.
    pub(super) afresh: bool,
    /// How it was said to be last; `None`: nobody has asked about this attempt.
    #[serde(default)]
    pub(super) health: Option<Health>,
    /// It was ended, or has to begin again, so it is started again even if it ended well.
    #[serde(default)]
    pub(super) revive: bool,
    /// Its own restart policy; `None`: the pod's.
    #[serde(default)]
    pub(super) own_policy: Option<Policy>,
    /// Exit codes for which no policy counts.
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
    /// What of its description does not hold here, as it was told last.
    #[serde(default)]
    pub(super) not_enforced: Vec<String>,
    /// What the newest attempt was given; `None`: nobody remembers.
    #[serde(default)]
    pub(super) given: Option<Amounts>,
    /// What its pod had as a whole then, whose limits are its own where it has none; `None`: nobody remembers.
    #[serde(default)]
    pub(super) within: Option<Amounts>,
    /// What it is doing; found out again after a restart of the agent.
    #[serde(skip)]
    pub(super) activity: Activity,
    /// How long to wait after the next failure to create it.
    #[serde(skip)]
    pub(super) create_delay: u64,
    /// It runs, and its postStart hook is not done.
    #[serde(skip)]
    pub(super) starting_hook: bool,
    /// It ran already when the agent started.
    #[serde(skip)]
    pub(super) adopted: bool,
    /// By [`ProbeKind`].
    #[serde(skip)]
    pub(super) probers: [Prober; ProbeKind::ALL.len()],
    /// The probe that says that it has to end.
    #[serde(skip)]
    pub(super) unwell: Option<ProbeKind>,
}

/// How a container that runs is, as its probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Health {
    pub(super) started: bool,
    pub(super) ready: bool,
}

/// What a container is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Activity {
    /// Nothing runs: it waits for its turn, or has ended.
    #[default]
    Idle,
    /// It has ended and is started again at `until`.
    BackOff { until: u64, delay: u64, announced: bool },
    /// There is no container for its attempt; `retry` is when to try again, never if it was refused.
    Blocked { reason: String, message: String, retry: Option<u64> },
    /// There is no image for its attempt, its own or that of a volume; it is looked for again at `retry`.
    NoImage { image: String, reason: String, message: String, since: u64, retry: u64, announced: bool },
    /// Start was asked for.
    Starting,
    /// It runs.
    Running,
    /// It runs and is to end.
    Stopping { kill_at: u64, stage: Stage },
}

/// How far a container is that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its preStop hook is being carried out.
    Hook,
    /// Others end before it.
    Turn,
    /// It was told, and killed at this time.
    Told { killed_at: Option<u64> },
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) attempt: u32,
    /// What the runtime called it; empty: by its attempt.
    #[serde(default)]
    pub(super) container: String,
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    pub(super) cause: ExitCause,
    pub(super) message: Option<String>,
    pub(super) started_at: Option<u64>,
    pub(super) finished_at: u64,
}

/// How long a container that ended waits. `delay` is for its next end, if that comes soon enough after `updated_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackOff {
    pub(super) delay: u64,
    pub(super) updated_at: u64,
}

const FIRST_DELAY: u64 = 10_000;
const LONGEST_DELAY: u64 = 300_000;

/// The delay after `delay`.
pub(super) fn doubled(delay: u64) -> u64 {
    if delay == 0 { FIRST_DELAY } else { (delay * 2).min(LONGEST_DELAY) }
}

impl BackOff {
    /// A kubelet forgets a back-off when the container ended later than twice the longest delay after its last start.
    fn expired(self, finished_at: u64) -> bool {
        finished_at.saturating_sub(self.updated_at) > 2 * LONGEST_DELAY
    }

    /// How long a container that ended at `finished_at` waits from then on.
    pub(super) fn wait(this: Option<Self>, finished_at: u64) -> u64 {
        this.filter(|back_off| !back_off.expired(finished_at)).map_or(0, |back_off| back_off.delay)
    }

    /// What is remembered when a container that ended at `finished_at` is started again.
    pub(super) fn next(this: Option<Self>, finished_at: u64, now: u64) -> Self {
        let delay = doubled(Self::wait(this, finished_at));
        Self { delay, updated_at: now }
    }
}

impl Container {
    pub(super) fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            image: String::new(),
            attempt: None,
            handle: Handle::default(),
            since: None,
            exit: None,
            last: None,
            back_off: None,
            afresh: false,
            health: None,
            revive: false,
            own_policy: None,
            rules: Vec::new(),
            not_enforced: Vec::new(),
            given: None,
            within: None,
            activity: Activity::Idle,
            create_delay: 0,
            starting_hook: false,
            adopted: false,
            probers: Default::default(),
            unwell: None,
        }
    }

    /// Whether something runs, or is about to.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.activity, Activity::Starting | Activity::Running | Activity::Stopping { .. })
    }

    /// Whether it ended well, for good as far as its policy is concerned.
    pub(super) fn succeeded(&self) -> bool {
        !self.is_alive() && !self.afresh && !self.revive && self.exit.as_ref().is_some_and(|exit| exit.code == 0)
    }

    /// When the newest attempt ended. Runtimes tell times by clocks that may have been set since: what would lie before the
    /// attempt began is not believed, and then how long it ran tells more than how long ago that was.
    fn finished_at(&self, now: u64, exit: &Exit) -> u64 {
        let begun = self.since.unwrap_or(0);
        let by_ago = exit.ago.map(|ago| now.saturating_sub(millis(ago)));
        let by_run = exit.ran.zip(self.since).map(|(ran, since)| since.saturating_add(millis(ran)));
        match (by_ago, by_run) {
            (Some(at), _) if at >= begun => at,
            (_, Some(at)) if at <= now => at,
            (Some(_), _) => begun.min(now),
            (None, _) => now,
        }
    }

    /// The newest attempt has ended.
    pub(super) fn end(&mut self, now: u64, exit: Exit) {
        let finished_at = self.finished_at(now, &exit);
        self.exit = Some(Ended {
            attempt: self.attempt.unwrap_or(0),
            container: self.handle.container.clone(),
            code: exit.code,
            signal: exit.signal,
            cause: exit.cause,
            message: exit.message,
            // A start that took a moment must not seem to lie after the end.
            started_at: self.since.map(|since| since.min(finished_at)),
            finished_at,
        });
        self.activity = Activity::Idle;
        self.starting_hook = false;
        self.unwell = None;
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Nothing, or far too much.
    #[error("it has {0} bytes")]
    Length(usize),
    /// Written by another version of the agent.
    #[error("its format is {0}, and this agent reads {VERSION}")]
    Version(u8),
    /// Not what it should be.
    #[error("it is corrupt")]
    Corrupt(#[source] ciborium::de::Error<std::io::Error>),
}

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let added = |container: &mut Container| container.role == Role::Ephemeral;
    let mut record = Cow::Borrowed(record);
    if record.containers.iter().any(|container| container.role == Role::Ephemeral) {
        let record = record.to_mut();
        record.ephemeral = record.containers.extract_if(.., added).collect();
    }
    // Writing to memory does not fail, and the record holds nothing that CBOR cannot express.
    let _ = ciborium::into_writer(&*record, &mut bytes);
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    match bytes {
        [] => Err(RecordError::Length(0)),
        _ if bytes.len() > MAX_RECORD => Err(RecordError::Length(bytes.len())),
        [VERSION, body @ ..] => {
            let mut record: Record = ciborium::from_reader(body).map_err(RecordError::Corrupt)?;
            record.containers.append(&mut record.ephemeral);
            Ok(record)
        }
        [version, ..] => Err(RecordError::Version(*version)),
    }
}
