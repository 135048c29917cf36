//! Handshakes and sealed messages: between the right parties, and between the wrong ones.

use hawser_wire::report::Heartbeat;
use hawser_wire::session::{Initiator, Names, Responder, Session, SessionError, StaticKey};
use hawser_wire::session_messages::{Hello, HelloPayload, Intent, Sealed, Welcome, WelcomePayload};
use hawser_wire::token::JoinToken;
use hawser_wire::{BootId, DeviceId, DeviceTime, Open, Root, TokenId, Up};
use proptest::prelude::*;

fn key(seed: u8) -> StaticKey {
    StaticKey::from_secret([seed; 32])
}

fn token(seed: u8) -> JoinToken {
    JoinToken { id: TokenId([1; 8]), secret: [seed; 32] }
}

fn hello_payload() -> HelloPayload {
    HelloPayload { agent_version: "0.1.0".into(), accepted: None, digest: None, boot: BootId([3; 8]) }
}

fn welcome_payload() -> WelcomePayload {
    WelcomePayload { protocol: 1, bridge_version: "0.1.0".into(), heartbeat_seconds: 10, bridge_millis: 7 }
}

struct Place {
    root: Root,
    device: DeviceId,
}

impl Place {
    fn new(device: &str) -> Self {
        Self { root: Root::default(), device: DeviceId::new(device).unwrap() }
    }

    fn names(&self) -> Names<'_> {
        Names { root: &self.root, device: &self.device }
    }
}

fn start(place: &Place, bridge: &StaticKey, token: Option<&JoinToken>) -> (Initiator, Hello) {
    Initiator::start(place.names(), &key(1), &bridge.public(), token, [11; 32], &hello_payload()).unwrap()
}

fn read(place: &Place, hello: &Hello) -> Result<Responder, SessionError> {
    Responder::read(place.names(), &key(2), [12; 32], hello)
}

/// A device's session and the bridge's.
fn session(token: Option<&JoinToken>) -> (Session, Session) {
    let place = Place::new("pi");
    let (initiator, hello) = start(&place, &key(2), token);
    let responder = read(&place, &hello).unwrap();
    assert_eq!(responder.device_key, key(1).public());
    assert_eq!(responder.payload, hello_payload());
    let (bridge, welcome) = responder.answer(token.map(|t| &t.secret), &welcome_payload()).unwrap();
    let (device, payload) = initiator.finish(&welcome).map_err(|(_, error)| error).unwrap();
    assert_eq!(payload, welcome_payload());
    assert_eq!(device.id(), bridge.id());
    (device, bridge)
}

fn message(n: u64) -> Up {
    Up::Heartbeat(Heartbeat { boot: BootId([0; 8]), now: DeviceTime(n), wall_millis: 0, digest: None, answers: None })
}

fn opened(session: &mut Session, sealed: &Sealed) -> Result<Up, SessionError> {
    match session.open::<Up>(sealed)?.value {
        Open::Known(up) => Ok(up),
        Open::Unknown => panic!("our own message"),
    }
}

#[test]
fn resuming_and_joining_lead_to_a_session() {
    for token in [None, Some(token(9))] {
        let (mut device, mut bridge) = session(token.as_ref());
        let sealed = device.seal(&message(1)).unwrap();
        assert_eq!(opened(&mut bridge, &sealed).unwrap(), message(1));
        let back = bridge.seal(&message(2)).unwrap();
        assert_eq!(opened(&mut device, &back).unwrap(), message(2));
    }
}

#[test]
fn the_hub_reads_neither_names_nor_content() {
    let (mut device, _) = session(None);
    let secret = "a-name-that-nobody-may-read";
    let sealed = device.seal(&(0u8, secret)).unwrap();
    let bytes = hawser_wire::encode(&sealed);
    assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
}

#[test]
fn a_wrong_bridge_key_is_unreadable() {
    let place = Place::new("pi");
    let (_, hello) = start(&place, &key(77), None);
    assert!(matches!(read(&place, &hello), Err(SessionError::Unreadable)));
}

#[test]
fn a_hello_of_one_device_is_worth_nothing_for_another() {
    let (_, hello) = start(&Place::new("pi"), &key(2), None);
    assert!(matches!(read(&Place::new("pi-2"), &hello), Err(SessionError::Unreadable)));
    let elsewhere = Place { root: Root::new("other").unwrap(), device: DeviceId::new("pi").unwrap() };
    assert!(matches!(read(&elsewhere, &hello), Err(SessionError::Unreadable)));
}

#[test]
fn what_travels_in_the_clear_is_bound() {
    let place = Place::new("pi");
    let (_, hello) = start(&place, &key(2), Some(&token(9)));
    for forged in [
        Hello { newest: 9, ..hello.clone() },
        Hello { oldest: 0, ..hello.clone() },
        Hello { intent: Intent::Resume, ..hello.clone() },
        Hello { intent: Intent::Join(TokenId([2; 8])), ..hello.clone() },
    ] {
        assert!(matches!(read(&place, &forged), Err(SessionError::Unreadable)), "{forged:?}");
    }
}

#[test]
fn a_wrong_token_ends_in_an_unreadable_welcome_and_the_right_one_still_works() {
    let place = Place::new("pi");
    let (initiator, hello) = start(&place, &key(2), Some(&token(9)));
    let (_, wrong) = read(&place, &hello).unwrap().answer(Some(&token(8).secret), &welcome_payload()).unwrap();
    let (initiator, error) = initiator.finish(&wrong).unwrap_err();
    assert!(matches!(error, SessionError::Unreadable));
    let garbage = Welcome { protocol: 1, noise: vec![0; 100] };
    let (initiator, _) = initiator.finish(&garbage).unwrap_err();
    let (_, right) = read(&place, &hello).unwrap().answer(Some(&token(9).secret), &welcome_payload()).unwrap();
    assert!(initiator.finish(&right).is_ok());
}

#[test]
fn no_common_protocol_is_named() {
    let place = Place::new("pi");
    let (_, hello) = start(&place, &key(2), None);
    let later = Hello { oldest: 7, newest: 9, ..hello };
    let error = read(&place, &later).unwrap_err();
    assert_eq!(error.to_string(), "no protocol in common: the other side speaks 7 to 9, we speak 1 to 1");
}

#[test]
fn a_welcome_whose_protocol_was_changed_on_the_way_is_refused() {
    let place = Place::new("pi");
    let (initiator, hello) = start(&place, &key(2), None);
    let (_, welcome) = read(&place, &hello).unwrap().answer(None, &welcome_payload()).unwrap();
    assert!(initiator.finish(&Welcome { protocol: 0, ..welcome }).is_err());
}

#[test]
fn a_tampered_message_is_refused_and_does_not_use_up_its_number() {
    let (mut device, mut bridge) = session(None);
    let sealed = device.seal(&message(1)).unwrap();
    let mut tampered = sealed.clone();
    tampered.ciphertext[0] ^= 1;
    assert!(matches!(opened(&mut bridge, &tampered), Err(SessionError::Unreadable)));
    let renumbered = Sealed { counter: sealed.counter + 1, ..sealed.clone() };
    assert!(matches!(opened(&mut bridge, &renumbered), Err(SessionError::Unreadable)));
    assert!(opened(&mut bridge, &sealed).is_ok());
    assert!(matches!(opened(&mut bridge, &sealed), Err(SessionError::Replayed)));
}

#[test]
fn a_message_is_not_its_own_answer() {
    let (mut device, _) = session(None);
    let sealed = device.seal(&message(1)).unwrap();
    assert!(matches!(opened(&mut device, &sealed), Err(SessionError::Unreadable)));
}

#[test]
fn sessions_do_not_mix() {
    let (mut device, _) = session(None);
    let (_, mut other) = session(Some(&token(9)));
    let sealed = device.seal(&message(1)).unwrap();
    assert!(matches!(opened(&mut other, &sealed), Err(SessionError::OtherSession)));
    let claimed = Sealed { session: other.id(), ..sealed };
    assert!(matches!(opened(&mut other, &claimed), Err(SessionError::Unreadable)));
}

#[test]
fn what_does_not_fit_is_said_before_it_is_encrypted() {
    let (mut device, _) = session(None);
    assert!(matches!(device.seal(&"x".repeat(70_000).as_str()), Err(SessionError::TooLong(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// A hub that reorders and repeats within the window: everything arrives exactly once.
    #[test]
    fn reordered_and_repeated_messages_arrive_once(order in prop::collection::vec(0usize..50, 0..150)) {
        let (mut device, mut bridge) = session(None);
        let sealed: Vec<_> = (0..50).map(|n| device.seal(&message(n)).unwrap()).collect();
        let mut arrived = [0; 50];
        for at in order.iter().copied().chain(0..50) {
            match opened(&mut bridge, &sealed[at]) {
                Ok(up) => {
                    prop_assert_eq!(up, message(at as u64));
                    arrived[at] += 1;
                }
                Err(error) => prop_assert!(matches!(error, SessionError::Replayed)),
            }
        }
        prop_assert_eq!(arrived, [1; 50]);
    }
}
