//! The sessions with one device: the one in use, and one that was welcomed but has not spoken yet.
//!
//! A hello may be a replay, so a welcomed session replaces the one in use only when the device has spoken in it. A hello
//! that comes twice gets the same welcome twice; one that was answered before and is not the latest is a replay and is
//! not answered at all. So a hub that replays disturbs nobody.

use std::time::Duration;

use hawser_wire::codec::Decoded;
use hawser_wire::session::{Session, SessionError, WORN_AFTER_SECONDS};
use hawser_wire::session_messages::{Hello, HelloPayload, Sealed, Welcome};
use hawser_wire::{ContentHash, Down, Open, PublicKey, SessionId, TokenId, Up};

/// How many answered hellos are remembered.
const REMEMBERED: usize = 8;
/// How many messages of a joining device are kept while its key is being stored.
const MAX_HELD: usize = 16;
/// A device is to renew its session by itself after a day; an hour later it is asked to.
const RENEW_AFTER: Duration = Duration::from_secs(WORN_AFTER_SECONDS + 3600);

/// Tells one hello from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// Of everything that is random in a hello.
    pub fn of(hello: &Hello) -> Self {
        let hash = ContentHash::of(&hello.noise);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.0[..8]);
        Self(bytes)
    }
}

/// The sessions of one device.
#[derive(Debug, Default)]
pub struct SessionSlot {
    current: Option<Current>,
    pending: Option<Box<Pending>>,
    /// The session before the current one: what is still under way in it is ignored in silence.
    retired: Option<SessionId>,
    answered: Vec<Fingerprint>,
}

#[derive(Debug)]
struct Current {
    session: Box<Session>,
    key: PublicKey,
    since: Duration,
}

/// A welcomed session.
#[derive(Debug)]
pub struct Pending {
    /// The session.
    pub session: Session,
    /// The device's key.
    pub key: PublicKey,
    /// What the device said in its hello.
    pub hello: HelloPayload,
    /// What it was answered.
    pub welcome: Welcome,
    /// Which hello it was.
    pub fingerprint: Fingerprint,
    /// The token it joined with, to be ended once the device has spoken.
    pub token: Option<TokenId>,
    /// What the device still has to show.
    pub proof: Proof,
}

/// What a device still has to show.
#[derive(Debug)]
pub enum Proof {
    /// Nothing: its key is known.
    Nothing,
    /// That it has the token, by speaking.
    Wanted,
    /// It has spoken, and its key is being stored. What it said waits.
    Storing(Vec<Open<Up>>),
}

/// A session that has just come into use.
#[derive(Debug)]
pub struct Promoted {
    /// What the device said in its hello.
    pub hello: HelloPayload,
    /// What it said in the session while its key was being stored.
    pub held: Vec<Open<Up>>,
    /// The token that it joined with.
    pub token: Option<TokenId>,
}

/// What a hello is, seen from its fingerprint.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Not seen before.
    New,
    /// Answered just now: send this again.
    Again(Welcome),
    /// A replay.
    Replay,
}

/// What became of a sealed message.
#[derive(Debug)]
pub enum Heard {
    /// A message in the session in use.
    Message(Decoded<Open<Up>>),
    /// The first message of the welcomed session, whose device needs to show nothing more: call [`SessionSlot::promote`].
    First(PublicKey, Decoded<Open<Up>>),
    /// A joining device has shown that it has the token: store this key, then promote.
    Proved(PublicKey),
    /// Kept until the key is stored.
    Held,
    /// Of a session that is over; nothing to do.
    Late,
    /// Of no session that is known.
    NoSession,
    /// Not acceptable.
    Rejected(SessionError),
}

impl SessionSlot {
    /// Looks at a hello before any cryptography.
    pub fn greet(&self, fingerprint: Fingerprint) -> Greeting {
        match &self.pending {
            Some(pending) if pending.fingerprint == fingerprint => Greeting::Again(pending.welcome.clone()),
            _ if self.answered.contains(&fingerprint) => Greeting::Replay,
            _ => Greeting::New,
        }
    }

    /// Keeps a welcomed session until the device speaks in it.
    pub fn welcome(&mut self, pending: Pending) {
        if self.answered.len() == REMEMBERED {
            self.answered.remove(0);
        }
        self.answered.push(pending.fingerprint);
        self.pending = Some(Box::new(pending));
    }

    /// Opens a sealed message.
    pub fn open(&mut self, sealed: &Sealed) -> Heard {
        if let Some(current) = self.current.as_mut().filter(|current| current.session.id() == sealed.session) {
            return match current.session.open(sealed) {
                Ok(message) => Heard::Message(message),
                Err(error) => Heard::Rejected(error),
            };
        }
        match self.pending.as_mut().filter(|pending| pending.session.id() == sealed.session) {
            Some(pending) => pending.open(sealed),
            None if self.retired == Some(sealed.session) => Heard::Late,
            None => Heard::NoSession,
        }
    }

    /// The welcomed session is the one in use from now on. `None` if there is no such session any more.
    pub fn promote(&mut self, key: PublicKey, now: Duration) -> Option<Promoted> {
        let pending = *self.pending.take_if(|pending| pending.key == key)?;
        self.retired = self.current.take().map(|current| current.session.id());
        self.current = Some(Current { session: Box::new(pending.session), key, since: now });
        let held = match pending.proof {
            Proof::Nothing | Proof::Wanted => Vec::new(),
            Proof::Storing(held) => held,
        };
        Some(Promoted { hello: pending.hello, held, token: pending.token })
    }

    /// Gives up the welcomed session.
    pub fn drop_pending(&mut self) {
        self.pending = None;
    }

    /// Gives up the session in use. Answers its name, for the device to be told.
    pub fn close(&mut self) -> Option<SessionId> {
        self.current.take().map(|current| current.session.id())
    }

    /// Gives up everything that was agreed with another key than this one. Answers whether the session in use was.
    pub fn keep_only(&mut self, key: Option<PublicKey>) -> bool {
        let joining = |pending: &Pending| matches!(pending.proof, Proof::Wanted | Proof::Storing(_));
        self.pending.take_if(|pending| Some(pending.key) != key && !(key.is_none() && joining(pending)));
        self.current.take_if(|current| Some(current.key) != key).is_some()
    }

    /// Whether the session in use has been used for so long, or so much, that a new one is due.
    pub fn is_worn(&self, now: Duration) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.session.is_worn() || now.saturating_sub(current.since) > RENEW_AFTER)
    }

    /// Whether there is a session in use.
    pub fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Seals a message for the device. `None` without a session.
    pub fn seal(&mut self, message: &Down) -> Option<Result<Sealed, SessionError>> {
        self.current.as_mut().map(|current| current.session.seal(message))
    }
}

impl Pending {
    fn open(&mut self, sealed: &Sealed) -> Heard {
        let message = match self.session.open::<Up>(sealed) {
            Ok(message) => message,
            Err(error) => return Heard::Rejected(error),
        };
        match &mut self.proof {
            Proof::Nothing => Heard::First(self.key, message),
            Proof::Wanted => {
                self.proof = Proof::Storing(vec![message.value]);
                Heard::Proved(self.key)
            }
            Proof::Storing(held) => {
                if held.len() < MAX_HELD {
                    held.push(message.value);
                }
                Heard::Held
            }
        }
    }
}

#[cfg(test)]
mod tests;
