//! The words that the bridge and the agents exchange: messages, identities, topics, the codec, the limits, and the
//! session that seals them. No IO, no clock, no randomness, no Kubernetes; `no_std`, so that firmware speaks them too.
//!
//! A payload on a topic ([`topics`]) is an [`Envelope`](session_messages::Envelope). Inside a sealed one is an [`Up`] or a
//! [`Down`]. `docs/protocol.md` tells the conversation; `tests/golden.rs` pins the bytes.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod amounts;
pub mod codec;
pub mod deployment;
pub mod desired;
pub mod ids;
pub mod limits;
pub mod messages;
pub mod quantity;
pub mod range;
pub mod report;
pub mod session;
pub mod session_messages;
pub mod stream;
pub mod token;
pub mod topics;

pub use codec::{DecodeError, Decoded, Open, decode, encode};
pub use ids::{BootId, ContentHash, DeviceId, DeviceTime, Digest, PodUid, PublicKey, SessionId, TokenId, Version};
pub use messages::{Ack, Down, Up};
pub use range::AddressRange;
pub use topics::{Channel, Root};
