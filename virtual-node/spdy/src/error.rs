//! What can go wrong on a connection.

use std::io;

/// The peer broke the protocol. The connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Something else than SPDY/3.
    #[error("a frame of SPDY version {0}, only 3 is spoken here")]
    Version(u16),
    /// A control frame that is longer than any honest one.
    #[error("a frame of type {kind} with {length} bytes, at most {limit} are taken")]
    TooLong {
        /// The type of the frame.
        kind: u16,
        /// What it claims.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// A control frame whose length does not fit its type.
    #[error("a frame of type {kind} with {length} bytes, which does not fit its type")]
    Length {
        /// The type of the frame.
        kind: u16,
        /// What it claims.
        length: usize,
    },
    /// Headers that cannot be decompressed.
    #[error("headers that cannot be decompressed")]
    Compression,
    /// Headers that are larger than any honest ones once decompressed.
    #[error("headers of more than {0} bytes")]
    HeadersTooLarge(usize),
    /// Headers that are not a list of names and values.
    #[error("malformed headers: {0}")]
    Headers(&'static str),
    /// A stream id that is zero, not the peer's to give, or was given before.
    #[error("stream {0} cannot be opened by the peer now")]
    StreamId(u32),
    /// Something about a stream that was never opened.
    #[error("a frame for stream {0}, which was never opened")]
    NoSuchStream(u32),
}

/// Why a connection is no longer of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// It was closed by this side.
    #[error("the connection was closed")]
    Closed,
    /// The peer closed it.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The peer opens and takes no more streams.
    #[error("the peer is going away")]
    GoingAway,
    /// The transport failed.
    #[error("the connection failed: {1}")]
    Failed(io::ErrorKind, String),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// As many streams, or pings, are open as may be.
    #[error("too many streams on one connection")]
    TooMany,
    /// Headers that are too large to be sent.
    #[error("the headers are too large")]
    HeadersTooLarge,
}

impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        let kind = match &ended {
            Ended::Closed | Ended::PeerClosed | Ended::GoingAway => io::ErrorKind::ConnectionAborted,
            Ended::Failed(kind, _) => *kind,
            Ended::Protocol(_) => io::ErrorKind::InvalidData,
            Ended::TooMany => io::ErrorKind::QuotaExceeded,
            Ended::HeadersTooLarge => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, ended)
    }
}
