//! What the bridge counts. Where a log line and a counter tell the same event, one function here emits both.

use hawser_wire::DeviceId;
use hawser_wire::session_messages::Refusal;
use hawser_wire::stream::mux::Counts;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::fleet::twin::Counted;

/// The bridge's metrics. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Devices that the cluster has.
    pub devices: Gauge,
    /// Devices heard within their window.
    pub online: Gauge,
    /// 1 while connected to the hub.
    pub hub_connected: Gauge,
    /// Subscriptions that the hub refuses.
    pub hub_refused: Gauge,
    /// Connections to the hub that were made.
    pub hub_connects: Counter,
    /// Messages received.
    pub messages_in: Counter,
    /// Bytes received.
    pub bytes_in: Counter,
    /// Messages sent.
    pub messages_out: Counter,
    /// Bytes sent.
    pub bytes_out: Counter,
    indexes: Counter,
    indexes_again: Counter,
    object_bytes: Counter,
    sessions: Counter,
    streams_open: Gauge,
    streams: Counter,
    streams_refused: Counter,
    streams_aborted: Counter,
    stream_bytes_in: Counter,
    stream_bytes_out: Counter,
    kept_logs: Gauge,
    kept_log_bytes: Gauge,
    kept_log_bytes_in: Counter,
    refusals: Family<KindLabel, Counter>,
    dropped: Family<DroppedLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabel {
    why: Dropped,
}

/// Why a message had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Dropped {
    /// Its topic is none of ours.
    Topic,
    /// It is longer than any message of ours.
    TooLong,
    /// It is not CBOR, or not a message.
    Malformed,
    /// It is of a kind that a device does not send, or that this version does not know.
    Unfamiliar,
    /// The cryptography says no.
    NotAuthentic,
    /// It was seen before.
    Replayed,
    /// It is of a session that is not known.
    NoSession,
    /// The device shakes hands, or is refused, too often.
    Rate,
    /// There is no such device.
    UnknownDevice,
    /// The queue to the hub is full, or there is no hub.
    HubQueue,
    /// The API server is slow, and so many reports wait already.
    Reports,
    /// The device asked for bytes that are not its own.
    UnknownObject,
    /// The device claims the greatest version there is.
    VersionExhausted,
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("hawser_bridge");
        registry.register("devices", "Devices that the cluster has", metrics.devices.clone());
        registry.register("devices_online", "Devices heard within their window", metrics.online.clone());
        registry.register("hub_connected", "1 while connected to the hub", metrics.hub_connected.clone());
        registry.register("hub_refused", "Subscriptions that the hub refuses", metrics.hub_refused.clone());
        registry.register("hub_connects", "Connections made to the hub", metrics.hub_connects.clone());
        registry.register("messages_in", "Messages received", metrics.messages_in.clone());
        registry.register("bytes_in", "Bytes of messages received", metrics.bytes_in.clone());
        registry.register("messages_out", "Messages sent", metrics.messages_out.clone());
        registry.register("bytes_out", "Bytes of messages sent", metrics.bytes_out.clone());
        registry.register("indexes", "Indexes sent for the first time", metrics.indexes.clone());
        registry.register("indexes_again", "Indexes sent again", metrics.indexes_again.clone());
        registry.register("object_bytes", "Bytes of objects sent", metrics.object_bytes.clone());
        registry.register("streams_open", "Streams that are open", metrics.streams_open.clone());
        registry.register("streams", "Streams that were asked for", metrics.streams.clone());
        registry.register("streams_refused", "Streams that a device refused", metrics.streams_refused.clone());
        registry.register("streams_aborted", "Streams that ended before their end", metrics.streams_aborted.clone());
        registry.register("stream_bytes_in", "Bytes of streams received", metrics.stream_bytes_in.clone());
        registry.register("stream_bytes_out", "Bytes of streams sent", metrics.stream_bytes_out.clone());
        registry.register("kept_logs", "Containers whose logs are kept", metrics.kept_logs.clone());
        registry.register("kept_log_bytes", "Bytes of logs that are kept", metrics.kept_log_bytes.clone());
        registry.register("kept_log_bytes_in", "Bytes of logs received to be kept", metrics.kept_log_bytes_in.clone());
        registry.register("sessions", "Sessions in which a device has spoken", metrics.sessions.clone());
        registry.register("refusals", "Hellos that were refused, by kind", metrics.refusals.clone());
        registry.register("dropped", "Messages without effect, by reason", metrics.dropped.clone());
        metrics
    }

    pub(crate) fn count(&self, counted: Counted) {
        match counted {
            Counted::Index => drop(self.indexes.inc()),
            Counted::IndexAgain => drop(self.indexes_again.inc()),
            Counted::ObjectBytes(bytes) => drop(self.object_bytes.inc_by(bytes)),
            Counted::UnknownObject => self.on_dropped(Dropped::UnknownObject),
            Counted::Unfamiliar => self.on_dropped(Dropped::Unfamiliar),
            Counted::VersionExhausted => self.on_dropped(Dropped::VersionExhausted),
        }
    }

    /// What has happened to the streams of one device since it was last counted.
    pub(crate) fn on_streams(&self, (open_then, then): (usize, &Counts), (open, now): (usize, &Counts)) {
        self.streams_open.inc_by(open as i64 - open_then as i64);
        self.streams.inc_by(now.opened - then.opened);
        self.streams_refused.inc_by(now.refused - then.refused);
        self.streams_aborted.inc_by(now.aborted - then.aborted);
        self.stream_bytes_in.inc_by(now.bytes_in - then.bytes_in);
        self.stream_bytes_out.inc_by(now.bytes_out - then.bytes_out);
    }

    /// So much is kept of logs.
    pub(crate) fn on_kept(&self, logs: usize, bytes: usize) {
        self.kept_logs.set(logs as i64);
        self.kept_log_bytes.set(bytes as i64);
    }

    /// So much of logs has come to be kept.
    pub(crate) fn on_kept_read(&self, bytes: u64) {
        self.kept_log_bytes_in.inc_by(bytes);
    }

    /// How many bytes of logs are kept.
    pub fn kept_log_bytes(&self) -> i64 {
        self.kept_log_bytes.get()
    }

    /// How many bytes of logs have come to be kept.
    pub fn kept_log_bytes_in(&self) -> u64 {
        self.kept_log_bytes_in.get()
    }

    /// How many streams are open.
    pub fn streams_open(&self) -> i64 {
        self.streams_open.get()
    }

    pub(crate) fn on_dropped(&self, why: Dropped) {
        self.dropped.get_or_create(&DroppedLabel { why }).inc();
    }

    pub(crate) fn on_refusal(&self, device: &DeviceId, refusal: &Refusal) {
        self.refusals.get_or_create(&KindLabel { kind: format!("{:?}", refusal.kind) }).inc();
        tracing::warn!(%device, kind = ?refusal.kind, reason = refusal.message, "a device was not let in");
    }

    pub(crate) fn on_session(&self, device: &DeviceId, agent: &str) {
        self.sessions.inc();
        tracing::info!(%device, agent, "a device speaks in a new session");
    }

    pub(crate) fn on_hub(&self, address: &str, connected: bool) {
        if connected {
            self.hub_connected.set(1);
            self.hub_connects.inc();
            tracing::info!(hub = address, "connected to the hub");
        } else {
            self.hub_connected.set(0);
            self.hub_refused.set(0);
        }
    }

    /// Whether messages are carried; if not, what stands in the way.
    pub fn readiness(&self) -> Result<(), &'static str> {
        match (self.hub_connected.get(), self.hub_refused.get()) {
            (1, _) => Ok(()),
            (_, 0) => Err("not connected to the hub"),
            _ => Err("the hub does not let the bridge subscribe: look at its access list"),
        }
    }

    /// How many messages had no effect for this reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped.get_or_create(&DroppedLabel { why }).get()
    }
}
