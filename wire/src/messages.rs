//! What is inside a sealed frame.

use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::desired::{Chunk, Index, Want};
use crate::report::{Heartbeat, Report};
use crate::stream::StreamFrame;

/// Device to bridge.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Up {
    /// "I am alive, and this is what I have."
    #[n(0)]
    Heartbeat(#[n(0)] Heartbeat),
    /// "I lack these objects."
    #[n(1)]
    Want(#[n(0)] Want),
    /// What happens on the device.
    #[n(2)]
    Report(#[n(0)] Report),
    /// A frame of a stream.
    #[n(3)]
    Stream(#[n(0)] StreamFrame),
}

/// Bridge to device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Down {
    /// What the device is to run.
    #[n(0)]
    Index(#[n(0)] Index),
    /// A part of an object that the device asked for.
    #[n(1)]
    Chunk(#[n(0)] Chunk),
    /// The API server holds these reports; forget them.
    #[n(2)]
    Ack(#[n(0)] Ack),
    /// Answer with a heartbeat now.
    #[n(3)]
    Ping(#[n(0)] u32),
    /// A frame of a stream.
    #[n(4)]
    Stream(#[n(0)] StreamFrame),
}

/// Reports that the API server holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Ack {
    /// At most [`MAX_REPORT_ITEMS`](crate::limits::MAX_REPORT_ITEMS) numbers.
    #[n(0)]
    pub seqs: Vec<u64>,
}
