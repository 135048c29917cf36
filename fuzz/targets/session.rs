//! Handshakes and sealed messages of a stranger, of a hub that tampers, repeats and reorders, and of a peer that is who it
//! says and yet sends nonsense: no panic, nothing forged is opened, nothing is opened twice.
#![no_main]

use std::collections::BTreeSet;

use hawser_wire::codec::Open;
use hawser_wire::session::{Initiator, Names, Responder, Session, StaticKey};
use hawser_wire::session_messages::{Envelope, Hello, HelloPayload, Sealed, Welcome, WelcomePayload};
use hawser_wire::{BootId, DeviceId, Root, Up, decode};
use libfuzzer_sys::fuzz_target;
use minicbor::encode::{Error, Write};
use minicbor::{Encode, Encoder};

fuzz_target!(|input: &[u8]| {
    let Some((&kind, bytes)) = input.split_first() else { return };
    let place = Place::new();
    match kind % 4 {
        0 => place.strange_hello(bytes),
        1 => place.strange_welcome(bytes),
        2 => nonsense(place.session(), bytes),
        _ => hub(place.session(), bytes),
    }
});

/// How many messages the hub has to play with. The last come after the window of the first.
const SEALED: usize = 12;

struct Place {
    root: Root,
    device: DeviceId,
    device_key: StaticKey,
    bridge_key: StaticKey,
}

impl Place {
    fn new() -> Self {
        Self {
            root: Root::default(),
            device: DeviceId::new("pi").expect("valid"),
            device_key: StaticKey::from_secret([1; 32]),
            bridge_key: StaticKey::from_secret([2; 32]),
        }
    }

    fn names(&self) -> Names<'_> {
        Names { root: &self.root, device: &self.device }
    }

    fn hello(&self) -> (Initiator, Hello) {
        let payload = HelloPayload { agent_version: "0".into(), accepted: None, digest: None, boot: BootId([3; 8]) };
        let bridge = self.bridge_key.public();
        Initiator::start(self.names(), &self.device_key, &bridge, None, [11; 32], &payload).expect("our own hello")
    }

    fn welcome(&self, hello: &Hello) -> (Session, Welcome) {
        let responder = Responder::read(self.names(), &self.bridge_key, [12; 32], hello).expect("our own hello");
        let payload =
            WelcomePayload { protocol: 1, bridge_version: "0".into(), heartbeat_seconds: 10, bridge_millis: 7 };
        responder.answer(None, &payload).expect("an answer")
    }

    fn session(&self) -> (Session, Session) {
        let (initiator, hello) = self.hello();
        let (bridge, welcome) = self.welcome(&hello);
        let Ok((device, _)) = initiator.finish(&welcome) else { panic!("our own welcome") };
        (device, bridge)
    }

    fn strange_hello(&self, bytes: &[u8]) {
        if let Ok(decoded) = decode::<Envelope>(bytes, bytes.len())
            && let Envelope::Hello(hello) = decoded.value
        {
            let _ = Responder::read(self.names(), &self.bridge_key, [12; 32], &hello);
        }
        let (_, mut hello) = self.hello();
        if tamper(&mut hello.noise, bytes) {
            assert!(Responder::read(self.names(), &self.bridge_key, [12; 32], &hello).is_err());
        }
    }

    fn strange_welcome(&self, bytes: &[u8]) {
        let (initiator, hello) = self.hello();
        let (_, honest) = self.welcome(&hello);
        let mut welcome = Welcome { protocol: honest.protocol, noise: honest.noise.clone() };
        if !tamper(&mut welcome.noise, bytes) {
            return;
        }
        let Err((initiator, _)) = initiator.finish(&welcome) else { panic!("a forged welcome was believed") };
        assert!(initiator.finish(&honest).is_ok(), "the right answer still counts");
    }
}

/// Whether something is another than before.
fn tamper(bytes: &mut Vec<u8>, with: &[u8]) -> bool {
    let before = bytes.clone();
    for change in with.chunks_exact(2) {
        let at = usize::from(change[0]) % (bytes.len() + 1);
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= change[1],
            None => bytes.truncate(usize::from(change[1])),
        }
        if bytes.is_empty() {
            break;
        }
    }
    *bytes != before
}

/// A peer with the right key seals what is no message.
fn nonsense((mut device, mut bridge): (Session, Session), bytes: &[u8]) {
    struct Raw<'a>(&'a [u8]);
    impl<C> Encode<C> for Raw<'_> {
        fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), Error<W::Error>> {
            encoder.writer_mut().write_all(self.0).map_err(Error::write)
        }
    }
    let sealed = device.seal(&Raw(bytes)).expect("short enough");
    let opened = bridge.open::<Up>(&sealed);
    if let Ok(opened) = opened {
        assert_eq!(decode::<Open<Up>>(bytes, bytes.len()).expect("the same bytes"), opened);
    }
    assert!(bridge.open::<Up>(&sealed).is_err(), "opened twice");
}

/// The hub delivers what was sealed in any order, as often as it likes, changed as it likes.
fn hub((mut device, mut bridge): (Session, Session), bytes: &[u8]) {
    let sealed: Vec<Sealed> = (0..SEALED).map(|_| device.seal(&Open::<Up>::Unknown).expect("room")).collect();
    let mut opened = BTreeSet::new();
    for step in bytes.chunks_exact(3) {
        let original = &sealed[usize::from(step[0]) % SEALED];
        let mut copy =
            Sealed { session: original.session, counter: original.counter, ciphertext: original.ciphertext.clone() };
        copy.counter = copy.counter.wrapping_add_signed(i64::from(step[1] as i8) << (step[1] & 0x30));
        let first = copy.ciphertext.first_mut().expect("a tag at least");
        *first ^= step[2];
        let honest = copy == *original;
        let worked = bridge.open::<Up>(&copy).is_ok();
        assert_eq!(worked, honest && opened.insert(copy.counter), "what was sealed opens once, and nothing else");
    }
}
