//! The controllers and the scheduler of the lab.
//!
//! What kube-controller-manager and kube-scheduler do for Deployments, ReplicaSets, DaemonSets, Jobs, garbage, node
//! lifecycle and the placing of pods, as ordinary clients of any Kubernetes API, in one process and on one set of caches.
//! They are for a lab and for tests: one replica, no leader election, no preemption, no volumes.
//!
//! ```text
//! watches ─▶ cluster (caches, routes) ─▶ queues ─▶ reconcile: read caches ─▶ plan (pure) ─▶ writes ─▶ cluster
//! ```
//!
//! ```no_run
//! # async fn start(client: kube::Client, stop: tokio_util::sync::CancellationToken) -> Result<(), lab_controllers::Error> {
//! use lab_controllers::{Config, Controllers};
//! Controllers::new(client, Config::default()).run(stop).await
//! # }
//! ```

mod clock;
mod cluster;
mod config;
mod daemonset;
mod deployment;
mod garbage;
mod identity;
mod job;
mod node_lifecycle;
mod percent;
mod placement;
mod pod_gc;
mod pods;
mod queue;
mod reconcile;
mod replicaset;
mod run;
#[cfg(test)]
mod samples;
mod scheduler;
mod selectors;
mod taint_eviction;
mod template;

pub use clock::Clock;
pub use config::{Config, InvalidConfig};
pub use run::{Controllers, Error};
