//! The view of the pods on our nodes: one compact record per pod, and who is where.
//!
//! Owned and written by the pods task alone. A full `Pod` costs tens of kilobytes in memory, so a record keeps only what
//! decisions need and the pod itself as a JSON document without `managedFields`.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::begun::has_begun;
use crate::ids::{NodeName, PodRef, PodUid, Revision};

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pod: PodRef,
    pub(crate) node: NodeName,
    pub(crate) revision: Revision,
    /// Changes when something changes that a provider should know: spec, labels, annotations.
    pub(crate) wish: u64,
    /// The grace period, if the pod is being deleted.
    pub(crate) deletion: Option<Duration>,
    pub(crate) life: Life,
    /// Changes when the status changes.
    pub(crate) status: u64,
    document: Arc<[u8]>,
}

/// What the API says about the pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Not ended, and nothing of it has ever run.
    Waiting,
    /// It has begun (see [`has_begun`]), and has not ended; or a container is said to run, whatever the phase.
    Begun,
    /// Phase Succeeded or Failed, and no container is said to run.
    Ended,
}

/// Why there is no record for a pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("the pod has no name, namespace, UID or node")]
    Incomplete,
    #[error("the pod cannot be encoded")]
    Unencodable(#[source] serde_json::Error),
}

impl Record {
    /// Reduces a pod to its record.
    pub(crate) fn reduce(mut pod: Pod) -> Result<Self, NotKept> {
        let reference = PodRef::of(&pod).ok_or(NotKept::Incomplete)?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).ok_or(NotKept::Incomplete)?;
        let node = NodeName::new(node).map_err(|_| NotKept::Incomplete)?;
        pod.metadata.managed_fields = None;
        let hash = |parts: &[Vec<u8>]| {
            // The keys of `DefaultHasher::new` are fixed, but the value never leaves this process anyway.
            let mut hasher = std::hash::DefaultHasher::new();
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.finish()
        };
        let meta = &pod.metadata;
        let wish = hash(&[encode(&pod.spec)?, encode(&meta.labels)?, encode(&meta.annotations)?]);
        let status = hash(&[encode(&pod.status)?]);
        let deletion = meta
            .deletion_timestamp
            .as_ref()
            .map(|_| Duration::from_secs(u64::try_from(meta.deletion_grace_period_seconds.unwrap_or(30)).unwrap_or(0)));
        let revision = meta.resource_version.as_deref().and_then(Revision::parse).unwrap_or_default();
        Ok(Self {
            pod: reference,
            node,
            revision,
            wish,
            deletion,
            life: life(&pod),
            status,
            document: encode(&pod)?.into(),
        })
    }

    /// The pod, as it was, without `managedFields`.
    pub(crate) fn document(&self) -> Document {
        Document(Arc::clone(&self.document))
    }
}

/// A pod as JSON; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Document(Arc<[u8]>);

impl Document {
    /// Builds the pod again. Documents are only made from pods, so this fails for no input; the default is for the type
    /// system, and has no UID, so nothing can be written with it.
    pub(crate) fn pod(&self) -> Pod {
        serde_json::from_slice(&self.0).unwrap_or_default()
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, NotKept> {
    serde_json::to_vec(value).map_err(NotKept::Unencodable)
}

fn life(pod: &Pod) -> Life {
    let Some(status) = &pod.status else { return Life::Waiting };
    let running = |list: &Option<Vec<ContainerStatus>>| {
        list.iter().flatten().any(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    if running(&status.container_statuses) || running(&status.init_container_statuses) {
        Life::Begun
    } else if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        Life::Ended
    } else if has_begun(pod) {
        Life::Begun
    } else {
        Life::Waiting
    }
}

/// What taking in a record has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is not newer than what is known.
    Stale,
    /// The pod was not known.
    New,
    /// What is wanted of the pod is different: spec, metadata, deletion, or its having ended.
    Wish,
    /// Only the status is different.
    Status,
    /// Nothing that matters.
    Nothing,
}

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Index {
    records: HashMap<PodUid, Record>,
    on_node: HashMap<NodeName, HashSet<PodUid>>,
    bytes: usize,
}

impl Index {
    /// Takes in a record unless a newer one is known.
    pub(crate) fn take_in(&mut self, record: Record) -> Change {
        let uid = record.pod.uid.clone();
        let change = match self.records.get(&uid) {
            None => Change::New,
            Some(known) if record.revision < known.revision => return Change::Stale,
            Some(known) if record.revision == known.revision && record.revision != Revision::default() => {
                return Change::Stale;
            }
            Some(known)
                if (known.wish, known.deletion, known.life == Life::Ended)
                    != (record.wish, record.deletion, record.life == Life::Ended) =>
            {
                Change::Wish
            }
            Some(known) if known.status != record.status => Change::Status,
            Some(_) => Change::Nothing,
        };
        self.bytes += record.document.len();
        self.on_node.entry(record.node.clone()).or_default().insert(uid.clone());
        if let Some(old) = self.records.insert(uid, record) {
            self.bytes -= old.document.len();
        }
        change
    }

    pub(crate) fn get(&self, uid: &PodUid) -> Option<&Record> {
        self.records.get(uid)
    }

    /// The newest pod of that name, or the one with that UID if it has that name. A scan: people ask, not machines, and
    /// an index by name would cost memory for every pod.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&PodUid>) -> Option<&Record> {
        let named = |record: &&Record| record.pod.namespace == namespace && record.pod.name == name;
        match uid {
            Some(uid) => self.records.get(uid).filter(named),
            None => {
                self.records.values().filter(named).max_by_key(|record| (record.deletion.is_none(), record.revision))
            }
        }
    }

    pub(crate) fn remove(&mut self, uid: &PodUid) -> Option<Record> {
        let record = self.records.remove(uid)?;
        self.bytes -= record.document.len();
        if let Some(on_node) = self.on_node.get_mut(&record.node) {
            on_node.remove(uid);
            if on_node.is_empty() {
                self.on_node.remove(&record.node);
            }
        }
        Some(record)
    }

    /// The pods on a node.
    pub(crate) fn on_node(&self, node: &NodeName) -> Vec<PodUid> {
        self.on_node.get(node).map(|uids| uids.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// What the documents weigh.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Edit = fn(&mut serde_json::Value);

    fn pod(version: u64, change: impl FnOnce(&mut serde_json::Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": version.to_string(),
                "labels": {"app": "web"}, "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "busybox"}]},
            "status": {"phase": "Pending"},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn record(version: u64, change: impl FnOnce(&mut serde_json::Value)) -> Record {
        Record::reduce(pod(version, change)).unwrap()
    }

    #[test]
    fn a_record_gives_the_pod_back_without_managed_fields() {
        let mut expected = pod(1, |_| {});
        expected.metadata.managed_fields = None;
        assert_eq!(record(1, |_| {}).document().pod(), expected);
    }

    #[test]
    fn a_pod_without_node_or_uid_is_not_kept() {
        assert!(Record::reduce(pod(1, |pod| pod["spec"]["nodeName"] = json!(null))).is_err());
        assert!(Record::reduce(pod(1, |pod| pod["metadata"]["uid"] = json!(null))).is_err());
        assert!(Record::reduce(Pod::default()).is_err());
    }

    #[test]
    fn changes_are_told_apart() {
        let rows: [(&str, Edit, Change); 7] = [
            ("same", |_| {}, Change::Nothing),
            ("status", |p| p["status"]["hostIP"] = json!("10.0.0.1"), Change::Status),
            ("label", |p| p["metadata"]["labels"]["app"] = json!("db"), Change::Wish),
            ("annotation", |p| p["metadata"]["annotations"] = json!({"a": "b"}), Change::Wish),
            ("image", |p| p["spec"]["containers"][0]["image"] = json!("nginx"), Change::Wish),
            ("ended", |p| p["status"]["phase"] = json!("Failed"), Change::Wish),
            ("deleted", |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"), Change::Wish),
        ];
        for (name, change, expected) in rows {
            let mut index = Index::default();
            assert_eq!(index.take_in(record(5, |_| {})), Change::New);
            assert_eq!(index.take_in(record(6, change)), expected, "{name}");
            assert_eq!(index.take_in(record(5, |_| {})), Change::Stale, "{name}: an older form changes nothing");
            assert_eq!(index.take_in(record(6, change)), Change::Stale, "{name}: seen twice");
        }
    }

    #[test]
    fn an_end_needs_every_container_to_have_stopped() {
        let running = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}}]);
        assert_eq!(record(1, |_| {}).life, Life::Waiting);
        assert_eq!(record(1, |p| p["status"]["phase"] = json!("Succeeded")).life, Life::Ended);
        let failed_but_running = record(1, |p| p["status"] = json!({"phase": "Failed", "containerStatuses": running}));
        assert_eq!(failed_but_running.life, Life::Begun);
        let ended = json!([{"name": "i", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}}}]);
        let between = record(1, |p| p["status"] = json!({"phase": "Pending", "initContainerStatuses": ended}));
        assert_eq!(between.life, Life::Begun, "its init containers have run, and the next is not there yet");
    }

    #[test]
    fn the_index_knows_who_is_where_and_what_it_weighs() {
        let mut index = Index::default();
        index.take_in(record(1, |_| {}));
        index.take_in(record(2, |p| p["metadata"]["annotations"] = json!({"a": "b"})));
        let node = NodeName::new("gw-1").unwrap();
        assert_eq!(index.on_node(&node), [PodUid::new("u1")]);
        assert!(index.bytes() > 200);
        index.remove(&PodUid::new("u1"));
        assert_eq!((index.len(), index.bytes(), index.on_node(&node).len()), (0, 0, 0));
    }
}
