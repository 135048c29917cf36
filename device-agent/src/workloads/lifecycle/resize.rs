//! Other limits and requests for what runs: whether there is room for them, and how they come to hold.
//!
//! A pod has what the device gave it ([`Allotment`]), not what its description says. A description that says something else
//! asks for room; when there is some, containers get it while they run, or are started again where their policy says so.

use hawser_wire::deployment::Resources;
use hawser_wire::report::{Given, Resize, ResizeInProgress, ResizePending};

use super::allotment::{Allotment, Amounts, summary};
use super::record::{Pending, Resizing};
use super::*;
use crate::runtime::{NewSize, Resized};

/// How far it is with asking for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// It has not asked for what its description says.
    Due,
    Asked,
    Answered,
}

/// How far it is with applying what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applying {
    Idle,
    UnderWay,
    Failed { retry: u64 },
}

/// Why a pod is not given what its description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// It never will be; else it is when there is room.
    pub infeasible: bool,
    /// A sentence.
    pub message: String,
}

/// Which of a container's limits and requests are kept and shown as given.
fn of_container(record: &Record, name: &str) -> Option<Amounts> {
    record.allotment.as_ref()?.of_container(name)
}

impl Lifecycle {
    /// Takes over what of a new description needs no room. What it says of limits and requests holds at once if nothing of
    /// the pod has been made yet.
    pub(super) fn allot(&mut self, wished: &Arc<EdgeDeployment>) {
        let begun = self.has_begun() || self.preparing || !matches!(self.place, Place::Unmade);
        match &mut self.record.allotment {
            Some(held) if begun => held.fit(wished),
            held => *held = Some(Allotment::of(wished)),
        }
        self.wished = Some(wished.clone());
        self.asking = Asking::Due;
        self.take_allotment();
    }

    /// The description in force says what was given.
    fn take_allotment(&mut self) {
        let (Some(wished), Some(held)) = (&self.wished, &self.record.allotment) else { return };
        let same = *held == Allotment::of(wished);
        self.spec = Some(if same { wished.clone() } else { Arc::new(held.within(wished)) });
    }

    /// Asks for room, if the description says something else than what was given. One that says the same again takes back
    /// what was asked for.
    pub(super) fn seek_room(&mut self, out: &mut Effects) {
        let Some(wished) = self.wished.clone() else { return };
        let differs = self.record.allotment.as_ref().is_some_and(|held| *held != Allotment::of(&wished));
        if self.asking == Asking::Due && (differs || self.record.pending.is_some()) {
            self.asking = Asking::Asked;
            out.push(Effect::SeekRoom(wished));
        }
    }

    /// Whether it has asked for room, and not heard whether there is.
    pub(super) fn asks_for_room(&self) -> bool {
        self.asking == Asking::Asked
    }

    /// Whether it would take more room, or less, if there were some.
    pub fn waits_for_room(&self) -> bool {
        self.record.pending.as_ref().is_some_and(|pending| !pending.infeasible) && !self.is_ending()
    }

    pub(super) fn room_made(&mut self) {
        if self.waits_for_room() {
            self.asking = Asking::Due;
        }
    }

    pub(super) fn given_room(&mut self, of: &Arc<EdgeDeployment>, result: Result<(), NoRoom>, out: &mut Effects) {
        if self.asking != Asking::Asked {
            return;
        }
        let Some(wished) = self.wished.clone() else { return };
        if !Arc::ptr_eq(&wished, of) {
            // It says something else by now.
            self.asking = Asking::Due;
            return;
        }
        self.asking = Asking::Answered;
        let generation = wished.generation;
        match result {
            Ok(()) => {
                self.record.pending = None;
                let wanted = Allotment::of(&wished);
                if self.record.allotment.as_ref() == Some(&wanted) {
                    return;
                }
                self.record.allotment = Some(wanted);
                self.record.resizing = Some(Resizing { generation, error: None });
                self.record.outgrown = true;
                if let Applying::Failed { .. } = self.applying {
                    self.applying = Applying::Idle;
                }
                self.take_allotment();
                let message = format!("Pod resize started: {}", summary(&wished, generation, None));
                out.event(None, false, "ResizeStarted", &message);
            }
            Err(NoRoom { infeasible, message }) => {
                let known = self.record.pending.as_ref();
                let told = known.is_some_and(|known| (known.infeasible, known.generation) == (infeasible, generation));
                if !told {
                    let reason = if infeasible { "Infeasible" } else { "Deferred" };
                    let words = summary(&wished, generation, Some(&message));
                    out.event(None, true, &format!("Resize{reason}"), &format!("Pod resize {reason}: {words}"));
                }
                self.record.pending = Some(Pending { infeasible, message, generation });
            }
        }
    }

    /// Applies what was given to what runs. Whether nothing may be started meanwhile: what has to be started again ends first,
    /// then the pod as a whole gets its share.
    pub(super) fn resize(&mut self, now: u64, spec: &Arc<EdgeDeployment>, out: &mut Effects) -> bool {
        if self.applying == Applying::UnderWay {
            return true;
        }
        let kill_at = now + u64::from(self.record.grace_seconds) * 1_000;
        let (mut ending, mut starting, mut others) = (false, false, Vec::new());
        let whole = self.record.allotment.as_ref().and_then(Allotment::whole).unwrap_or_default();
        for at in 0..self.record.containers.len() {
            let container = &self.record.containers[at];
            let Some(wanted) = of_container(&self.record, &container.name) else { continue };
            // A container without a limit has that of its pod.
            let within = container.within.unwrap_or(whole);
            let given = container.given.map(|given| given.with_limits_of(within));
            let wanted = wanted.with_limits_of(whole);
            // Who asks for nothing has it, whoever remembers.
            let has = given.unwrap_or_else(|| Amounts::default().with_limits_of(within)) == wanted;
            if has || !matches!(container.role, Role::Init | Role::Main | Role::Sidecar) {
                continue;
            }
            let Some(attempt) = container.attempt else { continue };
            let policy = container.described(spec).and_then(|described| described.restart_to_resize);
            match container.activity {
                Activity::Starting => starting = true,
                Activity::Stopping { .. } => ending |= container.afresh,
                // Nothing is ended for what was forgotten.
                Activity::Running
                    if given.is_some_and(|given| given.takes_a_restart(wanted, policy.unwrap_or_default())) =>
                {
                    ending = true;
                    let message = format!("Container {} resize requires restart", container.name);
                    self.record.containers[at].afresh = true;
                    self.stop(now, at, kill_at, &message, out);
                }
                Activity::Running => {
                    let given = given.map(Resources::from);
                    others.push((out.id(&container.name, attempt), given));
                }
                _ => {}
            }
        }
        if ending {
            return true;
        }
        if let Applying::Failed { retry } = self.applying
            && now < retry
        {
            self.wake_at(retry);
            return false;
        }
        if (self.record.outgrown || !others.is_empty()) && matches!(self.place, Place::Made { .. }) {
            self.applying = Applying::UnderWay;
            out.push(Effect::Resize(NewSize { spec: spec.clone(), containers: others }));
            return true;
        }
        if !starting
            && !self.record.outgrown
            && let Some(Resizing { generation, .. }) = self.record.resizing.take()
        {
            let message = format!("Pod resize completed: {}", summary(spec, generation, None));
            out.event(None, false, "ResizeCompleted", &message);
        }
        false
    }

    pub(super) fn resized(&mut self, now: u64, of: &NewSize, result: Resized, out: &mut Effects) {
        let Resized { done, problem } = result;
        let given = Allotment::of(&of.spec);
        for id in &done {
            if let Some(container) = self.current(id) {
                container.given = given.of_container(&id.name);
                container.within = Some(given.whole().unwrap_or_default());
            }
        }
        let Some(error) = problem else {
            (self.applying, self.apply_delay) = (Applying::Idle, 0);
            // It may have been given something else meanwhile.
            self.record.outgrown &= self.record.allotment.as_ref() != Some(&given);
            return;
        };
        self.apply_delay = doubled(self.apply_delay);
        self.applying = Applying::Failed { retry: now + self.apply_delay };
        let Some(resizing) = &mut self.record.resizing else {
            // Nobody has asked for anything: it was only made sure of what nobody remembered.
            for (id, _) in &of.containers {
                if let Some(container) = self.current(id) {
                    container.given.get_or_insert(given.of_container(&id.name).unwrap_or_default());
                    container.within.get_or_insert(given.whole().unwrap_or_default());
                }
            }
            self.record.outgrown = false;
            self.applying = Applying::Idle;
            return;
        };
        if resizing.error.as_ref() != Some(&error) {
            let words = summary(&of.spec, resizing.generation, Some(&error));
            resizing.error = Some(error);
            out.event(None, true, "ResizeError", &format!("Pod resize error: {words}"));
        }
    }

    /// How far it is, for the report.
    pub(super) fn resize_report(&self) -> Resize {
        let record = &self.record;
        if self.has_ended() {
            return Resize::default();
        }
        Resize {
            pending: record.pending.as_ref().map(|pending| ResizePending {
                infeasible: pending.infeasible,
                message: pending.message.clone(),
                generation: pending.generation,
            }),
            in_progress: record
                .resizing
                .as_ref()
                .map(|resizing| ResizeInProgress { generation: resizing.generation, error: resizing.error.clone() }),
            whole: record.allotment.as_ref().and_then(Allotment::whole).map(Resources::from),
        }
    }

    /// What a container was given.
    pub(super) fn given(&self, container: &Container) -> Option<Given> {
        let allocated = of_container(&self.record, &container.name)?;
        let actual = container.given.filter(|given| container.is_alive() && *given != allocated);
        Some(Given { allocated: allocated.into(), actual: actual.map(Resources::from) })
    }
}
