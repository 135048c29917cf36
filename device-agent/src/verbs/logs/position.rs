//! A place in a log that outlives the reader, the connection and the agent.
//!
//! A file is known by its inode, which a later file may get, and by a checksum of how it begins, which a later file does
//! not have: it begins with a time.

use std::io;

use hawser_wire::stream::LogPosition;

use super::parts::Part;
use super::tail::{Part as _, Place};

/// How much of the beginning of a file is looked at.
const HEAD: u64 = 64;
const LENGTH: usize = 24;

/// A place in one attempt's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verbs) struct Position {
    attempt: u32,
    /// 0: before the first file.
    inode: u64,
    /// Of the first bytes of the file, [`HEAD`] at most, up to the offset.
    head: u32,
    offset: u64,
}

impl Position {
    /// The place at an offset of a part; `None`: before there is one.
    pub(super) fn of(attempt: u32, part: Option<&Part>, offset: u64) -> io::Result<Self> {
        let Some(part) = part else { return Ok(Self { attempt, inode: 0, head: 0, offset: 0 }) };
        Ok(Self { attempt, inode: part.key.inode, head: head(part, offset)?, offset })
    }

    /// Which attempt's log it is in.
    pub(in crate::verbs) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Where it is in these files, if it still is.
    pub(super) fn find(&self, parts: &[Part]) -> io::Result<Option<Place>> {
        if self.inode == 0 {
            return Ok(Some(Place { part: 0, offset: 0 }));
        }
        for (at, part) in parts.iter().enumerate() {
            let fits = part.key.inode == self.inode && part.length() >= self.offset;
            if fits && head(part, self.offset)? == self.head {
                return Ok(Some(Place { part: at, offset: self.offset }));
            }
        }
        Ok(None)
    }

    pub(super) fn encode(&self) -> LogPosition {
        let mut position = Vec::with_capacity(LENGTH);
        position.extend_from_slice(&self.attempt.to_le_bytes());
        position.extend_from_slice(&self.head.to_le_bytes());
        position.extend_from_slice(&self.inode.to_le_bytes());
        position.extend_from_slice(&self.offset.to_le_bytes());
        LogPosition { position }
    }

    /// `None` if it is none of ours.
    pub(super) fn decode(position: &LogPosition) -> Option<Self> {
        let bytes: [u8; LENGTH] = position.position.as_slice().try_into().ok()?;
        let (four, eight) =
            (|at: usize| bytes[at..].first_chunk().copied(), |at: usize| bytes[at..].first_chunk().copied());
        Some(Self {
            attempt: u32::from_le_bytes(four(0)?),
            head: u32::from_le_bytes(four(4)?),
            inode: u64::from_le_bytes(eight(8)?),
            offset: u64::from_le_bytes(eight(16)?),
        })
    }
}

fn head(part: &Part, offset: u64) -> io::Result<u32> {
    let mut bytes = [0; HEAD as usize];
    let read = part.read_at(&mut bytes[..offset.min(HEAD) as usize], 0)?;
    Ok(crc32fast::hash(&bytes[..read]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_as_they_were_and_rubbish_does_not() {
        let position = Position { attempt: 7, inode: u64::MAX - 1, head: 9, offset: 1 << 40 };
        assert_eq!(Position::decode(&position.encode()), Some(position));
        for length in [0, LENGTH - 1, LENGTH + 1, 300] {
            assert_eq!(Position::decode(&LogPosition { position: vec![0; length] }), None);
        }
    }
}
