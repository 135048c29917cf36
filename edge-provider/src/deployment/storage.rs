//! What the bridge reads of claims and their volumes, and what comes of it for a pod. Pure.
//!
//! A device has the storage that it has: a claim can be met by a path of the device's own, which a volume of the kinds
//! `local` and `hostPath` names. What is wrong with a claim is said in a kubelet's words.

use std::sync::Arc;

use hawser_wire::deployment::{HostPath, HostPathKind};
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim};
use serde_json::Value;

use super::node::Here;
use super::references::Found;

/// What is kept of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    uid: String,
    bound: bool,
    /// The volume that it is bound to; empty: none.
    pub(crate) volume: String,
    /// It is being deleted, and nothing keeps it until its pods are gone.
    leaving: bool,
}

impl From<PersistentVolumeClaim> for Claim {
    fn from(claim: PersistentVolumeClaim) -> Self {
        let meta = claim.metadata;
        let protected = meta.finalizers.iter().flatten().any(|finalizer| finalizer == "kubernetes.io/pvc-protection");
        Self {
            uid: meta.uid.unwrap_or_default(),
            bound: claim.status.and_then(|status| status.phase).as_deref() == Some("Bound"),
            volume: claim.spec.and_then(|spec| spec.volume_name).unwrap_or_default(),
            leaving: meta.deletion_timestamp.is_some() && !protected,
        }
    }
}

impl Claim {
    /// Whether it is what it will be: until then it is looked at again soon.
    pub(crate) fn is_settled(&self) -> bool {
        self.bound && !self.volume.is_empty()
    }

    /// What keeps pods from using it.
    fn check(&self) -> Result<(), String> {
        match self {
            Self { leaving: true, .. } => Err("PVC is being deleted".to_owned()),
            Self { bound: false, .. } => Err("PVC is not bound".to_owned()),
            Self { volume, .. } if volume.is_empty() => Err("PVC has empty pvc.Spec.VolumeName".to_owned()),
            _ => Ok(()),
        }
    }
}

/// What is kept of a volume of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Volume {
    name: String,
    kind: Kind,
    /// The UID of the claim that has it.
    claim: Option<String>,
    block: bool,
    mount_options: bool,
    affinity: Option<NodeSelector>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Local {
        path: String,
    },
    HostPath {
        path: String,
        kind: Option<String>,
    },
    /// As the field is called.
    Other(String),
}

impl From<PersistentVolume> for Volume {
    fn from(volume: PersistentVolume) -> Self {
        let name = volume.metadata.name.unwrap_or_default();
        let Some(spec) = volume.spec else {
            let kind = Kind::Other("none".to_owned());
            return Self { name, kind, claim: None, block: false, mount_options: false, affinity: None };
        };
        Self {
            name,
            kind: match (&spec.local, &spec.host_path) {
                (Some(local), _) => Kind::Local { path: local.path.clone() },
                (None, Some(host)) => Kind::HostPath { path: host.path.clone(), kind: host.type_.clone() },
                (None, None) => Kind::Other(other_kind(&serde_json::to_value(&spec).unwrap_or_default())),
            },
            claim: spec.claim_ref.and_then(|claim| claim.uid),
            block: spec.volume_mode.as_deref() == Some("Block"),
            mount_options: spec.mount_options.is_some_and(|options| !options.is_empty()),
            affinity: spec.node_affinity.and_then(|affinity| affinity.required),
        }
    }
}

/// The field that says where the volume is: the one that is none of those that all volumes have.
fn other_kind(spec: &Value) -> String {
    const COMMON: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let mut fields = spec.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    fields.find(|field| !COMMON.contains(field)).unwrap_or("none").to_owned()
}

impl Volume {
    /// Whether it matters which node it is.
    pub(crate) fn is_choosy(&self) -> bool {
        self.affinity.is_some()
    }
}

/// What was found of one claim of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Storage {
    pub(crate) claim: Found<Claim>,
    /// Looked for if the claim says which.
    pub(crate) volume: Option<Found<Volume>>,
    /// Looked for if the volume is choosy.
    pub(crate) node: Option<Found<Arc<Here>>>,
}

/// Why a claim is of no use to a pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoStorage {
    /// That may pass; what is said of the volume while it is looked for.
    NotYet(String),
    /// That may pass; what is said of the volume that was found.
    NotHere {
        /// The name of the volume.
        volume: String,
        /// Why.
        why: String,
    },
    /// A device has no such storage.
    Never(String),
}

/// What a claim is on the device of the pod. `key`: the claim's namespace and name, with a slash; `volume`: what the pod calls it.
pub(crate) fn on_device(
    found: &Storage,
    key: (&str, &str),
    volume: &str,
    read_only: bool,
) -> Result<HostPath, NoStorage> {
    let (namespace, name) = key;
    let not_yet = |why: String| NoStorage::NotYet(format!("error processing PVC {namespace}/{name}: {why}"));
    let claim = here(&found.claim, &format!("persistentvolumeclaims \"{name}\" not found"))
        .map_err(|why| not_yet(format!("failed to fetch PVC from API server: {why}")))?;
    claim.check().map_err(not_yet)?;
    let missing = format!("persistentvolumes \"{}\" not found", claim.volume);
    let found_volume = found.volume.as_ref().unwrap_or(&Found::Missing);
    let there = here(found_volume, &missing)
        .map_err(|why| not_yet(format!("failed to fetch PV {} from API server: {why}", claim.volume)))?;
    match &there.claim {
        None => {
            return Err(not_yet(format!(
                "found PV object {} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
                there.name
            )));
        }
        Some(uid) if *uid != claim.uid => {
            return Err(not_yet(format!(
                "found PV object {} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {}",
                there.name, claim.uid
            )));
        }
        Some(_) => {}
    }
    if there.block {
        let why = format!("volume {volume} has volumeMode Block, but is specified in volumeMounts");
        return Err(NoStorage::NotYet(why));
    }
    there.check_node(found.node.as_ref())?;
    there.path(read_only)
}

/// What was found, or why there is nothing.
fn here<'f, T>(found: &'f Found<T>, missing: &str) -> Result<&'f T, String> {
    match found {
        Found::Here(there) => Ok(there),
        Found::Missing => Err(missing.to_owned()),
        Found::Denied(words) => Err(words.clone()),
    }
}

impl Volume {
    fn check_node(&self, node: Option<&Found<Arc<Here>>>) -> Result<(), NoStorage> {
        let Some(selector) = &self.affinity else { return Ok(()) };
        let why = match node {
            Some(Found::Here(node)) if node.is_selected(selector) => return Ok(()),
            Some(Found::Here(_)) => "no matching NodeSelectorTerms".to_owned(),
            Some(Found::Denied(words)) => words.clone(),
            Some(Found::Missing) | None => "the node is not there".to_owned(),
        };
        Err(NoStorage::NotHere { volume: self.name.clone(), why })
    }

    fn path(&self, read_only: bool) -> Result<HostPath, NoStorage> {
        let never = |what: String| Err(NoStorage::Never(format!("its volume {} {what}", self.name)));
        if self.mount_options {
            return never("has mountOptions, which a device does not apply".to_owned());
        }
        match &self.kind {
            // What a kubelet does with the files of such a volume, and with no other path of its machine.
            Kind::Local { path } => Ok(HostPath {
                path: path.clone(),
                kind: HostPathKind::Directory,
                of_group: !read_only,
                only_if_differs: false,
                local: true,
            }),
            Kind::HostPath { path, kind } => match host_path_kind(kind.as_deref()) {
                Some(kind) => {
                    Ok(HostPath { path: path.clone(), kind, of_group: false, only_if_differs: false, local: false })
                }
                None => never(format!("is of type {}, which is an invalid volume type", kind.as_deref().unwrap_or(""))),
            },
            Kind::Other(kind) => {
                never(format!("is of the kind {kind}, and a device has local volumes and hostPath only"))
            }
        }
    }
}

/// What has to be at a path; `None`: nobody knows that word.
pub(crate) fn host_path_kind(kind: Option<&str>) -> Option<HostPathKind> {
    Some(match kind {
        None | Some("") => HostPathKind::Any,
        Some("Directory") => HostPathKind::Directory,
        Some("DirectoryOrCreate") => HostPathKind::DirectoryOrCreate,
        Some("File") => HostPathKind::File,
        Some("FileOrCreate") => HostPathKind::FileOrCreate,
        Some("Socket") => HostPathKind::Socket,
        Some("CharDevice") => HostPathKind::CharDevice,
        Some("BlockDevice") => HostPathKind::BlockDevice,
        Some(_) => return None,
    })
}

#[cfg(test)]
mod tests;
