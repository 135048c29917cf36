//! A tiny file beside the ledger that keeps the sequence numbers from going back even if the whole ledger is lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const FILE: &str = "floor";
const NEW_FILE: &str = "floor.new";
const MAGIC: [u8; 8] = *b"HWFLOOR1";

/// Numbers below which everything may have been used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Floor {
    /// The next sequence number to use is not less.
    pub(super) sequence: u64,
}

impl Floor {
    /// Reads the file in `dir`. A missing or damaged one says nothing.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        match std::fs::read(dir.join(FILE)) {
            Ok(bytes) => Ok(Self::decode(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file in `dir`, durably.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        let new = dir.join(NEW_FILE);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        std::fs::rename(&new, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_at_checked(16)?;
        if body[..8] != MAGIC || crc != crc32fast::hash(body).to_le_bytes() {
            return None;
        }
        Some(Self { sequence: u64::from_le_bytes(body[8..].try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Floor::read(dir.path()).unwrap(), Floor::default());
        Floor { sequence: 77 }.write(dir.path()).unwrap();
        assert_eq!(Floor::read(dir.path()).unwrap(), Floor { sequence: 77 });
        let mut bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        bytes[9] ^= 1;
        std::fs::write(dir.path().join(FILE), bytes).unwrap();
        assert_eq!(Floor::read(dir.path()).unwrap(), Floor::default());
    }
}
