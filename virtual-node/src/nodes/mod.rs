//! Nodes: Node objects, their conditions, and their Leases.
//!
//! [`task`] owns what is known of each node and decides when to look after which; [`register`] and [`lease`] carry it out
//! against the API server; [`object`] and [`conditions`] are the decisions. What is kept of a node
//! for long is [`packed`].

pub(crate) mod conditions;
pub(crate) mod lease;
pub(crate) mod object;
pub(crate) mod packed;
pub(crate) mod register;
pub(crate) mod task;
