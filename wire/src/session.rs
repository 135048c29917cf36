//! The session: Noise `IK` (`IKpsk2` to join) and sealed messages with explicit counters. Pure: randomness comes in.
//!
//! ```text
//! device                                   bridge
//!   Initiator::start ── Hello ──────────▶ Responder::read     who is it? may it?
//!   Initiator::finish ◀─────── Welcome ── Responder::answer
//!   Session::seal ───── Sealed ─────────▶ Session::open       only now is the hello known not to be a replay
//! ```
//!
//! A new session never destroys the old one by itself: whoever holds a pending handshake keeps the old session until the
//! new one has carried a message. So a hub that replays an old hello disturbs nobody.

mod replay;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use minicbor::{CborLen, Decode, Encode};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::codec::{self, DecodeError};
use crate::ids::{DeviceId, PublicKey, SessionId};
use crate::limits::MAX_PLAINTEXT;
use crate::session_messages::{
    Hello, HelloPayload, Intent, OLDEST_PROTOCOL, PROTOCOL, Sealed, Welcome, WelcomePayload,
};
use crate::token::JoinToken;
use crate::topics::Root;
use replay::ReplayWindow;

/// After so many messages in one direction the session wants a new handshake.
pub const WORN_AFTER: u64 = 1 << 32;
/// A session older than this wants a new handshake.
pub const WORN_AFTER_SECONDS: u64 = 24 * 60 * 60;

/// Why a handshake or a sealed message was not accepted. None of these is a reason to stop a workload.
#[derive(Debug)]
pub enum SessionError {
    /// The cryptography says no: wrong key, wrong token, tampered or foreign message.
    Unreadable,
    /// The message is of another session.
    OtherSession,
    /// The message was seen before, or is too old to tell.
    Replayed,
    /// The two sides have no protocol in common.
    NoCommonProtocol {
        /// The oldest the other side speaks.
        oldest: u16,
        /// The newest the other side speaks.
        newest: u16,
    },
    /// Authentic, but not a message.
    Decode(DecodeError),
    /// Longer than a sealed message can be.
    TooLong(usize),
    /// The counters are used up.
    Worn,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("not readable with our keys: another key, another token, or tampered with"),
            Self::OtherSession => f.write_str("belongs to another session"),
            Self::Replayed => f.write_str("seen before, or too old to tell"),
            Self::NoCommonProtocol { oldest, newest } => write!(
                f,
                "no protocol in common: the other side speaks {oldest} to {newest}, we speak {OLDEST_PROTOCOL} to {PROTOCOL}"
            ),
            Self::Decode(_) => f.write_str("authentic, but not a message we can read"),
            Self::TooLong(len) => write!(f, "{len} bytes do not fit into one sealed message ({MAX_PLAINTEXT} do)"),
            Self::Worn => f.write_str("the session has used up its counters"),
        }
    }
}

impl core::error::Error for SessionError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Decode(source) => Some(source),
            _ => None,
        }
    }
}

impl From<DecodeError> for SessionError {
    fn from(source: DecodeError) -> Self {
        Self::Decode(source)
    }
}

/// A long-lived Curve25519 key.
#[derive(Clone)]
pub struct StaticKey {
    secret: [u8; 32],
    public: PublicKey,
}

impl StaticKey {
    /// Takes 32 random bytes as the secret.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let mut public = [0; 32];
        if let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
            dh.set(&secret);
            public.copy_from_slice(dh.pubkey());
        }
        Self { secret, public: PublicKey(public) }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The secret half, to be stored.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Whose session it is. Bound into the handshake: a hello for one device or root is worth nothing for another.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The root of the topics.
    pub root: &'a Root,
    /// The device.
    pub device: &'a DeviceId,
}

/// The device's side of a handshake under way.
pub struct Initiator {
    // Boxed: it is nearly a kilobyte, and comes back by value from `finish`.
    state: Box<HandshakeState>,
}

impl Initiator {
    /// Makes the first message. `ephemeral` must be 32 fresh random bytes.
    pub fn start(
        names: Names<'_>,
        key: &StaticKey,
        bridge: &PublicKey,
        token: Option<&JoinToken>,
        ephemeral: [u8; 32],
        payload: &HelloPayload,
    ) -> Result<(Self, Hello), SessionError> {
        let intent = token.map_or(Intent::Resume, |token| Intent::Join(token.id));
        let prologue = prologue(names, OLDEST_PROTOCOL, PROTOCOL, intent);
        let mut builder = builder(intent, ephemeral)?.local_private_key(&key.secret).map_err(unreadable)?;
        builder = builder.prologue(&prologue).map_err(unreadable)?;
        builder = builder.remote_public_key(&bridge.0).map_err(unreadable)?;
        if let Some(token) = token {
            builder = builder.psk(2, &token.secret).map_err(unreadable)?;
        }
        let mut state = builder.build_initiator().map_err(unreadable)?;
        let noise = write(&mut state, &codec::encode(payload))?;
        Ok((Self { state: Box::new(state) }, Hello { oldest: OLDEST_PROTOCOL, newest: PROTOCOL, intent, noise }))
    }

    /// Reads the answer. An unreadable answer leaves the handshake as it was: the right one may still come.
    pub fn finish(mut self, welcome: &Welcome) -> Result<(Session, WelcomePayload), (Self, SessionError)> {
        match self.read_welcome(welcome) {
            Ok(payload) => Ok((Session::of(*self.state), payload)),
            Err(error) => Err((self, error)),
        }
    }

    fn read_welcome(&mut self, welcome: &Welcome) -> Result<WelcomePayload, SessionError> {
        let payload: WelcomePayload = read(&mut self.state, &welcome.noise)?;
        if !self.state.is_handshake_finished() {
            return Err(SessionError::Unreadable);
        }
        if payload.protocol != welcome.protocol {
            return Err(SessionError::Unreadable);
        }
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&payload.protocol) {
            return Err(SessionError::NoCommonProtocol { oldest: payload.protocol, newest: payload.protocol });
        }
        Ok(payload)
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").finish_non_exhaustive()
    }
}

/// The bridge's side of a handshake under way.
pub struct Responder {
    state: HandshakeState,
    protocol: u16,
    /// The key with which the device speaks. Whether it may is for the caller to decide before answering.
    pub device_key: PublicKey,
    /// What the device said. It may be a replay: conclude nothing from it before the session has carried a message.
    pub payload: HelloPayload,
}

impl Responder {
    /// Reads a hello. `ephemeral` must be 32 fresh random bytes.
    pub fn read(names: Names<'_>, key: &StaticKey, ephemeral: [u8; 32], hello: &Hello) -> Result<Self, SessionError> {
        let protocol = PROTOCOL.min(hello.newest);
        if protocol < OLDEST_PROTOCOL.max(hello.oldest) {
            return Err(SessionError::NoCommonProtocol { oldest: hello.oldest, newest: hello.newest });
        }
        let prologue = prologue(names, hello.oldest, hello.newest, hello.intent);
        let builder = builder(hello.intent, ephemeral)?.local_private_key(&key.secret).map_err(unreadable)?;
        let mut state = builder.prologue(&prologue).map_err(unreadable)?.build_responder().map_err(unreadable)?;
        let payload = read(&mut state, &hello.noise)?;
        let device_key =
            state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(SessionError::Unreadable)?;
        Ok(Self { state, protocol, device_key: PublicKey(device_key), payload })
    }

    /// The protocol that both sides speak.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Welcomes the device. `token_secret` is needed when the hello meant to join.
    pub fn answer(
        mut self,
        token_secret: Option<&[u8; 32]>,
        payload: &WelcomePayload,
    ) -> Result<(Session, Welcome), SessionError> {
        if let Some(secret) = token_secret {
            self.state.set_psk(2, secret).map_err(unreadable)?;
        }
        let noise = write(&mut self.state, &codec::encode(payload))?;
        if !self.state.is_handshake_finished() {
            return Err(SessionError::Unreadable);
        }
        let session = Session::of(self.state);
        Ok((session, Welcome { protocol: payload.protocol, noise }))
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("device_key", &self.device_key).finish_non_exhaustive()
    }
}

/// An established session: seals what goes out, opens what comes in.
pub struct Session {
    id: SessionId,
    transport: StatelessTransportState,
    next: u64,
    seen: ReplayWindow,
}

impl Session {
    /// Must be given a finished handshake.
    fn of(state: HandshakeState) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&state.get_handshake_hash()[..8]);
        let transport = state.into_stateless_transport_mode().expect("the handshake is finished");
        Self { id: SessionId(id), transport, next: 0, seen: ReplayWindow::default() }
    }

    /// The session's name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whether so many messages went through that a new handshake is due.
    pub fn is_worn(&self) -> bool {
        self.next >= WORN_AFTER || self.seen.newest() >= WORN_AFTER
    }

    /// Encrypts a message and gives it the next number.
    pub fn seal<T: Encode<()>>(&mut self, message: &T) -> Result<Sealed, SessionError> {
        let plaintext = codec::encode(message);
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(SessionError::TooLong(plaintext.len()));
        }
        let counter = self.next;
        // The last nonce is reserved by the Noise framework.
        self.next = counter.checked_add(1).filter(|next| *next < u64::MAX).ok_or(SessionError::Worn)?;
        let mut ciphertext = vec![0; plaintext.len() + 16];
        let len = self.transport.write_message(counter, &plaintext, &mut ciphertext).map_err(unreadable)?;
        ciphertext.truncate(len);
        Ok(Sealed { session: self.id, counter, ciphertext })
    }

    /// Decrypts a message, once.
    pub fn open<T>(&mut self, sealed: &Sealed) -> Result<codec::Decoded<codec::Open<T>>, SessionError>
    where
        T: for<'b> Decode<'b, ()> + CborLen<()>,
    {
        if sealed.session != self.id {
            return Err(SessionError::OtherSession);
        }
        if !self.seen.may_accept(sealed.counter) {
            return Err(SessionError::Replayed);
        }
        let mut plaintext = vec![0; sealed.ciphertext.len()];
        let len =
            self.transport.read_message(sealed.counter, &sealed.ciphertext, &mut plaintext).map_err(unreadable)?;
        plaintext.truncate(len);
        // Marked only when authentic: a forger must not be able to use up numbers.
        self.seen.accept(sealed.counter);
        Ok(codec::decode(&plaintext, MAX_PLAINTEXT)?)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("next", &self.next).finish_non_exhaustive()
    }
}

fn builder<'a>(intent: Intent, ephemeral: [u8; 32]) -> Result<Builder<'a>, SessionError> {
    let pattern = match intent {
        Intent::Join(_) => "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
        Intent::Resume => "Noise_IK_25519_ChaChaPoly_BLAKE2s",
    };
    let params: NoiseParams = pattern.parse().map_err(unreadable)?;
    Ok(Builder::with_resolver(params, Box::new(GivenEphemeral(ephemeral))))
}

/// Everything that travels in the clear, and whose session it is.
fn prologue(names: Names<'_>, oldest: u16, newest: u16, intent: Intent) -> Vec<u8> {
    codec::encode(&("hawser", oldest, newest, names.root.as_str(), names.device.as_str(), intent))
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, SessionError> {
    // e, es, s, ss and their tags take less than 128 bytes.
    let mut message = vec![0; payload.len() + 128];
    let len = state.write_message(payload, &mut message).map_err(unreadable)?;
    message.truncate(len);
    Ok(message)
}

fn read<T>(state: &mut HandshakeState, message: &[u8]) -> Result<T, SessionError>
where
    T: for<'b> Decode<'b, ()> + CborLen<()>,
{
    if message.len() > MAX_PLAINTEXT {
        return Err(SessionError::TooLong(message.len()));
    }
    let mut payload = vec![0; message.len()];
    let len = state.read_message(message, &mut payload).map_err(unreadable)?;
    Ok(codec::decode(&payload[..len], MAX_PLAINTEXT)?.value)
}

fn unreadable(_: snow::Error) -> SessionError {
    SessionError::Unreadable
}

/// Snow's own cryptography, with the one random number of a handshake given from outside.
struct GivenEphemeral([u8; 32]);

impl CryptoResolver for GivenEphemeral {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Gives its bytes once. A second request is an error rather than a repeated "random" number.
struct Once(Option<[u8; 32]>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(bytes) if dest.len() == bytes.len() => {
                dest.copy_from_slice(&bytes);
                Ok(())
            }
            _ => Err(snow::Error::Rng),
        }
    }
}
