//! From a pod to an edge deployment: resolve every reference, then translate every field.

use std::sync::Arc;
use std::time::Duration;

use hawser_wire::ContentHash;
use hawser_wire::desired::ObjectRef;

/// Bytes that a device may ask for by their hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Hash and length.
    pub reference: ObjectRef,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

impl Object {
    /// Hashes `bytes`.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { reference: ObjectRef { hash: ContentHash::of(&bytes), len: bytes.len() as u64 }, bytes }
    }
}

/// A pod, ready to be published to its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The encoded edge deployment.
    pub deployment: Object,
    /// The blobs that it refers to.
    pub blobs: Vec<Object>,
    /// Prepare it again after this time: a referenced object may have changed, or a token wants rotation.
    pub again: Option<Duration>,
}
