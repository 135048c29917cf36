//! `hawser-agent join`: make a key, shake hands with the token, keep who we are.
//!
//! The key is on the disk before it is used, so a power cut at any point costs nothing but running the command again.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::report::Heartbeat;
use hawser_wire::session::StaticKey;
use hawser_wire::session_messages::{Envelope, HelloPayload, Refusal, RefusalKind, WelcomePayload};
use hawser_wire::token::JoinToken;
use hawser_wire::{Channel, DeviceId, Open, PublicKey, Root, Up, decode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, Place};
use crate::agent::VERSION;
use crate::clock::{DeviceClock, TimeSource};
use crate::identity::{Identity, IdentityError};
use crate::link::HubError;
use crate::link::client::{Hub, HubConfig, HubEvent};
use crate::link::hub_url::HubUrl;
use crate::link::session::{Credentials, Sessions};
use crate::state_dir::StateDir;

/// How long the bridge may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a first word in the new session is awaited: the bridge keeps our key only once it has heard us there.
const FIRST_WORD: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// Where the hub is: mqtt://host[:port] or mqtts://host[:port]
    #[arg(value_parser = HubUrl::parse, value_name = "HUB URL")]
    hub: HubUrl,
    /// This device's name, which becomes the name of its node
    #[arg(long, value_parser = DeviceId::new)]
    name: DeviceId,
    /// The bridge's public key, 64 hexadecimal digits
    #[arg(long, value_parser = bridge_key, value_name = "KEY")]
    bridge_key: PublicKey,
    /// The join token; it works once
    #[arg(long, env = "HAWSER_JOIN_TOKEN", hide_env_values = true, value_parser = JoinToken::parse)]
    token: JoinToken,
    /// The first levels of the topics
    #[arg(long, default_value = "hawser", value_parser = Root::new)]
    root: Root,
    /// A PEM file with the certificates to trust for the hub, instead of the system's
    #[arg(long, value_name = "FILE")]
    hub_ca: Option<PathBuf>,
    /// The password for the hub, if it wants one; the user is the device's name
    #[arg(long, env = "HAWSER_HUB_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    hub_password: Option<String>,
    #[command(flatten)]
    place: Place,
}

fn bridge_key(text: &str) -> Result<PublicKey, &'static str> {
    PublicKey::parse(text).ok_or("a bridge key is 64 hexadecimal digits; `hawser device add` prints it")
}

/// Why joining failed. The text says what to do.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(
        "{path} belongs to the device `{device}`{other_bridge}; to join as another one, choose another --state-dir, or remove the directory if `{device}` is no more"
    )]
    OtherIdentity { path: PathBuf, device: DeviceId, other_bridge: &'static str },
    #[error("{0}")]
    HubUnreachable(String),
    #[error(
        "the hub let us in, but no bridge answered within {} s: check that the bridge runs on the same hub with the root `{root}`",
        PATIENCE.as_secs()
    )]
    NoAnswer { root: Root },
    #[error(
        "{why}, again and again; if another agent runs as `{device}`, stop one of the two, because the hub lets in only one at a time"
    )]
    HubKeepsLosing { why: String, device: DeviceId },
    #[error(
        "the bridge welcomed this device and then said no more, so nobody here knows whether it keeps the device's key; run the same command again: it asks with the key first, and needs the token only if the bridge did not keep it"
    )]
    Unconfirmed,
    #[error("{}: {}", advice(.0.kind), .0.message)]
    Refused(Refusal),
    #[error("the handshake cannot be made")]
    Handshake(#[source] hawser_wire::session::SessionError),
    #[error("the system gives no randomness")]
    Randomness(#[source] getrandom::Error),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let exit = match &error {
            JoinError::OtherIdentity { .. } | JoinError::Hub(_) | JoinError::Identity(_) => Exit::NotJoined,
            JoinError::HubUnreachable(_)
            | JoinError::HubKeepsLosing { .. }
            | JoinError::NoAnswer { .. }
            | JoinError::Unconfirmed => Exit::Unreachable,
            JoinError::Refused(_) => Exit::Refused,
            JoinError::Handshake(_) | JoinError::Randomness(_) => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

fn advice(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::UnknownDevice => "the cluster knows no such device; add it with `hawser device add NAME`",
        RefusalKind::OtherKey => {
            "a device of this name has joined with another key; if this device was reinstalled, run `hawser device add NAME --renew --reset-key` and join with the new token"
        }
        RefusalKind::TokenUsed => {
            "the token is unknown or was used; make a new one with `hawser device add NAME --renew`"
        }
        RefusalKind::TokenExpired => "the token's time is over; make a new one with `hawser device add NAME --renew`",
        RefusalKind::Protocol => "this agent and the bridge have no protocol in common; update the older one",
        RefusalKind::Unreadable => "the bridge cannot read us; check --bridge-key, --name, --root and --token",
        RefusalKind::Unavailable => "the bridge cannot answer now; try again later",
    }
}

pub(super) async fn join(args: JoinArgs) -> Result<(), Failure> {
    // Held until we are done: two programs must not make two keys.
    let _dir = StateDir::lock(&args.place.state_dir)?;
    let path = args.place.config();
    let (mut identity, known) = identity(&args, &path)?;
    // An earlier attempt may have been believed although its end was not heard; the token is gone then.
    if known {
        match shake_hands(&identity, None).await {
            Ok(_) => {
                keep(&mut identity, &path)?;
                println!("`{}` had joined already, and the bridge knows it.", identity.device);
                println!("Next: hawser-agent run{}", state_dir_argument(&args));
                return Ok(());
            }
            // A bridge that does not know our key any more may take it with the new token.
            Err(JoinError::Refused(refusal)) if is_about_the_key(refusal.kind) => {}
            Err(error) => return Err(error.into()),
        }
    }
    identity.save(&path)?;
    let welcome = shake_hands(&identity, Some(args.token.clone())).await?;
    keep(&mut identity, &path)?;
    println!("Joined as `{}`: the bridge ({}) has this device's key.", identity.device, welcome.bridge_version);
    println!("Wrote {}; it holds the secret key, keep it private.", path.display());
    println!("Next: hawser-agent run{}   (or: systemctl enable --now hawser-agent)", state_dir_argument(&args));
    Ok(())
}

fn keep(identity: &mut Identity, path: &std::path::Path) -> Result<(), JoinError> {
    identity.joined = true;
    Ok(identity.save(path)?)
}

fn is_about_the_key(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::UnknownDevice | RefusalKind::OtherKey | RefusalKind::Unreadable)
}

fn state_dir_argument(args: &JoinArgs) -> String {
    let place = &args.place;
    if place.state_dir.as_os_str() == crate::state_dir::DEFAULT {
        return String::new();
    }
    format!(" --state-dir {}", place.state_dir.display())
}

/// The identity to join with, and whether there was one before.
fn identity(args: &JoinArgs, path: &std::path::Path) -> Result<(Identity, bool), JoinError> {
    let (key, known, joined) = match Identity::load(path) {
        Ok(found) if found.device == args.name && (found.bridge == args.bridge_key || !found.joined) => {
            (found.key, true, found.joined)
        }
        Ok(found) => {
            let other_bridge = if found.device == args.name { " of another bridge" } else { "" };
            return Err(JoinError::OtherIdentity { path: path.into(), device: found.device, other_bridge });
        }
        Err(IdentityError::Missing(_)) => {
            let mut secret = zeroize::Zeroizing::new([0; 32]);
            getrandom::fill(secret.as_mut_slice()).map_err(JoinError::Randomness)?;
            (StaticKey::from_secret(*secret), false, false)
        }
        Err(error) => return Err(error.into()),
    };
    let identity = Identity {
        device: args.name.clone(),
        hub: args.hub.clone(),
        root: args.root.clone(),
        bridge: args.bridge_key,
        key,
        hub_ca: args.hub_ca.clone(),
        hub_password: args.hub_password.clone(),
        joined,
    };
    Ok((identity, known))
}

/// Connects to the hub and shakes hands with the bridge: with the token to join, without it to see whether we have.
async fn shake_hands(identity: &Identity, token: Option<JoinToken>) -> Result<WelcomePayload, JoinError> {
    let stop = CancellationToken::new();
    let mut hub = Hub::start(
        HubConfig {
            url: identity.hub.clone(),
            ca: identity.hub_ca.clone(),
            password: identity.hub_password.clone(),
            root: identity.root.clone(),
            device: identity.device.clone(),
        },
        stop.clone(),
    )?;
    let mut handshake = Handshake::new(identity, token);
    let welcome = handshake.run(&mut hub).await;
    stop.cancel();
    hub.close().await;
    welcome
}

struct Handshake {
    sessions: Sessions,
    clock: DeviceClock,
    root: Root,
    device: DeviceId,
    hello: HelloPayload,
    reach: Reach,
    /// The bridge was there, and could not answer yet.
    put_off: Option<Refusal>,
}

/// Whether the hub has us.
enum Reach {
    NotYet,
    Connected,
    /// It had us, and lost us for this reason. A lost connection comes back by itself.
    Lost(String),
}

/// What an event led to.
enum Step {
    GoOn,
    Welcome(WelcomePayload),
    /// The bridge spoke in the new session.
    Heard,
}

impl Handshake {
    fn new(identity: &Identity, token: Option<JoinToken>) -> Self {
        let clock = DeviceClock::resume(TimeSource::kernel(), None);
        let credentials = Credentials {
            root: identity.root.clone(),
            device: identity.device.clone(),
            key: identity.key.clone(),
            bridge: identity.bridge,
            token,
        };
        let hello =
            HelloPayload { agent_version: VERSION.to_owned(), accepted: None, digest: None, boot: clock.boot() };
        let (root, device) = (identity.root.clone(), identity.device.clone());
        Self { sessions: Sessions::new(credentials), clock, root, device, hello, reach: Reach::NotYet, put_off: None }
    }

    fn given_up(&self, welcomed: bool) -> JoinError {
        match &self.reach {
            Reach::Lost(why) => JoinError::HubKeepsLosing { why: why.clone(), device: self.device.clone() },
            _ if welcomed => JoinError::Unconfirmed,
            _ if let Some(refusal) = &self.put_off => JoinError::Refused(refusal.clone()),
            _ => JoinError::NoAnswer { root: self.root.clone() },
        }
    }

    async fn run(&mut self, hub: &mut Hub) -> Result<WelcomePayload, JoinError> {
        let mut give_up = now() + PATIENCE;
        let mut welcome = None;
        loop {
            let moment = self.clock.moment().map_err(JoinError::Randomness)?;
            if let Some(hello) = self.sessions.hello_due(&moment, &self.hello).map_err(JoinError::Handshake)? {
                hub.publish(Channel::Up, hello);
            }
            let again =
                self.sessions.deadline().map_or(PATIENCE, |due| Duration::from_millis(due.millis_since(moment.at)));
            // All arms are cancel-safe: the channel loses nothing when not taken from, timers have nothing to lose.
            let event = tokio::select! {
                event = hub.events.recv() => event,
                () = tokio::time::sleep(again) => continue,
                () = tokio::time::sleep_until(give_up) => return Err(self.given_up(welcome.is_some())),
            };
            match self.event(hub, event)? {
                Step::GoOn => {}
                Step::Welcome(payload) => {
                    give_up = now() + FIRST_WORD;
                    welcome = Some(payload);
                }
                Step::Heard => return welcome.ok_or_else(|| self.given_up(false)),
            }
        }
    }

    fn event(&mut self, hub: &Hub, event: Option<HubEvent>) -> Result<Step, JoinError> {
        let moment = self.clock.moment().map_err(JoinError::Randomness)?;
        let payload = match event {
            None => return Err(JoinError::HubUnreachable("the connection to the hub ended".to_owned())),
            Some(HubEvent::Disconnected(why)) => match self.reach {
                Reach::NotYet => return Err(JoinError::HubUnreachable(why)),
                Reach::Connected | Reach::Lost(_) => {
                    self.reach = Reach::Lost(why);
                    self.sessions.disconnected();
                    return Ok(Step::GoOn);
                }
            },
            Some(HubEvent::Connected) => {
                self.reach = Reach::Connected;
                self.sessions.connected(&moment);
                return Ok(Step::GoOn);
            }
            Some(HubEvent::Message { payload, .. }) => payload,
        };
        // What cannot be read is somebody else's noise; the answer may still come.
        let Ok(envelope) = decode::<Open<Envelope>>(&payload, MAX_PAYLOAD) else { return Ok(Step::GoOn) };
        match envelope.value {
            Open::Known(Envelope::Welcome(welcome)) => {
                let Some(payload) = self.sessions.welcome(&moment, &welcome) else { return Ok(Step::GoOn) };
                // Only a word of ours tells the bridge that this was no replay.
                let (boot, now, wall_millis) = (self.clock.boot(), moment.at, moment.wall_millis);
                let beat = Heartbeat { boot, now, wall_millis, digest: None, answers: None };
                if let Some(sealed) = self.sessions.seal(&Up::Heartbeat(beat)).map_err(JoinError::Handshake)? {
                    hub.publish(Channel::Up, sealed);
                }
                Ok(Step::Welcome(payload))
            }
            // A bridge that is starting says so; the next hello goes out by itself.
            Open::Known(Envelope::Refusal(refusal)) if refusal.kind == RefusalKind::Unavailable => {
                self.put_off = Some(refusal);
                Ok(Step::GoOn)
            }
            Open::Known(Envelope::Refusal(refusal)) => Err(JoinError::Refused(refusal)),
            Open::Known(Envelope::Sealed(sealed)) => match self.sessions.open(&moment, &sealed) {
                Ok(_) => Ok(Step::Heard),
                Err(_) => Ok(Step::GoOn),
            },
            Open::Known(Envelope::Hello(_) | Envelope::NoSession(_)) | Open::Unknown => Ok(Step::GoOn),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command is an IO edge: somebody is waiting for it")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> Handshake {
        let identity = Identity {
            device: DeviceId::new("pi").unwrap(),
            hub: HubUrl::parse("mqtt://hub").unwrap(),
            root: Root::default(),
            bridge: PublicKey([3; 32]),
            key: StaticKey::from_secret([9; 32]),
            hub_ca: None,
            hub_password: None,
            joined: false,
        };
        Handshake::new(&identity, None)
    }

    #[test]
    fn giving_up_claims_no_more_than_is_known() {
        let mut waiting = handshake();
        waiting.reach = Reach::Connected;
        let unanswered = waiting.given_up(false).to_string();
        assert!(
            unanswered.contains("no bridge answered within 20 s") && unanswered.contains("`hawser`"),
            "{unanswered}"
        );
        // The bridge may have taken the token, or not: both must be said.
        let unconfirmed = waiting.given_up(true).to_string();
        assert!(unconfirmed.contains("run the same command again"), "{unconfirmed}");
        assert!(unconfirmed.contains("nobody here knows") && !unconfirmed.contains("still good"), "{unconfirmed}");
        let message = "the bridge is starting".to_owned();
        waiting.put_off = Some(Refusal { kind: RefusalKind::Unavailable, message });
        assert!(waiting.given_up(false).to_string().contains("try again later: the bridge is starting"));
        waiting.reach = Reach::Lost("the hub ended the connection".to_owned());
        let lost = waiting.given_up(true).to_string();
        assert!(lost.contains("ended the connection, again and again") && lost.contains("`pi`"), "{lost}");
    }
}
