//! The ledger file: opened, recovered, appended to, compacted. Shell: what the bytes mean is in `frame`.
//!
//! Values stay in the file; memory holds where each one is and a short hash of it, so that an unchanged value is not
//! written again. One write is one `fdatasync`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hawser_wire::ContentHash;

use super::entry::{Key, Op};
use super::frame::{self, Cipher, End, Frame, HEADER_LEN};

pub(super) const FILE: &str = "ledger";
const NEW_FILE: &str = "ledger.new";
/// So much garbage is never worth a compaction.
const SLACK: u64 = 256 * 1024;

/// The file and what is in it.
pub(super) struct Log {
    dir: PathBuf,
    file: File,
    /// The file could be opened for reading only: writing has to open it again, or say why that cannot be.
    read_only: bool,
    /// The file got its name, and it is not certain that the name survives a power cut. Until it is, nothing is durable.
    name_unsynced: bool,
    /// How a directory is made durable. Tests have a disk that refuses.
    sync_dir: fn(&Path) -> io::Result<()>,
    secret: [u8; 32],
    cipher: Cipher,
    /// Everything before it is durable.
    len: u64,
    live: BTreeMap<Key, Place>,
    live_bytes: u64,
    /// Compaction failed at this length; it is not tried again before the file has doubled.
    compact_above: u64,
    /// How many bytes were ever written, for the bench.
    pub(super) written: u64,
}

/// Where a value is.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    len: u32,
    hash: [u8; 16],
}

/// What was found when the file was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No file: a new one was made.
    Nothing,
    /// A whole file.
    Whole,
    /// The last write was cut off by a power failure; it was removed.
    Torn {
        /// How many bytes were removed.
        bytes: u64,
    },
    /// The file was not readable; it was set aside and a new one begun.
    SetAside {
        /// Where it is now.
        path: PathBuf,
        /// What was wrong with it.
        what: String,
    },
}

/// Numbers that must never go back, read from a file that is otherwise lost.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    pub(super) ops: Vec<Op>,
}

impl Salvage {
    fn take(&mut self, ops: Vec<Op>) {
        self.ops.extend(ops.into_iter().filter(|(key, _)| matches!(key, Key::Sequence | Key::Clock)));
    }
}

impl Log {
    /// Opens the file in `dir`, or makes it.
    pub(super) fn open(dir: &Path, secret: &[u8; 32]) -> io::Result<(Self, Found, Salvage)> {
        let (file, read_only) = match open_existing(&dir.join(FILE)) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::create(dir, secret)?, Found::Nothing, Salvage::default()));
            }
            Err(error) => return Err(error),
        };
        let end = file.metadata()?.len();
        let mut header = [0; HEADER_LEN as usize];
        let readable = end >= HEADER_LEN && file.read_exact_at(&mut header, 0).is_ok();
        let Some(cipher) = Cipher::of_header(secret, &header).filter(|_| readable) else {
            return Self::set_aside(dir, secret, "its header is damaged".to_owned(), Salvage::default());
        };
        let (mut log, found, salvage) = Self::recover(dir, secret, file, cipher, end)?;
        // One that was set aside has left its place to a new one.
        log.read_only = read_only && !matches!(found, Found::SetAside { .. });
        Ok((log, found, salvage))
    }

    fn recover(
        dir: &Path,
        secret: &[u8; 32],
        file: File,
        cipher: Cipher,
        end: u64,
    ) -> io::Result<(Self, Found, Salvage)> {
        let mut live = BTreeMap::new();
        let mut salvage = Salvage::default();
        let mut good = Salvage::default();
        let outcome = frame::walk(
            &file,
            &cipher,
            end,
            |at, len, ops| {
                for (key, value) in ops {
                    if matches!(key, Key::Sequence | Key::Clock) {
                        good.ops.push((key.clone(), value.clone()));
                    }
                    note(&mut live, key, value.as_deref(), at, len);
                }
            },
            |ops| salvage.take(ops),
        )?;
        let found = match outcome {
            End::Clean => Found::Whole,
            End::Torn { at } => Found::Torn { bytes: end - at },
            End::Corrupt { at, what } => {
                good.ops.append(&mut salvage.ops);
                return Self::set_aside(dir, secret, format!("{what} (at byte {at} of {end})"), good);
            }
        };
        let len = if let Found::Torn { bytes } = &found { end - bytes } else { end };
        let live_bytes = live.values().map(|place: &Place| u64::from(place.len)).sum();
        let log = Self {
            dir: dir.into(),
            file,
            read_only: false,
            name_unsynced: false,
            sync_dir,
            secret: *secret,
            cipher,
            len,
            live,
            live_bytes,
            compact_above: 0,
            written: 0,
        };
        if len < end {
            // On a read-only file the tail stays; it is cut off again at the next start.
            let _ = log.file.set_len(len).and_then(|()| log.file.sync_data());
        }
        Ok((log, found, Salvage::default()))
    }

    fn set_aside(dir: &Path, secret: &[u8; 32], what: String, salvage: Salvage) -> io::Result<(Self, Found, Salvage)> {
        let path = (1..10_000)
            .map(|n| dir.join(format!("ledger.corrupt-{n}")))
            .find(|path| !path.exists())
            .ok_or_else(|| io::Error::other("10,000 corrupt ledgers were set aside already"))?;
        std::fs::rename(dir.join(FILE), &path)?;
        let log = Self::create(dir, secret)?;
        Ok((log, Found::SetAside { path, what }, salvage))
    }

    fn create(dir: &Path, secret: &[u8; 32]) -> io::Result<Self> {
        let (file, cipher) = begin(&dir.join(NEW_FILE), secret)?;
        file.sync_all()?;
        install(dir)?;
        sync_dir(dir)?;
        Ok(Self {
            dir: dir.into(),
            file,
            read_only: false,
            name_unsynced: false,
            sync_dir,
            secret: *secret,
            cipher,
            len: HEADER_LEN,
            live: BTreeMap::new(),
            live_bytes: 0,
            compact_above: 0,
            written: HEADER_LEN,
        })
    }

    /// Whether writing `op` would change anything.
    pub(super) fn changes(&self, op: &Op) -> bool {
        match (&op.1, self.live.get(&op.0)) {
            (None, None) => false,
            (Some(value), Some(place)) => place.hash != short_hash(value),
            (None, Some(_)) | (Some(_), None) => true,
        }
    }

    /// Makes `ops` durable. On an error the file is as it was, or its tail is torn and will be written again.
    pub(super) fn write(&mut self, ops: Vec<Op>) -> io::Result<()> {
        let ops: Vec<Op> = ops.into_iter().filter(|op| self.changes(op)).collect();
        if ops.is_empty() {
            return Ok(());
        }
        self.be_writable()?;
        // The tail of a failed write must be gone first, or parts of it could be read as frames behind the new one.
        if self.file.metadata()?.len() > self.len {
            self.file.set_len(self.len)?;
        }
        // One nonce per frame at most; drawn before, since drawing may fail.
        let mut nonces = Vec::with_capacity(ops.len());
        for _ in &ops {
            nonces.push(frame::random().map_err(io::Error::other)?);
        }
        let mut nonce = || nonces.pop().unwrap_or_default();
        let (bytes, written) = frame::encode_write(&self.cipher, self.len, ops, &mut nonce);
        let result = self.file.write_all_at(&bytes, self.len).and_then(|()| self.file.sync_data());
        if let Err(error) = result {
            // What was written of it is a torn tail; the next write begins at the same place.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        self.written += bytes.len() as u64;
        for frame in written {
            for (key, value) in frame.ops {
                note(&mut self.live, key, value.as_deref(), frame.at, frame.len);
            }
        }
        self.live_bytes = self.live.values().map(|place| u64::from(place.len)).sum();
        self.compact_if_due();
        Ok(())
    }

    /// Mends what stood in the way of writing durably, or says what still does.
    fn be_writable(&mut self) -> io::Result<()> {
        if self.read_only {
            self.file = OpenOptions::new().read(true).write(true).open(self.dir.join(FILE))?;
            self.read_only = false;
        }
        if self.name_unsynced {
            (self.sync_dir)(&self.dir)?;
            self.name_unsynced = false;
        }
        Ok(())
    }

    /// The value of `key`.
    pub(super) fn read(&self, key: &Key) -> io::Result<Option<Arc<[u8]>>> {
        let Some(place) = self.live.get(key) else { return Ok(None) };
        match frame::read_frame(&self.file, &self.cipher, place.at, self.len)? {
            // The last operation on the key in that frame is the one that counts.
            Frame::Good { ops: Some(ops), .. } => {
                Ok(ops.into_iter().rev().find(|(found, _)| found == key).and_then(|(_, value)| value))
            }
            Frame::Good { ops: None, .. } | Frame::Bad => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that was readable is not any more"))
            }
        }
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.live.keys()
    }

    /// How long the file is.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn compact_if_due(&mut self) {
        if self.len < self.compact_above.max(SLACK + 2 * self.live_bytes) {
            return;
        }
        if let Err(error) = self.compact() {
            // The old file is whole and goes on.
            self.compact_above = self.len * 2;
            tracing::warn!(%error, bytes = self.len, "the ledger could not be compacted and goes on growing");
        }
    }

    /// Writes what is live into a new file and puts it in the place of the old one. One value at a time is in memory.
    fn compact(&mut self) -> io::Result<()> {
        let (file, cipher) = begin(&self.dir.join(NEW_FILE), &self.secret)?;
        let mut live = BTreeMap::new();
        let mut len = HEADER_LEN;
        let keys: Vec<Key> = self.live.keys().cloned().collect();
        let mut group: Vec<Op> = Vec::new();
        let mut group_bytes = 0;
        let mut keys = keys.into_iter().peekable();
        while let Some(key) = keys.next() {
            let value = self.read(&key)?;
            group_bytes += value.as_ref().map_or(0, |value| value.len());
            group.push((key, value));
            if group_bytes < 32 * 1024 && keys.peek().is_some() {
                continue;
            }
            let mut nonces = Vec::with_capacity(group.len());
            for _ in &group {
                nonces.push(frame::random().map_err(io::Error::other)?);
            }
            let mut nonce = || nonces.pop().unwrap_or_default();
            let (bytes, written) = frame::encode_write(&cipher, len, std::mem::take(&mut group), &mut nonce);
            group_bytes = 0;
            file.write_all_at(&bytes, len)?;
            len += bytes.len() as u64;
            for frame in written {
                for (key, value) in frame.ops {
                    note(&mut live, key, value.as_deref(), frame.at, frame.len);
                }
            }
        }
        file.sync_all()?;
        install(&self.dir)?;
        // From here on the old file has no name: whatever happens next, what is written must go into the new one. After a
        // power cut the name may be the old file's again, which lacks nothing as long as nothing more is called durable.
        (self.file, self.cipher, self.len, self.live) = (file, cipher, len, live);
        self.name_unsynced = true;
        self.live_bytes = self.live.values().map(|place| u64::from(place.len)).sum();
        self.written += len;
        self.compact_above = 0;
        self.be_writable()
    }
}

fn note(live: &mut BTreeMap<Key, Place>, key: Key, value: Option<&[u8]>, at: u64, len: usize) {
    match value {
        // `len` is what the value costs in the file: its frame if it has one of its own, else about itself.
        Some(value) => {
            let cost = len.min(value.len() + 96) as u32;
            live.insert(key, Place { at, len: cost, hash: short_hash(value) });
        }
        None => {
            live.remove(&key);
        }
    }
}

fn short_hash(value: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&ContentHash::of(value).0[..16]);
    short
}

/// Opens the file, for reading only if that is all that can be had: what is in it is still good to start from.
fn open_existing(path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
            Ok((File::open(path)?, true))
        }
        other => Ok((other?, false)),
    }
}

fn begin(path: &Path, secret: &[u8; 32]) -> io::Result<(File, Cipher)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let cipher = Cipher::new(secret, frame::random().map_err(io::Error::other)?);
    file.write_all_at(&cipher.header(), 0)?;
    Ok((file, cipher))
}

/// Puts the new file in the place of the old one. Durable once the directory is.
fn install(dir: &Path) -> io::Result<()> {
    std::fs::rename(dir.join(NEW_FILE), dir.join(FILE))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
