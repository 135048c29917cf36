//! What the library counts. [`Metrics::register`] puts everything into a registry of yours.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Counters and gauges, shared by all parts. Cheap to clone. The default counts without being registered anywhere.
#[derive(Debug, Clone)]
pub struct Metrics {
    nodes: Family<State, Gauge>,
    pods: Gauge,
    pod_bytes: Gauge,
    queued: Family<Queue, Gauge>,
    calls: Family<Call, Counter>,
    call_seconds: Histogram,
    status_writes: Family<Outcome, Counter>,
    node_writes: Family<Outcome, Counter>,
    leases: Family<Outcome, Counter>,
    events: Family<Outcome, Counter>,
    watch_restarts: Family<What, Counter>,
    kubelet_requests: Family<Asked, Counter>,
    kubelet_connections: Gauge,
}

/// A connection of the kubelet API, counted for as long as it is held.
pub(crate) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    call: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    verb: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            nodes: Family::default(),
            pods: Gauge::default(),
            pod_bytes: Gauge::default(),
            queued: Family::default(),
            calls: Family::default(),
            call_seconds: Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
            status_writes: Family::default(),
            node_writes: Family::default(),
            leases: Family::default(),
            events: Family::default(),
            watch_restarts: Family::<What, Counter<u64, AtomicU64>>::default(),
            kubelet_requests: Family::default(),
            kubelet_connections: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Makes the metrics and registers them under the prefix `virtual_node`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let into = registry.sub_registry_with_prefix("virtual_node");
        into.register("nodes", "Nodes by liveness", metrics.nodes.clone());
        into.register("pods", "Pods bound to our nodes", metrics.pods.clone());
        into.register("pod_documents_bytes", "Memory held for pod documents", metrics.pod_bytes.clone());
        into.register("queued", "Keys that wait for a free hand", metrics.queued.clone());
        into.register("provider_calls", "Calls to the provider by result", metrics.calls.clone());
        into.register_with_unit(
            "provider_call",
            "How long calls to the provider took",
            Unit::Seconds,
            metrics.call_seconds.clone(),
        );
        into.register("pod_status_writes", "Pod status writes by outcome", metrics.status_writes.clone());
        into.register("node_writes", "Node object and status writes by outcome", metrics.node_writes.clone());
        into.register("lease_renewals", "Lease renewals by outcome", metrics.leases.clone());
        into.register("events", "Events by outcome", metrics.events.clone());
        into.register("watch_restarts", "Watches begun anew after a fault", metrics.watch_restarts.clone());
        into.register("kubelet_requests", "Requests to the kubelet API", metrics.kubelet_requests.clone());
        into.register(
            "kubelet_connections",
            "Open connections of the kubelet API",
            metrics.kubelet_connections.clone(),
        );
        metrics
    }

    pub(crate) fn nodes(&self, state: &'static str, count: usize) {
        self.nodes.get_or_create(&State { state }).set(gauge(count));
    }

    pub(crate) fn pods(&self, count: usize, bytes: usize) {
        self.pods.set(gauge(count));
        self.pod_bytes.set(gauge(bytes));
    }

    pub(crate) fn queued(&self, queue: &'static str, depth: usize) {
        self.queued.get_or_create(&Queue { queue }).set(gauge(depth));
    }

    pub(crate) fn provider_call(&self, call: &'static str, result: &'static str, took: Duration) {
        self.calls.get_or_create(&Call { call, result }).inc();
        self.call_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn status_write(&self, outcome: &'static str) {
        self.status_writes.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn node_write(&self, outcome: &'static str) {
        self.node_writes.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn lease(&self, outcome: &'static str) {
        self.leases.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn kubelet_request(&self, verb: &'static str, code: u16) {
        self.kubelet_requests.get_or_create(&Asked { verb, code }).inc();
    }

    pub(crate) fn kubelet_connection(&self) -> Connected {
        self.kubelet_connections.inc();
        Connected(self.kubelet_connections.clone())
    }

    pub(crate) fn watch_restarted(&self, what: &'static str) {
        self.watch_restarts.get_or_create(&What { what }).inc();
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_registers_and_encodes() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.nodes("online", 3);
        metrics.pods(2, 4096);
        metrics.provider_call("apply", "settled", Duration::from_millis(3));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "virtual_node_nodes{state=\"online\"} 3",
            "virtual_node_pod_documents_bytes 4096",
            "virtual_node_provider_calls_total{call=\"apply\",result=\"settled\"} 1",
            "virtual_node_provider_call_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
