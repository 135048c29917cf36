//! The compression of headers: one zlib stream per direction over the life of a connection, flushed after each block.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::DICTIONARY;
use crate::error::ProtocolError;
use crate::headers::Headers;

/// The window holds the dictionary and a few blocks; a larger one would only cost memory on every connection.
const WINDOW_BITS: u8 = 12;

#[derive(Debug)]
pub(crate) struct Deflater {
    zlib: Compress,
}

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut zlib = Compress::new_with_window_bits(Compression::default(), true, WINDOW_BITS);
        // It only fails on a stream that has begun.
        let _ = zlib.set_dictionary(DICTIONARY);
        Self { zlib }
    }

    pub(crate) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::with_capacity(headers.size());
        headers.put(&mut plain);
        let mut packed = Vec::with_capacity(plain.len() / 2 + 64);
        let start = self.zlib.total_in();
        loop {
            let used = usize::try_from(self.zlib.total_in() - start).unwrap_or(plain.len());
            // It cannot fail: the state is sound and there is room. Room left over means that all is out.
            let _ = self.zlib.compress_vec(&plain[used..], &mut packed, FlushCompress::Sync);
            if packed.len() < packed.capacity() {
                return packed;
            }
            packed.reserve(256);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Inflater {
    zlib: Decompress,
    /// Blocks of more bytes are bombs.
    limit: usize,
}

impl Inflater {
    pub(crate) fn new(limit: usize) -> Self {
        Self { zlib: Decompress::new(true), limit }
    }

    pub(crate) fn block(&mut self, packed: &[u8]) -> Result<Headers, ProtocolError> {
        let mut plain = Vec::with_capacity(packed.len().saturating_mul(4).max(256).min(self.limit + 1));
        let mut rest = packed;
        loop {
            let before = self.zlib.total_in();
            let result = self.zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let used = usize::try_from(self.zlib.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(used..).unwrap_or_default();
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(DICTIONARY).map_err(|_| ProtocolError::Compression)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(ProtocolError::Compression),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if plain.len() > self.limit {
                return Err(ProtocolError::HeadersTooLarge(self.limit));
            }
            if plain.len() < plain.capacity() {
                // There was room for more, and no more came.
                return if rest.is_empty() { Headers::parse(&plain) } else { Err(ProtocolError::Compression) };
            }
            plain.reserve_exact(plain.len().max(256).min(self.limit + 1 - plain.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 4096;

    fn deflated(headers: &Headers, limit: usize) -> Result<Headers, ProtocolError> {
        Inflater::new(limit).block(&Deflater::new().block(headers))
    }

    #[test]
    fn blocks_build_on_each_other() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new(LIMIT));
        let mut sizes = Vec::new();
        for id in 0..50 {
            let headers =
                Headers::from_iter([("streamtype", "data"), ("port", "8080"), ("requestid", &id.to_string())]);
            let packed = deflater.block(&headers);
            sizes.push(packed.len());
            assert_eq!(inflater.block(&packed), Ok(headers));
        }
        assert!(sizes[49] < sizes[0] / 2, "{sizes:?}");
    }

    #[test]
    fn blocks_of_every_size_go_through_up_to_the_limit() {
        for size in (0..LIMIT - 20).step_by(61) {
            // Noise, so that the packed form is as long as the plain one.
            let value: String = (0..size).map(|n| char::from(33 + (n * n * 31 % 89) as u8)).collect();
            let headers = Headers::from_iter([("a", value)]);
            assert_eq!(deflated(&headers, LIMIT), Ok(headers.clone()), "{size}");
        }
        let headers = Headers::from_iter([("a", "b".repeat(LIMIT - 13))]);
        assert_eq!(headers.size(), LIMIT);
        assert_eq!(deflated(&headers, LIMIT), Ok(headers.clone()));
        assert_eq!(deflated(&headers, LIMIT - 1), Err(ProtocolError::HeadersTooLarge(LIMIT - 1)));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = Headers::from_iter([("a", "b".repeat(10 << 20))]);
        let packed = Deflater::new().block(&bomb);
        assert!(packed.len() < 20_000);
        assert_eq!(Inflater::new(LIMIT).block(&packed), Err(ProtocolError::HeadersTooLarge(LIMIT)));
    }

    #[test]
    fn what_is_not_zlib_with_the_dictionary_is_refused() {
        let mut plain = Compress::new(Compression::default(), true);
        plain.set_dictionary(b"another dictionary").unwrap();
        let mut other = Vec::with_capacity(100);
        plain.compress_vec(&[0; 4], &mut other, FlushCompress::Sync).unwrap();
        let good = Deflater::new().block(&Headers::default());
        let mut ended = Compress::new(Compression::default(), true);
        let mut end = Vec::with_capacity(100);
        ended.compress_vec(&[0; 4], &mut end, FlushCompress::Finish).unwrap();
        for block in [&b"not zlib at all"[..], &other, &end, &[good.as_slice(), b"\xff\xff\xff"].concat()] {
            assert_eq!(Inflater::new(LIMIT).block(block), Err(ProtocolError::Compression), "{block:?}");
        }
        assert!(matches!(Inflater::new(LIMIT).block(&good[..4]), Err(ProtocolError::Headers(_))));
    }
}
