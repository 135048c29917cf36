//! The runtime: containers that do what their pods' kinds say, and keep the contract of `Runtime`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use device_agent::runtime::{ContainerId, Exit, ExitCause, Found, FoundState, Handle, Signal};

use hawser_wire::PodUid;

use crate::schedule::Kind;

/// A container that was started.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) since: u64,
    pub(crate) image: String,
    pub(crate) kind: Kind,
    /// How it ended, and when.
    pub(crate) end: Option<(u64, Exit)>,
    /// Who waits for its end: the life of the agent that asked.
    watched: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Containers {
    pub(crate) processes: BTreeMap<ContainerId, Process>,
    /// What was asked to be started and has not been: the order is on its way through the engine.
    pub(crate) starting: BTreeMap<ContainerId, (String, Kind)>,
    /// Every id that was started in this life of the runtime.
    started: BTreeSet<ContainerId>,
    pub(crate) boot: u32,
}

/// What a signal leads to.
pub(crate) enum Heard {
    /// It ends in so many milliseconds, with this code and signal.
    Ends(u64, i32, Option<i32>),
    /// It does not care, or has ended.
    Nothing,
}

impl Containers {
    pub(crate) fn epoch(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// A container comes to life, unless it did before. In how many milliseconds it ends by itself, and how.
    pub(crate) fn launch(&mut self, now: u64, id: &ContainerId, calm: bool) -> Option<(u64, i32)> {
        let (image, kind) = self.starting.remove(id)?;
        if !self.started.insert(id.clone()) {
            return None;
        }
        let ends = script(id, kind, calm);
        let process = Process { since: now, image, kind, end: None, watched: None };
        self.processes.insert(id.clone(), process);
        ends
    }

    /// A container ends. The agent's life that is to be told.
    pub(crate) fn end(&mut self, now: u64, id: &ContainerId, code: i32, signal: Option<i32>) -> Option<u32> {
        let process = self.processes.get_mut(id).filter(|process| process.end.is_none())?;
        let ran = Some(Duration::from_millis(now - process.since));
        process.end = Some((now, Exit { code, signal, cause: ExitCause::Own, message: None, ran, ago: None }));
        process.watched
    }

    /// How it ended, if it has; otherwise the agent's life is told when it does.
    pub(crate) fn watch(&mut self, id: &ContainerId, life: u32) -> Option<Exit> {
        let Some(process) = self.processes.get_mut(id) else { return Some(Exit::lost("it was never started")) };
        match &process.end {
            Some((_, exit)) => Some(exit.clone()),
            None => {
                process.watched = Some(life);
                None
            }
        }
    }

    pub(crate) fn signal(&self, id: &ContainerId, signal: Signal) -> Heard {
        match self.processes.get(id).filter(|process| process.end.is_none()) {
            None => Heard::Nothing,
            Some(_) if signal == Signal::Kill => Heard::Ends(20, 137, Some(9)),
            Some(process) if process.kind == Kind::Stubborn => Heard::Nothing,
            Some(_) => Heard::Ends(300, 143, Some(15)),
        }
    }

    pub(crate) fn remove(&mut self, id: &ContainerId) {
        self.processes.remove(id);
    }

    /// Nothing is left of the pod, and nothing is remembered of it.
    pub(crate) fn remove_pod(&mut self, uid: &PodUid) {
        self.processes.retain(|id, _| id.pod != *uid);
        self.started.retain(|id| id.pod != *uid);
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (&ContainerId, &Process)> {
        self.processes.iter().filter(|(_, process)| process.end.is_none())
    }

    /// The device loses power.
    pub(crate) fn power_cut(&mut self, now: u64) {
        self.boot += 1;
        self.starting.clear();
        for process in self.processes.values_mut() {
            process.watched = None;
            process.end.get_or_insert((now, Exit::lost("the device was restarted")));
        }
    }

    pub(crate) fn inventory(&self, now: u64) -> Vec<Found> {
        let found = |(id, process): (&ContainerId, &Process)| {
            let state = match &process.end {
                Some((at, exit)) => {
                    FoundState::Ended(Exit { ago: Some(Duration::from_millis(now - at)), ..exit.clone() })
                }
                None => FoundState::Running { started_ago: Duration::from_millis(now - process.since) },
            };
            Found { id: id.clone(), image: Some(process.image.clone()), handle: Handle::default(), state }
        };
        self.processes.iter().map(found).collect()
    }
}

/// When and how a container ends by itself. In a calm world nothing crashes any more.
fn script(id: &ContainerId, kind: Kind, calm: bool) -> Option<(u64, i32)> {
    let spread = crate::dice::mix(u64::from(id.attempt) + id.pod.as_str().len() as u64) % 5_000;
    match (kind, id.name.as_str()) {
        (Kind::Staged, "init") => Some((800, 0)),
        (Kind::Server | Kind::Stubborn | Kind::Staged, _) => None,
        (Kind::Crashy, _) => (!calm).then_some((1_000 + spread, 1)),
        (Kind::Job, _) => Some((3_000 + spread, 0)),
        (Kind::Flaky, _) => Some((1_500, if id.attempt < 2 { 1 } else { 0 })),
    }
}
