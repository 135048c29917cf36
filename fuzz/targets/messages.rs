//! Whatever comes in as any message: no panic, and what was understood means the same once it was written by us.
#![no_main]

use std::fmt::Debug;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::limits::{MAX_OBJECT, MAX_PAYLOAD, MAX_PLAINTEXT};
use hawser_wire::report::{NodeFacts, Numbered};
use hawser_wire::session_messages::{Envelope, HelloPayload, WelcomePayload};
use hawser_wire::stream::Stats;
use hawser_wire::token::JoinToken;
use hawser_wire::topics::{Channel, Root};
use hawser_wire::{DeviceId, Down, Open, PodUid, PublicKey, Up, decode, encode};
use libfuzzer_sys::fuzz_target;
use minicbor::{CborLen, Decode, Encode};

fuzz_target!(|bytes: &[u8]| {
    as_message::<Open<Envelope>>(bytes, MAX_PAYLOAD);
    as_message::<HelloPayload>(bytes, MAX_PLAINTEXT);
    as_message::<WelcomePayload>(bytes, MAX_PLAINTEXT);
    as_message::<Open<Up>>(bytes, MAX_PLAINTEXT);
    as_message::<Open<Down>>(bytes, MAX_PLAINTEXT);
    as_message::<EdgeDeployment>(bytes, MAX_OBJECT as usize);
    as_message::<Numbered>(bytes, MAX_PLAINTEXT);
    as_message::<NodeFacts>(bytes, MAX_PLAINTEXT);
    as_message::<Stats>(bytes, MAX_PLAINTEXT);
    if let Ok(text) = std::str::from_utf8(bytes) {
        as_words(text);
    }
});

fn as_message<T>(bytes: &[u8], limit: usize)
where
    T: for<'b> Decode<'b, ()> + Encode<()> + CborLen<()> + PartialEq + Debug,
{
    let Ok(decoded) = decode::<T>(bytes, limit) else { return };
    let ours = encode(&decoded.value);
    let again = decode::<T>(&ours, usize::MAX).expect("our own bytes");
    assert!(!again.unfamiliar);
    assert_eq!(again.value, decoded.value);
}

fn as_words(text: &str) {
    let root = Root::new(text).unwrap_or_default();
    if let Some((device, channel)) = Channel::parse(&root, text) {
        assert_eq!(channel.topic(&root, &device), text);
    }
    if let Ok(device) = DeviceId::new(text) {
        assert_eq!(device.as_str(), text);
    }
    if let Ok(pod) = PodUid::new(text) {
        assert_eq!(pod.as_str(), text);
    }
    if let Ok(token) = JoinToken::parse(text) {
        assert_eq!(JoinToken::parse(&token.to_text()).expect("our own text").to_text(), token.to_text());
    }
    let _ = PublicKey::parse(text);
}
