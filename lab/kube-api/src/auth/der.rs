//! As much DER as it takes to read the subject of a certificate that rustls has already verified, and to turn ECDSA
//! signatures between their two forms. Every length is checked against what is there.

/// A part of a distinguished name that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    CommonName,
    Organization,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;

/// Splits the first element off: tag, content, rest.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let count = usize::from(first & 0x0f);
            let bytes = rest.get(..count)?;
            let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest.get(count..)?)
        }
        _ => return None,
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(input).filter(|(found, _, _)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// The attributes of a certificate's subject.
pub(crate) fn subject(certificate: &[u8]) -> Option<Vec<(Attribute, String)>> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    // serial number, signature algorithm, issuer, validity
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    let (mut names, _) = expect(rest, SEQUENCE)?;
    let mut found = Vec::new();
    while !names.is_empty() {
        let (mut set, after) = expect(names, SET)?;
        names = after;
        while !set.is_empty() {
            let (pair, after) = expect(set, SEQUENCE)?;
            set = after;
            let (id, value) = expect(pair, OBJECT_ID)?;
            let (_, value, _) = element(value)?;
            let attribute = match id {
                [0x55, 0x04, 0x03] => Attribute::CommonName,
                [0x55, 0x04, 0x0a] => Attribute::Organization,
                _ => continue,
            };
            found.push((attribute, std::str::from_utf8(value).ok()?.to_owned()));
        }
    }
    Some(found)
}

/// A P-256 signature as two fixed-size numbers, from its DER form.
pub(crate) fn fixed_signature(der: &[u8]) -> Option<[u8; 64]> {
    let (pair, _) = expect(der, SEQUENCE)?;
    let (r, rest) = expect(pair, INTEGER)?;
    let (s, _) = expect(rest, INTEGER)?;
    let mut fixed = [0; 64];
    for (number, half) in [(r, 0), (s, 32)] {
        let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        let start = 32_usize.checked_sub(digits.len())?;
        fixed[half + start..half + 32].copy_from_slice(digits);
    }
    Some(fixed)
}

/// The DER form of a P-256 signature.
pub(crate) fn der_signature(fixed: &[u8; 64]) -> Vec<u8> {
    let mut body = Vec::with_capacity(72);
    for number in fixed.chunks(32) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count().min(31);
        let digits = &number[zeros..];
        let padding = usize::from(digits[0] & 0x80 != 0);
        // At most 33 bytes, and 70 together: one length byte is enough.
        body.extend([INTEGER, (digits.len() + padding) as u8]);
        body.extend(std::iter::repeat_n(0, padding));
        body.extend_from_slice(digits);
    }
    let mut der = vec![SEQUENCE, body.len() as u8];
    der.extend(body);
    der
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signatures_survive_both_ways(r in any::<[u8; 32]>(), s in any::<[u8; 32]>()) {
            let mut fixed = [0; 64];
            fixed[..32].copy_from_slice(&r);
            fixed[32..].copy_from_slice(&s);
            prop_assert_eq!(fixed_signature(&der_signature(&fixed)), Some(fixed));
        }

        #[test]
        fn garbage_is_no_certificate_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = subject(&bytes);
            let _ = fixed_signature(&bytes);
        }
    }
}
