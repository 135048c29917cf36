//! What a device is to run: the index, and the objects that it names.
//!
//! An object is known by the hash of its bytes: an encoded [`EdgeDeployment`](crate::deployment::EdgeDeployment), or a
//! blob (the content of one file of a ConfigMap or Secret). A device fetches what it lacks, in chunks, from any offset.

use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::codec;
use crate::ids::{ContentHash, Digest, PodUid, Version};
use crate::limits::{MAX_INDEX_ENTRIES, MAX_POD_RANGES};
use crate::range::AddressRange;

/// The whole desired set of one device, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Index {
    /// How new it is.
    #[n(0)]
    pub version: Version,
    /// One entry per pod, ascending by UID. A pod without an entry is not wanted any more.
    #[n(1)]
    pub entries: Vec<IndexEntry>,
    /// The hash of the entries, and of the ranges if there are any, as the bridge encoded them.
    #[n(2)]
    pub digest: Digest,
    /// The addresses that the cluster gave to this node's pods (`spec.podCIDRs`), for an engine that wants to be told.
    #[n(3)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub pod_ranges: Vec<AddressRange>,
}

/// What is wanted of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct IndexEntry {
    /// The pod.
    #[n(0)]
    pub uid: PodUid,
    /// What is wanted of it.
    #[n(1)]
    pub wish: Wish,
}

/// What is wanted of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Wish {
    /// Run this edge deployment.
    #[n(0)]
    Run(#[n(0)] ObjectRef),
    /// Go on with whatever you have for it: the bridge cannot say at the moment what it looks like (a reference is
    /// missing), and that is no reason to stop it.
    #[n(1)]
    Keep,
    /// Stop it, with this grace period in seconds, and say when it is gone.
    #[n(2)]
    Stop(#[n(0)] u32),
    /// It has ended for good: start nothing, keep what remains of it (logs).
    #[n(3)]
    Retain,
}

/// An object and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, CborLen)]
pub struct ObjectRef {
    /// The hash of its bytes.
    #[n(0)]
    pub hash: ContentHash,
    /// How many bytes it has.
    #[n(1)]
    pub len: u64,
}

/// An index with more pods than a device can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyPods(pub usize);

impl core::fmt::Display for TooManyPods {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} pods are bound to this device, and at most {MAX_INDEX_ENTRIES} fit", self.0)
    }
}

impl core::error::Error for TooManyPods {}

impl Index {
    /// Sorts the entries and computes their digest.
    pub fn new(version: Version, mut entries: Vec<IndexEntry>) -> Result<Self, TooManyPods> {
        if entries.len() > MAX_INDEX_ENTRIES {
            return Err(TooManyPods(entries.len()));
        }
        entries.sort_by(|a, b| a.uid.cmp(&b.uid));
        entries.dedup_by(|a, b| a.uid == b.uid);
        let digest = digest_of(&entries, &[]);
        Ok(Self { version, entries, digest, pod_ranges: Vec::new() })
    }

    /// Whether the entries are within their bounds, ascending and without repetition, and the ranges few.
    pub fn is_well_formed(&self) -> bool {
        self.entries.len() <= MAX_INDEX_ENTRIES
            && self.entries.is_sorted_by(|a, b| a.uid < b.uid)
            && self.pod_ranges.len() <= MAX_POD_RANGES
    }
}

/// The digest of entries that are sorted by UID, and of the ranges.
pub fn digest_of(entries: &[IndexEntry], pod_ranges: &[AddressRange]) -> Digest {
    let mut bytes = codec::encode(&entries);
    if !pod_ranges.is_empty() {
        bytes.extend(codec::encode(&pod_ranges));
    }
    let hash = ContentHash::of(&bytes);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.0[..16]);
    Digest(digest)
}

/// What a device lacks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Want {
    /// At most [`MAX_WANTED_OBJECTS`](crate::limits::MAX_WANTED_OBJECTS) objects.
    #[n(0)]
    pub objects: Vec<WantedObject>,
}

/// One object that a device lacks, in whole or from an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct WantedObject {
    /// Which object.
    #[n(0)]
    pub hash: ContentHash,
    /// The first byte that is lacking.
    #[n(1)]
    pub offset: u64,
    /// How many bytes to send at most in answer to this request.
    #[n(2)]
    pub window: u32,
}

/// A part of an object.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Chunk {
    /// Which object.
    #[n(0)]
    pub hash: ContentHash,
    /// How long the whole object is.
    #[n(1)]
    pub total: u64,
    /// Where this part begins.
    #[n(2)]
    pub offset: u64,
    /// The part, at most [`MAX_CHUNK`](crate::limits::MAX_CHUNK) bytes.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub data: Vec<u8>,
}
