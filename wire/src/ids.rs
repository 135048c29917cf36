//! Identities. Each is built by a checked constructor, and decoding goes through the same check.

use alloc::string::{String, ToString};
use core::fmt;

use minicbor::data::Type;
use minicbor::{CborLen, Decode, Decoder, Encode, Encoder, decode, encode};

use crate::limits::{MAX_DEVICE_ID, MAX_POD_UID};

/// An identity that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidId {
    /// Not a device name.
    Device(String),
    /// Not a pod UID.
    PodUid(String),
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(
                f,
                "`{name}` is not a device name: use lower-case letters, digits, `-` and `.`, at most {MAX_DEVICE_ID} characters, starting and ending with a letter or digit"
            ),
            Self::PodUid(uid) => {
                write!(f, "`{uid}` is not a pod UID: expected 1 to {MAX_POD_UID} letters, digits, `-`, `_` or `.`")
            }
        }
    }
}

impl core::error::Error for InvalidId {}

/// The name of a device, which is also the name of its Node and one level of its topics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(String);

impl DeviceId {
    /// Checks that `name` is a DNS-1123 subdomain.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        let label = |label: &str| {
            let bytes = label.as_bytes();
            let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        };
        if !name.is_empty() && name.len() <= MAX_DEVICE_ID && name.split('.').all(label) {
            Ok(Self(name.to_string()))
        } else {
            Err(InvalidId::Device(name.chars().take(80).collect()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The UID of a pod.
///
/// On the wire a UUID in its usual spelling is 16 bytes; anything else (static pods have other UIDs) is text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// Checks that `uid` is short and safe to be part of a path.
    pub fn new(uid: &str) -> Result<Self, InvalidId> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !uid.is_empty() && uid.len() <= MAX_POD_UID && uid.bytes().all(safe) && !uid.starts_with('.') {
            Ok(Self(uid.to_string()))
        } else {
            Err(InvalidId::PodUid(uid.chars().take(80).collect()))
        }
    }

    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn as_uuid(&self) -> Option<[u8; 16]> {
        let text = self.0.as_bytes();
        if text.len() != 36 {
            return None;
        }
        let mut bytes = [0; 16];
        let mut nibbles = 0;
        for (at, byte) in text.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if *byte != b'-' {
                    return None;
                }
                continue;
            }
            let value = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            bytes[nibbles / 2] |= value << (4 * (1 - nibbles % 2));
            nibbles += 1;
        }
        Some(bytes)
    }

    fn from_uuid(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(36);
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Self(text)
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<C> Encode<C> for PodUid {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self.as_uuid() {
            Some(bytes) => e.bytes(&bytes)?.ok(),
            None => e.str(&self.0)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for PodUid {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        if d.datatype()? == Type::Bytes {
            let bytes = d.bytes()?;
            if bytes.len() != 16 {
                return Err(decode::Error::message("a binary pod UID has 16 bytes"));
            }
            return Ok(Self::from_uuid(bytes));
        }
        Self::new(d.str()?).map_err(|_| decode::Error::message("not a pod UID"))
    }
}

impl<C> CborLen<C> for PodUid {
    fn cbor_len(&self, ctx: &mut C) -> usize {
        if self.as_uuid().is_some() { 17 } else { self.0.as_str().cbor_len(ctx) }
    }
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| {
                    decode::Error::message(concat!(stringify!($name), " has ", $len, " bytes"))
                })
            }
        }

        impl<C> CborLen<C> for $name {
            fn cbor_len(&self, ctx: &mut C) -> usize {
                minicbor::bytes::cbor_len(&self.0[..], ctx)
            }
        }
    };
}

fixed_bytes!(
    /// The name of an object (an encoded edge deployment, a blob): the BLAKE2s-256 of its bytes.
    ContentHash,
    32
);
fixed_bytes!(
    /// A short hash of an [`Index`](crate::desired::Index): equal digests mean that both sides want the same.
    ///
    /// A device never computes it: it echoes the digest that came with the index, so that an older device that skips
    /// fields it does not know agrees all the same.
    Digest,
    16
);
fixed_bytes!(
    /// One start of the device's kernel.
    BootId,
    8
);
fixed_bytes!(
    /// The name of a session: the beginning of its handshake hash, so both ends know it and nobody chooses it.
    SessionId,
    8
);
fixed_bytes!(
    /// A Curve25519 public key.
    PublicKey,
    32
);
fixed_bytes!(
    /// The public half of a join token: which token is meant.
    TokenId,
    8
);

impl PublicKey {
    /// Reads the 64 hexadecimal digits that [`Display`](fmt::Display) prints.
    pub fn parse(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        crate::token::parse_hex(text, &mut key)?;
        Some(Self(key))
    }
}

impl ContentHash {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use blake2::Digest as _;
        Self(blake2::Blake2s256::digest(bytes).into())
    }
}

/// Milliseconds on the device's own timeline, which never goes back and does not follow jumps of the wall clock.
///
/// It continues across reboots from the last value in the ledger. The bridge learns its offset from heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, CborLen)]
#[cbor(transparent)]
pub struct DeviceTime(#[n(0)] pub u64);

impl DeviceTime {
    /// How many milliseconds lie between `earlier` and this; 0 if `earlier` is later.
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How new a desired set is. Ordered; a device accepts only what is not older than what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, CborLen)]
pub struct Version {
    /// Grows when the API server's resourceVersion went backwards (a restored cluster).
    #[n(0)]
    pub epoch: u32,
    /// The API server's resourceVersion up to which the bridge had seen.
    #[n(1)]
    pub revision: u64,
    /// Tells apart what was published at one revision: references are read by name, which moves no resourceVersion.
    #[n(2)]
    pub edit: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.revision, self.edit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn device_names_are_dns_names() {
        for good in ["a", "pi-4", "gw.site-7.example"] {
            assert!(DeviceId::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(254);
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", "a/b", "a+", "#", "ä", long.as_str()] {
            assert!(DeviceId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_uuid_travels_as_sixteen_bytes_and_comes_back_in_its_spelling() {
        let uid = PodUid::new("0d9f3c1e-55aa-4b7c-9e00-1234567890ab").unwrap();
        let bytes = minicbor::to_vec(&uid).unwrap();
        assert_eq!(bytes.len(), 17);
        assert_eq!(minicbor::decode::<PodUid>(&bytes).unwrap(), uid);
    }

    #[test]
    fn other_uids_travel_as_text() {
        for text in ["static-pod", "0D9F3C1E-55AA-4B7C-9E00-1234567890AB", "0d9f3c1e055aa04b7c09e0001234567890ab"] {
            let uid = PodUid::new(text).unwrap();
            let bytes = minicbor::to_vec(&uid).unwrap();
            assert_eq!(minicbor::decode::<PodUid>(&bytes).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_uid_that_could_leave_its_folder_is_refused() {
        for bad in ["", "..", ".", "../x", "a/b", "a\0", ".hidden"] {
            assert!(PodUid::new(bad).is_err(), "{bad:?}");
            let bytes = minicbor::to_vec(bad).unwrap();
            assert!(minicbor::decode::<PodUid>(&bytes).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_ordered_by_epoch_then_revision_then_edit() {
        let version = |epoch, revision, edit| Version { epoch, revision, edit };
        let sorted = [version(0, 9, 9), version(1, 0, 0), version(1, 5, 0), version(1, 5, 1), version(2, 0, 0)];
        let mut shuffled: Vec<_> = sorted.iter().rev().copied().collect();
        shuffled.sort();
        assert_eq!(shuffled, sorted);
    }
}
