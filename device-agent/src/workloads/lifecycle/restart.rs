//! Whether a container is started again after the end it had: its own rules, its own policy, the pod's.

use serde::{Deserialize, Serialize};

use super::record::{Container, Policy, Role};
use super::*;

/// What is done for some exit codes, whatever the policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    codes: Vec<i32>,
    not_in: bool,
    /// All containers are started again, from the first init container on.
    all: bool,
}

/// What a container that is ended because of another one gets between TERM and KILL.
const RESTART_GRACE: u64 = 2_000;

impl From<RestartPolicy> for Policy {
    fn from(policy: RestartPolicy) -> Self {
        match policy {
            RestartPolicy::Always => Self::Always,
            RestartPolicy::OnFailure => Self::OnFailure,
            RestartPolicy::Never => Self::Never,
        }
    }
}

impl Container {
    /// Takes over what the pod says about this.
    pub(super) fn describe_restart(&mut self, care: Option<&Care>) {
        let rules = care.map(|care| care.restart_rules.as_slice()).unwrap_or_default();
        self.own_policy = care.and_then(|care| care.restart).map(Policy::from);
        self.rules = rules
            .iter()
            .map(|rule| Rule { codes: rule.codes.clone(), not_in: rule.not_in, all: rule.action == RestartAction::Pod })
            .collect();
    }

    /// The first rule that holds for this exit code.
    fn rule(&self, code: i32) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.codes.contains(&code) != rule.not_in)
    }

    /// Whether it is started again after the end it had, and may be started if it had none.
    pub(super) fn wants_start(&self, policy: Policy) -> bool {
        let Some(exit) = &self.exit else { return self.role != Role::Stray };
        let policy = self.own_policy.unwrap_or(policy);
        match self.role {
            Role::Stray | Role::Ephemeral => false,
            _ if self.afresh || self.revive => true,
            Role::Sidecar => true,
            // An init container that ended well has done its work, whatever a rule says.
            Role::Init => exit.code != 0 && (policy != Policy::Never || self.rule(exit.code).is_some()),
            Role::Main if self.rule(exit.code).is_some() => true,
            Role::Main => match policy {
                Policy::Always => true,
                Policy::OnFailure => exit.code != 0,
                Policy::Never => false,
            },
        }
    }

    /// Whether it is started again when it is ended for what it does.
    pub(super) fn survives_a_probe(&self, policy: Policy) -> bool {
        self.role == Role::Sidecar || self.own_policy.unwrap_or(policy) != Policy::Never
    }

    /// Whether its end means that all containers are started again.
    fn restarts_all(&self) -> bool {
        let exit = self.exit.as_ref().filter(|_| !self.is_alive() && !self.revive && !self.afresh);
        exit.is_some_and(|exit| self.rule(exit.code).is_some_and(|rule| rule.all))
    }
}

impl Lifecycle {
    /// If a container ended in a way that means so, all others are ended, and then all begin again with the first init
    /// container, each with its own back-off. Whether that is under way.
    pub(super) fn restart_all(&mut self, now: u64, out: &mut Effects) -> bool {
        if !self.record.restarting_all {
            if !self.record.containers.iter().any(Container::restarts_all) {
                return false;
            }
            self.record.restarting_all = true;
        }
        let mut alive = false;
        for at in (0..self.record.containers.len()).rev() {
            let container = &mut self.record.containers[at];
            // Whoever looks at the pod goes on looking.
            if container.role == Role::Ephemeral {
                continue;
            }
            if container.activity == Activity::Running {
                let message = format!("Stopping container {}", container.name);
                out.event(Some(&container.name), false, "Killing", &message);
                // No hook: the pod is not asked to end, it is broken.
                container.activity = Activity::Stopping { kill_at: now + RESTART_GRACE, stage: Stage::Turn };
                container.starting_hook = false;
            }
            self.drive_stop(now, at, true, out);
            alive |= self.record.containers[at].is_alive();
        }
        if alive {
            return true;
        }
        self.record.restarting_all = false;
        self.record.initialised = false;
        for container in &mut self.record.containers {
            container.revive = container.exit.is_some();
        }
        false
    }
}
