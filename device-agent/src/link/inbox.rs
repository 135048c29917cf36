//! What the device is to run: which index counts, which objects are lacking, what is complete. Pure.
//!
//! The inbox takes indexes and objects in and returns the changes for the ledger. What it has taken in counts as here; the
//! [`DesiredSet`] made of it is handed out by the brain when the ledger has confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::codec::decode;
use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::desired::{Index, IndexEntry, ObjectRef, Wish};
use hawser_wire::limits::MAX_OBJECT;
use hawser_wire::{AddressRange, ContentHash, DecodeError, DeviceTime, Digest, PodUid, Version};

use crate::desired::{Deployment, DesiredPod, DesiredSet, DesiredWish};
use crate::ledger::{Accepted, Change, Recovered};

/// What is wanted, and how much of it is here.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    accepted: Option<(Version, Digest)>,
    /// Whether `accepted` was heard since the start, and not only found in the ledger.
    heard: bool,
    pod_ranges: Vec<AddressRange>,
    pods: BTreeMap<PodUid, Pod>,
    held: BTreeSet<ContentHash>,
    /// Edge deployments that this version cannot read.
    unreadable: BTreeMap<ContentHash, Unreadable>,
}

#[derive(Debug)]
struct Pod {
    wish: Wish,
    /// The last one of which everything is here.
    complete: Option<Deployment>,
    /// The one wanted now, if it is another one.
    coming: Option<Coming>,
}

#[derive(Debug)]
enum Coming {
    /// Its bytes are not here.
    Unread(ObjectRef),
    /// Blobs of it are not here.
    Read(Deployment),
    /// It cannot be read; the complete one goes on.
    Refused(ContentHash),
}

/// What became of an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the one that counts from now on.
    Accepted(Vec<Change>),
    /// It is the one that counts already, and until now only the ledger said so.
    Confirmed,
    /// It is the one that counts already.
    Same,
    /// It is older.
    Older,
    /// It has the accepted version and another content: one of the two was forged or is a mistake.
    Conflicts,
    /// Its entries are not in order.
    Malformed,
}

/// Why an edge deployment cannot be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The pod.
    pub(super) uid: PodUid,
    /// A CamelCase word.
    pub(super) reason: &'static str,
    /// A sentence.
    pub(super) message: String,
}

/// What an arrived object changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// For the ledger.
    pub(super) changes: Vec<Change>,
    /// The object is an edge deployment that cannot be acted on.
    pub(super) refused: Option<Unreadable>,
    /// It held something of a later version, which was skipped.
    pub(super) unfamiliar: bool,
}

impl Inbox {
    /// Goes on from the ledger. The changes drop what nothing refers to.
    pub(super) fn recover(recovered: &Recovered) -> (Self, Vec<Change>) {
        let mut inbox = Self { held: recovered.objects.clone(), ..Self::default() };
        let Some(accepted) = &recovered.accepted else {
            let changes = inbox.drop_unreferenced();
            return (inbox, changes);
        };
        inbox.accepted = Some((accepted.version, accepted.digest));
        inbox.pod_ranges.clone_from(&accepted.pod_ranges);
        for entry in &accepted.entries {
            let complete = recovered.complete.get(&entry.uid).and_then(|hash| {
                let bytes = recovered.deployments.get(hash)?;
                let (spec, _) = read(&entry.uid, bytes).ok()?;
                let all_here = spec.blobs().all(|blob| inbox.held.contains(&blob.hash));
                all_here.then(|| Deployment { hash: *hash, spec: Arc::new(spec) })
            });
            inbox.pods.insert(entry.uid.clone(), Pod { wish: entry.wish, complete, coming: None });
        }
        inbox.look_for_wanted(|hash| recovered.deployments.get(hash).cloned());
        let mut changes = inbox.complete_what_is_here();
        changes.extend(inbox.drop_unreferenced());
        (inbox, changes)
    }

    /// The index that counts.
    pub(super) fn accepted(&self) -> Option<(Version, Digest)> {
        self.accepted
    }

    /// Takes an index.
    pub(super) fn index(&mut self, index: Index) -> Verdict {
        if !index.is_well_formed() {
            return Verdict::Malformed;
        }
        if let Some((version, digest)) = self.accepted {
            match index.version.cmp(&version) {
                std::cmp::Ordering::Less => return Verdict::Older,
                std::cmp::Ordering::Equal if index.digest == digest => {
                    let known = std::mem::replace(&mut self.heard, true);
                    return if known { Verdict::Same } else { Verdict::Confirmed };
                }
                std::cmp::Ordering::Equal => return Verdict::Conflicts,
                std::cmp::Ordering::Greater => {}
            }
        }
        self.accepted = Some((index.version, index.digest));
        self.heard = true;
        let mut changes = self.replace_pods(&index.entries);
        let Index { version, digest, entries, pod_ranges } = index;
        self.pod_ranges.clone_from(&pod_ranges);
        let accepted = Accepted { version, digest, entries, pod_ranges };
        changes.insert(0, Change::Accept(accepted));
        self.look_for_wanted(|_| None);
        changes.extend(self.complete_what_is_here());
        changes.extend(self.drop_unreferenced());
        Verdict::Accepted(changes)
    }

    fn replace_pods(&mut self, entries: &[IndexEntry]) -> Vec<Change> {
        let mut before = std::mem::take(&mut self.pods);
        for entry in entries {
            let known = before.remove(&entry.uid);
            let pod = match known {
                Some(pod) => Pod { wish: entry.wish, ..pod },
                None => Pod { wish: entry.wish, complete: None, coming: None },
            };
            self.pods.insert(entry.uid.clone(), pod);
        }
        before.into_iter().filter(|(_, pod)| pod.complete.is_some()).map(|(uid, _)| Change::DropComplete(uid)).collect()
    }

    /// Sets what is coming from what is wanted. `bytes_of` gives the bytes of a held edge deployment, if at hand.
    fn look_for_wanted(&mut self, bytes_of: impl Fn(&ContentHash) -> Option<Arc<[u8]>>) {
        for (uid, pod) in &mut self.pods {
            let Wish::Run(object) = pod.wish else {
                // "Keep" too: the bridge may not even have any more what was coming.
                pod.coming = None;
                continue;
            };
            if pod.complete.as_ref().is_some_and(|complete| complete.hash == object.hash) {
                pod.coming = None;
                continue;
            }
            if pod.coming.as_ref().is_some_and(|coming| coming.hash() == object.hash) {
                continue;
            }
            let coming = match bytes_of(&object.hash).map(|bytes| read(uid, &bytes)) {
                Some(Ok((spec, _))) => Coming::Read(Deployment { hash: object.hash, spec: Arc::new(spec) }),
                // Said when it arrived.
                Some(Err(_)) => Coming::Refused(object.hash),
                None if self.unreadable.contains_key(&object.hash) => Coming::Refused(object.hash),
                None => Coming::Unread(object),
            };
            pod.coming = Some(coming);
        }
    }

    /// The objects to fetch, edge deployments first.
    pub(super) fn lacking(&self) -> Vec<ObjectRef> {
        let mut lacking: Vec<ObjectRef> = self.coming().filter_map(Coming::unread).collect();
        let mut named: BTreeSet<ContentHash> = lacking.iter().map(|object| object.hash).collect();
        for blob in self.coming().filter_map(Coming::read).flat_map(|deployment| deployment.spec.blobs()) {
            if !self.held.contains(&blob.hash) && named.insert(blob.hash) {
                lacking.push(blob);
            }
        }
        lacking
    }

    /// Takes an object that is what its name says.
    pub(super) fn object(&mut self, hash: ContentHash, bytes: Vec<u8>) -> Arrived {
        let mut arrived = Arrived::default();
        let wanted_by = self
            .pods
            .iter()
            .find(|(_, pod)| matches!(&pod.coming, Some(Coming::Unread(object)) if object.hash == hash));
        if let Some(uid) = wanted_by.map(|(uid, _)| uid.clone()) {
            match read(&uid, &bytes) {
                Ok((spec, unfamiliar)) => {
                    arrived.unfamiliar = unfamiliar;
                    self.set_coming(&uid, Coming::Read(Deployment { hash, spec: Arc::new(spec) }));
                }
                Err(unreadable) => {
                    self.set_coming(&uid, Coming::Refused(hash));
                    self.unreadable.insert(hash, unreadable.clone());
                    arrived.refused = Some(unreadable);
                    return arrived;
                }
            }
        }
        if self.held.insert(hash) {
            arrived.changes.push(Change::PutObject(hash, bytes.into()));
        }
        arrived.changes.extend(self.complete_what_is_here());
        arrived.changes.extend(self.drop_unreferenced());
        arrived
    }

    fn set_coming(&mut self, uid: &PodUid, coming: Coming) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.coming = Some(coming);
        }
    }

    fn complete_what_is_here(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (uid, pod) in &mut self.pods {
            let Some(Coming::Read(deployment)) = &pod.coming else { continue };
            if deployment.spec.blobs().all(|blob| self.held.contains(&blob.hash)) {
                changes.push(Change::Complete(uid.clone(), deployment.hash));
                pod.complete = Some(deployment.clone());
                pod.coming = None;
            }
        }
        changes
    }

    fn drop_unreferenced(&mut self) -> Vec<Change> {
        let mut referenced = BTreeSet::new();
        let complete = self.pods.values().filter_map(|pod| pod.complete.as_ref());
        for deployment in complete.chain(self.coming().filter_map(Coming::read)) {
            referenced.insert(deployment.hash);
            referenced.extend(deployment.spec.blobs().map(|blob| blob.hash));
        }
        let refused: BTreeSet<ContentHash> = self.coming().map(Coming::hash).collect();
        self.unreadable.retain(|hash, _| refused.contains(hash));
        let unreferenced: Vec<ContentHash> = self.held.difference(&referenced).copied().collect();
        self.held.retain(|hash| referenced.contains(hash));
        unreferenced.into_iter().map(Change::DropObject).collect()
    }

    fn coming(&self) -> impl Iterator<Item = &Coming> {
        self.pods.values().filter_map(|pod| pod.coming.as_ref())
    }

    /// The desired set as it is now.
    pub(super) fn desired(&self) -> DesiredSet {
        let pods = self.pods.iter().map(|(uid, pod)| {
            let wish = match pod.wish {
                Wish::Run(_) | Wish::Keep => DesiredWish::Run,
                Wish::Stop(grace) => DesiredWish::Stop { grace: Duration::from_secs(u64::from(grace)) },
                Wish::Retain => DesiredWish::Retain,
            };
            (uid.clone(), DesiredPod { wish, deployment: pod.complete.clone() })
        });
        DesiredSet {
            version: self.accepted.map(|(version, _)| version),
            heard: self.heard,
            pod_ranges: self.pod_ranges.clone(),
            pods: pods.collect(),
        }
    }
}

impl Coming {
    fn hash(&self) -> ContentHash {
        match self {
            Self::Unread(object) => object.hash,
            Self::Read(deployment) => deployment.hash,
            Self::Refused(hash) => *hash,
        }
    }

    fn unread(&self) -> Option<ObjectRef> {
        if let Self::Unread(object) = self { Some(*object) } else { None }
    }

    fn read(&self) -> Option<&Deployment> {
        if let Self::Read(deployment) = self { Some(deployment) } else { None }
    }
}

fn read(uid: &PodUid, bytes: &[u8]) -> Result<(EdgeDeployment, bool), Unreadable> {
    let refuse = |reason, message| Err(Unreadable { uid: uid.clone(), reason, message });
    match decode::<EdgeDeployment>(bytes, MAX_OBJECT as usize) {
        Ok(decoded) if decoded.value.uid != *uid => {
            let found = &decoded.value.uid;
            refuse("DeploymentInvalid", format!("the edge deployment is of pod {found}: the bridge mixed two pods up"))
        }
        Ok(decoded) => Ok((decoded.value, decoded.unfamiliar)),
        Err(DecodeError::Unexpected(error)) if error.is_unknown_variant() => refuse(
            "AgentTooOld",
            "the pod uses something that this agent does not know: update hawser-agent on the device; until then it goes on with what it had".to_owned(),
        ),
        Err(error) => refuse("DeploymentInvalid", format!("the edge deployment cannot be read: {error}")),
    }
}

/// The event that tells of an edge deployment that cannot be acted on.
pub(super) fn refusal_event(refused: &Unreadable, at: DeviceTime) -> hawser_wire::report::DeviceEvent {
    hawser_wire::report::DeviceEvent {
        pod: Some(refused.uid.clone()),
        container: None,
        at,
        warning: true,
        reason: refused.reason.to_owned(),
        message: refused.message.clone(),
        count: 1,
    }
}
