//! What a pod does next, decided from the whole of it.

use super::*;

impl Lifecycle {
    pub(super) fn advance(&mut self, now: u64, out: &mut Effects) {
        match self.goal {
            Goal::Hold => return,
            Goal::Run => self.run(now, out),
            Goal::Retain => {
                self.wind_down(now, out);
            }
            Goal::Stop => {
                if self.wind_down(now, out) {
                    self.say_gone(out);
                }
            }
            Goal::Remove => {
                if self.wind_down(now, out) {
                    self.say_gone(out);
                    self.remove(now, out);
                }
            }
        }
        self.ask(now, out);
    }

    fn run(&mut self, now: u64, out: &mut Effects) {
        let Some(spec) = self.spec.clone() else { return };
        if self.record.outcome.is_none() {
            self.check_deadline(now, &spec, out);
            self.conclude();
        }
        if self.record.outcome.is_some() {
            self.wind_down(now, out);
            return;
        }
        self.record.kill_at = None;
        self.make_place(now, &spec, out);
        self.seek_room(out);
        self.replace_changed(now, &spec, out);
        let resizing = self.resize(now, &spec, out);
        self.stop_unwell(now, out);
        for at in 0..self.record.containers.len() {
            self.drive_stop(now, at, true, out);
        }
        self.record.containers.retain(|c| c.role != Role::Stray || c.is_alive());
        if !self.restart_all(now, out) && !resizing && matches!(self.place, Place::Made { .. }) {
            self.run_in_order(now, &spec, out);
        }
        self.look_at_it(now, &spec, out);
        self.announce_back_off(out);
    }

    fn check_deadline(&mut self, now: u64, spec: &EdgeDeployment, out: &mut Effects) {
        let (Some(seconds), Some(taken_at)) = (spec.active_deadline_seconds, self.record.taken_at) else { return };
        let deadline = taken_at.saturating_add(seconds.saturating_mul(1_000));
        if now < deadline {
            self.wake_at(deadline);
            return;
        }
        const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";
        out.event(None, false, "DeadlineExceeded", MESSAGE);
        self.record.outcome = Some(Outcome {
            succeeded: false,
            reason: Some("DeadlineExceeded".to_owned()),
            message: Some(MESSAGE.to_owned()),
            rejected: false,
        });
    }

    fn make_place(&mut self, now: u64, spec: &Arc<EdgeDeployment>, out: &mut Effects) {
        let make = match &self.place {
            _ if self.preparing => false,
            Place::Unmade => true,
            Place::Made { .. } => self.place_outdated,
            Place::Failed { retry, .. } => {
                let retry = *retry;
                if now < retry {
                    self.wake_at(retry);
                }
                now >= retry
            }
        };
        if make {
            self.place_outdated = false;
            self.preparing = true;
            out.push(Effect::Prepare(spec.clone()));
        }
    }

    /// Containers whose image has changed, and those that are not part of the pod any more, are told to end.
    fn replace_changed(&mut self, now: u64, spec: &EdgeDeployment, out: &mut Effects) {
        let kill_at = now + u64::from(self.record.grace_seconds) * 1_000;
        for at in 0..self.record.containers.len() {
            let container = &mut self.record.containers[at];
            if container.activity != Activity::Running {
                continue;
            }
            let message = match spec.all_containers().find(|(c, _)| c.name == container.name) {
                Some((described, _)) if described.image == container.image => continue,
                // An init container that runs its old image to the end has done its work, and what was added has no other
                // image.
                Some(_) if matches!(container.role, Role::Init | Role::Ephemeral) => continue,
                Some(_) => {
                    container.afresh = true;
                    format!("Container {} definition changed, will be restarted", container.name)
                }
                None => format!("Stopping container {}", container.name),
            };
            self.stop(now, at, kill_at, &message, out);
        }
    }

    fn run_in_order(&mut self, now: u64, spec: &Arc<EdgeDeployment>, out: &mut Effects) {
        if !self.record.initialised && !self.initialise(now, spec, out) {
            return;
        }
        self.record.initialised = true;
        for at in 0..self.record.containers.len() {
            if matches!(self.record.containers[at].role, Role::Sidecar | Role::Main) {
                self.ensure(now, at, spec, out);
            }
            // What is started later may count on the hook of what was started before it.
            let container = &self.record.containers[at];
            let hooked = self.care(at).is_some_and(|care| care.post_start.is_some());
            if hooked && (container.starting_hook || container.activity == Activity::Starting) {
                return;
            }
        }
    }

    /// Runs init containers in order; whether all have done their work.
    fn initialise(&mut self, now: u64, spec: &Arc<EdgeDeployment>, out: &mut Effects) -> bool {
        for at in 0..self.record.containers.len() {
            match self.record.containers[at].role {
                Role::Init if self.record.containers[at].succeeded() => {}
                Role::Init => {
                    self.ensure(now, at, spec, out);
                    // Sidecars before it are kept running meanwhile.
                    self.ensure_sidecars(now, at, spec, out);
                    return false;
                }
                Role::Sidecar => {
                    self.ensure(now, at, spec, out);
                    if !self.record.containers[at].has_started() {
                        self.ensure_sidecars(now, at, spec, out);
                        return false;
                    }
                }
                Role::Main | Role::Ephemeral | Role::Stray => {}
            }
        }
        true
    }

    /// Starts what was added to look at the pod. It waits for the pod's place and for nothing else: people look at pods whose
    /// init containers fail, too.
    fn look_at_it(&mut self, now: u64, spec: &Arc<EdgeDeployment>, out: &mut Effects) {
        // A volume that only it mounts is being made.
        if self.preparing || !matches!(self.place, Place::Made { .. }) {
            return;
        }
        for at in 0..self.record.containers.len() {
            let container = &mut self.record.containers[at];
            if container.role != Role::Ephemeral {
                continue;
            }
            let added = spec.ephemeral(&container.name);
            let Some(Hindrance { reason, message }) = added.and_then(|added| added.hindrance.clone()) else {
                self.ensure(now, at, spec, out);
                continue;
            };
            if container.activity == Activity::Idle && container.exit.is_none() {
                out.event(Some(&container.name), true, "Failed", &format!("Error: {message}"));
                container.activity = Activity::Blocked { reason, message, retry: None };
            }
        }
    }

    fn ensure_sidecars(&mut self, now: u64, before: usize, spec: &Arc<EdgeDeployment>, out: &mut Effects) {
        for at in 0..before {
            if self.record.containers[at].role == Role::Sidecar {
                self.ensure(now, at, spec, out);
            }
        }
    }

    /// Starts a container if it is to be started and its time has come.
    fn ensure(&mut self, now: u64, at: usize, spec: &Arc<EdgeDeployment>, out: &mut Effects) {
        let policy = self.record.policy;
        let container = &mut self.record.containers[at];
        if container.is_alive() || !container.wants_start(policy) {
            return;
        }
        if let Activity::NoImage { image, reason, since, retry, announced, .. } = &mut container.activity
            && now < *retry
        {
            let words = since.saturating_add(SHOW_PULL_ERROR);
            if ImageProblem::is_of_pull(reason) && !*announced && now >= words {
                *announced = true;
                let message = format!("Back-off pulling image \"{image}\"");
                out.event(Some(&container.name), false, "BackOff", &message);
            }
            let wake = if now < words { words.min(*retry) } else { *retry };
            return self.wake_at(wake);
        }
        if let Activity::Blocked { retry, .. } = &container.activity {
            match *retry {
                Some(retry) if now >= retry => {}
                Some(retry) => return self.wake_at(retry),
                None => return,
            }
        }
        if let (Some(exit), false) = (&container.exit, container.afresh) {
            let delay = BackOff::wait(container.back_off, exit.finished_at);
            let until = exit.finished_at + delay;
            if now < until {
                if !matches!(container.activity, Activity::BackOff { .. }) {
                    container.activity = Activity::BackOff { until, delay, announced: false };
                }
                return self.wake_at(until);
            }
        }
        self.start(now, at, spec, out);
    }

    fn start(&mut self, now: u64, at: usize, spec: &Arc<EdgeDeployment>, out: &mut Effects) {
        let container = &mut self.record.containers[at];
        let described = spec.all_containers().find(|(c, _)| c.name == container.name);
        let image = described.map(|(c, _)| c.image.as_str()).unwrap_or_default();
        if let Some(exit) = container.exit.take() {
            let same = container.image == image;
            container.back_off = same
                .then(|| match container.afresh {
                    true => container.back_off,
                    false => Some(BackOff::next(container.back_off, exit.finished_at, now)),
                })
                .flatten();
            container.last = Some(exit);
            let attempt = container.attempt.map_or(0, |attempt| attempt.saturating_add(1));
            container.attempt = Some(attempt);
            container.handle.container.clear();
            if let Some(old) = attempt.checked_sub(2) {
                out.push(Effect::Remove(out.id(&container.name, old)));
            }
        }
        let attempt = *container.attempt.get_or_insert(0);
        container.image = image.to_owned();
        container.since = Some(now);
        container.afresh = false;
        container.revive = false;
        container.health = Some(Health::first(described.and_then(|(c, _)| c.care.as_ref())));
        container.given = described.map(|(c, _)| c.resources.into());
        container.within = self.record.allotment.as_ref().map(|held| held.whole().unwrap_or_default());
        container.adopted = false;
        container.probers = Default::default();
        container.activity = Activity::Starting;
        out.push(Effect::Start(out.id(&container.name, attempt), spec.clone()));
    }

    /// Sees whether the pod has ended for good.
    fn conclude(&mut self) {
        if self.record.outcome.is_some() {
            return;
        }
        let policy = self.record.policy;
        let done = |c: &Container| !c.is_alive() && c.exit.is_some() && !c.wants_start(policy);
        let containers = &self.record.containers;
        let init_failed =
            !self.record.initialised && containers.iter().any(|c| c.role == Role::Init && done(c) && !c.succeeded());
        let mut mains = containers.iter().filter(|c| c.role == Role::Main).peekable();
        let all_done = mains.peek().is_some() && mains.clone().all(done);
        if init_failed || all_done {
            let succeeded = !init_failed && mains.all(Container::succeeded);
            self.record.outcome = Some(Outcome { succeeded, reason: None, message: None, rejected: false });
        }
    }

    fn announce_back_off(&mut self, out: &mut Effects) {
        let pod = self.full_name();
        for container in &mut self.record.containers {
            if let Activity::BackOff { announced: announced @ false, .. } = &mut container.activity {
                *announced = true;
                let message = format!("Back-off restarting failed container {} in pod {pod}", container.name);
                out.event(Some(&container.name), true, "BackOff", &message);
            }
        }
    }

    fn remove(&mut self, now: u64, out: &mut Effects) {
        let delay = match self.removal {
            // What is being written now would stay.
            _ if self.preparing => return,
            Removal::None => 0,
            Removal::Failed { retry, delay } if now >= retry => delay,
            Removal::Failed { retry, .. } => return self.wake_at(retry),
            Removal::Asked { .. } | Removal::Done => return,
        };
        self.removal = Removal::Asked { delay };
        out.push(Effect::RemovePod);
    }

    pub(super) fn wake_at(&mut self, at: u64) {
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }
}
