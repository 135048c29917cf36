//! What an operator may choose. The defaults are a kubelet's.

use std::time::Duration;

use crate::queue::Backoff;

/// How the virtual nodes behave towards the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who we are: source of Events, field manager, and the mark on the Node objects that are ours.
    pub component: String,
    /// Where the Leases live.
    pub lease_namespace: String,
    /// How long a Lease says a node is alive.
    pub lease_duration: Duration,
    /// How often a Lease is renewed. A node that misses three renewals must not be taken for dead, so this is at most a
    /// third of the duration.
    pub lease_renewal: Duration,
    /// How often the full status of a node is written when nothing changes.
    pub node_status_interval: Duration,
    /// How many calls to the provider may run at once.
    pub concurrent_pods: usize,
    /// How many pod statuses may be written at once.
    pub concurrent_status_writes: usize,
    /// How many Node objects may be read or written at once.
    pub concurrent_nodes: usize,
    /// How many Leases may be renewed at once.
    pub concurrent_leases: usize,
    /// How long a call to the provider may take before it is dropped and counts as [`Unavailable`](crate::provider::NotApplied::Unavailable).
    pub provider_limit: Duration,
    /// The pauses between attempts to apply a pod that waits for something.
    pub apply_backoff: Backoff,
    /// The pauses between attempts to write something that the API server did not take.
    pub write_backoff: Backoff,
    /// How long to wait before a status that somebody else has overwritten is written again.
    pub restore_after: Duration,
    /// How long a stop may take to write what is still unwritten.
    pub stop_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            component: "hawser".to_owned(),
            lease_namespace: "kube-node-lease".to_owned(),
            lease_duration: Duration::from_secs(40),
            lease_renewal: Duration::from_secs(10),
            node_status_interval: Duration::from_secs(300),
            concurrent_pods: 32,
            concurrent_status_writes: 32,
            concurrent_nodes: 32,
            concurrent_leases: 64,
            provider_limit: Duration::from_secs(60),
            apply_backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) },
            write_backoff: Backoff { base: Duration::from_millis(200), max: Duration::from_secs(30) },
            restore_after: Duration::from_secs(5),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// A [`Config`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// The component name would be refused as part of a label or annotation.
    #[error("component `{0}` is not usable as a name: use 1 to 63 lower-case letters, digits and `-`, e.g. `hawser`")]
    Component(String),
    /// A Lease would run out between renewals.
    #[error(
        "a Lease of {}s renewed every {}s runs out when a renewal is late: renew at least three times as often",
        duration.as_secs(),
        renewal.as_secs()
    )]
    Lease {
        /// As configured.
        duration: Duration,
        /// As configured.
        renewal: Duration,
    },
    /// A span of time that must not be zero.
    #[error("`{0}` must not be zero")]
    Zero(&'static str),
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), InvalidConfig> {
        let name = self.component.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if name.len() > 63 || !name.iter().all(inner) || !edge(name.first()) || !edge(name.last()) {
            return Err(InvalidConfig::Component(self.component.clone()));
        }
        for (what, span) in [
            ("lease_renewal", self.lease_renewal),
            ("node_status_interval", self.node_status_interval),
            ("provider_limit", self.provider_limit),
            ("apply_backoff.base", self.apply_backoff.base),
            ("write_backoff.base", self.write_backoff.base),
        ] {
            if span.is_zero() {
                return Err(InvalidConfig::Zero(what));
            }
        }
        if self.lease_renewal * 3 > self.lease_duration {
            return Err(InvalidConfig::Lease { duration: self.lease_duration, renewal: self.lease_renewal });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_bad_values_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        for component in ["", "Hawser", "a b", "-a", "a-", &"x".repeat(64)] {
            let config = Config { component: component.to_owned(), ..Config::default() };
            assert_eq!(config.check(), Err(InvalidConfig::Component(component.to_owned())));
        }
        let config = Config { lease_renewal: Duration::from_secs(14), ..Config::default() };
        assert!(config.check().unwrap_err().to_string().contains("40s renewed every 14s"));
        let config = Config { node_status_interval: Duration::ZERO, ..Config::default() };
        assert_eq!(config.check(), Err(InvalidConfig::Zero("node_status_interval")));
    }
}
