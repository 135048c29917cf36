//! Names and values, and how they look before compression.

use bytes::{Buf, BufMut};

use crate::error::ProtocolError;

/// The headers of a stream, in order. Names are lower case on the wire and compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All names and values. A name with several values comes once for each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(name, values)| values.split('\0').map(move |value| (name.as_str(), value)))
    }

    /// How many bytes they take before compression.
    pub(crate) fn size(&self) -> usize {
        4 + self.0.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>()
    }

    pub(crate) fn put(&self, into: &mut Vec<u8>) {
        put_length(into, self.0.len());
        for (name, value) in &self.0 {
            put_length(into, name.len());
            into.put_slice(name.as_bytes());
            put_length(into, value.len());
            into.put_slice(value.as_bytes());
        }
    }

    /// Reads a decompressed block, which the caller has bounded.
    pub(crate) fn parse(mut block: &[u8]) -> Result<Self, ProtocolError> {
        let count = length(&mut block)?;
        // Each takes 8 bytes at least: a count that lies is told by the block being too short, not by an allocation.
        let mut headers = Vec::with_capacity(count.min(block.len() / 8));
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            let value = text(&mut block)?.to_owned();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(ProtocolError::Headers("a name that is empty or not made of visible ASCII"));
            }
            if headers.iter().any(|(other, _)| *other == name) {
                return Err(ProtocolError::Headers("a name that comes twice"));
            }
            headers.push((name, value));
        }
        if block.is_empty() { Ok(Self(headers)) } else { Err(ProtocolError::Headers("bytes after the last value")) }
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for Headers {
    /// Values of the same name become one header with several values.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            let (name, value) = (name.as_ref().to_ascii_lowercase(), value.into());
            match headers.iter_mut().find(|(other, _)| *other == name) {
                Some((_, values)) => {
                    values.push('\0');
                    values.push_str(&value);
                }
                None => headers.push((name, value)),
            }
        }
        Self(headers)
    }
}

fn put_length(into: &mut Vec<u8>, length: usize) {
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

fn length(block: &mut &[u8]) -> Result<usize, ProtocolError> {
    let length = block.try_get_u32().map_err(|_| ProtocolError::Headers("the block ends within a length"))?;
    usize::try_from(length).map_err(|_| ProtocolError::Headers("a length beyond the block"))
}

fn text<'a>(block: &mut &'a [u8]) -> Result<&'a str, ProtocolError> {
    let length = length(block)?;
    let (text, rest) =
        block.split_at_checked(length).ok_or(ProtocolError::Headers("a name or value that goes beyond the block"))?;
    *block = rest;
    std::str::from_utf8(text).map_err(|_| ProtocolError::Headers("a name or value that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_of_one_name_are_one_header() {
        let headers = Headers::from_iter([("Port", "80"), ("x", ""), ("port", "81")]);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("port", "80"), ("port", "81"), ("x", "")]);
        assert_eq!((headers.get("PORT"), headers.get("y")), (Some("80"), None));
        let mut block = Vec::new();
        headers.put(&mut block);
        assert_eq!(block.len(), headers.size());
        assert_eq!(Headers::parse(&block), Ok(headers));
    }

    #[test]
    fn malformed_blocks_are_refused_by_what_is_wrong() {
        let pair = |name: &[u8], value: &[u8]| {
            let mut block = vec![0, 0, 0, 1];
            for text in [name, value] {
                put_length(&mut block, text.len());
                block.put_slice(text);
            }
            block
        };
        let twice = [&[0, 0, 0, 2][..], &pair(b"a", b"1")[4..], &pair(b"A", b"2")[4..]].concat();
        for (block, why) in [
            (vec![0, 0], "ends within a length"),
            (vec![0xff; 4], "ends within a length"),
            (vec![0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'], "beyond the block"),
            (pair(b"", b"v"), "empty"),
            (pair(b"a b", b"v"), "visible ASCII"),
            (pair(b"a", b"\xff"), "UTF-8"),
            (twice, "twice"),
            ([pair(b"a", b"v"), vec![0]].concat(), "after the last"),
        ] {
            let error = Headers::parse(&block).unwrap_err().to_string();
            assert!(error.contains(why), "{block:?}: {error}");
        }
    }
}
