//! What is wanted of a pod, taken in.

use super::*;

impl Lifecycle {
    pub(super) fn obey(&mut self, now: u64, order: Order) {
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

    /// The device cannot keep the pod. It has ended for good then, and its remains stay until it is not wanted any more.
    pub(super) fn evict(&mut self, now: u64, message: String, out: &mut Effects) {
        if self.goal != Goal::Run || self.record.outcome.is_some() {
            return;
        }
        out.event(None, true, "Evicted", &message);
        self.record.outcome = Some(Outcome {
            succeeded: false,
            reason: Some("Evicted".to_owned()),
            message: Some(message),
            rejected: false,
        });
        self.shorten(now.saturating_add(EVICTION_GRACE));
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
        record.policy = spec.restart_policy.into();
        record.taken_at.get_or_insert(now);
        self.describe_containers(&spec);
        if std::mem::take(&mut self.roles_guessed) {
            // A main container was started, so the init containers had done their work.
            self.record.initialised =
                self.record.containers.iter().any(|c| c.role == Role::Main && c.attempt.is_some());
        }
        self.place_outdated |= self.spec.as_ref().is_some_and(|old| old.volumes != spec.volumes);
        self.allot(&spec);
        if let Place::Failed { retry, .. } = &mut self.place {
            *retry = now;
        }
    }

    fn describe_containers(&mut self, spec: &EdgeDeployment) {
        let mut old = std::mem::take(&mut self.record.containers);
        for (described, kind) in spec.all_containers() {
            let role = match kind {
                ContainerKind::Init if described.sidecar => Role::Sidecar,
                ContainerKind::Init => Role::Init,
                ContainerKind::Main => Role::Main,
                ContainerKind::Ephemeral => Role::Ephemeral,
            };
            let mut container = match old.iter().position(|c| c.name == described.name) {
                Some(at) => old.remove(at),
                None => Container::new(&described.name, role),
            };
            container.role = role;
            container.describe_restart(described.care.as_ref());
            if container.is_alive() {
                container.health.get_or_insert(Health::first(described.care.as_ref()));
            }
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
}
