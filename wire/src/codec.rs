//! Bytes to messages and back.
//!
//! Decoding has two steps. First the bytes are walked without believing them: claimed lengths, depth, indefinite
//! lengths, duplicate map keys and trailing bytes are refused while nothing is allocated. Only then is a value built. What
//! a later version added (fields at the end of an array, whole variants wrapped in [`Open`]) is skipped and counted.

use alloc::vec::Vec;
use core::fmt;

use minicbor::decode::Error as CborError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{CborLen, Decode, Decoder, Encode, Encoder};

use crate::limits::{MAX_DEPTH, MAX_MAP_ENTRIES};

/// Why bytes are not a message.
#[derive(Debug)]
pub enum DecodeError {
    /// Longer than this kind of message may be.
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Not well-formed CBOR within our limits.
    Malformed(&'static str),
    /// Well-formed, but not this message.
    Unexpected(CborError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, limit } => write!(f, "{len} bytes where at most {limit} are allowed"),
            Self::Malformed(what) => write!(f, "malformed CBOR: {what}"),
            Self::Unexpected(_) => f.write_str("not the expected message"),
        }
    }
}

impl core::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Unexpected(source) => Some(source),
            _ => None,
        }
    }
}

/// A decoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<T> {
    /// The value.
    pub value: T,
    /// The message held something that this version does not know; it was skipped. Count it.
    pub unfamiliar: bool,
}

/// Encodes a message. Encoding into memory cannot fail.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The only error of a Vec writer is the Infallible one, and our types raise none of their own.
    let _ = minicbor::encode(message, &mut bytes);
    bytes
}

/// Decodes a message of at most `limit` bytes.
pub fn decode<'b, T>(bytes: &'b [u8], limit: usize) -> Result<Decoded<T>, DecodeError>
where
    T: Decode<'b, ()> + CborLen<()>,
{
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { len: bytes.len(), limit });
    }
    check(bytes)?;
    let value: T = minicbor::decode(bytes).map_err(DecodeError::Unexpected)?;
    // Our encoding is the shortest one, so a longer input held more than we understood.
    let unfamiliar = minicbor::len(&value) != bytes.len();
    Ok(Decoded { value, unfamiliar })
}

/// A variant that a later version may have added: known, or skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open<T> {
    /// A variant of this version.
    Known(T),
    /// A variant of a later version, or one that holds such a variant.
    Unknown,
}

impl<T> Open<T> {
    /// The value, if this version knows it.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown => None,
        }
    }
}

impl<T> From<T> for Open<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<C, T: Encode<C>> Encode<C> for Open<T> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), EncodeError<W::Error>> {
        match self {
            Self::Known(value) => value.encode(e, ctx),
            // We never send what we do not know. A null is skipped by every reader.
            Self::Unknown => e.null()?.ok(),
        }
    }
}

impl<'b, C, T: Decode<'b, C>> Decode<'b, C> for Open<T> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, CborError> {
        let start = d.position();
        if d.datatype()? == minicbor::data::Type::Null {
            d.skip()?;
            return Ok(Self::Unknown);
        }
        match T::decode(d, ctx) {
            Ok(value) => Ok(Self::Known(value)),
            Err(error) if error.is_unknown_variant() => {
                d.set_position(start);
                d.skip()?;
                Ok(Self::Unknown)
            }
            Err(error) => Err(error),
        }
    }
}

impl<C, T: CborLen<C>> CborLen<C> for Open<T> {
    fn cbor_len(&self, ctx: &mut C) -> usize {
        match self {
            Self::Known(value) => value.cbor_len(ctx),
            Self::Unknown => 1,
        }
    }
}

/// Walks `bytes` without allocating and refuses what no message of ours can be.
fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut walk = Walk { bytes, at: 0 };
    walk.item(0)?;
    if walk.at != bytes.len() {
        return Err(DecodeError::Malformed("trailing bytes"));
    }
    Ok(())
}

struct Walk<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Walk<'_> {
    // Recursion is bounded by MAX_DEPTH.
    fn item(&mut self, depth: usize) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Malformed("nested too deeply"));
        }
        let first = *self.bytes.get(self.at).ok_or(DecodeError::Malformed("truncated"))?;
        self.at += 1;
        let (major, info) = (first >> 5, first & 0x1f);
        if major == 7 {
            return self.simple(info);
        }
        let argument = self.argument(info)?;
        match major {
            0 | 1 => Ok(()),
            2 => self.take(argument).map(drop),
            3 => {
                let text = self.take(argument)?;
                core::str::from_utf8(text).map(drop).map_err(|_| DecodeError::Malformed("text is not UTF-8"))
            }
            4 => {
                // Each item is at least one byte: an honest count cannot exceed what is left.
                self.bounded(argument)?;
                (0..argument).try_for_each(|_| self.item(depth + 1))
            }
            5 => self.map(argument, depth),
            _ => self.item(depth + 1),
        }
    }

    // Keys must ascend bytewise (RFC 8949, 4.2.1), which finds duplicates in one pass and without memory. Comparing
    // every pair instead would walk nested maps again and again: exponential in their depth.
    fn map(&mut self, entries: u64, depth: usize) -> Result<(), DecodeError> {
        self.bounded(entries)?;
        if entries > MAX_MAP_ENTRIES {
            return Err(DecodeError::Malformed("map with too many entries"));
        }
        let mut previous = 0..0;
        for entry in 0..entries {
            let start = self.at;
            self.item(depth + 1)?;
            let key = start..self.at;
            if entry > 0 && self.bytes[previous] >= self.bytes[key.clone()] {
                return Err(DecodeError::Malformed("map keys repeat or do not ascend"));
            }
            previous = key;
            self.item(depth + 1)?;
        }
        Ok(())
    }

    fn simple(&mut self, info: u8) -> Result<(), DecodeError> {
        match info {
            0..=23 => Ok(()),
            24 => self.take(1).map(drop),
            25 => self.take(2).map(drop),
            26 => self.take(4).map(drop),
            27 => self.take(8).map(drop),
            _ => Err(DecodeError::Malformed("reserved or indefinite item")),
        }
    }

    fn argument(&mut self, info: u8) -> Result<u64, DecodeError> {
        let width = match info {
            0..=23 => return Ok(u64::from(info)),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return Err(DecodeError::Malformed("indefinite or reserved length")),
        };
        let bytes = self.take(width)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn bounded(&self, count: u64) -> Result<(), DecodeError> {
        let left = (self.bytes.len() - self.at) as u64;
        if count > left { Err(DecodeError::Malformed("claims more items than there are bytes")) } else { Ok(()) }
    }

    fn take(&mut self, count: u64) -> Result<&[u8], DecodeError> {
        self.bounded(count)?;
        let start = self.at;
        self.at += count as usize;
        Ok(&self.bytes[start..self.at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn malformed(bytes: &[u8]) -> &'static str {
        match check(bytes) {
            Err(DecodeError::Malformed(what)) => what,
            other => panic!("{bytes:02x?}: {other:?}"),
        }
    }

    #[test]
    fn hostile_bytes_are_refused_by_name() {
        assert_eq!(malformed(&[]), "truncated");
        assert_eq!(malformed(&[0x82, 0x01]), "claims more items than there are bytes");
        assert_eq!(malformed(&[0x5a, 0x06, 0x00, 0x00, 0x00, 0x01]), "claims more items than there are bytes");
        assert_eq!(
            malformed(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            "claims more items than there are bytes"
        );
        assert_eq!(malformed(&[0x01, 0x01]), "trailing bytes");
        assert_eq!(malformed(&[0x9f, 0x01, 0xff]), "indefinite or reserved length");
        assert_eq!(malformed(&[0xa2, 0x01, 0x01, 0x01, 0x02]), "map keys repeat or do not ascend");
        assert_eq!(malformed(&[0x61, 0xff]), "text is not UTF-8");
        assert_eq!(malformed(&[0xff]), "reserved or indefinite item");
    }

    #[test]
    fn ten_thousand_levels_are_refused_and_the_stack_survives() {
        let mut nested = vec![0x81; 10_000];
        nested.push(0x01);
        assert_eq!(malformed(&nested), "nested too deeply");
        let mut tags = vec![0xc1; 10_000];
        tags.push(0x01);
        assert_eq!(malformed(&tags), "nested too deeply");
        let mut maps = Vec::new();
        for _ in 0..10_000 {
            maps.extend([0xa1, 0x01]);
        }
        maps.push(0x01);
        assert_eq!(malformed(&maps), "nested too deeply");
    }

    #[test]
    fn maps_ascend() {
        assert!(check(&[0xa2, 0x01, 0x01, 0x02, 0x01]).is_ok());
        assert_eq!(malformed(&[0xa2, 0x02, 0x01, 0x01, 0x01]), "map keys repeat or do not ascend");
    }
}
