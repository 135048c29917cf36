//! What the API says about pods, taken into the view.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;

use super::{Node, PodsTask, Relist, Track, View};
use crate::clock;
use crate::ids::{NodeName, PodRef, PodUid, Revision};
use crate::pods::index::{Change, Record};
use crate::pods::plan::Stage;
use crate::provider::Provider;
use crate::watch::News;

impl<P: Provider> PodsTask<P> {
    pub(super) fn news(&mut self, news: News<Pod>) {
        match news {
            News::ListStarted => {
                let listed = self.nodes.iter().filter(|(_, node)| !matches!(node.view, View::Expected));
                let nodes = listed.map(|(name, _)| name.clone()).collect();
                self.relist = Some(Relist { nodes, seen: HashSet::new() });
            }
            News::ListPage(pods) => {
                for pod in pods {
                    if let (Some(uid), Some(relist)) = (&pod.metadata.uid, &mut self.relist) {
                        relist.seen.insert(PodUid::new(uid.clone()));
                    }
                    self.pod_applied(pod);
                }
            }
            News::ListDone(revision) => {
                if let Some(relist) = self.relist.take() {
                    self.conclude(relist, revision);
                }
                self.reached(revision);
            }
            News::Applied(pod) => {
                self.reached(revision_of(&pod));
                self.pod_applied(*pod);
            }
            News::Deleted(pod) => {
                self.reached(revision_of(&pod));
                self.pod_deleted(&pod);
            }
            News::Progress(revision) => self.reached(revision),
        }
    }

    fn reached(&mut self, revision: Revision) {
        let first = self.position.is_none();
        self.position = self.position.max(Some(revision));
        if first {
            let unlisted = self.nodes.iter().filter(|(_, node)| matches!(node.view, View::Unlisted));
            for (name, _) in unlisted {
                self.views.mark_now(name.clone());
            }
        }
    }

    /// The list was complete: what is not in it is gone, unless it came after it.
    fn conclude(&mut self, relist: Relist, revision: Revision) {
        for node in &relist.nodes {
            for pod in self.index.on_node(node) {
                let older = self.index.get(&pod).is_some_and(|record| record.revision <= revision);
                if older && !relist.seen.contains(&pod) {
                    self.vanish(&pod);
                }
            }
        }
    }

    pub(super) fn pod_applied(&mut self, pod: Pod) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let ours = node.and_then(|node| NodeName::new(node).ok()).and_then(|node| self.nodes.get(&node));
        if ours.is_none_or(|node| matches!(node.view, View::Expected)) {
            return;
        }
        match Record::reduce(pod) {
            Ok(record) => self.take_in(record),
            Err(error) => tracing::error!(%error, "a pod from the API server cannot be kept"),
        }
    }

    pub(super) fn take_in(&mut self, record: Record) {
        let (pod, node) = (record.pod.uid.clone(), record.node.clone());
        if let Some(track) = self.tracks.get_mut(&pod) {
            if !track.present {
                // An older form, seen late: what is gone does not come back under the same UID.
                return;
            }
            track.unseen = false;
        }
        match self.index.take_in(record) {
            Change::Stale | Change::Nothing => {}
            Change::New => {
                // What was said of it from elsewhere, before we knew where it is, was none of their business.
                if self.statuses.node_of(&pod).is_some_and(|other| *other != node) {
                    self.statuses.obsolete(&pod);
                }
                self.serial += 1;
                let track = Track {
                    serial: self.serial,
                    stage: Stage::Fresh,
                    present: true,
                    unseen: false,
                    again_at: None,
                    delete_failures: 0,
                };
                self.tracks.insert(pod.clone(), track);
                self.pods.mark_now(pod.clone());
                self.statuses.known(&pod);
                self.consider_gone(&pod);
            }
            Change::Wish => {
                self.pods.mark_now(pod.clone());
                self.statuses.known(&pod);
                self.compare_later(&node, &pod);
            }
            Change::Status => self.compare_later(&node, &pod),
        }
    }

    /// Somebody has written the status. If it was not us, and the device is heard, its word is put back; while it is not
    /// heard, the cluster may say what it likes.
    fn compare_later(&mut self, node: &NodeName, pod: &PodUid) {
        if self.nodes.get(node).is_some_and(|node| node.live) {
            self.statuses.compare(pod, Some(clock::instant() + self.config.restore_after));
        }
    }

    fn pod_deleted(&mut self, pod: &Pod) {
        let Some(reference) = PodRef::of(pod) else { return };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = node.and_then(|node| NodeName::new(node).ok());
        if let Some(Node { view: View::Listing { vanished }, .. }) = node.and_then(|node| self.nodes.get_mut(&node)) {
            vanished.insert(reference.uid.clone());
        }
        self.vanish(&reference.uid);
    }

    pub(super) fn vanish(&mut self, pod: &PodUid) {
        if let Some(record) = self.index.get(pod)
            && let Some(Node { view: View::Listing { vanished }, .. }) = self.nodes.get_mut(&record.node)
        {
            vanished.insert(pod.clone());
        }
        if let Some(track) = self.tracks.get_mut(pod) {
            track.present = false;
            self.statuses.obsolete(pod);
            self.pods.mark_now(pod.clone());
        }
    }
}

fn revision_of(pod: &Pod) -> Revision {
    pod.metadata.resource_version.as_deref().and_then(Revision::parse).unwrap_or_default()
}
