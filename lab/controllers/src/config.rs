//! How the controllers behave, with the defaults of kube-controller-manager.

use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;

/// How the controllers behave. The defaults are those of kube-controller-manager 1.36.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often every node's health is looked at.
    pub node_monitor_period: Duration,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has never posted a status.
    pub node_startup_grace_period: Duration,
    /// How often pods are looked for that nobody will ever clean up.
    pub pod_gc_period: Duration,
    /// How long a node must be gone before its pods are deleted.
    pub pod_gc_quarantine: Duration,
    /// How many ended pods may stay in the cluster; the oldest beyond that are deleted.
    pub terminated_pod_threshold: usize,
    /// How long a Job waits after its first failed pod; doubled with each further one.
    pub job_backoff: Duration,
    /// The longest a Job waits after a failed pod.
    pub job_longest_backoff: Duration,
    /// How often the garbage collector looks for new kinds (CRDs) in the API.
    pub garbage_discovery_period: Duration,
    /// Where the time of day comes from.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(50),
            node_startup_grace_period: Duration::from_secs(60),
            pod_gc_period: Duration::from_secs(20),
            pod_gc_quarantine: Duration::from_secs(40),
            terminated_pod_threshold: 12_500,
            job_backoff: Duration::from_secs(10),
            job_longest_backoff: Duration::from_secs(360),
            garbage_discovery_period: Duration::from_secs(30),
            clock: Clock::Wall,
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting} is {value:?}: {fix}")]
pub struct InvalidConfig {
    /// Its name.
    pub setting: &'static str,
    /// What it was set to.
    pub value: Duration,
    /// What would work.
    pub fix: &'static str,
}

impl Config {
    /// Refuses what cannot work, before anything starts.
    ///
    /// # Errors
    /// Names the first setting that cannot work.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let periods = [
            ("node_monitor_period", self.node_monitor_period),
            ("node_monitor_grace_period", self.node_monitor_grace_period),
            ("node_startup_grace_period", self.node_startup_grace_period),
            ("pod_gc_period", self.pod_gc_period),
            ("job_backoff", self.job_backoff),
            ("garbage_discovery_period", self.garbage_discovery_period),
        ];
        if let Some((setting, value)) = periods.into_iter().find(|(_, period)| *period < Duration::from_millis(1)) {
            return Err(InvalidConfig { setting, value, fix: "choose at least one millisecond" });
        }
        if self.node_monitor_grace_period < self.node_monitor_period {
            return Err(InvalidConfig {
                setting: "node_monitor_grace_period",
                value: self.node_monitor_grace_period,
                fix: "choose at least node_monitor_period, or nodes flap between two looks",
            });
        }
        if self.job_longest_backoff < self.job_backoff {
            return Err(InvalidConfig {
                setting: "job_longest_backoff",
                value: self.job_longest_backoff,
                fix: "choose at least job_backoff",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_work_and_each_bad_setting_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let bad = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().map_err(|error| error.setting)
        };
        assert_eq!(bad(|config| config.pod_gc_period = Duration::ZERO), Err("pod_gc_period"));
        assert_eq!(
            bad(|config| config.node_monitor_grace_period = Duration::from_secs(1)),
            Err("node_monitor_grace_period")
        );
        assert_eq!(bad(|config| config.job_longest_backoff = Duration::from_secs(1)), Err("job_longest_backoff"));
    }
}
