//! The bytes of the ledger file: a header, then frames. Pure; randomness comes in.
//!
//! ```text
//! header  "HWSLEDG1" | salt 16 | crc32 of both
//! frame   "Hf" | length u32 | behind u32 | crc32 | nonce 24 | sealed operations
//! ```
//!
//! `length` counts nonce and sealed operations; `behind` tells how far the frame lies behind the start of the write that it
//! was part of. Everything before that start was durable when the frame was written. So a bad frame with a good one after
//! it is a torn write if the good one says "we were written together", and corruption if not.
//!
//! The key comes from the device's secret and the salt; the nonce is random, since a torn write is written again at the
//! same place; the place in the file is bound as associated data, so frames cannot be moved.

use std::sync::Arc;

use blake2::{Blake2s256, Digest as _};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::entry::{Key, Op};

const HEADER_MAGIC: [u8; 8] = *b"HWSLEDG1";
/// How long the header is.
pub(super) const HEADER_LEN: u64 = 28;
const FRAME_MAGIC: [u8; 2] = *b"Hf";
/// Magic, length, behind, crc.
pub(super) const FRAME_HEAD: usize = 14;
const NONCE_LEN: usize = 24;
/// No write of ours is longer: the largest object is 4 MiB, and everything else is small.
pub(super) const MAX_FRAME: usize = 8 * 1024 * 1024;
/// A value longer than this gets a frame of its own, so that reading it reads nothing else.
const OWN_FRAME: usize = 2048;
/// Small values share frames of about this size, so that reading one of them decrypts little else.
const SHARED_FRAME: usize = 64 * 1024;

/// Seals and opens the frames of one file.
pub(super) struct Cipher {
    salt: [u8; 16],
    aead: XChaCha20Poly1305,
}

impl Cipher {
    /// The cipher of a new file. `salt` must be fresh random bytes.
    pub(super) fn new(secret: &[u8; 32], salt: [u8; 16]) -> Self {
        let key =
            Blake2s256::new().chain_update(b"hawser ledger 1\0").chain_update(secret).chain_update(salt).finalize();
        Self { salt, aead: XChaCha20Poly1305::new(&key) }
    }

    /// The header of a new file.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_LEN as usize);
        header.extend(HEADER_MAGIC);
        header.extend(self.salt);
        let crc = crc32fast::hash(&header);
        header.extend(crc.to_le_bytes());
        header
    }

    /// The cipher of an existing file, if that is its header.
    pub(super) fn of_header(secret: &[u8; 32], header: &[u8]) -> Option<Self> {
        let body = header.get(..24)?;
        let crc = u32::from_le_bytes(header.get(24..28)?.try_into().ok()?);
        if body[..8] != HEADER_MAGIC || crc32fast::hash(body) != crc {
            return None;
        }
        Some(Self::new(secret, body[8..].try_into().ok()?))
    }

    fn seal(&self, at: u64, nonce: [u8; NONCE_LEN], plaintext: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: plaintext, aad: &at.to_le_bytes() };
        self.aead.encrypt(XNonce::from_slice(&nonce), payload).ok()
    }

    /// Opens the body of the frame that begins at `at`.
    fn open(&self, at: u64, body: &[u8]) -> Option<Vec<Op>> {
        let (nonce, sealed) = body.split_at_checked(NONCE_LEN)?;
        let payload = Payload { msg: sealed, aad: &at.to_le_bytes() };
        let plaintext = self.aead.decrypt(XNonce::from_slice(nonce), payload).ok()?;
        decode_ops(&plaintext)
    }
}

/// Where a frame of a write begins and how long it is, with the operations in it.
pub(super) struct Written {
    /// Where it begins.
    pub(super) at: u64,
    /// How long it is, head included.
    pub(super) len: usize,
    /// Its operations.
    pub(super) ops: Vec<Op>,
}

/// Encodes one write at the end of a file of `start` bytes. Large values come first, in frames of their own.
pub(super) fn encode_write(
    cipher: &Cipher,
    start: u64,
    ops: Vec<Op>,
    nonce: &mut dyn FnMut() -> [u8; NONCE_LEN],
) -> (Vec<u8>, Vec<Written>) {
    let large = |op: &Op| op.1.as_ref().is_some_and(|value| value.len() > OWN_FRAME);
    let (own, shared): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(large);
    let mut groups: Vec<Vec<Op>> = own.into_iter().map(|op| vec![op]).collect();
    let mut room = 0;
    for op in shared {
        let size = 64 + op.1.as_ref().map_or(0, |value| value.len());
        if room < size {
            groups.push(Vec::new());
            room = SHARED_FRAME;
        }
        room -= size.min(room);
        if let Some(group) = groups.last_mut() {
            group.push(op);
        }
    }
    let mut bytes = Vec::new();
    let mut written = Vec::new();
    for ops in groups {
        let at = start + bytes.len() as u64;
        let behind = bytes.len() as u32;
        let nonce = nonce();
        // Encrypting into memory fails only beyond 256 GiB.
        let Some(sealed) = cipher.seal(at, nonce, &encode_ops(&ops)) else { continue };
        let before = bytes.len();
        bytes.extend(FRAME_MAGIC);
        bytes.extend(((NONCE_LEN + sealed.len()) as u32).to_le_bytes());
        bytes.extend(behind.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[before..]);
        crc.update(&nonce);
        crc.update(&sealed);
        bytes.extend(crc.finalize().to_le_bytes());
        bytes.extend(nonce);
        bytes.extend(sealed);
        written.push(Written { at, len: bytes.len() - before, ops });
    }
    (bytes, written)
}

/// Reads from a place: a file, or bytes in a test.
pub(super) trait ReadAt {
    /// Fills `buf` from `at`.
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, at)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<()> {
        let found = usize::try_from(at).ok().and_then(|at| self.get(at..at.checked_add(buf.len())?));
        buf.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What is at a place of the file.
pub(super) enum Frame {
    /// A frame.
    Good {
        /// How long it is, head included.
        len: usize,
        /// How far it lies behind the start of its write.
        behind: u32,
        /// What it says; `None`: intact, but not sealed by us for this place.
        ops: Option<Vec<Op>>,
    },
    /// Nothing readable.
    Bad,
}

/// Reads the frame that begins at `at` in a file of `end` bytes.
pub(super) fn read_frame<R: ReadAt + ?Sized>(file: &R, cipher: &Cipher, at: u64, end: u64) -> std::io::Result<Frame> {
    let mut head = [0; FRAME_HEAD];
    if end.saturating_sub(at) < FRAME_HEAD as u64 {
        return Ok(Frame::Bad);
    }
    file.read_at(&mut head, at)?;
    let word = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let (len, behind, crc) = (word(2) as usize, word(6), word(10));
    let left = end - at - FRAME_HEAD as u64;
    if head[..2] != FRAME_MAGIC || !(NONCE_LEN..=MAX_FRAME).contains(&len) || len as u64 > left {
        return Ok(Frame::Bad);
    }
    let mut body = vec![0; len];
    file.read_at(&mut body, at + FRAME_HEAD as u64)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..10]);
    hasher.update(&body);
    if hasher.finalize() != crc {
        return Ok(Frame::Bad);
    }
    Ok(Frame::Good { len: FRAME_HEAD + len, behind, ops: cipher.open(at, &body) })
}

/// How a file ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With a whole frame.
    Clean,
    /// With a write that was cut off: what follows `at` is to be cut away.
    Torn {
        /// Where the good part ends.
        at: u64,
    },
    /// With something that was durable once and is not readable now.
    Corrupt {
        /// Where the good part ends.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Walks a file of `end` bytes from its header on and hands every good frame to `take`, up to the first bad one.
///
/// After a corrupt place the readable rest is handed to `salvage`.
pub(super) fn walk<R: ReadAt + ?Sized>(
    file: &R,
    cipher: &Cipher,
    end: u64,
    mut take: impl FnMut(u64, usize, Vec<Op>),
    mut salvage: impl FnMut(Vec<Op>),
) -> std::io::Result<End> {
    let mut at = HEADER_LEN;
    while at < end {
        match read_frame(file, cipher, at, end)? {
            Frame::Good { len, ops: Some(ops), .. } => {
                take(at, len, ops);
                at += len as u64;
            }
            Frame::Good { ops: None, .. } => {
                return Ok(End::Corrupt { at, what: "a frame is intact but was not sealed with this device's key" });
            }
            Frame::Bad => return after_bad(file, cipher, at, end, &mut salvage),
        }
    }
    Ok(End::Clean)
}

fn after_bad<R: ReadAt + ?Sized>(
    file: &R,
    cipher: &Cipher,
    bad: u64,
    end: u64,
    salvage: &mut impl FnMut(Vec<Op>),
) -> std::io::Result<End> {
    let mut result = End::Torn { at: bad };
    let mut at = bad + 1;
    while let Some(candidate) = find_magic(file, at, end)? {
        at = candidate + 1;
        if let Frame::Good { len, behind, ops: Some(ops) } = read_frame(file, cipher, candidate, end)? {
            at = candidate + len as u64;
            if candidate.saturating_sub(u64::from(behind)) > bad {
                result = End::Corrupt { at: bad, what: "a frame in the middle is damaged" };
            }
            salvage(ops);
        }
    }
    Ok(result)
}

fn find_magic<R: ReadAt + ?Sized>(file: &R, from: u64, end: u64) -> std::io::Result<Option<u64>> {
    let mut at = from;
    let mut block = [0; 4096];
    while at + 1 < end {
        let len = (end - at).min(block.len() as u64) as usize;
        file.read_at(&mut block[..len], at)?;
        if let Some(found) = block[..len].windows(2).position(|pair| pair == FRAME_MAGIC) {
            return Ok(Some(at + found as u64));
        }
        // The last byte may be the first half of a magic.
        at += len as u64 - 1;
    }
    Ok(None)
}

fn encode_ops(ops: &[Op]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut bytes);
    // Encoding into memory cannot fail.
    let _ = encode_ops_into(&mut encoder, ops);
    bytes
}

fn encode_ops_into(
    encoder: &mut minicbor::Encoder<&mut Vec<u8>>,
    ops: &[Op],
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.array(ops.len() as u64)?;
    for (key, value) in ops {
        encoder.array(2)?.encode(key)?;
        match value {
            Some(value) => encoder.bytes(value)?,
            None => encoder.null()?,
        };
    }
    Ok(())
}

fn decode_ops(bytes: &[u8]) -> Option<Vec<Op>> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let count = decoder.array().ok()??;
    let mut ops = Vec::new();
    for _ in 0..count {
        if decoder.array().ok()?? != 2 {
            return None;
        }
        let key: Key = decoder.decode().ok()?;
        let value = if decoder.datatype().ok()? == minicbor::data::Type::Null {
            decoder.null().ok()?;
            None
        } else {
            Some(Arc::from(decoder.bytes().ok()?))
        };
        ops.push((key, value));
    }
    (decoder.position() == bytes.len()).then_some(ops)
}

/// Makes nonces from the system's randomness.
pub(super) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
