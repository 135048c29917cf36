//! From a pod to an edge deployment: resolve every reference, then translate every field.

mod fields;
mod resolve;

use std::sync::Arc;
use std::time::Duration;

use hawser_wire::ContentHash;
use hawser_wire::desired::ObjectRef;
use k8s_openapi::api::core::v1::Pod;
use virtual_node::provider::NotApplied;

pub use resolve::{References, ReferencesConfig};

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
    /// What is worth telling about a pod that is taken over all the same.
    pub notices: Vec<Notice>,
}

/// Something of a pod that a device leaves out, although the pod is taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// A CamelCase word for an Event.
    pub reason: String,
    /// What is left out, naming the field.
    pub message: String,
}

/// Makes of `pod` what its device is to run. Every reference is read by name; nothing is listed or watched.
pub async fn prepare(references: &References, pod: &Pod) -> Result<Prepared, NotApplied> {
    let spec = pod.spec.as_ref().and_then(|spec| serde_json::to_value(spec).ok()).unwrap_or_default();
    fields::refuse_offences(&spec)?;
    references.reach().await?;
    Err(NotApplied::Unavailable { message: "references cannot be resolved yet".to_owned() })
}
