//! When to shake hands, and which session seals and opens. Pure.
//!
//! There is at most one session that seals (the newest), one before it that still opens until the newest has carried a
//! message, and a few hellos whose answers may still come. A hello is sent when the hub has us and there is no session, on
//! every reconnect, when the session is worn, when the bridge has no such session, and when it is silent though it
//! should have answered. Each goes out with a growing distance until the bridge answers.

use std::collections::VecDeque;

use hawser_wire::session::{Initiator, Names, Session, SessionError, StaticKey, WORN_AFTER_SECONDS};
use hawser_wire::session_messages::{Envelope, HelloPayload, Refusal, Sealed, Welcome, WelcomePayload};
use hawser_wire::token::JoinToken;
use hawser_wire::{DeviceId, DeviceTime, Down, Open, PublicKey, Root, SessionId, Up, encode};

use super::Moment;
use super::retry::back_off;

const FIRST_HELLO: u64 = 1_000;
const LAST_HELLO: u64 = 60_000;
/// A welcome later than three hellos is not waited for.
const OPEN_HELLOS: usize = 3;
/// A forger of `NoSession` makes us shake hands no more often than this.
const NO_SESSION_DISTANCE: u64 = 5_000;
/// After so many heartbeat intervals without an answer that was due, the bridge counts as silent.
const SILENT_AFTER_HEARTBEATS: u64 = 3;

/// Who we are to the bridge.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The root of the topics.
    pub root: Root,
    /// Our name.
    pub device: DeviceId,
    /// Our key.
    pub key: StaticKey,
    /// The bridge's public key.
    pub bridge: PublicKey,
    /// The join token, while we are joining.
    pub token: Option<JoinToken>,
}

/// The sessions, old and new, and the handshakes under way.
#[derive(Debug)]
pub(crate) struct Sessions {
    credentials: Credentials,
    connected: bool,
    live: Option<Live>,
    /// Opens what was sealed before the bridge switched over.
    before: Option<Session>,
    hellos: VecDeque<Initiator>,
    /// When the next hello is due.
    hello_at: Option<DeviceTime>,
    attempt: u32,
    no_session_until: DeviceTime,
    refusal: Option<Refusal>,
}

/// The session that seals.
#[derive(Debug)]
struct Live {
    session: Session,
    since: DeviceTime,
    heard: DeviceTime,
    heartbeat_millis: u64,
}

impl Sessions {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            connected: false,
            live: None,
            before: None,
            hellos: VecDeque::new(),
            hello_at: None,
            attempt: 0,
            no_session_until: DeviceTime(0),
            refusal: None,
        }
    }

    /// The hub has us: greet the bridge.
    pub(crate) fn connected(&mut self, now: &Moment) {
        self.connected = true;
        self.attempt = 0;
        self.hello_at = Some(now.at);
    }

    /// The hub does not have us: nothing can be said.
    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.hello_at = None;
        self.hellos.clear();
    }

    /// The hello that is due, if one is.
    pub(crate) fn hello_due(&mut self, now: &Moment, payload: &HelloPayload) -> Result<Option<Vec<u8>>, SessionError> {
        self.notice_wear(now);
        if !self.connected || self.hello_at.is_none_or(|due| due > now.at) {
            return Ok(None);
        }
        self.hello_at = Some(later(now, back_off(FIRST_HELLO, LAST_HELLO, self.attempt, now.jitter)));
        self.attempt = self.attempt.saturating_add(1);
        let own = &self.credentials;
        let names = Names { root: &own.root, device: &own.device };
        let (initiator, hello) =
            Initiator::start(names, &own.key, &own.bridge, own.token.as_ref(), now.ephemeral, payload)?;
        self.hellos.push_front(initiator);
        self.hellos.truncate(OPEN_HELLOS);
        Ok(Some(encode(&Envelope::Hello(hello))))
    }

    fn notice_wear(&mut self, now: &Moment) {
        let worn = self
            .live
            .as_ref()
            .is_some_and(|live| live.session.is_worn() || now.at.millis_since(live.since) >= WORN_AFTER_SECONDS * 1000);
        if worn && self.connected && self.hello_at.is_none() {
            self.hello_at = Some(now.at);
        }
    }

    /// An answer to one of our hellos. `None`: to none of them.
    ///
    /// Only the bridge can have made it, and only for this very hello, so the new session seals from here on.
    pub(crate) fn welcome(&mut self, now: &Moment, welcome: &Welcome) -> Option<WelcomePayload> {
        let mut unanswered = VecDeque::new();
        while let Some(initiator) = self.hellos.pop_front() {
            match initiator.finish(welcome) {
                Ok((session, payload)) => {
                    // Older hellos are settled by this one; newer ones may still be answered, and win then.
                    self.hellos = unanswered;
                    self.begin(now, session, &payload);
                    return Some(payload);
                }
                Err((initiator, _)) => unanswered.push_back(initiator),
            }
        }
        self.hellos = unanswered;
        None
    }

    fn begin(&mut self, now: &Moment, session: Session, payload: &WelcomePayload) {
        let heartbeat_millis = u64::from(payload.heartbeat_seconds.clamp(1, 3600)) * 1000;
        let live = Live { session, since: now.at, heard: now.at, heartbeat_millis };
        if let Some(old) = self.live.replace(live) {
            self.before = Some(old.session);
        }
        self.hello_at = None;
        self.refusal = None;
        self.credentials.token = None;
    }

    /// Opens a sealed message, once.
    pub(crate) fn open(&mut self, now: &Moment, sealed: &Sealed) -> Result<Opened, SessionError> {
        let mut result = Err(SessionError::OtherSession);
        let ours = self.id() == Some(sealed.session);
        if let Some(live) = &mut self.live {
            result = live.session.open::<Down>(sealed);
            if result.is_ok() {
                live.heard = now.at;
                self.before = None;
                self.attempt = 0;
            }
        }
        if let (Err(SessionError::OtherSession), Some(before)) = (&result, &mut self.before) {
            result = before.open::<Down>(sealed);
            if let (Ok(_), Some(live)) = (&result, &mut self.live) {
                live.heard = now.at;
            }
        }
        result.map(|decoded| Opened { unfamiliar: decoded.unfamiliar, live: ours, message: decoded.value })
    }

    /// Seals a message; `None` while there is no session.
    pub(crate) fn seal(&mut self, message: &Up) -> Result<Option<Vec<u8>>, SessionError> {
        let Some(live) = self.live.as_mut().filter(|_| self.connected) else { return Ok(None) };
        live.session.seal(message).map(|sealed| Some(encode(&Envelope::Sealed(sealed))))
    }

    /// The bridge, or somebody in its place, says that it does not know the session. Whether that leads to a handshake.
    pub(crate) fn no_session(&mut self, now: &Moment, id: SessionId) -> bool {
        let ours = self.live.as_ref().is_some_and(|live| live.session.id() == id);
        if !ours || !self.connected || self.hello_at.is_some() || now.at < self.no_session_until {
            return false;
        }
        self.no_session_until = later(now, NO_SESSION_DISTANCE);
        self.hello_at = Some(now.at);
        true
    }

    /// The bridge, or somebody in its place, refused a hello. Shown; the next hello goes out as planned.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
    }

    /// Tells since when an answer of the bridge is due. Whether the bridge is silent, and a handshake begins.
    pub(crate) fn answer_due_since(&mut self, now: &Moment, since: DeviceTime) -> bool {
        let Some(live) = &self.live else { return false };
        let quiet = now.at.millis_since(live.heard.max(since));
        if !self.connected || self.hello_at.is_some() || quiet < SILENT_AFTER_HEARTBEATS * live.heartbeat_millis {
            return false;
        }
        self.hello_at = Some(now.at);
        true
    }

    /// When the bridge counts as silent if an answer is due since `since`.
    pub(crate) fn silent_at(&self, since: DeviceTime) -> Option<DeviceTime> {
        let live = self.live.as_ref().filter(|_| self.connected && self.hello_at.is_none())?;
        Some(DeviceTime(live.heard.max(since).0.saturating_add(SILENT_AFTER_HEARTBEATS * live.heartbeat_millis)))
    }

    /// When something is due here.
    pub(crate) fn deadline(&self) -> Option<DeviceTime> {
        let wear = |live: &Live| DeviceTime(live.since.0.saturating_add(WORN_AFTER_SECONDS * 1000));
        self.hello_at.or_else(|| self.live.as_ref().filter(|_| self.connected).map(wear))
    }

    /// How often heartbeats go out; `None` while nothing can be said.
    pub(crate) fn heartbeat_millis(&self) -> Option<u64> {
        self.live.as_ref().filter(|_| self.connected).map(|live| live.heartbeat_millis)
    }

    /// Whether the hub has us.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Since when there is a session, and when the bridge was last heard.
    pub(crate) fn since_and_heard(&self) -> Option<(DeviceTime, DeviceTime)> {
        self.live.as_ref().map(|live| (live.since, live.heard))
    }

    /// The last refusal since the last session began.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The name of the session that seals.
    pub(crate) fn id(&self) -> Option<SessionId> {
        self.live.as_ref().map(|live| live.session.id())
    }
}

/// An opened message.
#[derive(Debug)]
pub(crate) struct Opened {
    /// It held something of a later version.
    pub(crate) unfamiliar: bool,
    /// It is of the session that seals, not of the one before.
    pub(crate) live: bool,
    /// The message.
    pub(crate) message: Open<Down>,
}

fn later(now: &Moment, millis: u64) -> DeviceTime {
    DeviceTime(now.at.0.saturating_add(millis))
}
