//! What the hub counts. Where a log line and a counter tell the same event, one function here emits both.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::net::SocketAddr;

/// The hub's metrics. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct HubMetrics {
    connections: Gauge,
    accepted: Counter,
    refused: Family<RefusedLabel, Counter>,
    closed: Family<ClosedLabel, Counter>,
    messages_in: Counter,
    messages_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    forbidden_subscriptions: Counter,
    retain_ignored: Counter,
    router_restarts: Counter,
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refused {
    /// Its address connects too often.
    Rate,
    /// Too many sockets have not yet sent a CONNECT.
    Pending,
    /// As many devices are connected as may be.
    Devices,
    /// As many bridges are connected as may be.
    Bridges,
    /// The TLS handshake failed.
    Tls,
    /// No acceptable CONNECT within the time.
    Timeout,
    /// It speaks another version of MQTT.
    Version,
    /// It does not speak MQTT, or broke its rules.
    Malformed,
    /// The client id does not belong to the username.
    ClientId,
    /// Wrong password, or a username that nobody can have.
    Credentials,
    /// No such account.
    Account,
    /// The last will goes where the client may not publish.
    Will,
    /// A newer connection with the same client id came before this one was let in.
    Superseded,
    /// The router is being restarted, or the hub stops.
    Unavailable,
}

/// Why a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Closed {
    /// It said DISCONNECT.
    Disconnect,
    /// The network connection ended without DISCONNECT.
    Gone,
    /// It was silent for one and a half times its keep-alive.
    KeepAlive,
    /// A newer connection has the same client id.
    TakenOver,
    /// Its account was removed or changed.
    Account,
    /// Its queue was full.
    SlowSubscriber,
    /// The router's ring overtook it: messages for it are lost.
    Overrun,
    /// It took no byte for the write timeout.
    WriteStalled,
    /// It published where it may not.
    ForbiddenPublish,
    /// It broke the rules of MQTT, or a limit.
    Protocol,
    /// The router died or was restarted.
    RouterGone,
    /// The hub stops.
    HubStopping,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabel {
    reason: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabel {
    reason: Closed,
}

impl HubMetrics {
    /// Adds the metrics to a registry, each under a name that begins with `hub_` (and the registry's own prefix).
    pub fn register(&self, registry: &mut Registry) {
        let hub = registry.sub_registry_with_prefix("hub");
        hub.register("connections", "Clients connected now", self.connections.clone());
        hub.register("accepted", "Sockets accepted", self.accepted.clone());
        hub.register("refused", "Sockets and clients not let in, by reason", self.refused.clone());
        hub.register("closed", "Connections of clients that ended, by reason", self.closed.clone());
        hub.register("messages_in", "Messages taken from clients", self.messages_in.clone());
        hub.register("messages_out", "Messages given to clients", self.messages_out.clone());
        hub.register("bytes_in", "MQTT bytes read from clients", self.bytes_in.clone());
        hub.register("bytes_out", "MQTT bytes written to clients", self.bytes_out.clone());
        hub.register("forbidden_subscriptions", "Filters refused with 0x80", self.forbidden_subscriptions.clone());
        hub.register("retain_ignored", "Messages whose retain flag was cleared", self.retain_ignored.clone());
        hub.register("router_restarts", "Times the router died or was restarted", self.router_restarts.clone());
    }

    /// Clients connected now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        u64::try_from(self.connections.get()).unwrap_or(0)
    }

    /// Sockets and clients that were not let in for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused.get_or_create(&RefusedLabel { reason }).get()
    }

    /// Connections that ended for this reason.
    #[must_use]
    pub fn closed(&self, reason: Closed) -> u64 {
        self.closed.get_or_create(&ClosedLabel { reason }).get()
    }

    /// Messages taken from clients.
    #[must_use]
    pub fn messages_in(&self) -> u64 {
        self.messages_in.get()
    }

    /// Messages given to clients.
    #[must_use]
    pub fn messages_out(&self) -> u64 {
        self.messages_out.get()
    }

    /// MQTT bytes read from and written to clients.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.get(), self.bytes_out.get())
    }

    /// Times that the router died or was restarted.
    #[must_use]
    pub fn router_restarts(&self) -> u64 {
        self.router_restarts.get()
    }

    pub(crate) fn on_accepted(&self) {
        self.accepted.inc();
    }

    pub(crate) fn on_refused(&self, reason: Refused, peer: SocketAddr, detail: &dyn fmt::Display) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
        tracing::info!(%peer, ?reason, %detail, "hub refused a connection");
    }

    pub(crate) fn on_connected(&self, client: &str, peer: SocketAddr) {
        self.connections.inc();
        tracing::info!(%peer, client, "client connected to the hub");
    }

    pub(crate) fn on_closed(&self, reason: Closed, client: &str, detail: &dyn fmt::Display) {
        self.connections.dec();
        self.closed.get_or_create(&ClosedLabel { reason }).inc();
        match reason {
            Closed::Disconnect | Closed::HubStopping => {
                tracing::info!(client, ?reason, "client left the hub");
            }
            _ => tracing::warn!(client, ?reason, %detail, "hub closed a client's connection"),
        }
    }

    pub(crate) fn on_message_in(&self, retain: bool) {
        self.messages_in.inc();
        if retain {
            self.retain_ignored.inc();
        }
    }

    pub(crate) fn on_message_out(&self) {
        self.messages_out.inc();
    }

    pub(crate) fn on_bytes_in(&self, count: usize) {
        self.bytes_in.inc_by(count as u64);
    }

    pub(crate) fn on_bytes_out(&self, count: usize) {
        self.bytes_out.inc_by(count as u64);
    }

    pub(crate) fn on_forbidden_subscription(&self, client: &str, filter: &str) {
        self.forbidden_subscriptions.inc();
        tracing::warn!(client, filter, "hub refused a subscription outside of what the client may hear");
    }

    pub(crate) fn on_router_restart(&self, cause: &dyn fmt::Display) {
        self.router_restarts.inc();
        tracing::warn!(%cause, "hub restarts its router; all clients are disconnected and come back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counted_is_exposed() {
        let metrics = HubMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        metrics.on_refused(Refused::Rate, peer, &"");
        metrics.on_connected("agent-a", peer);
        metrics.on_connected("agent-b", peer);
        metrics.on_closed(Closed::SlowSubscriber, "agent-b", &"");
        metrics.on_router_restart(&"");

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "hub_connections 1",
            "hub_refused_total{reason=\"Rate\"} 1",
            "hub_closed_total{reason=\"SlowSubscriber\"} 1",
            "hub_router_restarts_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!((metrics.connections(), metrics.refused(Refused::Rate)), (1, 1));
    }
}
