//! What an MQTT payload is: the envelope, and what the two handshake messages carry.
//!
//! Nothing but the envelope is readable by the hub.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::ids::{BootId, Digest, SessionId, TokenId, Version};

/// The newest protocol that this version speaks.
pub const PROTOCOL: u16 = 1;
/// The oldest protocol that this version still speaks.
pub const OLDEST_PROTOCOL: u16 = 1;

/// The payload of every MQTT message of ours, except on the presence topic.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Envelope {
    /// Device to bridge: the first handshake message.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Bridge to device: the second handshake message.
    #[n(1)]
    Welcome(#[n(0)] Welcome),
    /// Either way: an [`Up`](crate::Up) or [`Down`](crate::Down), encrypted.
    #[n(2)]
    Sealed(#[n(0)] Sealed),
    /// Bridge to device, readable and forgeable by the hub: why there was no welcome. Shown to people; never acted on.
    #[n(3)]
    Refusal(#[n(0)] Refusal),
    /// Bridge to device, forgeable: "I have no such session". The device may shake hands again, at its own pace.
    #[n(4)]
    NoSession(#[n(0)] SessionId),
}

/// Which handshake it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Intent {
    /// `IKpsk2` with a join token: the bridge does not know this device's key yet.
    #[n(0)]
    Join(#[n(0)] TokenId),
    /// `IK`: the bridge knows the key.
    #[n(1)]
    Resume,
}

/// The device's first message. Everything in the clear here is bound by the handshake's prologue.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Hello {
    /// The oldest protocol the device speaks.
    #[n(0)]
    pub oldest: u16,
    /// The newest protocol the device speaks.
    #[n(1)]
    pub newest: u16,
    /// Which handshake it is.
    #[n(2)]
    pub intent: Intent,
    /// Noise message 1, whose payload is a [`HelloPayload`].
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub noise: Vec<u8>,
}

/// What the device says in its first message. It can be replayed by the hub, so nothing is concluded from it before the
/// device has spoken in the session.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct HelloPayload {
    /// The agent's version, for people.
    #[n(0)]
    pub agent_version: String,
    /// The version of the desired set that the device last accepted.
    #[n(1)]
    pub accepted: Option<Version>,
    /// The digest that came with it.
    #[n(2)]
    pub digest: Option<Digest>,
    /// Which start of the kernel this is.
    #[n(3)]
    pub boot: BootId,
}

/// The bridge's answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Welcome {
    /// The protocol that both will speak. Bound again inside the noise payload.
    #[n(0)]
    pub protocol: u16,
    /// Noise message 2, whose payload is a [`WelcomePayload`].
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub noise: Vec<u8>,
}

/// What the bridge says in its answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct WelcomePayload {
    /// The protocol that both will speak, as in the clear part.
    #[n(0)]
    pub protocol: u16,
    /// The bridge's version, for people.
    #[n(1)]
    pub bridge_version: String,
    /// How often the device is to send a heartbeat, in seconds.
    #[n(2)]
    pub heartbeat_seconds: u16,
    /// The bridge's clock: milliseconds since 1970.
    #[n(3)]
    pub bridge_millis: u64,
}

/// A message inside the session.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Sealed {
    /// Which session.
    #[n(0)]
    pub session: SessionId,
    /// The number of this message in its direction. Never used twice.
    #[n(1)]
    pub counter: u64,
    /// The encrypted message and its authentication tag.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
}

/// Why the bridge did not answer a hello.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Refusal {
    /// What is wrong.
    #[n(0)]
    pub kind: RefusalKind,
    /// A sentence for people: thing, cause, fix.
    #[n(1)]
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum RefusalKind {
    /// There is no Device of this name.
    #[n(0)]
    UnknownDevice,
    /// The device joined with another key (two agents with one identity, or a reinstalled one).
    #[n(1)]
    OtherKey,
    /// The token is unknown or was used already.
    #[n(2)]
    TokenUsed,
    /// The token's time is over.
    #[n(3)]
    TokenExpired,
    /// No common protocol.
    #[n(4)]
    Protocol,
    /// The handshake could not be read: most likely another bridge's key.
    #[n(5)]
    Unreadable,
    /// The bridge cannot answer now.
    #[n(6)]
    Unavailable,
}
