//! What all pods together may use: what the device has, but for what it keeps for itself. It is the limit of the cgroup in which
//! all of them stand, so that pods without limits leave that much to the system, the engine and the agent.

use std::sync::{Mutex, PoisonError};

use crate::cgroup::{Limits, shares};
use crate::reserved::Capacity;

/// The limits of all pods together, and whether they hold.
#[derive(Debug)]
pub(in crate::runtime::cri) struct Whole {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// They do not hold, and that was said.
    Owed,
    Held,
}

impl Whole {
    /// `left`: what the device has for pods.
    pub(in crate::runtime::cri) fn new(left: &Capacity) -> Self {
        let limits = Limits {
            cpu_shares: Some(shares(left.cpu_millis)),
            cpu_millis: None,
            memory_bytes: left.memory_bytes,
            pids: left.processes,
        };
        Self { limits, state: Mutex::new(State::New) }
    }

    /// What they weigh beside the rest of the device.
    pub(super) fn weight(&self) -> Limits {
        Limits { cpu_shares: self.limits.cpu_shares, ..Limits::default() }
    }

    /// Makes the limits hold unless they do already. Who fails is told of once, and tried again whenever a pod comes or goes:
    /// pods from before may use more than there is for them now, and nothing of theirs is killed for that. `used`: how much memory
    /// they use.
    pub(super) fn enforce(&self, used: Option<u64>, set: impl FnOnce(&Limits) -> Result<(), String>) {
        // Nothing in here can be half done.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Held {
            return;
        }
        let fits = |limit: &u64| used.is_none_or(|used| used < *limit);
        let limits = Limits { memory_bytes: self.limits.memory_bytes.filter(fits), ..self.limits };
        let short = match (self.limits.memory_bytes, used) {
            (Some(limit), Some(used)) if used >= limit => {
                Err(format!("memory: pods use {used} bytes of the {limit} that there are for them"))
            }
            _ => Ok(()),
        };
        match set(&limits).and(short) {
            Ok(()) => {
                if *state == State::Owed {
                    tracing::info!("what the device keeps for itself is out of the reach of pods from now on");
                }
                *state = State::Held;
            }
            Err(why) => {
                if *state == State::New {
                    tracing::warn!(
                        why,
                        "pods together are not limited to what the device has for them; it is tried again whenever a pod comes or goes"
                    );
                }
                *state = State::Owed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Whole {
        let left = Capacity { cpu_millis: 1_500, memory_bytes: Some(1_000), storage_bytes: None, processes: Some(70) };
        Whole::new(&left)
    }

    #[test]
    fn limits_are_set_until_they_hold() {
        let whole = whole();
        let mut set = Vec::new();
        for (used, outcome) in
            [(None, Err("no".to_owned())), (Some(1_000), Ok(())), (Some(999), Ok(())), (Some(5), Ok(()))]
        {
            whole.enforce(used, |limits| {
                set.push(limits.memory_bytes);
                outcome
            });
        }
        // The kernel would have taken memory away from pods the second time, and nothing was left to do the fourth.
        assert_eq!(set, [Some(1_000), None, Some(1_000)]);
    }

    #[test]
    fn pods_together_weigh_what_there_is_for_them() {
        let expected = Limits { cpu_shares: Some(1_536), cpu_millis: None, memory_bytes: Some(1_000), pids: Some(70) };
        whole().enforce(None, |limits| {
            assert_eq!(*limits, expected);
            Ok(())
        });
    }
}
