//! How a pod is, in a kubelet's words.

use hawser_wire::report::{ContainerReport, ContainerState, Phase, Running, Terminated, Waiting, WorkloadReport};
use hawser_wire::{ContentHash, DeviceTime};

use super::record::{Activity, Container, Ended, Role};
use super::{Lifecycle, Place};
use crate::runtime::ExitCause;

impl Lifecycle {
    /// How the pod is; `None` while nothing at all is known of it.
    pub fn report(&self, _now: DeviceTime) -> Option<WorkloadReport> {
        // It would seem to have what its description says. The answer comes at once.
        if self.asks_for_room() {
            return None;
        }
        self.make_report(false)
    }

    pub(super) fn make_report(&self, gone: bool) -> Option<WorkloadReport> {
        let record = &self.record;
        if record.name.is_empty() {
            return None;
        }
        let (reason, message) =
            record.outcome.as_ref().map(|o| (o.reason.clone(), o.message.clone())).unwrap_or_default();
        let rejected = record.outcome.as_ref().is_some_and(|outcome| outcome.rejected);
        let statuses = |of: fn(Role) -> bool| {
            let shown = record.containers.iter().filter(|c| !rejected && of(c.role));
            shown.map(|c| self.container(c, gone)).collect()
        };
        Some(WorkloadReport {
            uid: self.uid.clone(),
            deployment: record.deployment.map(ContentHash),
            phase: self.phase(gone),
            reason,
            message,
            started: record.taken_at.map(DeviceTime),
            sandbox_ready: matches!(self.place, Place::Made { .. }) && !gone && record.outcome.is_none(),
            pod_ips: self.addresses().to_vec(),
            init_containers: statuses(is_init),
            containers: statuses(|role| role == Role::Main),
            ephemeral_containers: statuses(|role| role == Role::Ephemeral),
            resize: Some(self.resize_report()),
        })
    }

    fn phase(&self, gone: bool) -> Phase {
        let record = &self.record;
        let mains = || record.containers.iter().filter(|c| c.role == Role::Main);
        let all_succeeded = mains().all(Container::succeeded);
        if let Some(outcome) = &record.outcome {
            // Sidecars are stopped after the decision; until they have ended the pod is not over.
            let busy = record.containers.iter().any(Container::is_alive);
            return match (busy, outcome.succeeded) {
                (true, _) => Phase::Running,
                (false, true) => Phase::Succeeded,
                (false, false) => Phase::Failed,
            };
        }
        if gone {
            return if all_succeeded { Phase::Succeeded } else { Phase::Failed };
        }
        let never_ran = |c: &Container| !c.is_running() && c.exit.is_none() && c.last.is_none();
        if !record.initialised || mains().any(never_ran) {
            return Phase::Pending;
        }
        let runs = record.containers.iter().any(|c| c.role != Role::Ephemeral && c.is_running());
        let starts_again = |c: &Container| c.wants_start(record.policy);
        match () {
            () if runs || mains().any(starts_again) => Phase::Running,
            () if all_succeeded => Phase::Succeeded,
            () => Phase::Failed,
        }
    }

    fn container(&self, container: &Container, gone: bool) -> ContainerReport {
        let (state, last) = self.state(container, gone);
        let running = matches!(state, ContainerState::Running(_));
        // An attempt that was decided on and is not made yet does not count.
        let made = if running || container.exit.is_some() {
            container.attempt
        } else {
            container.last.as_ref().map(|last| last.attempt)
        };
        ContainerReport {
            name: container.name.clone(),
            ready: match container.role {
                Role::Init => container.succeeded(),
                Role::Ephemeral => false,
                Role::Sidecar | Role::Main | Role::Stray => running && container.health.is_none_or(|h| h.ready),
            },
            // A kubelet does not say this of what was added.
            started: (container.role != Role::Ephemeral)
                .then(|| running && container.health.is_none_or(|health| health.started)),
            restart_count: made.unwrap_or(0),
            image: container.image.clone(),
            image_id: container.handle.image.clone(),
            container_id: made.map(|attempt| {
                let newest = container.attempt == Some(attempt);
                let older = container.last.as_ref().map(|last| last.container.as_str()).unwrap_or_default();
                let handle = if newest { container.handle.container.as_str() } else { older };
                self.container_uri(&container.name, attempt, handle)
            }),
            state,
            last: last.map(|ended| self.terminated(container, ended)),
            given: self.given(container),
        }
    }

    fn state<'a>(&self, container: &'a Container, gone: bool) -> (ContainerState, Option<&'a Ended>) {
        let last = container.last.as_ref();
        let waiting = |reason: &str, message: Option<String>| {
            ContainerState::Waiting(Waiting { reason: reason.to_owned(), message })
        };
        match (&container.activity, &container.exit) {
            (Activity::Running | Activity::Stopping { .. }, _) if !container.starting_hook => {
                (ContainerState::Running(Running { since: DeviceTime(container.since.unwrap_or(0)) }), last)
            }
            (Activity::BackOff { delay, .. }, Some(exit)) => {
                let message = format!(
                    "back-off {} restarting failed container={} pod={}",
                    go_duration(*delay),
                    container.name,
                    self.full_name()
                );
                (waiting("CrashLoopBackOff", Some(message)), Some(exit))
            }
            (Activity::NoImage { image, reason, message, announced, .. }, exit) => {
                let state = match announced {
                    true => {
                        let message = format!("Back-off pulling image \"{image}\": {reason}: {message}");
                        waiting("ImagePullBackOff", Some(message))
                    }
                    false => waiting(reason, Some(message.clone())),
                };
                (state, exit.as_ref().or(last))
            }
            (Activity::Blocked { reason, message, .. }, exit) => {
                (waiting(reason, Some(message.clone())), exit.as_ref().or(last))
            }
            (_, Some(exit)) => (ContainerState::Terminated(self.terminated(container, exit)), last),
            (_, None) if gone && self.record.initialised && container.role == Role::Main => {
                (ContainerState::Terminated(never_located()), last)
            }
            (_, None) => {
                let has_init = self.record.containers.iter().any(|c| is_init(c.role));
                let message = match &self.place {
                    Place::Failed { message, .. } => Some(message.clone()),
                    Place::Unmade | Place::Made { .. } => None,
                };
                let starts_late = has_init && !(self.record.initialised && container.role == Role::Main);
                (waiting(if starts_late { "PodInitializing" } else { "ContainerCreating" }, message), last)
            }
        }
    }

    fn terminated(&self, container: &Container, ended: &Ended) -> Terminated {
        let reason = match (ended.cause, ended.code) {
            (ExitCause::OutOfMemory, _) => "OOMKilled",
            (ExitCause::Start, _) => "StartError",
            (ExitCause::Lost, _) => "ContainerStatusUnknown",
            (ExitCause::Own, 0) => "Completed",
            (ExitCause::Own, _) => "Error",
        };
        Terminated {
            exit_code: ended.code,
            signal: ended.signal,
            reason: reason.to_owned(),
            message: ended.message.clone(),
            started: ended.started_at.map(DeviceTime),
            finished: Some(DeviceTime(ended.finished_at)),
            container_id: Some(self.container_uri(&container.name, ended.attempt, &ended.container)),
        }
    }

    fn container_uri(&self, name: &str, attempt: u32, handle: &str) -> String {
        match handle {
            "" => format!("{}://{}-{name}-{attempt}", self.scheme, self.uid),
            handle => format!("{}://{handle}", self.scheme),
        }
    }

    pub(super) fn addresses(&self) -> &[String] {
        match &self.place {
            Place::Made { addresses: Some(own) } => own,
            Place::Made { addresses: None } => &self.device_addresses,
            Place::Unmade | Place::Failed { .. } => &[],
        }
    }
}

impl Container {
    fn is_running(&self) -> bool {
        matches!(self.activity, Activity::Running | Activity::Stopping { .. }) && !self.starting_hook
    }
}

fn is_init(role: Role) -> bool {
    matches!(role, Role::Init | Role::Sidecar)
}

fn never_located() -> Terminated {
    Terminated {
        exit_code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        started: None,
        finished: None,
        container_id: None,
    }
}

/// Whole seconds as Go prints them.
fn go_duration(millis: u64) -> String {
    let seconds = millis / 1000;
    if seconds >= 60 { format!("{}m{}s", seconds / 60, seconds % 60) } else { format!("{seconds}s") }
}
