//! The rope: what the agent says to the bridge and hears from it, over a hub that may lose, repeat, reorder or delay anything.
//!
//! [`Brain`] decides everything and does nothing: time and randomness come in with each [`Input`], and what is to be done
//! comes out as [`Output`]s. The task around it carries them out. So loss, duplication, reordering, reboots and
//! clock jumps are unit tests, and the same brain runs against the bridge's twin in one process.

mod brain;
pub(crate) mod client;

mod fetch;
mod heartbeat;
pub mod hub_url;
mod inbox;
mod outbox;
mod retry;
pub mod session;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod trouble;

use std::sync::Arc;

use hawser_wire::report::{NodeFacts, ReportItem};
use hawser_wire::session_messages::Refusal;
use hawser_wire::stream::StreamFrame;
use hawser_wire::{Channel, DeviceTime, SessionId, Version};

use crate::desired::DesiredSet;
use crate::ledger::{Change, Recovered, Urgency};

pub use brain::{Brain, BrainConfig};
pub use client::HubError;

/// The desired set that an agent would go on from.
pub(crate) fn desired_of(recovered: &Recovered) -> DesiredSet {
    inbox::Inbox::recover(recovered).0.desired()
}

/// Now, and the randomness that one step may use. Made fresh for every [`Brain::handle`].
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The device's timeline.
    pub at: DeviceTime,
    /// The wall clock: milliseconds since 1970. Told to the bridge, never reckoned with.
    pub wall_millis: u64,
    /// 32 random bytes, for a handshake.
    pub ephemeral: [u8; 32],
    /// A random number, for jitter.
    pub jitter: u64,
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The hub accepted our connection and our subscriptions.
    Connected,
    /// The connection to the hub is gone.
    Disconnected,
    /// A message came.
    Message {
        /// On which of our topics.
        channel: Channel,
        /// What it holds.
        payload: Vec<u8>,
    },
    /// Something to tell the bridge.
    Reports(Vec<ReportItem>),
    /// How the device is.
    Facts(Box<NodeFacts>),
    /// The changes with this ticket, and all before them, are in the ledger (or in its memory while the disk refuses).
    Persisted {
        /// The ticket of the [`Output::Persist`].
        ticket: u64,
    },
    /// A frame of a stream, for the session there is.
    Stream(StreamFrame),
    /// [`Brain::deadline`] has come.
    Tick,
}

/// Something to do. In order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Hand this to the hub. It may get lost; that is reckoned with.
    Publish {
        /// On which of our topics.
        channel: Channel,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Give these to the ledger.
    Persist {
        /// To be answered with [`Input::Persisted`], if there is one.
        ticket: Option<u64>,
        /// The changes.
        changes: Vec<Change>,
        /// When they must be on the disk.
        urgency: Urgency,
    },
    /// What the device is to run has changed.
    Desired(Arc<DesiredSet>),
    /// A session began: every pod is to be reported afresh, and streams begin anew.
    Resync,
    /// A frame of a stream came, in the session there is.
    Stream(StreamFrame),
    /// Something worth a line in the log and a count.
    Note(Note),
}

/// Something worth a line in the log and a count. None of these is a reason to stop a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A payload was not an envelope, or not one for a device.
    Unreadable(String),
    /// A payload held something of a later version; it was skipped.
    Unfamiliar,
    /// A sealed message was not accepted.
    NotOpened(String),
    /// A welcome answered none of our hellos.
    StrayWelcome,
    /// A session began.
    SessionBegan {
        /// Its name.
        id: SessionId,
        /// The bridge's version.
        bridge_version: String,
    },
    /// The bridge refused us.
    Refused(Refusal),
    /// The bridge says that it does not know our session.
    NoSession,
    /// The bridge answers nothing; a new handshake begins.
    BridgeSilent,
    /// An index was accepted.
    IndexAccepted(Version),
    /// An index older than the accepted one was refused.
    IndexOlder(Version),
    /// An index of the accepted version with another content was refused.
    IndexConflicts(Version),
    /// An index was not well-formed.
    IndexMalformed(Version),
    /// A chunk was not one we asked for, or did not fit.
    ChunkRefused(&'static str),
    /// An object was not what its name says; it is fetched again.
    ObjectCorrupt,
    /// An edge deployment cannot be read by this version.
    DeploymentRefused(String),
    /// Events were dropped because the journal is full.
    EventsDropped(u32),
    /// A report does not fit into a message even when shortened.
    ReportTooLong(usize),
    /// Something could not be sealed.
    NotSealed(String),
}

/// How the link is, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether the hub has us.
    pub connected: bool,
    /// Since when there is a session.
    pub session_since: Option<DeviceTime>,
    /// When the bridge was last heard.
    pub heard: Option<DeviceTime>,
    /// The last accepted version.
    pub accepted: Option<Version>,
    /// How many things wait for an acknowledgement.
    pub unacknowledged: usize,
    /// How many objects are lacking.
    pub lacking: usize,
    /// The last refusal since the last session.
    pub refusal: Option<Refusal>,
}
