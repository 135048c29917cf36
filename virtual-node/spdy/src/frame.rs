//! Frames as bytes: the numbers of the protocol, and the writing side of the codec.

use bytes::{BufMut, BytesMut};

use crate::error::Ended;
use crate::headers::Headers;
use crate::zlib::Deflater;

/// The number of a stream: odd if the client opened it, even if the server did.
pub type StreamId = u32;

/// The largest length that a frame can have: 24 bits.
pub const MAX_FRAME: usize = (1 << 24) - 1;

pub(crate) const HEADER: usize = 8;
pub(crate) const VERSION: u16 = 3;
pub(crate) const CONTROL: u8 = 0x80;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const UNIDIRECTIONAL: u8 = 0x02;

pub(crate) mod kind {
    pub(crate) const SYN_STREAM: u16 = 1;
    pub(crate) const SYN_REPLY: u16 = 2;
    pub(crate) const RST_STREAM: u16 = 3;
    pub(crate) const PING: u16 = 6;
    pub(crate) const GOAWAY: u16 = 7;
    pub(crate) const HEADERS: u16 = 8;
}

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that asked for the upgrade. Its streams and pings have odd numbers.
    Client,
    /// The end that was asked. Its streams and pings have even numbers.
    Server,
}

impl Role {
    pub(crate) fn first_id(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }

    /// Whether a number of this parity is given by this end.
    pub(crate) fn gives(self, id: u32) -> bool {
        id != 0 && id % 2 == self.first_id() % 2
    }
}

/// How much a peer may make us keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many streams may be open at once, whoever opened them.
    pub streams: usize,
    /// How many bytes of a stream wait for its reader before the connection is read no further.
    pub stream_buffer: usize,
    /// The same over all streams of the connection.
    pub connection_buffer: usize,
    /// How many bytes the headers of one stream may have, before compression.
    pub headers: usize,
    /// How many bytes wait for the transport before writers wait.
    pub send_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 256,
            stream_buffer: 64 << 10,
            connection_buffer: 1 << 20,
            headers: 16 << 10,
            send_buffer: 64 << 10,
        }
    }
}

impl Limits {
    /// The longest control frame: compression may make small headers a little longer.
    pub(crate) fn control_frame(&self) -> usize {
        self.headers + self.headers / 64 + 256
    }
}

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetStatus(pub u32);

impl ResetStatus {
    /// The peer did something that is not allowed on this stream.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// There is no such stream.
    pub const INVALID_STREAM: Self = Self(2);
    /// The stream was not taken.
    pub const REFUSED: Self = Self(3);
    /// Whoever used it has no more use for it.
    pub const CANCEL: Self = Self(5);
    /// Something failed.
    pub const INTERNAL_ERROR: Self = Self(6);
}

/// Why a connection takes no more streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GoAwayStatus(pub u32);

impl GoAwayStatus {
    /// It has done its work.
    pub const OK: Self = Self(0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
}

/// Writes frames. One per direction of a connection, since compressed headers build on each other.
#[derive(Debug)]
pub struct Encoder {
    zlib: Deflater,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { zlib: Deflater::new() }
    }
}

impl Encoder {
    /// Opens a stream.
    pub fn syn_stream(&mut self, out: &mut BytesMut, id: StreamId, headers: &Headers, fin: bool) -> Result<(), Ended> {
        let packed = self.pack(headers, 10)?;
        control(out, kind::SYN_STREAM, if fin { FIN } else { 0 }, 10 + packed.len());
        out.put_u32(id);
        // No stream that this one belongs to, no priority.
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&packed);
        Ok(())
    }

    /// Takes a stream.
    pub fn syn_reply(&mut self, out: &mut BytesMut, id: StreamId, headers: &Headers, fin: bool) -> Result<(), Ended> {
        let packed = self.pack(headers, 4)?;
        control(out, kind::SYN_REPLY, if fin { FIN } else { 0 }, 4 + packed.len());
        out.put_u32(id);
        out.put_slice(&packed);
        Ok(())
    }

    /// Bytes of a stream, in as many frames as they need; `fin` closes it in this direction.
    pub fn data(&mut self, out: &mut BytesMut, id: StreamId, mut bytes: &[u8], fin: bool) {
        loop {
            let (frame, rest) = bytes.split_at(bytes.len().min(MAX_FRAME));
            out.put_u32(id & !(1 << 31));
            length(out, if fin && rest.is_empty() { FIN } else { 0 }, frame.len());
            out.put_slice(frame);
            if rest.is_empty() {
                return;
            }
            bytes = rest;
        }
    }

    /// Ends a stream in both directions.
    pub fn reset(&mut self, out: &mut BytesMut, id: StreamId, status: ResetStatus) {
        control(out, kind::RST_STREAM, 0, 8);
        out.put_u32(id);
        out.put_u32(status.0);
    }

    /// Asks whether the peer is alive, or answers.
    pub fn ping(&mut self, out: &mut BytesMut, id: u32) {
        control(out, kind::PING, 0, 4);
        out.put_u32(id);
    }

    /// No streams after `last` are taken.
    pub fn go_away(&mut self, out: &mut BytesMut, last: StreamId, status: GoAwayStatus) {
        control(out, kind::GOAWAY, 0, 8);
        out.put_u32(last);
        out.put_u32(status.0);
    }

    fn pack(&mut self, headers: &Headers, fixed: usize) -> Result<Vec<u8>, Ended> {
        // Checked before the compressor sees them: what it has seen must be sent.
        if headers.size() > MAX_FRAME / 2 - fixed {
            return Err(Ended::HeadersTooLarge);
        }
        Ok(self.zlib.block(headers))
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, bytes: usize) {
    out.reserve(HEADER + bytes);
    out.put_u16(u16::from(CONTROL) << 8 | VERSION);
    out.put_u16(kind);
    length(out, flags, bytes);
}

fn length(out: &mut BytesMut, flags: u8, bytes: usize) {
    let bytes = u32::try_from(bytes.min(MAX_FRAME)).unwrap_or_default();
    out.put_u32(u32::from(flags) << 24 | bytes);
}
