//! Everything between the hub and the twins: the MQTT client, and the sessions inside its messages.

pub mod address;
pub mod admission;
pub mod client;
pub mod rate;
pub mod session;
