//! One client, from its first byte to its last: the only task that touches its socket.
//!
//! [`serve`] reads the CONNECT within the time for it, gets a seat and a place at the router, and then runs
//! [`Running`], which moves bytes between the socket, the [`Session`] and the router. Nothing is awaited inside of an
//! arm of its `select!`: what has to wait is kept in a field, and its arm waits.

use crate::accounts::{AccountChanges, Accounts, Grant, Role};
use crate::acl::Acl;
use crate::codec::{self, Malformed};
use crate::config::Limits;
use crate::doorman::{Doorbell, Seat};
use crate::metrics::{Closed, HubMetrics, Refused};
use crate::pressure::{Pressure, Watched};
use crate::router::{Command, Delivery, Generation, Lane, Queue, pump};
use crate::session::{self, Ending, Message, Session};
use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Encoded bytes for a client beyond which nothing more is encoded, and its own packets are not read.
const OUT_HIGH_WATER: usize = 64 * 1024;
/// Memory is taken in steps of this for bytes that have not arrived …
const READ_STEP: usize = 2 * 1024;
/// … and of this when a packet has begun to arrive that needs more.
const LARGE_READ_STEP: usize = 16 * 1024;
/// A CONNECT is small: client id, username, password and will.
const CONNECT_BYTES: usize = 16 * 1024;
/// How long the goodbye of a connection that ends may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) acl: Arc<Acl>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) accounts: Accounts,
    pub(crate) metrics: HubMetrics,
    pub(crate) doorbell: Doorbell,
    pub(crate) pressure: Pressure,
    pub(crate) router: watch::Receiver<Option<Generation>>,
    pub(crate) stop: CancellationToken,
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: this task turns time into keep-alive and write timeouts")]
fn now() -> Instant {
    Instant::now()
}

/// Serves a client on a connected stream until it ends. `pending` is given back when the client is let in.
pub(crate) async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    connect_by: Instant,
    pending: OwnedSemaphorePermit,
    shared: Shared,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = stream;
    let mut input = BytesMut::new();
    let opened = tokio::select! {
        // Nothing is lost by dropping a half-opened connection: it is refused as a whole.
        opened = tokio::time::timeout_at(connect_by, open(&mut stream, &mut input, &shared)) => {
            opened.unwrap_or_else(|_| Err(Turned::away(Refused::Timeout, "no CONNECT within the time for it")))
        }
        () = shared.stop.cancelled() => Err(Turned::away(Refused::Unavailable, "the hub stops")),
    };
    drop(pending);
    match opened {
        Ok(opened) => {
            let client = opened.client_id.clone();
            shared.metrics.on_connected(&client, peer);
            let ending = Running::new(stream, input, opened, &shared).run().await;
            shared.metrics.on_closed(ending.reason, &client, &ending.detail);
        }
        Err(turned) => {
            shared.metrics.on_refused(turned.reason, peer, &turned.detail);
            // The client may be gone, or not listen: it was refused all the same.
            tokio::time::timeout(GOODBYE, say_goodbye(&mut stream, &turned.answer)).await.ok();
        }
    }
}

async fn say_goodbye<S: AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> std::io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await
}

/// A client that was not let in.
struct Turned {
    reason: Refused,
    detail: String,
    /// The CONNACK, in the words of the client's version; empty if there is nothing to say.
    answer: Vec<u8>,
}

impl Turned {
    fn away(reason: Refused, detail: impl ToString) -> Self {
        Self { reason, detail: detail.to_string(), answer: Vec::new() }
    }

    fn with_code(reason: Refused, detail: impl ToString, code: ConnectReturnCode) -> Self {
        Self { answer: vec![0x20, 2, 0, code as u8], ..Self::away(reason, detail) }
    }
}

impl From<Malformed> for Turned {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            // MQTT 5 reads another CONNACK: reason code 0x84 and no properties.
            Malformed::Version(5) => {
                Self { answer: vec![0x20, 3, 0, 0x84, 0], ..Self::away(Refused::Version, malformed) }
            }
            Malformed::Version(_) => {
                Self::with_code(Refused::Version, malformed, ConnectReturnCode::RefusedProtocolVersion)
            }
            _ => Self::away(Refused::Malformed, malformed),
        }
    }
}

/// A client that was let in.
struct Opened {
    client_id: String,
    silence: Duration,
    grant: Grant,
    session: Session,
    seat: Seat,
    generation: Generation,
    queue: mpsc::Receiver<Delivery>,
    pump: AbortOnDropHandle<Ending>,
    /// Lets a bridge's queue slow devices down.
    _watched: Option<Watched>,
}

async fn open<S>(stream: &mut S, input: &mut BytesMut, shared: &Shared) -> Result<Opened, Turned>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connect = read_connect(stream, input, &shared.limits).await?;
    let silence = session::allowed_silence(connect.keep_alive, &shared.limits);
    let client_id = connect.client_id.clone();
    let admit = |username: &str, password: &str| shared.accounts.admit(username, password);
    let (grant, session) = session::open(connect, admit, &shared.acl, &shared.limits).map_err(|refusal| {
        Turned::with_code(refusal.reason, format_args!("client id {client_id:?}"), refusal.connack)
    })?;
    let unavailable =
        |reason| Turned::with_code(reason, format_args!("{client_id}"), ConnectReturnCode::ServiceUnavailable);
    let seat = shared.doorbell.ring(&client_id, &grant.role).await.map_err(unavailable)?;
    let generation = shared.router.borrow().clone().ok_or_else(|| unavailable(Refused::Unavailable))?;
    let device = match &grant.role {
        Role::Bridge => None,
        Role::Device(name) => Some(name.clone()),
    };
    let lane = Lane::of(grant.role.hears(), device.as_deref().unwrap_or_default());
    let attachment = generation.attach(lane).await.ok_or_else(|| unavailable(Refused::Unavailable))?;

    let (bytes, is_bridge) = match grant.role {
        Role::Bridge => (shared.limits.bridge_queue_bytes, true),
        Role::Device(_) => (shared.limits.queue_bytes, false),
    };
    let (sender, queue) = Queue::new(bytes);
    let watched = is_bridge.then(|| shared.pressure.watch(sender.free(), bytes));
    let acl = shared.acl.clone();
    // Lanes are shared: what is for other devices ends here, before it can fill the queue.
    let concerns =
        move |message: &Message| device.as_deref().is_none_or(|name| acl.device(&message.topic) == Some(name));
    let pump = AbortOnDropHandle::new(tokio::spawn(pump(attachment, concerns, sender)));
    Ok(Opened { client_id, silence, grant, session, seat, generation, queue, pump, _watched: watched })
}

async fn read_connect<S>(stream: &mut S, input: &mut BytesMut, limits: &Limits) -> Result<Connect, Turned>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(connect) = codec::next_connect(input, limits.packet_bytes.min(CONNECT_BYTES))? {
            return Ok(connect);
        }
        input.reserve(READ_STEP);
        match stream.read_buf(input).await {
            Ok(0) => return Err(Turned::away(Refused::Malformed, "the connection ended before CONNECT")),
            Ok(_) => {}
            Err(error) => return Err(Turned::away(Refused::Malformed, error)),
        }
    }
}

/// A connected client.
struct Running<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes were written that the stream may still hold back.
    unflushed: bool,
    /// A message that waits for room at the router, and the packet that acknowledges it. No further packet is read
    /// meanwhile: this is how the hub slows a publisher down.
    publishing: Option<(Message, Option<Packet>)>,
    /// That message may not go before this. (`None` rather than a past time: a timer takes a millisecond at least.)
    publish_at: Option<Instant>,
    heard: Instant,
    /// When the client last took a byte, or was last owed none.
    took: Instant,
    opened: Opened,
    accounts: AccountChanges,
    shared: Shared,
}

/// What [`push_out`] got done.
enum Pushed {
    Wrote(usize),
    Flushed,
}

/// Writes some of the output, or flushes when there is none left. Cancel-safe: it awaits one thing only, and takes from
/// the output exactly what was written.
async fn push_out<W: AsyncWrite + Unpin>(writer: &mut W, output: &mut BytesMut) -> std::io::Result<Pushed> {
    if output.is_empty() {
        writer.flush().await.map(|()| Pushed::Flushed)
    } else {
        writer.write_buf(output).await.map(Pushed::Wrote)
    }
}

/// Waits for a time and then for room at the router.
async fn reserve_after(
    time: Option<Instant>,
    commands: mpsc::Sender<Command>,
) -> Result<mpsc::OwnedPermit<Command>, mpsc::error::SendError<()>> {
    if let Some(time) = time {
        tokio::time::sleep_until(time).await;
    }
    commands.reserve_owned().await
}

/// What woke the task up.
enum Woken {
    Read(std::io::Result<usize>),
    Pushed(std::io::Result<Pushed>),
    Room(Result<mpsc::OwnedPermit<Command>, mpsc::error::SendError<()>>),
    Delivery(Option<Delivery>),
    AccountsChanged,
    Silent,
    Stalled,
    Leave,
    RouterGone,
    Stop,
    PumpEnded(Result<Ending, JoinError>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Running<S> {
    fn new(stream: S, input: BytesMut, opened: Opened, shared: &Shared) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let mut output = BytesMut::new();
        output.extend_from_slice(&[0x20, 2, 0, ConnectReturnCode::Success as u8]);
        let (accounts, now) = (shared.accounts.changes(), now());
        Self {
            reader,
            writer,
            input,
            output,
            unflushed: false,
            publishing: None,
            publish_at: None,
            heard: now,
            took: now,
            opened,
            accounts,
            shared: shared.clone(),
        }
    }

    async fn run(mut self) -> Ending {
        let ending = match self.check_account() {
            Ok(()) => self.until_it_ends().await,
            Err(ending) => ending,
        };
        self.close(ending).await
    }

    async fn until_it_ends(&mut self) -> Ending {
        loop {
            if let Err(ending) = self.parse() {
                return ending;
            }
            let woken = self.wait().await;
            if let Err(ending) = self.act(woken) {
                return ending;
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let room = self.output.len() < OUT_HIGH_WATER;
        let owed = !self.output.is_empty() || self.unflushed;
        let Opened { seat, generation, queue, pump, session, silence, .. } = &mut self.opened;
        let commands = generation.commands.clone();
        let listens = room && self.publishing.is_none();
        if listens {
            self.input.reserve(if self.input.is_empty() { READ_STEP } else { LARGE_READ_STEP });
        }
        tokio::select! {
            // Cancel-safe, all three: tokens only ever go one way.
            () = self.shared.stop.cancelled() => Woken::Stop,
            () = seat.leave.cancelled() => Woken::Leave,
            () = generation.gone.cancelled() => Woken::RouterGone,
            // Cancel-safe: marks a change as seen only if this arm runs.
            () = self.accounts.changed() => Woken::AccountsChanged,
            // Cancel-safe: a join handle may be polled again; it has not been polled after it ended, since that ends us.
            ended = pump => Woken::PumpEnded(ended),
            // Cancel-safe: timers.
            () = tokio::time::sleep_until(self.heard + *silence), if listens => Woken::Silent,
            () = tokio::time::sleep_until(self.took + self.shared.limits.write_timeout), if owed => Woken::Stalled,
            // Cancel-safe: it waits for a time, and a permit that is not handed out goes back.
            permit = reserve_after(self.publish_at, commands), if self.publishing.is_some() => Woken::Room(permit),
            // Cancel-safe: leaves the buffer as it is unless it is done.
            read = self.reader.read_buf(&mut self.input), if listens => Woken::Read(read),
            // Cancel-safe: see `push_out`.
            pushed = push_out(&mut self.writer, &mut self.output), if owed => Woken::Pushed(pushed),
            // Cancel-safe: `recv` takes a message only if this arm runs.
            delivery = queue.recv(), if room && session.window_is_open() => Woken::Delivery(delivery),
        }
    }

    fn act(&mut self, woken: Woken) -> Result<(), Ending> {
        match woken {
            Woken::Read(Ok(0)) => Err(Ending::new(Closed::Gone, "the network connection ended")),
            Woken::Read(Ok(count)) => {
                self.shared.metrics.on_bytes_in(count);
                // Any byte counts: on a thin line a large packet takes longer than the keep-alive.
                self.heard = now();
                Ok(())
            }
            Woken::Pushed(Ok(Pushed::Wrote(count))) => {
                self.shared.metrics.on_bytes_out(count);
                self.took = now();
                self.unflushed = true;
                Ok(())
            }
            Woken::Pushed(Ok(Pushed::Flushed)) => {
                self.unflushed = false;
                // A burst's memory is given back.
                self.output = BytesMut::new();
                Ok(())
            }
            Woken::Read(Err(error)) | Woken::Pushed(Err(error)) => Err(Ending::new(Closed::Gone, error)),
            Woken::Room(Ok(permit)) => self.publish(permit),
            Woken::Delivery(Some(delivery)) => self.deliver(delivery),
            Woken::AccountsChanged => self.check_account(),
            Woken::Silent => Err(Ending::new(Closed::KeepAlive, "silent for one and a half times its keep-alive")),
            Woken::Stalled => Err(Ending::new(Closed::WriteStalled, "took no byte for the write timeout")),
            Woken::Leave => Err(Ending::new(
                Closed::TakenOver,
                "another connection has its client id; if this repeats, two programs share one identity",
            )),
            Woken::Stop => Err(Ending::new(Closed::HubStopping, "the hub stops")),
            Woken::PumpEnded(Ok(ending)) => Err(ending),
            Woken::RouterGone | Woken::Room(Err(_)) | Woken::Delivery(None) | Woken::PumpEnded(Err(_)) => {
                Err(Ending::new(Closed::RouterGone, "the hub's router is gone"))
            }
        }
    }

    fn check_account(&self) -> Result<(), Ending> {
        if self.accounts.still_holds(&self.opened.grant) {
            Ok(())
        } else {
            Err(Ending::new(Closed::Account, "its account was removed or changed"))
        }
    }

    /// Takes packets out of the input as long as there is room for what they cause.
    fn parse(&mut self) -> Result<(), Ending> {
        while self.publishing.is_none() && self.output.len() < OUT_HIGH_WATER {
            let Some(packet) = codec::next_packet(&mut self.input, self.shared.limits.packet_bytes)? else { break };
            let effects = self.opened.session.on_packet(packet)?;
            for filter in &effects.refused_filters {
                self.shared.metrics.on_forbidden_subscription(&self.opened.client_id, filter);
            }
            match effects.publish {
                Some(message) => {
                    self.shared.metrics.on_message_in(effects.retain_ignored);
                    self.publish_at = match self.opened.grant.role {
                        Role::Bridge => None,
                        Role::Device(_) => self.shared.pressure.pause().map(|pause| now() + pause),
                    };
                    self.publishing = Some((message, effects.reply));
                }
                None => self.reply(effects.reply)?,
            }
        }
        Ok(())
    }

    fn publish(&mut self, permit: mpsc::OwnedPermit<Command>) -> Result<(), Ending> {
        let Some((message, reply)) = self.publishing.take() else { return Ok(()) };
        permit.send(self.command(message));
        // Not silent: it was we who did not listen.
        self.heard = now();
        self.reply(reply)
    }

    fn command(&self, message: Message) -> Command {
        let direction = match self.opened.grant.role {
            Role::Bridge => crate::acl::Direction::Down,
            Role::Device(_) => crate::acl::Direction::Up,
        };
        let lane = Lane::of(direction, self.shared.acl.device(&message.topic).unwrap_or_default());
        Command::Publish(lane, message)
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), Ending> {
        let Some(publish) = self.opened.session.deliver(delivery.message) else { return Ok(()) };
        self.shared.metrics.on_message_out();
        self.write(&Packet::Publish(publish))
    }

    fn reply(&mut self, reply: Option<Packet>) -> Result<(), Ending> {
        match reply {
            Some(packet) => self.write(&packet),
            None => Ok(()),
        }
    }

    fn write(&mut self, packet: &Packet) -> Result<(), Ending> {
        if self.output.is_empty() && !self.unflushed {
            self.took = now();
        }
        packet
            .write(&mut self.output, usize::MAX)
            .map(drop)
            .map_err(|error| Ending::new(Closed::Protocol, format_args!("encode for the client: {error}")))
    }

    /// Publishes the will if this ending does, says goodbye and gives up the place at the router.
    async fn close(mut self, ending: Ending) -> Ending {
        self.opened.pump.abort();
        if let Some(will) = self.opened.session.take_will(ending.reason) {
            let command = self.command(will);
            // If the router has no room within this time, its generation is about to be abandoned.
            tokio::time::timeout(GOODBYE, self.opened.generation.commands.send(command)).await.ok();
        }
        let hears_us = !matches!(
            ending.reason,
            Closed::SlowSubscriber | Closed::WriteStalled | Closed::Overrun | Closed::KeepAlive | Closed::Gone
        );
        if hears_us {
            // The client may be gone all the same: the goodbye is a courtesy.
            tokio::time::timeout(GOODBYE, say_goodbye(&mut self.writer, &self.output)).await.ok();
        }
        // The pump's place at the router is given up before the seat is. (A pump that has ended was perhaps what ended
        // us, and must not be polled again.)
        if !self.opened.pump.is_finished() {
            (&mut self.opened.pump).await.ok();
        }
        ending
    }
}
