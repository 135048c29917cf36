//! Be Kubernetes nodes without being machines.
//!
//! Somebody who can run pods somewhere implements [`Provider`]; this library does the rest of what a kubelet does
//! towards the API server, for thousands of nodes in one process: Node objects and their Leases and conditions, one watch
//! over the pods of all nodes, the status of every pod, deletion in steps, Events. Begin with [`provider`], which is the
//! contract, and `examples/in_memory.rs`, which is a whole provider.
//!
//! ```no_run
//! # async fn run<P: virtual_node::Provider>(provider: std::sync::Arc<P>) -> Result<(), Box<dyn std::error::Error>> {
//! let client = kube::Client::try_default().await?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! let (reporter, reports) = virtual_node::reports(256);
//! let node = virtual_node::NodeName::new("gateway-7")?;
//! reporter.node_present(node.clone(), Default::default()).await?;
//! reporter.node_liveness(node, virtual_node::provider::Liveness::Online).await?;
//! let outcome = virtual_node::VirtualNodes::new(client, Default::default()).run(provider, reports, stop).await?;
//! # let _ = outcome;
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//!
//! - Nothing is persisted here: the API server holds the truth, and a restart at any moment deletes and restarts nothing.
//! - A list that did not come to its end, an error, a missing permission never count as a deletion.
//! - A Node object that belongs to a kubelet, or to somebody else's virtual nodes, is left alone.
//! - Only what a provider has reported is shown, and what it has reported is written in the end, however long the API
//!   server is away, unless a newer report or the pod's end comes first.

mod api;
mod clock;
mod config;
mod engine;
mod events;
pub mod ids;
pub mod kubelet;
mod merge;
mod metrics;
mod nodes;
mod pods;
pub mod provider;
mod queue;
pub mod rbac;
mod reports;
mod watch;

pub use config::{Config, InvalidConfig};
pub use engine::{Error, Outcome, VirtualNodes};
pub use ids::{NodeName, PodRef, PodUid, Revision};
pub use kubelet::{Kubelet, KubeletConfig};
pub use metrics::Metrics;
pub use nodes::object::COMPONENT_LABEL;
pub use provider::{Provider, Reporter, Reports, reports};
pub use queue::Backoff;
pub use reports::Stopped;
