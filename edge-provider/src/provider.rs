//! What the virtual nodes call: a pod becomes a wish of its device's twin.

use std::sync::Arc;
use std::time::Duration;

use hawser_wire::AddressRange;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use virtual_node::provider::stats::NodeStats;
use virtual_node::provider::streams::{Channels, Connection, LogOptions, Output, Process, StreamError};
use virtual_node::provider::{Applied, EventReport, NotApplied, Provider, Subject, has_begun};
use virtual_node::{NodeName, PodRef, Revision};

use crate::deployment::{self, Notice, References};
use crate::fleet::task::{FleetHandle, WishError};
use crate::fleet::twin::Wish;
use crate::kept::Kept;
use crate::streams;

/// Runs pods on devices.
pub struct DeviceProvider {
    references: References,
    fleet: FleetHandle,
    kept: Option<Kept>,
}

impl DeviceProvider {
    /// Prepares pods with `references` and gives them to `fleet`.
    pub fn new(references: References, fleet: FleetHandle) -> Self {
        Self { references, fleet, kept: None }
    }

    /// Answers with what is kept of logs when a device is away.
    pub(crate) fn with_kept(self, kept: Option<Kept>) -> Self {
        Self { kept, ..self }
    }

    async fn record(&self, at: &At, wish: Wish) -> Result<bool, NotApplied> {
        let At { node, uid, pod, revision } = at;
        let recorded = self.fleet.wish(node, uid.clone(), pod.clone(), wish, *revision).await;
        recorded.map_err(|error| match error {
            // What a kubelet says when its machine has as many pods as fit.
            WishError::Full(full) => {
                NotApplied::Refused { reason: "OutOfpods".to_owned(), message: format!("{full}; delete some of them") }
            }
            WishError::NoDevice | WishError::Stopped(_) => NotApplied::Unavailable { message: error.to_string() },
        })
    }

    /// A pod that cannot be prepared goes on as it is on its device; one that can never run there is not begun. A pod that
    /// has begun is never stopped by it: a bridge that refuses more than the last one did must not stop what that one took.
    async fn not_prepared(&self, at: &At, begun: bool, reason: NotApplied) -> Result<Applied, NotApplied> {
        let wish = match reason {
            NotApplied::Refused { .. } if begun => Wish::Keep,
            NotApplied::Waiting(_) | NotApplied::Unavailable { .. } => Wish::Keep,
            NotApplied::Refused { .. } => Wish::Refuse,
        };
        self.record(at, wish).await?;
        Err(reason)
    }

    async fn tell(&self, at: &At, notices: Vec<Notice>) {
        for notice in notices {
            let event = EventReport {
                subject: Subject::Pod(at.pod.clone()),
                warning: true,
                reason: notice.reason,
                message: notice.message,
                at: wall(),
                count: 1,
            };
            // A fleet that has stopped has nothing to tell.
            let _ = self.fleet.tell(&at.node, event).await;
        }
    }
}

/// Which pod, where, as of when.
struct At {
    node: NodeName,
    uid: hawser_wire::PodUid,
    pod: PodRef,
    revision: Revision,
}

impl At {
    fn of(pod: &Pod, revision: Revision) -> Result<Self, NotApplied> {
        let refused = |message: String| NotApplied::Refused { reason: "InvalidPod".to_owned(), message };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let node = NodeName::new(node).map_err(|error| refused(error.to_string()))?;
        let reference = PodRef::of(pod).ok_or_else(|| refused("the pod has no UID".to_owned()))?;
        let uid = hawser_wire::PodUid::new(reference.uid.as_str()).map_err(|error| refused(error.to_string()))?;
        Ok(Self { node, uid, pod: reference, revision })
    }
}

impl Provider for DeviceProvider {
    async fn apply(&self, pod: Arc<Pod>, at: Revision) -> Result<Applied, NotApplied> {
        let at = At::of(&pod, at)?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.record(&at, Wish::Retain).await?;
            return Ok(Applied::Settled);
        }
        let mut prepared = match deployment::prepare(&self.references, &pod).await {
            Ok(prepared) => prepared,
            Err(reason) => return self.not_prepared(&at, has_begun(&pod), reason).await,
        };
        let again = prepared.again.map_or(Applied::Settled, Applied::Again);
        let notices = std::mem::take(&mut prepared.notices);
        // Told when the pod is taken over in a new form, not each time its references are looked at.
        if self.record(&at, Wish::Run(prepared)).await? {
            self.tell(&at, notices).await;
        }
        Ok(again)
    }

    async fn stop(&self, node: &NodeName, pod: &PodRef, grace: Duration, at: Revision) {
        let grace_seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
        // A UID that cannot travel was refused at the beginning, so nothing runs for it.
        let Ok(uid) = hawser_wire::PodUid::new(pod.uid.as_str()) else { return };
        let at = At { node: node.clone(), uid, pod: pod.clone(), revision: at };
        if let Err(error) = self.record(&at, Wish::Stop { grace_seconds }).await {
            tracing::warn!(%node, %pod, ?error, "cannot ask the device to stop a pod; it is asked again when the bridge starts anew");
        }
    }

    async fn forget(&self, node: &NodeName, pod: &PodRef, at: Revision) {
        if let Ok(uid) = hawser_wire::PodUid::new(pod.uid.as_str()) {
            // Without a fleet there is nothing to forget.
            let _ = self.fleet.forget(node, uid, at).await;
        }
    }

    async fn synced(&self, node: &NodeName, pod_ranges: Vec<String>, at: Revision) {
        let _ = self.fleet.synced(node, ranges(node, &pod_ranges), at).await;
    }

    async fn logs(
        &self,
        node: &NodeName,
        pod: &PodRef,
        container: &str,
        options: LogOptions,
    ) -> Result<Output, StreamError> {
        streams::logs(&self.fleet, self.kept.as_ref(), node, pod, container, options).await
    }

    async fn exec(
        &self,
        node: &NodeName,
        pod: &PodRef,
        container: &str,
        command: Vec<String>,
        channels: Channels,
    ) -> Result<Process, StreamError> {
        streams::exec(&self.fleet, node, pod, container, command, channels).await
    }

    async fn attach(
        &self,
        node: &NodeName,
        pod: &PodRef,
        container: &str,
        channels: Channels,
    ) -> Result<Process, StreamError> {
        streams::attach(&self.fleet, node, pod, container, channels).await
    }

    async fn port_forward(&self, node: &NodeName, pod: &PodRef, port: u16) -> Result<Connection, StreamError> {
        streams::port_forward(&self.fleet, node, pod, port).await
    }

    async fn stats(&self, node: &NodeName) -> Result<NodeStats, StreamError> {
        streams::stats(&self.fleet, node).await
    }
}

/// What can travel of the addresses that a node's pods are to have. What is no range is left out: the API server would not
/// have taken it.
fn ranges(node: &NodeName, told: &[String]) -> Vec<AddressRange> {
    let read = |range: &String| match range.parse() {
        Ok(range) => Some(range),
        Err(error) => {
            tracing::warn!(%node, range, "the pods of a node are to have addresses that cannot be read: {error}");
            None
        }
    };
    told.iter().filter_map(read).collect()
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: an Event says when it happened")]
fn wall() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_range_of_addresses_is_left_out() {
        let told = ["10.42.7.0/24", "10.42.7.0", "{{.}}", "fd00:10::/64"].map(str::to_owned);
        let node = NodeName::new("gateway".to_owned()).unwrap();
        let read: Vec<String> = ranges(&node, &told).iter().map(AddressRange::to_string).collect();
        assert_eq!(read, ["10.42.7.0/24", "fd00:10::/64"]);
    }
}
