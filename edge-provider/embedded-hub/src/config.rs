//! What a hub is started with. Checked once, by [`HubConfig::check`], so that nothing behind it has to.

use crate::accounts::Accounts;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Everything that [`crate::Hub::start`] needs.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Where plain MQTT is spoken. Port 0 lets the system choose; [`crate::Hub::local_addr`] tells what it chose.
    /// A hub that should speak TLS only binds this to loopback, where the bridge is.
    pub listen: SocketAddr,
    /// Where MQTT over TLS is spoken, if anywhere.
    pub tls: Option<TlsConfig>,
    /// How much of everything the hub gives to its clients.
    pub limits: Limits,
    /// First level or levels of every topic, such as `hawser`.
    pub root: String,
    /// Who may connect. Keep a clone: it can be changed while the hub runs.
    pub accounts: Accounts,
}

impl HubConfig {
    /// The default limits and root on loopback, at a port that the system chooses.
    #[must_use]
    pub fn on_loopback(accounts: Accounts) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            limits: Limits::default(),
            root: "hawser".to_owned(),
            accounts,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !valid_root(&self.root) {
            return Err(ConfigError::Root { root: self.root.clone() });
        }
        self.limits.check()
    }
}

/// A TLS listener and what it proves itself with.
#[derive(Clone)]
pub struct TlsConfig {
    /// Where MQTT over TLS is spoken; port 0 as for [`HubConfig::listen`].
    pub listen: SocketAddr,
    /// Certificate chain in PEM, the hub's own certificate first.
    pub certificate_pem: Vec<u8>,
    /// Private key in PEM (PKCS#8, SEC1 or PKCS#1).
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// What a queued message is charged on top of its topic and payload: about what the structures around it take.
pub(crate) const MESSAGE_OVERHEAD: usize = 256;

/// Hard limits. Each is checked before memory is taken for what it limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Devices connected at the same time.
    pub devices: usize,
    /// Bridges connected at the same time. Counted apart from devices, so that devices can never lock the bridge out.
    pub bridges: usize,
    /// Sockets that have not yet sent an acceptable CONNECT.
    pub pending: usize,
    /// How long a socket may take for the TLS handshake and the CONNECT together.
    pub connect_timeout: Duration,
    /// Connections that one address may open in a burst …
    pub burst_per_address: u32,
    /// … and per second after that.
    pub connects_per_second_per_address: u32,
    /// Largest MQTT packet from a client, fixed header not counted. A longer one ends the connection when its length is
    /// read, before anything is allocated for it.
    pub packet_bytes: usize,
    /// Longest topic or filter.
    pub topic_bytes: usize,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
    /// Bytes waiting for one device, with 256 more for each message. The device that needs more is disconnected.
    pub queue_bytes: usize,
    /// Bytes waiting for one bridge, likewise. A bridge hears all devices, and all of them at once after an outage.
    pub bridge_queue_bytes: usize,
    /// QoS 1 messages sent to a subscriber and not yet acknowledged by it; further ones wait in its queue.
    pub inflight: usize,
    /// A subscriber that takes no byte for this long while there are some for it is disconnected.
    pub write_timeout: Duration,
    /// Longest keep-alive. A client that asks for a longer one, or for none, is held to this one.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            devices: 1024,
            bridges: 8,
            pending: 256,
            connect_timeout: Duration::from_secs(10),
            burst_per_address: 1024,
            connects_per_second_per_address: 64,
            packet_bytes: 256 * 1024,
            topic_bytes: 512,
            subscriptions: 32,
            queue_bytes: 4 * 1024 * 1024,
            bridge_queue_bytes: 64 * 1024 * 1024,
            inflight: 64,
            write_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(20 * 60),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("devices", self.devices, 1, 65_536),
            ("bridges", self.bridges, 1, 1024),
            ("pending", self.pending, 1, 65_536),
            ("burst_per_address", self.burst_per_address as usize, 1, usize::MAX),
            ("connects_per_second_per_address", self.connects_per_second_per_address as usize, 1, usize::MAX),
            ("packet_bytes", self.packet_bytes, 128, 16 * 1024 * 1024),
            ("topic_bytes", self.topic_bytes, 16, 65_535),
            ("subscriptions", self.subscriptions, 1, 4096),
            // A message that fits no empty queue would disconnect its subscriber for ever.
            ("queue_bytes", self.queue_bytes, self.packet_bytes + MESSAGE_OVERHEAD, 1024 * 1024 * 1024),
            ("bridge_queue_bytes", self.bridge_queue_bytes, self.packet_bytes + MESSAGE_OVERHEAD, 1024 * 1024 * 1024),
            ("inflight", self.inflight, 1, 32_768),
        ];
        for (limit, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::Limit { limit, value, least, most });
            }
        }
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("write_timeout", self.write_timeout),
            ("keep_alive", self.keep_alive),
        ];
        for (limit, value) in times {
            if value < Duration::from_millis(1) || value > Duration::from_secs(65_535) {
                return Err(ConfigError::Time { limit, value });
            }
        }
        Ok(())
    }
}

/// A configuration that no hub can be started with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The root is not usable as the beginning of topics.
    #[error("root {root:?} cannot begin a topic: use letters, digits, '-', '_', '.', with '/' only between levels")]
    Root {
        /// What was given.
        root: String,
    },
    /// A limit is outside of its range.
    #[error("limit {limit} is {value}: it must be between {least} and {most}")]
    Limit {
        /// The field of [`Limits`].
        limit: &'static str,
        /// What was given.
        value: usize,
        /// Smallest accepted.
        least: usize,
        /// Largest accepted.
        most: usize,
    },
    /// A time is outside of its range.
    #[error("limit {limit} is {value:?}: it must be between 1 ms and 65535 s")]
    Time {
        /// The field of [`Limits`].
        limit: &'static str,
        /// What was given.
        value: Duration,
    },
}

fn valid_root(root: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    root.len() <= 128 && root.split('/').all(|level| !level.is_empty() && level.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HubConfig {
        HubConfig::on_loopback(Accounts::new(crate::Password::new("secret")))
    }

    #[test]
    fn defaults_are_accepted() {
        assert_eq!(config().check(), Ok(()));
    }

    #[test]
    fn a_root_that_would_change_the_meaning_of_topics_is_refused() {
        for root in ["", "/", "a//b", "a/", "/a", "a/+", "#", "$SYS", "a b", "ä"] {
            let config = HubConfig { root: root.to_owned(), ..config() };
            assert!(matches!(config.check(), Err(ConfigError::Root { .. })), "{root:?} was accepted");
        }
        for root in ["hawser", "site-1/hawser", "a.b_c"] {
            assert_eq!(HubConfig { root: root.to_owned(), ..config() }.check(), Ok(()));
        }
    }

    #[test]
    fn limits_out_of_range_are_named() {
        let mut config = config();
        config.limits.devices = 0;
        let error = config.check().expect_err("no devices");
        assert_eq!(error.to_string(), "limit devices is 0: it must be between 1 and 65536");

        config.limits = Limits { queue_bytes: 1024, ..Limits::default() };
        assert!(matches!(config.check(), Err(ConfigError::Limit { limit: "queue_bytes", .. })));

        config.limits = Limits { write_timeout: Duration::ZERO, ..Limits::default() };
        assert!(matches!(config.check(), Err(ConfigError::Time { limit: "write_timeout", .. })));
    }
}
