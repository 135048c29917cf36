//! The thread that owns one router: the only code that talks to rumqttd, apart from the pumps that listen to it.
//!
//! It works in batches. After each batch it sends the router a PINGREQ and waits for the answer: the router works in
//! order, so the answer says that the batch is in its logs, and that it is alive. Batches are smaller than a log, hence
//! a pump that is scheduled at all is never overtaken.

use super::envelope::{self, Lane};
use crate::session::Message;
use bytes::Bytes;
use futures::FutureExt as _;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, PingReq};
use rumqttd::{Notification, Router, RouterConfig};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The router is given up if it takes longer for anything. It answers in microseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Messages in a batch: a router that is woken often enough to share its time between the pumps.
const BATCH_MESSAGES: usize = 64;
/// Batches that a log of the router holds.
const LOG_BATCHES: usize = 4;
/// The name that rumqttd gives to the thread of router 0.
const ROUTER_THREAD: &str = "router-0";

/// What the keeper is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Carry a message.
    Publish(Lane, Message),
    /// Let a connection hear a lane.
    Attach(Lane, oneshot::Sender<Attachment>),
    /// Look after the router: forget who has gone, and answer when it is alive.
    Probe(oneshot::Sender<()>),
}

/// A connection's place at the router. Dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(super) link: LinkRx,
    /// The keeper looks at the count to see whether the attachment is still there.
    _alive: Arc<()>,
}

/// Why a keeper ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeeperError {
    #[error("the router is gone")]
    Link(#[source] Box<LinkError>),
    #[error("the router did not answer within {PATIENCE:?}")]
    Silent,
    #[error("the router refused a slot")]
    Refused,
}

impl From<LinkError> for KeeperError {
    fn from(error: LinkError) -> Self {
        Self::Link(Box::new(error))
    }
}

/// How big this router may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Connections at the same time.
    pub(super) slots: usize,
    /// The largest packet of a client.
    pub(super) packet_bytes: usize,
}

impl Size {
    fn batch_bytes(self) -> usize {
        self.packet_bytes.max(256 * 1024)
    }
}

type Connect = Box<dyn Fn(&str) -> Result<(LinkTx, LinkRx), KeeperError> + Send>;

struct Keeper {
    batch_bytes: usize,
    /// Opens a link to the router. (rumqttd does not export the type of the sender that this closes over.)
    connect: Connect,
    to_router: LinkTx,
    from_router: LinkRx,
    slots: Vec<Option<Slot>>,
}

struct Slot {
    link: LinkTx,
    attachment: Weak<()>,
}

/// Runs a router until every sender of commands is gone, or the router fails. Blocks: for a thread of its own.
pub(super) fn keep(size: Size, mut commands: mpsc::Receiver<Command>) -> Result<(), KeeperError> {
    let mut keeper = Keeper::start(size)?;
    while let Some(first) = commands.blocking_recv() {
        keeper.batch(first, &mut commands)?;
    }
    keeper.end()
}

impl Keeper {
    fn start(size: Size) -> Result<Self, KeeperError> {
        let config = RouterConfig {
            // Places that were given up are found a moment later, so there are some to spare.
            max_connections: size.slots * 2 + 16,
            max_outgoing_packet_count: 100,
            max_segment_size: size.batch_bytes(),
            max_segment_count: LOG_BATCHES,
            ..RouterConfig::default()
        };
        let router = Router::new(0, config).spawn();
        let connect: Connect = Box::new(move |name| {
            let (to, from, _welcome) = LinkBuilder::new(name, router.clone()).build()?;
            Ok((to, from))
        });
        let (to_router, from_router) = connect("keeper")?;
        Ok(Self { batch_bytes: size.batch_bytes(), connect, to_router, from_router, slots: Vec::new() })
    }

    /// Carries out what is waiting, as far as it fits into one batch.
    fn batch(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> Result<(), KeeperError> {
        let (mut messages, mut bytes, mut probes) = (0, 0, Vec::new());
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Publish(lane, message) => {
                    let envelope = envelope::wrap(&message);
                    messages += 1;
                    bytes += envelope.len();
                    self.to_router.publish(lane.topic(), envelope)?;
                }
                Command::Attach(lane, reply) => {
                    // Whoever asked may have gone meanwhile; the next probe finds the slot unused.
                    reply.send(self.attach(lane)?).ok();
                }
                Command::Probe(reply) => {
                    self.give_up_unused()?;
                    probes.push(reply);
                }
            }
            if messages >= BATCH_MESSAGES || bytes >= self.batch_bytes {
                break;
            }
            next = commands.try_recv().ok();
        }
        self.barrier()?;
        for probe in probes {
            // Nobody waits any more: the supervisor stops.
            probe.send(()).ok();
        }
        Ok(())
    }

    fn attach(&mut self, lane: Lane) -> Result<Attachment, KeeperError> {
        let index = match self.slots.iter().position(Slot::is_free) {
            Some(index) => index,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(unused) = self.slots[index].take() {
            unused.give_up()?;
        }
        let (mut to, mut from) = (self.connect)(&format!("slot-{index}"))?;
        to.subscribe(lane.topic())?;
        // The answer to the subscription: from here on nothing is missed.
        answered(&mut from)?;
        let alive = Arc::new(());
        self.slots[index] = Some(Slot { link: to, attachment: Arc::downgrade(&alive) });
        Ok(Attachment { link: from, _alive: alive })
    }

    fn give_up_unused(&mut self) -> Result<(), KeeperError> {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|slot| slot.attachment.strong_count() == 0)
                && let Some(unused) = slot.take()
            {
                unused.give_up()?;
            }
        }
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), KeeperError> {
        send(&mut self.to_router, Packet::PingReq(PingReq))?;
        answered(&mut self.from_router)
    }

    /// Ends the router's thread. rumqttd has no way to: its loop ends only by a failure, and a thread that is left
    /// behind keeps all of its memory. So a last message is sent whose destruction unwinds that thread.
    fn end(mut self) -> Result<(), KeeperError> {
        self.to_router.publish("end", Bytes::from_owner(Fuse))?;
        Ok(())
    }
}

impl Slot {
    fn is_free(slot: &Option<Slot>) -> bool {
        slot.as_ref().is_none_or(|slot| slot.attachment.strong_count() == 0)
    }

    /// Tells the router once, and never twice: it gives numbers of connections to new ones at once, and would
    /// disconnect the wrong one.
    fn give_up(mut self) -> Result<(), KeeperError> {
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        send(&mut self.link, Packet::Disconnect(Disconnect { reason_code }, None))
    }
}

/// rumqttd's `send` is asynchronous in name only: it blocks on the router's queue, as everything here does.
fn send(link: &mut LinkTx, packet: Packet) -> Result<(), KeeperError> {
    match link.send(packet).now_or_never() {
        Some(sent) => {
            sent?;
            Ok(())
        }
        None => Err(KeeperError::Silent),
    }
}

/// Waits for the next acknowledgement on a link that gets nothing else yet.
fn answered(link: &mut LinkRx) -> Result<(), KeeperError> {
    #[expect(clippy::disallowed_methods, reason = "a deadline for a blocking receive")]
    let deadline = Instant::now() + PATIENCE;
    loop {
        match link.recv_deadline(deadline) {
            Ok(Some(Notification::DeviceAck(_))) => return Ok(()),
            Ok(Some(Notification::Disconnect(..))) => return Err(KeeperError::Refused),
            // A wake-up whose message was read with an earlier one, or a message of the lane: nobody listens yet.
            Ok(_) => {}
            Err(LinkError::RecvTimeout(_)) => return Err(KeeperError::Silent),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Bytes that unwind the router's thread when it drops them, without a panic message.
struct Fuse;

impl AsRef<[u8]> for Fuse {
    fn as_ref(&self) -> &[u8] {
        b"end"
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let in_router = std::thread::current().name() == Some(ROUTER_THREAD);
        if cfg!(panic = "unwind") && in_router && !std::thread::panicking() {
            std::panic::resume_unwind(Box::new("the hub's router is no longer needed"));
        }
    }
}
