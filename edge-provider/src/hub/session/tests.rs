//! Sessions under a hub that repeats, reorders and forges.

use super::*;
use hawser_wire::report::Heartbeat;
use hawser_wire::session::{Initiator, Names, Responder, StaticKey};
use hawser_wire::session_messages::WelcomePayload;
use hawser_wire::{BootId, DeviceId, DeviceTime, Root};

struct Device {
    key: StaticKey,
    fresh: u8,
}

fn bridge() -> StaticKey {
    StaticKey::from_secret([1; 32])
}

fn payload() -> HelloPayload {
    HelloPayload { agent_version: "t".to_owned(), accepted: None, digest: None, boot: BootId([0; 8]) }
}

impl Device {
    fn new() -> Self {
        Self { key: StaticKey::from_secret([2; 32]), fresh: 10 }
    }

    fn hello(&mut self) -> (Initiator, Hello) {
        self.fresh += 1;
        let (root, device) = (Root::default(), DeviceId::new("pi").unwrap());
        let names = Names { root: &root, device: &device };
        Initiator::start(names, &self.key, &bridge().public(), None, [self.fresh; 32], &payload()).unwrap()
    }
}

/// What the bridge does with an admitted hello.
fn welcome(slot: &mut SessionSlot, hello: &Hello, fresh: u8, proof: Proof) -> Welcome {
    let (root, device) = (Root::default(), DeviceId::new("pi").unwrap());
    let responder = Responder::read(Names { root: &root, device: &device }, &bridge(), [fresh; 32], hello).unwrap();
    let key = responder.device_key;
    let said = WelcomePayload { protocol: 1, bridge_version: "t".to_owned(), heartbeat_seconds: 10, bridge_millis: 0 };
    let (session, welcome) = responder.answer(None, &said).unwrap();
    slot.welcome(Pending {
        session,
        key,
        hello: payload(),
        welcome: welcome.clone(),
        fingerprint: Fingerprint::of(hello),
        token: None,
        proof,
    });
    welcome
}

fn beat() -> Up {
    Up::Heartbeat(Heartbeat { boot: BootId([0; 8]), now: DeviceTime(1), wall_millis: 1, digest: None, answers: None })
}

fn open(device: &mut Device, slot: &mut SessionSlot, fresh: u8) -> Session {
    let (initiator, hello) = device.hello();
    let welcome = welcome(slot, &hello, fresh, Proof::Nothing);
    let (mut session, _) = initiator.finish(&welcome).unwrap();
    let Heard::First(key, _) = slot.open(&session.seal(&beat()).unwrap()) else { panic!("not the first message") };
    slot.promote(key, Duration::ZERO).unwrap();
    session
}

#[test]
fn a_replayed_hello_does_not_disturb_the_session_in_use() {
    let (mut device, mut slot) = (Device::new(), SessionSlot::default());
    let (initiator, old) = device.hello();
    let answer = welcome(&mut slot, &old, 100, Proof::Nothing);
    assert_eq!(slot.greet(Fingerprint::of(&old)), Greeting::Again(answer.clone()), "the same hello, delivered twice");
    drop(initiator.finish(&answer).unwrap());
    let mut session = open(&mut device, &mut slot, 101);
    assert_eq!(slot.greet(Fingerprint::of(&old)), Greeting::Replay);
    // Even a replay that was forgotten, and so is welcomed, only ever becomes a session that nobody speaks in.
    welcome(&mut slot, &old, 102, Proof::Nothing);
    assert!(matches!(slot.open(&session.seal(&beat()).unwrap()), Heard::Message(_)));
    assert!(slot.seal(&Down::Ping(1)).is_some());
}

#[test]
fn messages_are_heard_once_in_any_order_and_only_in_their_session() {
    let (mut device, mut slot) = (Device::new(), SessionSlot::default());
    let mut session = open(&mut device, &mut slot, 100);
    let (a, b) = (session.seal(&beat()).unwrap(), session.seal(&beat()).unwrap());
    assert!(matches!(slot.open(&b), Heard::Message(_)));
    assert!(matches!(slot.open(&a), Heard::Message(_)));
    assert!(matches!(slot.open(&a), Heard::Rejected(SessionError::Replayed)));
    let mut forged = session.seal(&beat()).unwrap();
    forged.ciphertext[0] ^= 1;
    assert!(matches!(slot.open(&forged), Heard::Rejected(SessionError::Unreadable)));
    let late = session.seal(&beat()).unwrap();
    let mut newer = open(&mut device, &mut slot, 101);
    assert!(matches!(slot.open(&late), Heard::Late), "no complaint about what was under way");
    forged.session = SessionId([9; 8]);
    assert!(matches!(slot.open(&forged), Heard::NoSession));
    assert!(matches!(slot.open(&newer.seal(&beat()).unwrap()), Heard::Message(_)));
}

#[test]
fn a_joining_device_counts_only_once_its_key_is_stored() {
    let (mut device, mut slot) = (Device::new(), SessionSlot::default());
    let (initiator, hello) = device.hello();
    let answer = welcome(&mut slot, &hello, 100, Proof::Wanted);
    let (mut session, _) = initiator.finish(&answer).unwrap();
    let Heard::Proved(key) = slot.open(&session.seal(&beat()).unwrap()) else { panic!("not proved") };
    assert!(matches!(slot.open(&session.seal(&beat()).unwrap()), Heard::Held));
    assert!(slot.seal(&Down::Ping(1)).is_none(), "nothing is said in it before");
    assert!(slot.promote(PublicKey([9; 32]), Duration::ZERO).is_none(), "another key was stored");
    assert_eq!(slot.promote(key, Duration::ZERO).unwrap().held.len(), 2);
    assert!(slot.seal(&Down::Ping(1)).is_some());
}

#[test]
fn a_device_whose_key_was_taken_away_is_cut_off() {
    let (mut device, mut slot) = (Device::new(), SessionSlot::default());
    let key = device.key.public();
    open(&mut device, &mut slot, 100);
    assert!(!slot.keep_only(Some(key)));
    assert!(slot.keep_only(None));
    assert!(slot.seal(&Down::Ping(1)).is_none());
    // Whoever is about to join for the first time is not disturbed by there being no key yet.
    let (initiator, hello) = device.hello();
    let answer = welcome(&mut slot, &hello, 101, Proof::Wanted);
    assert!(!slot.keep_only(None));
    let (mut session, _) = initiator.finish(&answer).unwrap();
    assert!(matches!(slot.open(&session.seal(&beat()).unwrap()), Heard::Proved(_)));
}

#[test]
fn a_session_is_renewed_after_a_day() {
    let (mut device, mut slot) = (Device::new(), SessionSlot::default());
    open(&mut device, &mut slot, 100);
    assert!(!slot.is_worn(Duration::from_secs(24 * 3600)));
    assert!(slot.is_worn(Duration::from_secs(26 * 3600)));
}
