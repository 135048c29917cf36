//! How a message looks while the router carries it: a lane for a topic, and the real topic inside of the payload. Pure.

use crate::acl::Direction;
use crate::session::Message;
use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::QoS;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// More lanes mean fewer devices that look at each other's messages, and more logs in the router.
const DOWN_LANES: u64 = 8;

/// A topic of the router. There are nine of them, whatever the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What bridges hear.
    Up,
    /// What a share of the devices hears.
    Down(u64),
}

impl Lane {
    pub(crate) fn of(direction: Direction, device: &str) -> Self {
        match direction {
            Direction::Up => Lane::Up,
            Direction::Down => {
                // Any stable hash does: the lane is not a secret and balance is only a matter of speed.
                let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(device);
                Lane::Down(hash % DOWN_LANES)
            }
        }
    }

    pub(crate) fn topic(self) -> String {
        match self {
            Lane::Up => "up".to_owned(),
            Lane::Down(index) => format!("down-{index}"),
        }
    }
}

/// QoS in one byte, length of the topic in two, topic, payload.
pub(crate) fn wrap(message: &Message) -> Bytes {
    let topic = message.topic.as_bytes();
    let mut bytes = BytesMut::with_capacity(3 + topic.len() + message.payload.len());
    bytes.put_u8(message.qos as u8);
    // A topic came out of an MQTT string, so its length fits.
    bytes.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
    bytes.put_slice(topic);
    bytes.put_slice(&message.payload);
    bytes.freeze()
}

/// The opposite of [`wrap`]; `None` for what it did not make.
pub(crate) fn unwrap(envelope: &Bytes) -> Option<Message> {
    let (&[qos, high, low], rest) = envelope.split_first_chunk::<3>()?;
    let qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => return None,
    };
    let (topic, payload) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    let topic = std::str::from_utf8(topic).ok()?.to_owned();
    Some(Message { topic, qos, payload: envelope.slice_ref(payload) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn there_are_as_many_lanes_as_promised() {
        let lanes: std::collections::BTreeSet<_> =
            (0..1000).map(|n| Lane::of(Direction::Down, &format!("device-{n}")).topic()).collect();
        assert_eq!(lanes.len() as u64, DOWN_LANES);
        assert_eq!(Lane::of(Direction::Up, "a"), Lane::of(Direction::Up, "b"));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(topic in "[ -~ä-ü]{0,80}", once in any::<bool>(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let qos = if once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
            let message = Message { topic, qos, payload: payload.into() };
            prop_assert_eq!(unwrap(&wrap(&message)), Some(message));
        }

        #[test]
        fn nothing_else_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            unwrap(&Bytes::from(bytes));
        }
    }
}
