//! What is in the ledger: keys, values, and the typed changes that the rest of the agent speaks of. Pure.
//!
//! A change is a key with a new value, or without one. The last value of each key is the state, so changes of the same
//! key may be merged, and one that changes nothing may be skipped.

use std::sync::Arc;

use hawser_wire::desired::IndexEntry;
use hawser_wire::report::Numbered;
use hawser_wire::{AddressRange, BootId, ContentHash, DeviceTime, Digest, PodUid, Version, codec};
use minicbor::{Decode, Encode};

/// What a value is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) enum Key {
    /// The last accepted index.
    #[n(0)]
    Accepted,
    /// The last edge deployment of a pod that was complete.
    #[n(1)]
    Complete(#[n(0)] PodUid),
    /// An edge deployment or a blob.
    #[n(2)]
    Object(#[n(0)] ContentHash),
    /// What the workloads remember of a pod.
    #[n(3)]
    Workload(#[n(0)] PodUid),
    /// Something said to the bridge and not acknowledged yet.
    #[n(4)]
    Said(#[n(0)] Slot),
    /// All sequence numbers below it may have been used.
    #[n(5)]
    Sequence,
    /// Where the device's timeline is.
    #[n(6)]
    Clock,
}

/// A place in the outbox: what is said in the same slot replaces what was said before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Slot {
    /// How a pod is.
    #[n(0)]
    Pod(#[n(0)] PodUid),
    /// How the device is.
    #[n(1)]
    Facts,
    /// An event, by its number.
    #[n(2)]
    Event(#[n(0)] u64),
}

/// The last accepted index.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Accepted {
    /// How new it is.
    #[n(0)]
    pub version: Version,
    /// The digest that came with it.
    #[n(1)]
    pub digest: Digest,
    /// Its entries.
    #[n(2)]
    pub entries: Vec<IndexEntry>,
    /// The addresses that pods are to have.
    #[n(3)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub pod_ranges: Vec<AddressRange>,
}

/// Where the device's timeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ClockRecord {
    /// The start of the kernel during which it was written.
    #[n(0)]
    pub boot: BootId,
    /// What to add to the kernel's time since that start.
    #[n(1)]
    pub offset_millis: u64,
    /// No time later than this was ever told.
    #[n(2)]
    pub told_up_to: DeviceTime,
}

/// One change of the durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This index is the accepted one.
    Accept(Accepted),
    /// This is the last complete edge deployment of the pod.
    Complete(PodUid, ContentHash),
    /// The pod has left the desired set.
    DropComplete(PodUid),
    /// An object arrived.
    PutObject(ContentHash, Arc<[u8]>),
    /// Nothing refers to the object any more.
    DropObject(ContentHash),
    /// What the workloads remember of a pod.
    SaveWorkload(PodUid, Vec<u8>),
    /// The workloads are done with a pod.
    ForgetWorkload(PodUid),
    /// Something to say until it is acknowledged.
    Say(Slot, Box<Numbered>),
    /// It was acknowledged or replaced.
    Unsay(Slot),
    /// Sequence numbers below this may be used.
    ReserveSequence(u64),
    /// Where the device's timeline is.
    Clock(ClockRecord),
}

/// A key's new value; `None`: the key goes.
pub(crate) type Op = (Key, Option<Arc<[u8]>>);

impl Change {
    /// The change as key and value.
    pub(crate) fn into_op(self) -> Op {
        match self {
            Self::Accept(accepted) => (Key::Accepted, Some(encoded(&accepted))),
            Self::Complete(uid, hash) => (Key::Complete(uid), Some(hash.0.as_slice().into())),
            Self::DropComplete(uid) => (Key::Complete(uid), None),
            Self::PutObject(hash, bytes) => (Key::Object(hash), Some(bytes)),
            Self::DropObject(hash) => (Key::Object(hash), None),
            Self::SaveWorkload(uid, bytes) => (Key::Workload(uid), Some(bytes.into())),
            Self::ForgetWorkload(uid) => (Key::Workload(uid), None),
            Self::Say(slot, item) => (Key::Said(slot), Some(codec::encode(&*item).into())),
            Self::Unsay(slot) => (Key::Said(slot), None),
            Self::ReserveSequence(limit) => (Key::Sequence, Some(limit.to_be_bytes().as_slice().into())),
            Self::Clock(clock) => (Key::Clock, Some(encoded(&clock))),
        }
    }
}

fn encoded<T: Encode<()>>(value: &T) -> Arc<[u8]> {
    codec::encode(value).into()
}
