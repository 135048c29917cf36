//! Be Kubernetes nodes without being machines.
//!
//! Somebody who can run pods somewhere implements [`Provider`]; this library does the rest of what a kubelet does
//! towards the API server, for thousands of nodes in one process.

pub mod ids;
pub mod provider;
mod reports;

pub use ids::{NodeName, PodRef, PodUid, Revision};
pub use provider::{Provider, Reporter, Reports, reports};
pub use reports::Stopped;
