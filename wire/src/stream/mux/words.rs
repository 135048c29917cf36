//! What is said to a [`Mux`](super::Mux) and by it.

use alloc::string::String;

use super::super::StreamRefusal;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It opens streams.
    Bridge,
    /// It answers.
    Device,
}

/// What an end can afford.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many streams at once.
    pub streams: usize,
    /// How many bytes of credit are given freely; channels beyond it get little.
    pub budget: usize,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything was said; of a process, its exit code.
    Finished(Option<i32>),
    /// The device did not open it.
    Refused(StreamRefusal),
    /// One of the ends ended it: a sentence why.
    Aborted(String),
    /// The ends lost each other: a sentence how.
    Lost(String),
}

/// Why no stream can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// There is no session.
    Down(String),
    /// So many streams are open already.
    TooMany(usize),
}

/// What came of reading or writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// None now; [`Mux::woken`](super::Mux::woken) tells when to try again.
    Wait,
    /// None ever: the channel has ended in order.
    Ended,
    /// None ever: the stream has ended.
    Over(End),
}

/// For whom there is something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Woken {
    /// The reader of this channel.
    Reader(u8),
    /// The writer of this channel.
    Writer(u8),
    /// Whoever waits for the answer, the terminal's size, or the end.
    Life,
}

/// How much has happened since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Streams that were asked for.
    pub opened: u64,
    /// Of them, those that were refused.
    pub refused: u64,
    /// Of them, those that ended before their end.
    pub aborted: u64,
    /// Bytes of data that were sent.
    pub bytes_out: u64,
    /// Bytes of data that were received.
    pub bytes_in: u64,
}
