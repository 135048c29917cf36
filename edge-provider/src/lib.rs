//! The provider for devices: pods become edge deployments, which travel in sessions through the hub.

pub mod bridge;
pub mod cli;
pub mod deployment;
pub mod device;
pub mod fleet;
pub mod hub;
pub mod kept;
pub mod metrics;
pub mod provider;
pub mod registry;
mod streams;
