//! A client for container engines: the Container Runtime Interface, version 1, over a Unix socket.
//!
//! [`messages`] holds the part of the interface that is used, declared by hand so that no build needs a protocol
//! compiler; fields of the interface that nobody here reads or writes are left out, and skipped when received.
//! [`Client`] makes calls: each has a time limit, answers have a size limit, and errors say in one line what is wrong
//! and what would be right. [`socket`] finds the engine. [`streaming`] reaches its streaming server, and [`command`] speaks
//! with what runs behind it.

mod client;
pub mod command;
pub mod messages;
pub mod socket;
pub mod streaming;

pub use client::{CallError, Client, ErrorKind};
pub use messages::*;
