//! The bytes that peers send and expect.

use bytes::{Bytes, BytesMut};
use hawser_spdy::{Decoder, Encoder, Event, GoAwayStatus, Headers, Limits, MAX_FRAME, ResetStatus};

fn decoder() -> Decoder {
    Decoder::new(&Limits::default())
}

fn all(bytes: &[u8]) -> Vec<Event> {
    let (mut decoder, mut input, mut events) = (decoder(), BytesMut::from(bytes), Vec::new());
    while let Some(event) = decoder.decode(&mut input).unwrap() {
        events.push(event);
    }
    assert!(input.is_empty());
    events
}

/// Packed by zlib itself, as a peer would.
const ERROR: &[u8] =
    b"\x78\xf9\xe3\xc6\xa7\xc2\x02\xa6\x23\x46\x70\x3a\x2b\x29\x4a\x4d\xcc\x85\x16\x25\xac\xa9\xa0\x80\x06\x00\x00\x00\xff\xff";
const STDOUT: &[u8] = b"\xc2\x2a\x05\x4c\xcc\x29\xf9\xa5\x25\x00\x00\x00\x00\xff\xff";
const NONE: &[u8] = b"\x02\xb2\x18\x00\x00\x00\x00\xff\xff";

#[test]
fn what_an_api_server_sends_is_understood() {
    let head = |kind: u8, flags: u8, length: usize| vec![0x80, 3, 0, kind, flags, 0, 0, length as u8];
    let mut bytes = head(1, 0, 10 + ERROR.len());
    bytes.extend(b"\0\0\0\x01\0\0\0\0\0\0");
    bytes.extend(ERROR);
    bytes.extend(head(1, 1, 10 + STDOUT.len()));
    bytes.extend(b"\0\0\0\x03\0\0\0\0\0\0");
    bytes.extend(STDOUT);
    bytes.extend(head(2, 0, 4 + NONE.len()));
    bytes.extend(b"\0\0\0\x02");
    bytes.extend(NONE);
    // SETTINGS, WINDOW_UPDATE, and a type that does not exist.
    bytes.extend(b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\x01\0\0\x04\0\0\x10\0");
    bytes.extend(b"\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\0\0\x10\0");
    bytes.extend(b"\x80\x03\x12\x34\0\0\0\x03abc");
    bytes.extend(b"\0\0\0\x01\0\0\0\x05hello");
    bytes.extend(b"\0\0\0\x01\x01\0\0\0");
    bytes.extend(b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x09");
    bytes.extend(b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x03\0\0\0\x05");
    bytes.extend(b"\x80\x03\0\x07\0\0\0\x08\0\0\0\x02\0\0\0\0");
    let kind = |value: &str| Headers::from_iter([("streamtype", value)]);
    let expected = [
        Event::SynStream { id: 1, headers: kind("error"), fin: false, unidirectional: false },
        Event::SynStream { id: 3, headers: kind("stdout"), fin: true, unidirectional: false },
        Event::SynReply { id: 2, headers: Headers::default(), fin: false },
        Event::Data { id: 1, bytes: Bytes::from_static(b"hello"), fin: false },
        Event::Data { id: 1, bytes: Bytes::new(), fin: true },
        Event::Ping(9),
        Event::Reset { id: 3, status: 5 },
        Event::GoAway { last: 2, status: 0 },
    ];
    assert_eq!(all(&bytes), expected);

    // However it is cut, it says the same; only data may come in pieces.
    let (mut decoder, mut input, mut events) = (decoder(), BytesMut::new(), Vec::new());
    for byte in bytes {
        input.extend([byte]);
        while let Some(event) = decoder.decode(&mut input).unwrap() {
            events.push(event);
        }
    }
    let letters = events.iter().filter(|event| matches!(event, Event::Data { bytes, .. } if bytes.len() == 1)).count();
    assert_eq!((letters, events.len()), (5, expected.len() + 4));
    assert_eq!(events.last(), expected.last());
}

#[test]
fn what_is_sent_has_these_bytes() {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    encoder.data(&mut out, 5, b"hi", true);
    encoder.data(&mut out, 5, b"", false);
    encoder.ping(&mut out, 7);
    encoder.reset(&mut out, 3, ResetStatus::CANCEL);
    encoder.go_away(&mut out, 9, GoAwayStatus::PROTOCOL_ERROR);
    let expected: &[u8] = b"\0\0\0\x05\x01\0\0\x02hi\
        \0\0\0\x05\0\0\0\0\
        \x80\x03\0\x06\0\0\0\x04\0\0\0\x07\
        \x80\x03\0\x03\0\0\0\x08\0\0\0\x03\0\0\0\x05\
        \x80\x03\0\x07\0\0\0\x08\0\0\0\x09\0\0\0\x01";
    assert_eq!(&out[..], expected);

    out.clear();
    encoder.syn_stream(&mut out, 1, &Headers::from_iter([("StreamType", "stdin")]), false).unwrap();
    assert_eq!(&out[..7], b"\x80\x03\0\x01\0\0\0");
    assert_eq!(&out[8..18], b"\0\0\0\x01\0\0\0\0\0\0");
    // A zlib stream with a preset dictionary, this one.
    assert_eq!((out[18] & 0x0f, out[19] & 0x20), (8, 0x20));
    assert_eq!(&out[20..24], b"\xe3\xc6\xa7\xc2");
    assert_eq!(&out[out.len() - 4..], b"\0\0\xff\xff", "flushed");
    let headers = Headers::from_iter([("streamtype", "stdin")]);
    assert_eq!(all(&out), [Event::SynStream { id: 1, headers, fin: false, unidirectional: false }]);
}

#[test]
fn more_than_fits_in_a_frame_is_several() {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    encoder.data(&mut out, 1, &vec![7; MAX_FRAME + 1], true);
    let fins: Vec<_> = all(&out)
        .into_iter()
        .map(|event| match event {
            Event::Data { bytes, fin, .. } => (bytes.len(), fin),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(fins, [(MAX_FRAME, false), (1, true)]);
}
