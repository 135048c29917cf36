//! What came of what was to be done.

use super::*;

impl Lifecycle {
    pub(super) fn prepared(&mut self, now: u64, result: Result<PodReady, PlaceProblem>, out: &mut Effects) {
        self.preparing = false;
        match result {
            Ok(ready) => {
                for Told { reason, message } in &ready.told {
                    out.event(None, true, reason, message);
                }
                self.place = Place::Made { addresses: ready.addresses };
            }
            Err(PlaceProblem { reason, message, pause }) => {
                // Where a place was made before, what runs in it goes on; only the change has to wait.
                let again = now + pause;
                let quiet = match &mut self.place {
                    Place::Failed { reason: before, retry, quiet_until, .. }
                        if *before == reason && now < *quiet_until =>
                    {
                        *retry = again;
                        return;
                    }
                    Place::Failed { reason: before, quiet, .. } if *before == reason => doubled(*quiet),
                    Place::Failed { .. } | Place::Unmade | Place::Made { .. } => doubled(0),
                };
                out.event(None, true, reason, &message);
                self.place = Place::Failed { reason, message, retry: again, quiet_until: now + quiet, quiet };
            }
        }
    }

    /// It has ended before it began, and shows no containers, as with a kubelet. Nothing that runs is ended by it.
    pub(super) fn reject(&mut self, refusal: Refusal, out: &mut Effects) {
        self.preparing = false;
        if self.record.outcome.is_some() || self.has_begun() {
            return;
        }
        let Refusal { reason, message } = refusal;
        out.event(None, true, &reason, &message);
        self.record.outcome = Some(Outcome {
            succeeded: false,
            reason: Some(reason),
            message: Some(format!("Pod was rejected: {message}")),
            rejected: true,
        });
    }

    pub(super) fn started(
        &mut self,
        now: u64,
        id: &ContainerId,
        result: Result<Started, StartProblem>,
        out: &mut Effects,
    ) {
        let hook = self.spec.clone().filter(|spec| {
            let described = crate::runtime::described(spec, id);
            described.and_then(|container| container.care.as_ref()).is_some_and(|care| care.post_start.is_some())
        });
        let host = self.host();
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
                container.starting_hook = hook.is_some();
                out.event(Some(&id.name), false, "Created", "Container created");
                out.event(Some(&id.name), false, "Started", "Container started");
                out.push(Effect::Watch(id.clone()));
                if let Some(spec) = hook {
                    out.push(Effect::Hook(HookCall {
                        id: id.clone(),
                        kind: HookKind::PostStart,
                        spec,
                        host,
                        limit: None,
                    }));
                }
                // Told once, not at every restart.
                if !not_enforced.is_empty() && container.not_enforced != not_enforced {
                    out.event(Some(&id.name), true, "NotEnforced", &not_enforced.join("; "));
                    container.not_enforced = not_enforced;
                }
            }
            Err(StartProblem::Refused(refusal)) => {
                out.event(Some(&id.name), true, refusal.event_reason(), &refusal.message);
                let Refusal { reason, message } = refusal;
                container.activity = Activity::Blocked { reason, message, retry: None };
            }
            Err(StartProblem::NoImage(ImageProblem { image, reason, message })) => {
                if ImageProblem::is_of_pull(&reason) {
                    out.event(Some(&id.name), true, "Failed", &format!("Failed to pull image \"{image}\": {message}"));
                }
                out.event(Some(&id.name), true, "Failed", &format!("Error: {reason}"));
                let delay = doubled(container.create_delay);
                container.create_delay = delay;
                container.activity =
                    Activity::NoImage { image, reason, message, since: now, retry: now + delay, announced: false };
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

    pub(super) fn ended(&mut self, now: u64, id: &ContainerId, exit: Exit) {
        if let Some(container) = self.current(id)
            && container.exit.is_none()
        {
            container.end(now, exit);
        }
    }

    pub(super) fn removed(&mut self, now: u64, result: Result<(), String>, out: &mut Effects) {
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
}
