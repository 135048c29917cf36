//! One channel of one stream, seen from its sender and from its receiver.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::super::{CHUNK, StreamData};
use super::Violation;
use crate::limits::MAX_STREAM_DATA;

/// What we send on a channel.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Handed over by the application, not sent yet: at most a chunk.
    staged: Vec<u8>,
    /// How much was sent.
    offset: u64,
    /// How much may be sent in all.
    credit: u64,
    /// Nothing more comes from the application.
    ending: bool,
    /// The other end was told so.
    pub(super) ended: bool,
}

impl Outgoing {
    /// How much the application may hand over now. Only what may also be sent: nothing is read in advance.
    pub(super) fn room(&self) -> usize {
        if self.ending {
            return 0;
        }
        let credit = self.credit - self.offset - self.staged.len() as u64;
        (CHUNK - self.staged.len()).min(usize::try_from(credit).unwrap_or(usize::MAX))
    }

    /// Takes at most [`Outgoing::room`] bytes and answers how many.
    pub(super) fn stage(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.staged.extend_from_slice(&bytes[..taken]);
        taken
    }

    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    pub(super) fn credit(&mut self, more: u32) -> Result<(), Violation> {
        self.credit = self.credit.checked_add(u64::from(more)).ok_or("more credit than there are numbers")?;
        Ok(())
    }

    pub(super) fn has_data(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether the other end is to be told that nothing more will come.
    pub(super) fn end_is_due(&self) -> bool {
        self.ending && !self.ended && self.staged.is_empty()
    }

    pub(super) fn data(&mut self, channel: u8, most: usize) -> StreamData {
        let rest = self.staged.split_off(self.staged.len().min(most));
        let data = core::mem::replace(&mut self.staged, rest);
        let offset = self.offset;
        self.offset += data.len() as u64;
        StreamData { channel, offset, data }
    }

    pub(super) fn clear(&mut self) {
        self.staged = Vec::new();
    }
}

/// What we receive on a channel.
#[derive(Debug)]
pub(super) struct Incoming {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk was read.
    read: usize,
    /// How much waits to be read.
    waiting: usize,
    /// How much was received.
    offset: u64,
    /// How much the other end may send in all.
    granted: u64,
    window: u32,
    /// Nothing more will come.
    pub(super) ended: bool,
    /// Nobody reads: what comes is dropped.
    discard: bool,
}

impl Incoming {
    pub(super) fn new(window: u32) -> Self {
        Self {
            chunks: VecDeque::new(),
            read: 0,
            waiting: 0,
            offset: 0,
            granted: 0,
            window,
            ended: false,
            discard: false,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The credit to give now, if it is worth a frame.
    pub(super) fn credit_due(&self) -> Option<u32> {
        let open = self.granted - self.offset + self.waiting as u64;
        let missing = u64::from(self.window).saturating_sub(open);
        (!self.ended && missing >= u64::from(self.window / 2)).then(|| u32::try_from(missing).unwrap_or(self.window))
    }

    pub(super) fn grant(&mut self, more: u32) {
        self.granted += u64::from(more);
    }

    pub(super) fn take(&mut self, data: StreamData) -> Result<(), Violation> {
        let StreamData { offset, data, .. } = data;
        if self.ended {
            return Err("data after the end of a channel");
        }
        if offset != self.offset {
            return Err("bytes were lost on the way");
        }
        if data.len() > MAX_STREAM_DATA || data.len() as u64 > self.granted - self.offset {
            return Err("more bytes than there was credit for");
        }
        self.offset += data.len() as u64;
        if !self.discard && !data.is_empty() {
            self.waiting += data.len();
            self.chunks.push_back(data);
        }
        Ok(())
    }

    /// Copies what waits into `buffer`.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(chunk) = self.chunks.front().filter(|_| filled < buffer.len()) {
            let rest = &chunk[self.read..];
            let now = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + now].copy_from_slice(&rest[..now]);
            filled += now;
            self.read += now;
            if self.read == chunk.len() {
                self.chunks.pop_front();
                self.read = 0;
            }
        }
        self.waiting -= filled;
        filled
    }

    pub(super) fn discard(&mut self) {
        self.discard = true;
        self.chunks = VecDeque::new();
        self.read = 0;
        self.waiting = 0;
    }
}
