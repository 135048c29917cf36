//! Ranges of addresses, such as `10.42.7.0/24`.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use minicbor::{CborLen, Decode, Decoder, Encode, Encoder, decode, encode};

/// A range of addresses. On the wire it is the bytes of the address and one more, how many of their bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    address: IpAddr,
    bits: u8,
}

/// Not a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRange;

impl fmt::Display for InvalidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a range of addresses: expected an address and how many of its bits count, such as 10.42.7.0/24",
        )
    }
}

impl core::error::Error for InvalidRange {}

impl AddressRange {
    /// The addresses that have the first `bits` of this one.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self, InvalidRange> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits <= most { Ok(Self { address, bits }) } else { Err(InvalidRange) }
    }

    fn bytes(&self) -> ([u8; 17], usize) {
        let mut bytes = [0; 17];
        let len = match self.address {
            IpAddr::V4(address) => {
                bytes[..4].copy_from_slice(&address.octets());
                4
            }
            IpAddr::V6(address) => {
                bytes[..16].copy_from_slice(&address.octets());
                16
            }
        };
        bytes[len] = self.bits;
        (bytes, len + 1)
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let (address, bits) = text.split_once('/').ok_or(InvalidRange)?;
        // `parse` takes a sign as well.
        if !bits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidRange);
        }
        Self::new(address.parse().map_err(|_| InvalidRange)?, bits.parse().map_err(|_| InvalidRange)?)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl<C> Encode<C> for AddressRange {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let (bytes, len) = self.bytes();
        e.bytes(&bytes[..len])?.ok()
    }
}

impl<'b, C> Decode<'b, C> for AddressRange {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let invalid = || decode::Error::message("not a range of addresses");
        let (bits, address) = d.bytes()?.split_last().ok_or_else(invalid)?;
        let address = if let Ok(octets) = <[u8; 4]>::try_from(address) {
            IpAddr::V4(Ipv4Addr::from(octets))
        } else {
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).map_err(|_| invalid())?))
        };
        Self::new(address, *bits).map_err(|_| invalid())
    }
}

impl<C> CborLen<C> for AddressRange {
    fn cbor_len(&self, _: &mut C) -> usize {
        // The length is below 24, so the head is one byte.
        1 + self.bytes().1
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::codec;

    #[test]
    fn a_range_is_read_as_people_write_it() {
        for text in ["10.42.7.0/24", "0.0.0.0/0", "10.0.0.1/32", "fd00:10::/64", "::/0", "fd00::1/128"] {
            let range: AddressRange = text.parse().expect(text);
            assert_eq!(range.to_string(), text);
            let bytes = codec::encode(&range);
            assert_eq!(codec::decode::<AddressRange>(&bytes, 64).expect(text).value, range);
        }
        for text in
            ["", "10.42.7.0", "10.42.7.0/", "10.42.7.0/33", "fd00::/129", "10.42.7/24", "10.0.0.0/+8", "/24", "a/8"]
        {
            assert_eq!(text.parse::<AddressRange>(), Err(InvalidRange), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_range_are_refused() {
        for bytes in [&[0x40][..], &[0x41, 24], &[0x45, 10, 0, 0, 0, 33], &[0x46, 10, 0, 0, 0, 0, 24]] {
            assert!(codec::decode::<AddressRange>(bytes, 64).is_err(), "{bytes:?}");
        }
    }
}
