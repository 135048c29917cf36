//! Whatever comes in, in whatever pieces: no panic, and no more kept than one control frame.
#![no_main]

use bytes::BytesMut;
use hawser_spdy::{Decoder, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let limits = Limits { headers: 1024, ..Limits::default() };
    let mut decoder = Decoder::new(&limits);
    let mut input = BytesMut::new();
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(input.len() <= 2048);
    }
});
