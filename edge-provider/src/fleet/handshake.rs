//! The handshakes of the fleet: hellos in, welcomes and refusals out, and what joining changes in the cluster.
//!
//! To resume, a device needs nothing but its key: answered at once. To join, its token is read from the API first. The
//! hello of a joining device does not prove that it has the token's secret, only the first message after the welcome
//! does: whoever saw the token's id go by on the hub could send such a hello with a key of its own. So the key is kept
//! in the Device when that message has come, and nothing said in the session counts before.

use std::time::Duration;

use hawser_wire::session::{Names, Responder, Session, SessionError};
use hawser_wire::session_messages::{Envelope, Hello, Intent, Refusal, Welcome, WelcomePayload};
use hawser_wire::{DeviceId, Down, PublicKey, TokenId};

use super::reporting::Generation;
use super::task::Fleet;
use super::twin::Event;
use crate::device::join_token::StoredToken;
use crate::hub::admission::{self, Admission};
use crate::hub::rate::Rate;
use crate::hub::session::{Fingerprint, Greeting, Pending, Promoted, Proof};
use crate::metrics::Dropped;
use crate::registry::key_store::Kept;

/// How often one device may shake hands.
const HELLOS: Rate = Rate { burst: 5, every: Duration::from_secs(2) };
/// How often names that are no devices are answered, all together.
const REFUSALS: Rate = Rate { burst: 50, every: Duration::from_millis(100) };
/// How many questions to the API may be under way. A device whose hello finds no room asks again.
const MAX_JOBS: usize = 256;
/// How often ending a token is tried.
const END_ATTEMPTS: u32 = 5;

/// A question to the API, answered.
pub(super) enum Job {
    Token(Box<Joining>, Result<Option<StoredToken>, kube::Error>),
    Kept(DeviceId, Generation, PublicKey, Result<Kept, kube::Error>),
    Ended,
}

/// A hello that waits for its token.
pub(super) struct Joining {
    device: DeviceId,
    generation: Generation,
    intent: Intent,
    fingerprint: Fingerprint,
    responder: Responder,
}

impl Fleet {
    pub(super) fn hear_hello(&mut self, device: &DeviceId, hello: Hello) {
        let now = self.moment().mono;
        let Some(slot) = self.state.devices.get_mut(device) else {
            self.config.metrics.on_dropped(Dropped::UnknownDevice);
            if self.state.refusals.take(REFUSALS, now) {
                let known = self.state.listed;
                let starting = || admission::unavailable("it is starting");
                self.refuse(device, if known { admission::unknown_device(device) } else { starting() });
            }
            return;
        };
        if !slot.hellos.take(HELLOS, now) {
            self.config.metrics.on_dropped(Dropped::Rate);
            return;
        }
        let fingerprint = Fingerprint::of(&hello);
        match slot.sessions.greet(fingerprint) {
            Greeting::New => {}
            Greeting::Again(welcome) => return self.send(device, &Envelope::Welcome(welcome)),
            Greeting::Replay => return self.config.metrics.on_dropped(Dropped::Replayed),
        }
        let generation = slot.generation;
        let Some(ephemeral) = random() else {
            return self.refuse(device, admission::unavailable("it has no randomness"));
        };
        let names = Names { root: &self.config.root, device };
        match Responder::read(names, &self.config.key, ephemeral, &hello) {
            Err(error) => self.refuse(device, admission::unreadable(device, &self.config.key.public(), &error)),
            Ok(responder) => {
                let intent = hello.intent;
                let joining = Joining { device: device.clone(), generation, intent, fingerprint, responder };
                match intent {
                    Intent::Resume => self.decide(joining, None),
                    Intent::Join(_) => self.ask_for_token(joining),
                }
            }
        }
    }

    fn ask_for_token(&mut self, joining: Joining) {
        if self.state.jobs.len() >= MAX_JOBS {
            return self.refuse(&joining.device, admission::unavailable("too many devices join at once"));
        }
        let keys = self.config.keys.clone();
        self.state.jobs.push(Box::pin(async move {
            let token = keys.token(&joining.device).await;
            Job::Token(Box::new(joining), token)
        }));
    }

    pub(super) fn finish(&mut self, job: Job) {
        match job {
            Job::Token(joining, Ok(token)) => self.decide(*joining, token.as_ref()),
            Job::Token(joining, Err(error)) => {
                tracing::error!(device = %joining.device, %error, "cannot read the device's join token (may the bridge get Secrets in its namespace?)");
                self.refuse(&joining.device, admission::unavailable("the API server does not give the join token"));
            }
            Job::Kept(device, generation, key, kept) => self.key_was_kept(&device, generation, key, kept),
            Job::Ended => {}
        }
    }

    /// Everything is known: welcome or refuse.
    fn decide(&mut self, joining: Joining, token: Option<&StoredToken>) {
        let Joining { device, generation, intent, fingerprint, responder } = joining;
        let wall = self.moment().wall;
        // While the token was read the Device may have been replaced by another of its name.
        let Some(slot) = self.state.devices.get_mut(&device).filter(|slot| slot.generation == generation) else {
            return;
        };
        let key = responder.device_key;
        let admission = match admission::admit(&device, intent, key, &slot.record, token, wall) {
            Ok(admission) => admission,
            Err(refusal) => return self.refuse(&device, refusal),
        };
        let hello = responder.payload.clone();
        let payload = WelcomePayload {
            protocol: responder.protocol(),
            bridge_version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_seconds: u16::try_from(self.config.settings.heartbeat.as_secs()).unwrap_or(u16::MAX),
            bridge_millis: u64::try_from(wall.as_millisecond()).unwrap_or(0),
        };
        match answer(responder, &admission, &payload) {
            Ok((session, welcome)) => {
                let (token, proof) = proof_wanted(intent, &admission);
                let pending = Pending { session, key, hello, welcome: welcome.clone(), fingerprint, token, proof };
                slot.sessions.welcome(pending);
                self.send(&device, &Envelope::Welcome(welcome));
            }
            Err(error) => {
                self.refuse(&device, admission::unreadable(&device, &self.config.key.public(), &error));
            }
        }
    }

    /// The device has spoken in its new session: from now on it is the session.
    pub(super) fn promote(&mut self, device: &DeviceId, key: PublicKey) {
        let now = self.moment().mono;
        let Some(slot) = self.state.devices.get_mut(device) else { return };
        let Some(Promoted { hello, held, token }) = slot.sessions.promote(key, now) else { return };
        slot.agent_is(&hello.agent_version);
        self.config.metrics.on_session(device, &hello.agent_version);
        if let Some(token) = token {
            self.end_token(device, token);
            // What is sealed shows the device that it is in: only now may it forget its token.
            self.seal_and_send(device, &Down::Ping(0));
        }
        self.streams_begin(device);
        self.give(device, Event::SessionOpened(hello));
        for message in held {
            self.hear_message(device, message);
        }
    }

    /// The device has proved that it has the token.
    pub(super) fn keep_key(&mut self, device: &DeviceId, key: PublicKey) {
        let wall = self.moment().wall;
        let Some(slot) = self.state.devices.get(device) else { return };
        let (keys, device, generation, uid) =
            (self.config.keys.clone(), device.clone(), slot.generation, slot.record.uid.clone());
        self.state.jobs.push(Box::pin(async move {
            let kept = keys.keep(&device, &uid, key, wall).await;
            Job::Kept(device, generation, key, kept)
        }));
    }

    fn key_was_kept(
        &mut self,
        device: &DeviceId,
        generation: Generation,
        key: PublicKey,
        kept: Result<Kept, kube::Error>,
    ) {
        let Some(slot) = self.state.devices.get_mut(device).filter(|slot| slot.generation == generation) else {
            return;
        };
        let refusal = match kept {
            Ok(Kept::Yes) => {
                slot.learn_key(key);
                tracing::info!(%device, %key, "a device has joined");
                return self.promote(device, key);
            }
            Ok(Kept::OtherKey) => admission::other_key(device),
            Ok(Kept::NoDevice) => admission::unknown_device(device),
            Err(error) => {
                tracing::error!(%device, %error, "cannot keep the device's key (may the bridge update devices/status?)");
                admission::unavailable("the API server does not take the device's key")
            }
        };
        slot.sessions.drop_pending();
        self.refuse(device, refusal);
    }

    fn end_token(&mut self, device: &DeviceId, token: TokenId) {
        let (keys, device) = (self.config.keys.clone(), device.clone());
        self.state.jobs.push(Box::pin(async move {
            for attempt in 1..=END_ATTEMPTS {
                match keys.end_token(&device, token).await {
                    Ok(()) => return Job::Ended,
                    Err(error) => tracing::warn!(%device, %error, attempt, "cannot delete a used join token; it is of no use to anybody else, since the device's key is known"),
                }
                tokio::time::sleep(Duration::from_secs(2) * 2u32.pow(attempt)).await;
            }
            Job::Ended
        }));
    }

    fn refuse(&self, device: &DeviceId, refusal: Refusal) {
        self.config.metrics.on_refusal(device, &refusal);
        self.send(device, &Envelope::Refusal(refusal));
    }
}

fn answer(
    responder: Responder,
    admission: &Admission,
    payload: &WelcomePayload,
) -> Result<(Session, Welcome), SessionError> {
    match admission {
        Admission::Resume => responder.answer(None, payload),
        Admission::Join { secret, .. } => responder.answer(Some(secret), payload),
    }
}

fn proof_wanted(intent: Intent, admission: &Admission) -> (Option<TokenId>, Proof) {
    let token = match intent {
        Intent::Join(id) => Some(id),
        Intent::Resume => None,
    };
    match admission {
        Admission::Join { keep_key: true, .. } => (token, Proof::Wanted),
        Admission::Join { keep_key: false, .. } | Admission::Resume => (token, Proof::Nothing),
    }
}

/// 32 random bytes for one handshake.
fn random() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}
