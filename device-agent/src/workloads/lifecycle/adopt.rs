//! What runs already when the agent starts, compared with what was decided before it ended.

use super::*;

const LOST: &str = "nobody saw how the container ended: the device was restarted, or what watched over it was killed";

impl Lifecycle {
    /// Compares what was decided with what the runtime knows.
    pub(super) fn adopt(&mut self, now: u64, epoch: String, mut found: Vec<Found>, out: &mut Effects) {
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
                    container.health = None;
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
                    container.adopted = true;
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
        let any_started = self.record.containers.iter().any(|c| c.role != Role::Ephemeral && c.attempt.is_some());
        let mains = || self.record.containers.iter().filter(|c| c.role == Role::Main);
        if self.record.outcome.is_some() || !any_started || mains().all(|c| c.exit.is_some() && !c.wants_start(policy))
        {
            return;
        }
        if policy == Policy::Never {
            self.record.outcome = Some(Outcome { succeeded: false, reason: None, message: None, rejected: false });
            return;
        }
        self.record.initialised = false;
        for container in &mut self.record.containers {
            if container.role == Role::Init && container.exit.is_some() {
                container.afresh = true;
            }
        }
    }
}
