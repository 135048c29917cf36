//! From a pod to an edge deployment: resolve every reference, then translate every field.
//!
//! [`admission`] says who is rejected at the door, [`fields`] what becomes of each field, [`references`] what a pod refers to, [`resolve`] reads that, [`services`]
//! knows the cluster's services, and [`translate`] makes the edge deployment. Only [`resolve`] and the watch of
//! [`services`] talk to anybody.

mod admission;
mod fields;
mod node;
mod references;
mod resolve;
mod services;
mod shelf;
mod storage;
mod subject;
mod translate;

use std::sync::Arc;
use std::time::Duration;

use hawser_wire::ContentHash;
use hawser_wire::desired::ObjectRef;
use hawser_wire::limits::MAX_OBJECT;
use k8s_openapi::api::core::v1::Pod;
use virtual_node::provider::{NotApplied, Waiting, has_begun};

use references::Wanted;
use subject::Subject;
use translate::Translation;

pub use resolve::{References, ReferencesConfig};
pub use services::{ServiceWatch, Services};

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

/// Makes of `pod` what its device is to run. Every reference is read by name; only services are watched.
///
/// A pod that already runs is prepared like any other: that it must not be stopped because something it refers to is
/// missing now is the caller's to see to.
pub async fn prepare(references: &References, pod: &Pod) -> Result<Prepared, NotApplied> {
    let subject = Subject::of(pod)?;
    admission::admit(&subject)?;
    admit_to_node(references, &subject).await?;
    let spec = serde_json::to_value(subject.spec)
        .map_err(|error| NotApplied::Unavailable { message: format!("reading the pod's spec: {error}") })?;
    fields::refuse_offences(&spec)?;
    let wanted = references::wanted(subject.spec);
    let fetched = references.fetch(&subject, &wanted).await?;
    let translation = translate::translate(&subject, &fetched)?;
    finish(&subject, translation, again(references.config().refresh, &subject, &wanted, fetched.rotate))
}

/// Whether the pod is for the node that it is bound to. Asked of pods that have not begun: what runs goes on, whatever becomes of
/// labels and taints.
async fn admit_to_node(references: &References, pod: &Subject<'_>) -> Result<(), NotApplied> {
    let Some(name) = pod.spec.node_name.as_deref().filter(|name| !name.is_empty() && !has_begun(pod.pod)) else {
        return Ok(());
    };
    // A node that cannot be looked at is no reason to reject anybody.
    let fits = |node: Option<Arc<node::Here>>| node.map_or(Ok(()), |node| admission::admit_to(&node, pod.spec));
    match fits(references.node(name).await?) {
        Ok(()) => Ok(()),
        // Who labels a node and binds a pod to it in the next moment is right.
        Err(_) => fits(references.node_now(name).await?),
    }
}

/// How long to wait until a rotation that is due, and failed, is tried again.
const ROTATION_RETRY: Duration = Duration::from_secs(10);

/// When to look again: soon if an object can have changed, else when a token wants rotation.
fn again(refresh: Duration, pod: &Subject<'_>, wanted: &Wanted, rotate: Option<Duration>) -> Option<Duration> {
    let objects = !(wanted.config_maps.is_empty() && wanted.secrets.is_empty() && wanted.claims.is_empty())
        || wanted.runtime_class.is_some();
    // Three quarters to five quarters, by UID: pods that were created together do not ask together for ever.
    let place = u32::from(ContentHash::of(pod.uid.as_str().as_bytes()).0[0]);
    let spread = refresh * (384 + place) / 512;
    let rotate = rotate.map(|rotate| rotate.max(ROTATION_RETRY));
    objects.then_some(spread).into_iter().chain(rotate).min()
}

fn finish(pod: &Subject<'_>, translation: Translation, again: Option<Duration>) -> Result<Prepared, NotApplied> {
    let Translation { deployment, blobs, notices } = translation;
    let deployment = Object::new(hawser_wire::encode(&deployment));
    let blobs: Vec<Object> = blobs.into_values().collect();
    let total = blobs.iter().map(|blob| blob.reference.len).sum::<u64>() + deployment.reference.len;
    if total > MAX_OBJECT {
        let message = format!(
            "the pod and the files of its ConfigMaps and Secrets have {total} bytes, and a device takes {MAX_OBJECT}; mount fewer or smaller ones"
        );
        // A ConfigMap that grew is no reason to declare a pod failed that has begun.
        return Err(match has_begun(pod.pod) {
            true => NotApplied::Waiting(Waiting {
                containers: Vec::new(),
                event_reason: "FailedMount".to_owned(),
                event_message: message,
            }),
            false => NotApplied::Refused { reason: "TooLarge".to_owned(), message },
        });
    }
    Ok(Prepared { deployment, blobs, again, notices })
}

#[cfg(test)]
mod tests;
