//! The provider for devices: pods become edge deployments, which travel in sessions through the hub.

pub mod cli;
pub mod deployment;
pub mod device;
