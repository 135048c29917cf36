//! How what runs is brought to its end.

use super::*;

impl Lifecycle {
    /// Ends what runs: everything but sidecars at once, then sidecars, the last one first. Whether nothing runs.
    pub(super) fn wind_down(&mut self, now: u64, out: &mut Effects) -> bool {
        let grace = u64::from(self.record.grace_seconds) * 1_000;
        if !self.record.containers.iter().any(Container::is_alive) {
            self.settle();
            return true;
        }
        let kill_at = *self.record.kill_at.get_or_insert(now + grace);
        let mut front = false;
        for at in 0..self.record.containers.len() {
            if self.record.containers[at].role != Role::Sidecar {
                front |= self.end(now, at, kill_at, out);
            }
        }
        if front {
            return false;
        }
        for at in (0..self.record.containers.len()).rev() {
            // A grace period of nothing is meant; one that the others used up is not the sidecar's fault.
            let kill_at = if self.forced || grace == 0 { kill_at } else { kill_at.max(now + SIDECAR_GRACE) };
            if self.end(now, at, kill_at, out) {
                return false;
            }
        }
        self.settle();
        true
    }

    /// Nothing waits for anything any more.
    fn settle(&mut self) {
        for container in &mut self.record.containers {
            container.activity = Activity::Idle;
            container.afresh = false;
        }
    }

    /// Tells a container to end, once, and kills it when its time is over. Whether it still runs.
    fn end(&mut self, now: u64, at: usize, kill_at: u64, out: &mut Effects) -> bool {
        let container = &self.record.containers[at];
        if container.activity == Activity::Running {
            let message = format!("Stopping container {}", container.name);
            self.stop(now, at, kill_at, &message, out);
        }
        self.drive_stop(now, at, out);
        self.record.containers[at].is_alive()
    }

    pub(super) fn stop(&mut self, now: u64, at: usize, kill_at: u64, message: &str, out: &mut Effects) {
        let container = &mut self.record.containers[at];
        let Some(attempt) = container.attempt else { return };
        out.event(Some(&container.name), false, "Killing", message);
        if kill_at > now {
            out.push(Effect::Signal(out.id(&container.name, attempt), Signal::Term));
        }
        container.activity = Activity::Stopping { kill_at, killed_at: None };
    }

    /// Kills a container that was told to end and has not.
    pub(super) fn drive_stop(&mut self, now: u64, at: usize, out: &mut Effects) {
        let container = &mut self.record.containers[at];
        let (Activity::Stopping { kill_at, killed_at }, Some(attempt)) = (&mut container.activity, container.attempt)
        else {
            return;
        };
        let due = killed_at.map_or(*kill_at, |killed| killed + KILL_AGAIN);
        let wake = if now >= due {
            *killed_at = Some(now);
            out.push(Effect::Signal(out.id(&container.name, attempt), Signal::Kill));
            now + KILL_AGAIN
        } else {
            due
        };
        self.wake_at(wake);
    }
}
