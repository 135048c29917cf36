//! How what runs is brought to its end: preStop hook, turn, TERM, KILL.

use super::*;

/// What a container gets at least between TERM and KILL, even if its hook or those that end before it used up the grace
/// period.
const LEAST_GRACE: u64 = 2_000;
/// A killed container that has not ended is killed again after this time.
const KILL_AGAIN: u64 = 10_000;

impl Lifecycle {
    /// Ends what runs: hooks at once, then everything but sidecars, then sidecars, the last one first. Whether nothing
    /// runs.
    pub(super) fn wind_down(&mut self, now: u64, out: &mut Effects) -> bool {
        if !self.record.containers.iter().any(Container::is_alive) {
            self.settle();
            return true;
        }
        let grace = u64::from(self.record.grace_seconds) * 1_000;
        let kill_at = *self.record.kill_at.get_or_insert(now + grace);
        for at in 0..self.record.containers.len() {
            let message = format!("Stopping container {}", self.record.containers[at].name);
            self.stop(now, at, kill_at, &message, out);
        }
        for at in (0..self.record.containers.len()).rev() {
            let turn = self.has_its_turn(at);
            self.drive_stop(now, at, turn, out);
        }
        false
    }

    /// A sidecar ends after all that the pod is for, and after the sidecars that were started later.
    fn has_its_turn(&self, at: usize) -> bool {
        let containers = &self.record.containers;
        let before = |(index, other): (usize, &Container)| {
            let sooner = match other.role {
                Role::Ephemeral => false,
                Role::Sidecar => index > at,
                Role::Init | Role::Main | Role::Stray => true,
            };
            index != at && other.is_alive() && sooner
        };
        containers[at].role != Role::Sidecar || !containers.iter().enumerate().any(before)
    }

    /// Nothing waits for anything any more.
    fn settle(&mut self) {
        for container in &mut self.record.containers {
            container.activity = Activity::Idle;
            container.afresh = false;
        }
    }

    /// A container that runs is to end: its preStop hook begins, if it has one.
    pub(super) fn stop(&mut self, now: u64, at: usize, kill_at: u64, message: &str, out: &mut Effects) {
        let hook = self.care(at).is_some_and(|care| care.pre_stop.is_some());
        let container = &mut self.record.containers[at];
        let (Activity::Running, Some(attempt)) = (&container.activity, container.attempt) else { return };
        out.event(Some(&container.name), false, "Killing", message);
        let stage = if hook && kill_at > now { Stage::Hook } else { Stage::Turn };
        container.activity = Activity::Stopping { kill_at, stage };
        container.starting_hook = false;
        if let (Stage::Hook, Some(spec)) = (stage, self.spec.clone()) {
            let id = out.id(&self.record.containers[at].name, attempt);
            let limit = Some(Duration::from_millis(kill_at - now));
            out.push(Effect::Hook(HookCall { id, kind: HookKind::PreStop, spec, host: self.host(), limit }));
        }
    }

    /// Brings a container that is to end nearer to it. `turn`: those that end before it have ended.
    pub(super) fn drive_stop(&mut self, now: u64, at: usize, turn: bool, out: &mut Effects) {
        let has_hook = self.care(at).is_some_and(|care| care.pre_stop.is_some());
        // A grace period of nothing is meant; one that others used up is not the container's fault.
        let no_grace = self.forced || self.record.grace_seconds == 0;
        let container = &mut self.record.containers[at];
        let (Activity::Stopping { kill_at, stage }, Some(attempt)) = (&mut container.activity, container.attempt)
        else {
            return;
        };
        if *stage == Stage::Hook && now >= *kill_at {
            *stage = Stage::Turn;
        }
        if *stage == Stage::Turn && (turn || now >= *kill_at) {
            if !no_grace && (has_hook || container.role == Role::Sidecar) {
                *kill_at = (*kill_at).max(now + LEAST_GRACE);
            }
            if *kill_at > now {
                out.push(Effect::Signal(out.id(&container.name, attempt), Signal::Term));
            }
            *stage = Stage::Told { killed_at: None };
        }
        let wake = match stage {
            Stage::Hook | Stage::Turn => *kill_at,
            Stage::Told { killed_at } => {
                let due = killed_at.map_or(*kill_at, |killed| killed + KILL_AGAIN);
                if now >= due {
                    *killed_at = Some(now);
                    out.push(Effect::Signal(out.id(&container.name, attempt), Signal::Kill));
                    now + KILL_AGAIN
                } else {
                    due
                }
            }
        };
        self.wake_at(wake);
    }
}
