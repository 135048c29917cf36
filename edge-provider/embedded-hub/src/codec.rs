//! MQTT 3.1.1 packets from clients: rumqttc's codec, with the checks that it leaves out in front of it. Pure.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{Connect, Packet};
use rumqttc::mqttbytes::{self, Error};

/// Bytes that are not what a 3.1.1 client may send.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("packet of {declared} bytes, at most {limit} are accepted")]
    TooLong { declared: usize, limit: usize },
    #[error("first byte {0:#04x} begins no packet that a client may send")]
    FirstByte(u8),
    #[error("packet of type {0} has the wrong length")]
    Length(u8),
    #[error("CONNECT with contradictory flags {0:#010b}")]
    ConnectFlags(u8),
    #[error("not MQTT")]
    NotMqtt,
    #[error("MQTT protocol level {0} is not spoken here")]
    Version(u8),
    #[error("{0}")]
    Content(String),
}

/// The packets of the fixed header's upper half that a client may send after CONNECT, with their only legal flags.
/// PUBLISH has flags of its own. PUBREC and PUBCOMP would answer a QoS 2 delivery, which we never make.
const AFTER_CONNECT: [(u8, u8); 6] = [(4, 0), (6, 0b0010), (8, 0b0010), (10, 0b0010), (12, 0), (14, 0)];

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 3;

/// Takes the next packet after CONNECT out of the buffer; `None` if it has not fully arrived.
///
/// The declared length is checked as soon as it is readable, before more of the packet is read.
pub(crate) fn next_packet(buffer: &mut BytesMut, limit: usize) -> Result<Option<Packet>, Malformed> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 0x0f);
    if kind != PUBLISH && !AFTER_CONNECT.contains(&(kind, flags)) {
        return Err(Malformed::FirstByte(first));
    }
    let Some(remaining) = remaining_length(buffer, limit)? else { return Ok(None) };
    let fixed = match kind {
        4 | 6 => Some(2),
        12 | 14 => Some(0),
        _ => None,
    };
    if fixed.is_some_and(|length| length != remaining) {
        return Err(Malformed::Length(kind));
    }
    let packet = match Packet::read(buffer, limit) {
        Ok(packet) => packet,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed::Content(error.to_string())),
    };
    let id = match &packet {
        Packet::PubAck(ack) => Some(ack.pkid),
        Packet::PubRel(release) => Some(release.pkid),
        Packet::Subscribe(subscribe) => Some(subscribe.pkid),
        Packet::Unsubscribe(unsubscribe) if unsubscribe.topics.is_empty() => return Err(Malformed::Length(kind)),
        Packet::Unsubscribe(unsubscribe) => Some(unsubscribe.pkid),
        _ => None,
    };
    if id == Some(0) {
        return Err(Malformed::Content(Error::PacketIdZero.to_string()));
    }
    Ok(Some(packet))
}

/// Takes the CONNECT, which must come first; `None` if it has not fully arrived.
///
/// Protocol name and level are judged before the rest is parsed, since the rest of another version reads differently.
pub(crate) fn next_connect(buffer: &mut BytesMut, limit: usize) -> Result<Option<Connect>, Malformed> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    if first != CONNECT {
        return Err(Malformed::FirstByte(first));
    }
    let Some(remaining) = remaining_length(buffer, limit)? else { return Ok(None) };
    let header = match mqttbytes::check(buffer.iter(), limit) {
        Ok(header) => header,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed::Content(error.to_string())),
    };
    let length = header.frame_length();
    let body = &buffer[length - remaining..length];
    match body {
        // "MQIsdp" is what 3.1 called itself.
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', level, ..] => return Err(Malformed::Version(*level)),
        [0, 4, b'M', b'Q', b'T', b'T', 4, flags, ..] => check_connect_flags(*flags)?,
        [0, 4, b'M', b'Q', b'T', b'T', level, ..] => return Err(Malformed::Version(*level)),
        _ => return Err(Malformed::NotMqtt),
    }
    let frame = buffer.split_to(length).freeze();
    Connect::read(header, frame).map(Some).map_err(|error| Malformed::Content(error.to_string()))
}

fn check_connect_flags(flags: u8) -> Result<(), Malformed> {
    let reserved = flags & 0b0000_0001 != 0;
    let will_bits_without_will = flags & 0b0000_0100 == 0 && flags & 0b0011_1000 != 0;
    let password_without_username = flags & 0b1100_0000 == 0b0100_0000;
    if reserved || will_bits_without_will || password_without_username {
        return Err(Malformed::ConnectFlags(flags));
    }
    Ok(())
}

/// The remaining length that the fixed header declares, once it has arrived.
fn remaining_length(buffer: &BytesMut, limit: usize) -> Result<Option<usize>, Malformed> {
    let mut declared = 0usize;
    for (index, byte) in buffer.iter().skip(1).take(4).enumerate() {
        declared |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return if declared > limit { Err(Malformed::TooLong { declared, limit }) } else { Ok(Some(declared)) };
        }
    }
    if buffer.len() >= 5 {
        return Err(Malformed::Content(Error::MalformedRemainingLength.to_string()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v4::{Publish, Subscribe, Unsubscribe};

    const LIMIT: usize = 4096;

    fn packet(bytes: &[u8]) -> Result<Option<Packet>, Malformed> {
        next_packet(&mut BytesMut::from(bytes), LIMIT)
    }

    fn connect(body: &[u8]) -> Result<Option<Connect>, Malformed> {
        let mut bytes = vec![CONNECT, u8::try_from(body.len()).expect("short")];
        bytes.extend_from_slice(body);
        next_connect(&mut BytesMut::from(bytes.as_slice()), LIMIT)
    }

    #[test]
    fn a_length_over_the_limit_is_refused_when_it_is_read() {
        // 100 MB declared, five bytes received.
        assert_eq!(
            packet(&[0x30, 0x80, 0x80, 0x80, 0x32]),
            Err(Malformed::TooLong { declared: 104_857_600, limit: LIMIT })
        );
        assert_eq!(
            next_connect(&mut BytesMut::from(&[0x10, 0x80, 0x80, 0x80, 0x32][..]), LIMIT),
            Err(Malformed::TooLong { declared: 104_857_600, limit: LIMIT })
        );
        assert!(matches!(packet(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(Malformed::Content(_))));
    }

    #[test]
    fn what_has_not_arrived_is_waited_for() {
        let mut whole = BytesMut::new();
        Publish::new("a/b", QoS::AtMostOnce, "hello").write(&mut whole).expect("encodes");
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(next_packet(&mut part, LIMIT), Ok(None), "cut at {cut}");
            assert_eq!(part.len(), cut, "bytes were taken at {cut}");
        }
        assert!(matches!(packet(&whole), Ok(Some(Packet::Publish(_)))));
    }

    #[test]
    fn packets_that_no_client_sends_are_refused() {
        let cases: [&[u8]; 12] = [
            &[0x00, 0x00],             // reserved type
            &[0xf0, 0x00],             // reserved type in 3.1.1
            &[0x10, 0x00],             // a second CONNECT
            &[0x20, 0x02, 0x00, 0x00], // CONNACK
            &[0x50, 0x02, 0x00, 0x01], // PUBREC
            &[0x70, 0x02, 0x00, 0x01], // PUBCOMP
            &[0x80, 0x02, 0x00, 0x01], // SUBSCRIBE without its flag
            &[0x90, 0x03, 0x00, 0x01, 0x00],
            &[0x41, 0x02, 0x00, 0x01], // PUBACK with a flag
            &[0xc0, 0x01, 0x00],       // PINGREQ with a body
            &[0xe0, 0x01, 0x00],       // DISCONNECT with a body
            &[0x40, 0x03, 0x00, 0x01, 0x00],
        ];
        for bytes in cases {
            assert!(packet(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn broken_contents_are_refused() {
        let cases: [(&str, &[u8]); 9] = [
            ("QoS 3", &[0x36, 0x05, 0, 1, b'a', 0, 1]),
            ("packet id 0", &[0x32, 0x05, 0, 1, b'a', 0, 0]),
            ("topic beyond the packet", &[0x30, 0x03, 0, 9, b'a']),
            ("topic not UTF-8", &[0x30, 0x03, 0, 1, 0xff]),
            ("subscribe without filters", &[0x82, 0x02, 0, 1]),
            ("subscribe with id 0", &[0x82, 0x06, 0, 0, 0, 1, b'a', 0]),
            ("unsubscribe without filters", &[0xa2, 0x02, 0, 1]),
            ("unsubscribe too short", &[0xa2, 0x01, 0]),
            ("puback with id 0", &[0x40, 0x02, 0, 0]),
        ];
        for (what, bytes) in cases {
            assert!(packet(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn other_versions_are_told_apart_from_garbage() {
        assert_eq!(connect(b"\0\x04MQTT\x05\x02\0\x0a\0\0\x01a"), Err(Malformed::Version(5)));
        assert_eq!(connect(b"\0\x06MQIsdp\x03\x02\0\x0a\0\x01a"), Err(Malformed::Version(3)));
        assert_eq!(connect(b"\0\x04MQTT\x09\x02\0\x0a\0\x01a"), Err(Malformed::Version(9)));
        assert_eq!(connect(b"\0\x04HTTP\x04\x02\0\x0a\0\x01a"), Err(Malformed::NotMqtt));
        assert_eq!(connect(b""), Err(Malformed::NotMqtt));
        assert_eq!(next_connect(&mut BytesMut::from("GET / HTTP/1.1"), LIMIT), Err(Malformed::FirstByte(b'G')));
    }

    #[test]
    fn contradictory_connect_flags_are_refused() {
        for flags in [0b0000_0011, 0b0000_1010, 0b0010_0010, 0b0100_0010] {
            let mut body = b"\0\x04MQTT\x04".to_vec();
            body.push(flags);
            body.extend_from_slice(b"\0\x0a\0\x01a");
            assert_eq!(connect(&body), Err(Malformed::ConnectFlags(flags)));
        }
        assert_eq!(connect(b"\0\x04MQTT\x04\x02\0\x0a\0\x01a").map(|c| c.map(|c| c.client_id)), Ok(Some("a".into())));
    }

    #[test]
    fn what_clients_send_is_understood() {
        let mut bytes = BytesMut::new();
        let mut subscribe = Subscribe::new("a/#", QoS::AtLeastOnce);
        subscribe.pkid = 1;
        subscribe.write(&mut bytes).expect("encodes");
        let mut unsubscribe = Unsubscribe::new("a/#");
        unsubscribe.pkid = 2;
        unsubscribe.write(&mut bytes).expect("encodes");
        bytes.extend_from_slice(&[0xc0, 0, 0xe0, 0]);
        let mut kinds = Vec::new();
        while let Some(packet) = next_packet(&mut bytes, LIMIT).expect("well formed") {
            kinds.push(packet);
        }
        assert!(matches!(
            kinds.as_slice(),
            [Packet::Subscribe(_), Packet::Unsubscribe(_), Packet::PingReq, Packet::Disconnect]
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            drop(next_connect(&mut buffer, LIMIT));
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = next_packet(&mut buffer, LIMIT) {}
        }

        #[test]
        fn no_body_of_a_known_packet_panics_the_decoder(
            first in prop::sample::select(vec![0x30u8, 0x32, 0x34, 0x3d, 0x40, 0x62, 0x82, 0xa2]),
            body in proptest::collection::vec(any::<u8>(), 0..127),
        ) {
            let mut buffer = BytesMut::from(&[first, body.len() as u8][..]);
            buffer.extend_from_slice(&body);
            drop(next_packet(&mut buffer, LIMIT));
        }
    }
}
