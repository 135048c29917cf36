//! What one device is to run: one entry per pod bound to it, and the index over them.

use std::collections::BTreeMap;

use hawser_wire::deployment::{ContainerKind, EdgeDeployment};
use hawser_wire::desired::{Index, IndexEntry, Wish, digest_of};
use hawser_wire::limits::{MAX_INDEX_ENTRIES, MAX_OBJECT, MAX_POD_RANGES};
use hawser_wire::{AddressRange, ContentHash, Digest, PodUid, Version, codec};
use virtual_node::PodRef;

use crate::deployment::Object;

/// The entries of one device.
#[derive(Debug, Default)]
pub(crate) struct DesiredSet {
    entries: BTreeMap<PodUid, Entry>,
    /// The addresses that pods are to have.
    pod_ranges: Vec<AddressRange>,
    /// Of all that as it is; `None` after a change.
    digest: Option<Digest>,
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) pod: PodRef,
    /// The containers of the last form that it was to run in, without those that it is for: Events tell them apart.
    pub(crate) others: Box<[(String, ContainerKind)]>,
    pub(crate) wanted: Wanted,
}

/// What is wanted of a pod, with the bytes that the device may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Run(Box<Running>),
    Keep,
    Stop { grace_seconds: u32 },
    Retain,
}

/// An edge deployment and its blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) deployment: Object,
    pub(crate) blobs: Box<[Object]>,
}

impl Running {
    fn others(&self) -> Box<[(String, ContainerKind)]> {
        let Ok(spec) = hawser_wire::decode::<EdgeDeployment>(&self.deployment.bytes, MAX_OBJECT as usize) else {
            return Box::default();
        };
        let others = spec.value.all_containers().filter(|(_, kind)| *kind != ContainerKind::Main);
        others.map(|(container, kind)| (container.name.clone(), kind)).collect()
    }
}

/// The device has as many pods as fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device already has {MAX_INDEX_ENTRIES} pods, and no more fit")]
pub struct Full;

impl DesiredSet {
    /// Sets what is wanted of a pod. Answers whether that changed anything.
    pub(crate) fn set(&mut self, uid: PodUid, pod: PodRef, wanted: Wanted) -> Result<bool, Full> {
        if let Some(entry) = self.entries.get_mut(&uid) {
            let changed = entry.wanted != wanted;
            if changed {
                if let Wanted::Run(running) = &wanted {
                    entry.others = running.others();
                }
                entry.wanted = wanted;
                self.digest = None;
            }
            return Ok(changed);
        }
        if self.entries.len() >= MAX_INDEX_ENTRIES && !self.make_room(&wanted) {
            return Err(Full);
        }
        let others = match &wanted {
            Wanted::Run(running) => running.others(),
            Wanted::Keep | Wanted::Stop { .. } | Wanted::Retain => Box::default(),
        };
        self.entries.insert(uid, Entry { pod, others, wanted });
        self.digest = None;
        Ok(true)
    }

    /// The remains of an ended pod are worth less than anything else.
    fn make_room(&mut self, wanted: &Wanted) -> bool {
        if *wanted == Wanted::Retain {
            return false;
        }
        let ended = self.entries.iter().find(|(_, entry)| entry.wanted == Wanted::Retain).map(|(uid, _)| uid.clone());
        ended.is_some_and(|uid| self.entries.remove(&uid).is_some())
    }

    pub(crate) fn remove(&mut self, uid: &PodUid) -> bool {
        let removed = self.entries.remove(uid).is_some();
        if removed {
            self.digest = None;
        }
        removed
    }

    /// Sets which addresses pods are to have. More than travel are cut off.
    pub(crate) fn set_ranges(&mut self, mut pod_ranges: Vec<AddressRange>) {
        pod_ranges.truncate(MAX_POD_RANGES);
        if self.pod_ranges != pod_ranges {
            self.pod_ranges = pod_ranges;
            self.digest = None;
        }
    }

    pub(crate) fn get(&self, uid: &PodUid) -> Option<&Entry> {
        self.entries.get(uid)
    }

    /// What each pod is to be, as far as that is known.
    pub(crate) fn deployments(&self) -> impl Iterator<Item = (&PodUid, Option<EdgeDeployment>)> {
        self.entries.iter().map(|(uid, entry)| (uid, entry.wanted.deployment()))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn digest(&mut self) -> Digest {
        match self.digest {
            Some(digest) => digest,
            None => {
                let digest = digest_of(&self.index_entries(), &self.pod_ranges);
                self.digest = Some(digest);
                digest
            }
        }
    }

    /// The index as it is sent. The entries ascend and are within their bound, because this type keeps them so.
    pub(crate) fn index(&mut self, version: Version) -> Index {
        let pod_ranges = self.pod_ranges.clone();
        Index { version, digest: self.digest(), entries: self.index_entries(), pod_ranges }
    }

    /// The bytes of an object, if it is one of this device's.
    pub(crate) fn object(&self, hash: &ContentHash) -> Option<&Object> {
        self.entries.values().find_map(|entry| match &entry.wanted {
            Wanted::Run(running) => {
                let mut objects = std::iter::once(&running.deployment).chain(&running.blobs);
                objects.find(|object| object.reference.hash == *hash)
            }
            Wanted::Keep | Wanted::Stop { .. } | Wanted::Retain => None,
        })
    }

    fn index_entries(&self) -> Vec<IndexEntry> {
        self.entries.iter().map(|(uid, entry)| IndexEntry { uid: uid.clone(), wish: entry.wanted.wish() }).collect()
    }
}

impl Wanted {
    /// What it is to be, if it is to run and that is known.
    pub(crate) fn deployment(&self) -> Option<EdgeDeployment> {
        match self {
            Self::Run(running) => {
                codec::decode(&running.deployment.bytes, MAX_OBJECT as usize).ok().map(|decoded| decoded.value)
            }
            Self::Keep | Self::Stop { .. } | Self::Retain => None,
        }
    }

    fn wish(&self) -> Wish {
        match self {
            Self::Run(running) => Wish::Run(running.deployment.reference),
            Self::Keep => Wish::Keep,
            Self::Stop { grace_seconds } => Wish::Stop(*grace_seconds),
            Self::Retain => Wish::Retain,
        }
    }
}
