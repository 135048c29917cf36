//! The Devices of the cluster: which there are, their Nodes, and what is told about them in their status.

pub mod key_store;
pub mod node;
pub mod record;
pub mod status;
pub mod watch;
