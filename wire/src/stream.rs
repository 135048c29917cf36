//! Streams: logs, exec, attach, port-forward and stats, over the session.
//!
//! Here are the words; [`mux`] is how both ends use them.

pub mod mux;
mod stats;

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::ids::{DeviceTime, PodUid};

pub use stats::{
    ContainerSpace, ContainerStats, DiskStats, FileSystem, PodSpace, PodStats, Space, Stats, Usage, VolumeSpace,
};

/// How many bytes of one channel may be under way or wait at the receiver.
pub const CREDIT: u32 = 96 * 1024;
/// How much of a channel travels in one frame.
pub const CHUNK: usize = 16 * 1024;
/// How many milliseconds the device has to accept or refuse a stream.
pub const OPEN_WITHIN: u64 = 30_000;
/// The longest position of a log.
pub const MAX_LOG_POSITION: usize = 256;

/// One frame of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct StreamFrame {
    /// The stream, as numbered by the bridge from 1 on; 0 is about all of them.
    #[n(0)]
    pub id: u32,
    /// What it says.
    #[n(1)]
    pub body: StreamBody,
    /// The how-manieth frame of its sender in this session it is, counted from 0. Only [`StreamBody::Received`] has none.
    #[n(2)]
    pub number: Option<u64>,
}

/// What a stream frame says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum StreamBody {
    /// Bridge to device: open it.
    #[n(0)]
    Open(#[n(0)] StreamRequest),
    /// Device to bridge: it is open.
    #[n(1)]
    Accept,
    /// Device to bridge: it is not.
    #[n(2)]
    Refuse(#[n(0)] StreamRefusal),
    /// Bytes of one channel.
    #[n(3)]
    Data(#[n(0)] StreamData),
    /// The other end may send so many more bytes on this channel.
    #[n(4)]
    Credit(#[n(0)] u8, #[n(1)] u32),
    /// Nothing more will come on this channel from here.
    #[n(5)]
    HalfClose(#[n(0)] u8),
    /// The terminal's new size: columns, rows.
    #[n(6)]
    Resize(#[n(0)] u16, #[n(1)] u16),
    /// The process ended.
    #[n(7)]
    Exit(#[n(0)] i32),
    /// The stream is over before its end.
    #[n(8)]
    Abort(#[n(0)] String),
    /// Device to bridge: from where the log can be continued.
    #[n(9)]
    Mark(#[n(0)] LogMark),
    /// "I am here", when there was nothing else to say for a while. Of stream 0.
    #[n(10)]
    Alive,
    /// The frame of this number, and all before it that will ever come, have come. Of stream 0, without a number.
    #[n(11)]
    Received(#[n(0)] u64),
    /// Frames were lost: all streams are over. Of stream 0.
    #[n(12)]
    Broken(#[n(0)] String),
}

/// Bytes of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct StreamData {
    /// 0 stdin, 1 stdout, 2 stderr.
    #[n(0)]
    pub channel: u8,
    /// Where on the channel these bytes begin: a gap aborts the stream.
    #[n(1)]
    pub offset: u64,
    /// The bytes, at most [`MAX_STREAM_DATA`](crate::limits::MAX_STREAM_DATA).
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub data: Vec<u8>,
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct StreamRefusal {
    /// The HTTP status that says it best.
    #[n(0)]
    pub status: u16,
    /// A sentence.
    #[n(1)]
    pub message: String,
}

/// What a stream is to carry.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum StreamRequest {
    /// A container's log.
    #[n(0)]
    Logs(#[n(0)] LogsRequest),
    /// A new process in a container.
    #[n(1)]
    Exec(#[n(0)] ExecRequest),
    /// The container's own process.
    #[n(2)]
    Attach(#[n(0)] AttachRequest),
    /// A port of the pod.
    #[n(3)]
    PortForward(#[n(0)] PodUid, #[n(1)] u16),
    /// What the device and its pods use: one encoded [`Stats`] on channel 1.
    #[n(4)]
    Stats,
}

/// Which part of which log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct LogsRequest {
    /// The pod.
    #[n(0)]
    pub pod: PodUid,
    /// The container.
    #[n(1)]
    pub container: String,
    /// Go on as the log grows.
    #[n(2)]
    pub follow: bool,
    /// Of the container's previous run.
    #[n(3)]
    pub previous: bool,
    /// Each line with its time.
    #[n(4)]
    pub timestamps: bool,
    /// The last so many lines.
    #[n(5)]
    pub tail: Option<u64>,
    /// Lines not older than this.
    #[n(6)]
    pub since: Option<DeviceTime>,
    /// So many bytes at most.
    #[n(7)]
    pub limit_bytes: Option<u64>,
    /// Go on from here instead of where `tail` and `since` would begin. Those are served already; `limit_bytes` counts from
    /// here on.
    #[n(8)]
    pub from: Option<LogPosition>,
    /// Begin no further back than so many bytes of what is written on the device, at the beginning of a line: wherever the
    /// others would begin, and also if the place in `from` is not kept any more.
    #[n(9)]
    pub newest: Option<u64>,
}

/// A place in a container's log. What is in it is the device's business; it is valid as long as that part of the log is
/// kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct LogPosition {
    /// At most [`MAX_LOG_POSITION`] bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub position: Vec<u8>,
}

/// From where a log can be continued.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct LogMark {
    /// So many bytes of the stream lie before it.
    #[n(0)]
    pub bytes: u64,
    /// What follows them begins here.
    #[n(1)]
    pub position: LogPosition,
}

/// A new process in a container.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ExecRequest {
    /// The pod.
    #[n(0)]
    pub pod: PodUid,
    /// The container.
    #[n(1)]
    pub container: String,
    /// The program and its arguments.
    #[n(2)]
    pub command: Vec<String>,
    /// Which of stdin, stdout, stderr are wanted.
    #[n(3)]
    pub channels: Channels,
}

/// The container's own process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct AttachRequest {
    /// The pod.
    #[n(0)]
    pub pod: PodUid,
    /// The container.
    #[n(1)]
    pub container: String,
    /// Which of stdin, stdout, stderr are wanted.
    #[n(2)]
    pub channels: Channels,
}

/// Which of stdin, stdout, stderr are wanted, and whether they are a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Channels {
    /// stdin.
    #[n(0)]
    pub stdin: bool,
    /// stdout.
    #[n(1)]
    pub stdout: bool,
    /// stderr.
    #[n(2)]
    pub stderr: bool,
    /// A terminal.
    #[n(3)]
    pub tty: bool,
}
