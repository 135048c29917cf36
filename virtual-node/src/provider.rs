//! The contract between this library and whoever knows how to run pods: [`Provider`] is what the library calls,
//! [`Reporter`] is what the provider calls.
//!
//! # Expected flow
//!
//! 1. The provider tells of a node with [`Reporter::node_present`]. The library registers or adopts the Node object,
//!    owns its Lease, and begins to look after the pods bound to it.
//! 2. For each pod bound to the node the library calls [`Provider::apply`], and again whenever the pod changes, and
//!    again (with back-off) while `apply` answers that something is missing.
//! 3. Once every pod that the first complete list showed on the node has had its first `apply` or `stop`, the library
//!    calls [`Provider::synced`]. Before that the provider has an incomplete view and must not remove anything. A pod
//!    whose `apply` answers [`NotApplied::Unavailable`] has not had it yet: the view stays incomplete while the provider
//!    cannot say what the pod needs. One that is [`NotApplied::Waiting`] or refused is part of the view; the provider
//!    must not take it for unwanted, since an earlier form of it may be running.
//! 4. The provider reports what really happens with [`Reporter::pod_status`], as often as it likes.
//! 5. A pod that gets a deletionTimestamp is handed to [`Provider::stop`]. When the workload is really gone the provider
//!    says so with [`Reporter::pod_gone`], and only then is the object deleted from the API.
//! 6. A pod whose object vanishes without that handshake (force delete, namespace torn down, node deleted) is handed to
//!    [`Provider::forget`].
//!
//! # Guarantees
//!
//! - Calls for one pod UID never overlap; calls for different pods do.
//! - `apply` is never called for a UID after `stop` or `forget` of the same UID, except after a restart of the process.
//! - A re-created pod of the same name has another UID and is another pod; its `apply` may come before the `forget` of
//!   its predecessor.
//! - A terminal pod (phase Succeeded or Failed) is still applied once after a restart of the process: the pod shows its
//!   phase, and the provider decides what "nothing to run, but keep its remains" means.
//! - A pod that has ended (or was refused and never ran) and is deleted gets no `stop`: its object is removed, and then
//!   `forget` is called.
//! - What a provider has reported is put back when somebody else overwrites it, while the node is heard: the cluster marks
//!   the pods of an unheard node as not ready, and nobody else takes that mark away when the node returns.
//! - A report on a pod that is bound to another node than the one it is reported for is not written (`Obsolete`).
//! - After a restart of the process everything is applied again. Nothing about pods is persisted here: the API server
//!   holds the truth.
//!
//! # Assumptions
//!
//! - `apply`, `stop`, `forget` and `synced` are idempotent and record a wish; they do not wait until the wish is true.
//! - The provider does not keep the `Arc<Pod>`: a full pod costs tens of kilobytes, and the library keeps a compact form.
//! - Reports are honest: what is not known to be true is not reported.
//!
//! # Caveats
//!
//! - A call that takes longer than [`Config::provider_limit`](crate::Config::provider_limit) or panics is dropped, logged,
//!   and made again with back-off.
//! - A Node object that belongs to a kubelet or to other virtual nodes is not taken over: an error is logged, an Event
//!   says how to get out of it, the receipts of the node wait, and it is tried again until the name is free. No pod of
//!   such a node is touched; the provider only hears (`forget`) of the end of those that it was given before.
//! - Until the first [`Reporter::node_liveness`] of a process, a node that exists already keeps the conditions that it
//!   shows. Do not report [`Liveness::Offline`] only because the process has just begun: every node would flap.
//! - `Reporter` is bounded. A provider that reports faster than the API server accepts writes waits, and that is
//!   intended; reports for one pod are coalesced, so waiting is short.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, ContainerStatus, HostIP, NodeAddress, NodeSystemInfo, Pod, PodIP, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, PodRef, Revision};

mod resize;
pub mod stats;
pub mod streams;

pub use resize::{GivenResources, ResizeCondition, Resized, Resizing};

use stats::NodeStats;
use streams::{Channels, Connection, LogOptions, Output, Process, StreamError};

/// Runs pods somewhere. See the [module documentation](self) for the flow and the guarantees.
pub trait Provider: Send + Sync + 'static {
    /// Make this pod, in this form, wanted on its node (`spec.nodeName`).
    ///
    /// `at` is how far the library's view of the pods had come.
    fn apply(&self, pod: Arc<Pod>, at: Revision) -> impl Future<Output = Result<Applied, NotApplied>> + Send;

    /// Begin to stop the pod, with this grace period. Called again if the grace period becomes shorter.
    ///
    /// The provider answers with [`Reporter::pod_gone`] when nothing of the pod runs any more, at once if it never ran.
    fn stop(&self, node: &NodeName, pod: &PodRef, grace: Duration, at: Revision) -> impl Future<Output = ()> + Send;

    /// The pod's object is gone from the API: whatever still runs for it is no longer wanted. No answer is expected.
    fn forget(&self, node: &NodeName, pod: &PodRef, at: Revision) -> impl Future<Output = ()> + Send;

    /// The view of this node is complete: what has not been applied until now is not wanted.
    ///
    /// `pod_ranges` are the addresses that the cluster gave to the node's pods (`spec.podCIDRs`), mostly none: whoever makes
    /// the pods' network decides whether it wants them. Called again when they change; a cluster gives them a moment after it
    /// first sees the node.
    fn synced(&self, node: &NodeName, pod_ranges: Vec<String>, at: Revision) -> impl Future<Output = ()> + Send;

    /// Reads a container's log. See [`streams`] for how bytes flow and who checks what.
    fn logs(
        &self,
        _node: &NodeName,
        _pod: &PodRef,
        _container: &str,
        _options: LogOptions,
    ) -> impl Future<Output = Result<Output, StreamError>> + Send {
        not_supported("logs")
    }

    /// Starts a command in a running container.
    fn exec(
        &self,
        _node: &NodeName,
        _pod: &PodRef,
        _container: &str,
        _command: Vec<String>,
        _channels: Channels,
    ) -> impl Future<Output = Result<Process, StreamError>> + Send {
        not_supported("exec")
    }

    /// Connects to the process of a running container.
    fn attach(
        &self,
        _node: &NodeName,
        _pod: &PodRef,
        _container: &str,
        _channels: Channels,
    ) -> impl Future<Output = Result<Process, StreamError>> + Send {
        not_supported("attach")
    }

    /// Connects to a port of a pod, once per connection of the client.
    fn port_forward(
        &self,
        _node: &NodeName,
        _pod: &PodRef,
        _port: u16,
    ) -> impl Future<Output = Result<Connection, StreamError>> + Send {
        not_supported("port-forward")
    }

    /// Measures what a machine and its pods use.
    fn stats(&self, _node: &NodeName) -> impl Future<Output = Result<NodeStats, StreamError>> + Send {
        not_supported("stats")
    }
}

/// What a provider answers to a verb that it does not implement.
fn not_supported<T: Send>(verb: &str) -> impl Future<Output = Result<T, StreamError>> + Send + use<T> {
    std::future::ready(Err(StreamError::NotSupported(format!("this node does not support {verb}"))))
}

/// The pod was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Nothing more to do until the pod changes.
    Settled,
    /// Apply again after this time even if the pod has not changed (a token wants rotation, a reference was optional
    /// and missing).
    Again(Duration),
}

/// The pod was not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotApplied {
    /// Something that the pod refers to is missing. The library shows the named containers as waiting, emits the event
    /// once per distinct message (and again at the kubelet's pace), and applies again with back-off. A pod that already
    /// runs keeps running: its containers' statuses are left alone.
    Waiting(Waiting),
    /// This pod can never run here. The library sets the phase to Failed with this reason and message, and emits a
    /// warning Event. The UID is not applied again. If it is a changed form of a pod that was applied before, or of one
    /// that [has begun](has_begun), only the Event is emitted: it goes on in its last accepted form.
    Refused {
        /// A CamelCase word, e.g. `UnsupportedField`.
        reason: String,
        /// What is wrong and what would be right, naming the field.
        message: String,
    },
    /// A passing fault (API unreachable, too many requests). Nothing is shown; applied again with back-off.
    Unavailable {
        /// What failed, for the log.
        message: String,
    },
}

/// Why a pod waits before it can be handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What each container that waits is to show. Containers not named show `ContainerCreating`/`PodInitializing`.
    pub containers: Vec<ContainerWaiting>,
    /// The reason of the warning Event, as a kubelet would give it (`Failed`, `FailedMount`).
    pub event_reason: String,
    /// The message of the warning Event.
    pub event_message: String,
}

/// What one waiting container shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerWaiting {
    /// The container (of any kind).
    pub container: String,
    /// `state.waiting.reason`, e.g. `CreateContainerConfigError`.
    pub reason: String,
    /// `state.waiting.message`.
    pub message: String,
}

/// What the Node object of a node looks like, apart from its status.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeTemplate {
    /// Labels that we own. Labels set by others on the object stay.
    pub labels: BTreeMap<String, String>,
    /// Annotations that we own.
    pub annotations: BTreeMap<String, String>,
    /// Taints put on at registration, and put back when missing.
    pub taints: Vec<Taint>,
    /// Who owns the Node object; it is deleted with its owner.
    pub owner: Option<OwnerReference>,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
}

/// What is known about the machine behind a node. All of it comes from measurements, none from constants.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// What there is.
    pub capacity: BTreeMap<String, Quantity>,
    /// What pods may use of it.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Kernel, OS image, architecture, boot id, runtime version, agent version (as kubelet version).
    pub node_info: NodeSystemInfo,
    /// Addresses.
    pub addresses: Vec<NodeAddress>,
    /// Images present on the machine.
    pub images: Vec<ContainerImage>,
    /// Conditions other than `Ready`, which follows from [`Liveness`].
    pub conditions: Vec<ConditionReport>,
    /// `declaredFeatures`: what newer API servers and schedulers ask a node of some pods for. Shown where the kubelet API is
    /// served, to API servers that know of such features.
    #[serde(default)]
    pub declared_features: Vec<String>,
}

/// One node condition. Heartbeat and transition times are kept by the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionReport {
    /// `type`, e.g. `MemoryPressure`.
    pub kind: String,
    /// `True`, `False`, or unknown.
    pub status: Option<bool>,
    /// A CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Whether the machine behind a node is known to be alive. The Lease is renewed only while it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// Heard within its window, and able to run pods.
    Online,
    /// Heard within its window, but not able to run pods now: `Ready=False`.
    NotReady {
        /// A CamelCase word.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Not heard: `Ready=Unknown`, and so are the conditions that depend on hearing.
    Offline {
        /// A CamelCase word, e.g. `DeviceOffline`.
        reason: String,
        /// A sentence that says since when.
        message: String,
    },
}

/// What really happens with a pod. The library derives the conditions and their transition times, the QoS class and the
/// observed generation from it, and keeps what others wrote.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodReport {
    /// Where the pod is in its life.
    pub phase: PodPhase,
    /// Why the pod as a whole is in this state (`DeadlineExceeded`, `Evicted`).
    pub reason: Option<String>,
    /// The sentence to `reason`.
    pub message: Option<String>,
    /// When the machine took the pod over.
    pub start_time: Option<Timestamp>,
    /// The machine's addresses.
    pub host_ips: Vec<HostIP>,
    /// The pod's addresses.
    pub pod_ips: Vec<PodIP>,
    /// Whether sandbox, network and volumes are there (condition `PodReadyToStartContainers`).
    pub sandbox_ready: bool,
    /// One per init container of the spec, in the order of the spec.
    pub init_containers: Vec<ContainerStatus>,
    /// One per container of the spec, in the order of the spec.
    pub containers: Vec<ContainerStatus>,
    /// One per ephemeral container that is known.
    pub ephemeral_containers: Vec<ContainerStatus>,
    /// Which form of the pod the provider acts on.
    pub acts_on: ActsOn,
    /// What the pod and its containers were given, and how far it is with changes of that.
    pub resize: Resizing,
}

/// Which form of a pod a provider acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActsOn {
    /// The one that was applied last.
    #[default]
    Applied,
    /// The one of this generation.
    Generation(i64),
    /// An older one than the one that was applied last.
    Older,
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodPhase {
    /// Accepted, but not all containers have started.
    #[default]
    Pending,
    /// At least one container has started and not all have ended for good.
    Running,
    /// All containers ended with exit code 0 and none will be started again.
    Succeeded,
    /// All containers ended, at least one with a failure, and none will be started again.
    Failed,
}

impl PodPhase {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether the pod has ended for good.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Something worth telling about a pod or a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReport {
    /// What it is about.
    pub subject: Subject,
    /// Whether it is a warning.
    pub warning: bool,
    /// A CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When it happened (corrected time). Shown to the second; what happened within one is shown in this order.
    pub at: Timestamp,
    /// How often it happened since it was last reported.
    pub count: u32,
}

/// What an [`EventReport`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A node.
    Node(NodeName),
    /// A pod as a whole.
    Pod(PodRef),
    /// One container of a pod; shown as `involvedObject.fieldPath`.
    Container {
        /// The pod.
        pod: PodRef,
        /// `spec.containers{name}`, `spec.initContainers{name}`, `spec.ephemeralContainers{name}`.
        field_path: String,
    },
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The API server holds it (this report, or a newer one that replaced it before it was written).
    Accepted,
    /// The pod or node is gone or was replaced by a namesake, so that there is nothing to write it to; or the API server
    /// calls it invalid, so that writing it again is no use. Or, of an
    /// Event: it was one too many, and is dropped.
    Obsolete,
}

pub use crate::pods::begun::has_begun;
pub use crate::reports::{PendingReceipt, Reporter, Reports, reports};
