//! The agent: a durable desired set becomes workloads on a runtime, and what happens is reported.
//!
//! [`ledger`] keeps everything that must survive; [`link`] talks to the bridge and says what is desired; [`workloads`] makes
//! it true on a [`runtime`] and reports; [`streams`] carries logs and shells, which [`verbs`] reads and runs; [`upkeep`] keeps the device usable; [`agent`] puts
//! them together; [`commands`] are what people type.

pub mod agent;
pub(crate) mod cgroup;
pub mod clock;
pub mod commands;
pub mod desired;
pub(crate) mod facts;
pub(crate) mod huge_pages;
pub mod identity;
pub mod ledger;
pub mod link;
pub mod reserved;
pub mod runtime;
pub mod shim;
pub mod state_dir;
pub mod streams;
pub(crate) mod systemd;
pub mod upkeep;
pub mod verbs;
mod workload_store;
pub mod workloads;
