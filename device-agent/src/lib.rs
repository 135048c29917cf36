//! The agent: a durable desired set becomes workloads on a runtime, and what happens is reported.

pub mod desired;
pub mod ledger;
pub mod runtime;
pub mod workloads;
