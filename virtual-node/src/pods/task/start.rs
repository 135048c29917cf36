//! What is started: one job at a time for a pod, a status or a node's view whose turn has come.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{Done, PodsTask, Track, View};
use crate::clock;
use crate::ids::{NodeName, PodUid};
use crate::pods::index::Record;
use crate::pods::plan::{self, Facts, Plan, Stage};
use crate::pods::status_writer::{self, Turn};
use crate::provider::Provider;
use crate::queue::Finish;

impl<P: Provider> PodsTask<P> {
    pub(super) fn start_jobs(&mut self) {
        let now = clock::instant();
        if !self.stopping {
            while let Some(node) = self.views.take(now) {
                self.start_view(node, now);
            }
            while let Some(pod) = self.pods.take(now) {
                self.start_pod(pod, now);
            }
        }
        while let Some(pod) = self.statuses.queue.take(now) {
            self.start_write(pod, now);
        }
    }

    fn start_view(&mut self, node: NodeName, now: Instant) {
        let (caller, at) = (self.caller.clone(), self.at());
        let due = self.nodes.get_mut(&node).map(|known| (&mut known.view, &known.pod_ranges));
        match due {
            Some((view @ (View::Unlisted | View::Listing { .. }), _)) if self.position.is_some() => {
                *view = View::Listing { vanished: HashSet::new() };
                self.jobs.spawn(async move {
                    let answer = caller.list(node.clone(), at).await;
                    Done::Listed { node, answer }
                });
            }
            Some((View::Listed { outstanding }, pod_ranges)) if outstanding.is_empty() => {
                let pod_ranges = pod_ranges.clone();
                self.start_synced(node, pod_ranges);
            }
            Some((View::Synced { pod_ranges: told }, pod_ranges)) if told != pod_ranges => {
                let pod_ranges = pod_ranges.clone();
                self.start_synced(node, pod_ranges);
            }
            _ => self.views.finish(node, Finish::Settled, now, 0.0),
        }
    }

    fn start_synced(&mut self, node: NodeName, pod_ranges: Vec<String>) {
        let (caller, at) = (self.caller.clone(), self.at());
        self.jobs.spawn(async move {
            let answer = caller.synced(node.clone(), pod_ranges.clone(), at).await;
            Done::Synced { node, pod_ranges, answer }
        });
    }

    fn start_pod(&mut self, pod: PodUid, now: Instant) {
        let (Some(record), Some(track)) = (self.index.get(&pod), self.tracks.get_mut(&pod)) else {
            self.pods.finish(pod, Finish::Settled, now, 0.0);
            return;
        };
        let plan = plan::plan(Facts {
            present: track.present,
            ours: self.nodes.get(&record.node).is_some_and(|node| node.view.is_complete()),
            deletion: record.deletion,
            life: record.life,
            wish: record.wish,
            stage: &track.stage,
            gone: self.statuses.is_gone(&pod),
            status_unwritten: self.statuses.may_still_write(&pod),
            again: track.again_at.is_some_and(|at| at <= now),
        });
        let (caller, at, serial) = (self.caller.clone(), self.position.unwrap_or_default(), track.serial);
        let (reference, node) = (record.pod.clone(), record.node.clone());
        tracing::trace!(pod = %reference, %node, ?plan, stage = ?track.stage, "planned");
        match plan {
            Plan::Nothing => {
                let finish = track.again_at.filter(|at| *at > now).map_or(Finish::Settled, Finish::Again);
                self.pods.finish(pod, finish, now, 0.0);
            }
            Plan::Drop => {
                let node = record.node.clone();
                self.pods.finish(pod.clone(), Finish::Settled, now, 0.0);
                self.drop_pod(&pod);
                self.first_word(&node, &pod);
            }
            Plan::Apply => {
                let (document, wish, before) = (record.document(), record.wish, track.stage.clone());
                // From here on the provider may know of the pod, whatever becomes of the call.
                if track.stage == Stage::Fresh {
                    track.stage = Stage::Wanted { held: false };
                }
                track.again_at = None;
                self.jobs.spawn(async move {
                    let answer = caller.apply(document, at).await;
                    Done::Applied { pod, serial, before, wish, answer }
                });
            }
            Plan::Stop { grace } => {
                let before = std::mem::replace(&mut track.stage, Stage::Stopping { grace });
                self.jobs.spawn(async move {
                    let answer = caller.stop(node, reference, grace, at).await;
                    Done::Stopped { pod, serial, before, answer }
                });
            }
            Plan::Delete(why) => {
                tracing::debug!(pod = %reference, uid = %pod, ?why, "removing the object");
                self.jobs.spawn(async move {
                    let answer = caller.delete(reference).await;
                    Done::Deleted { pod, serial, answer }
                });
            }
            Plan::Forget => {
                self.jobs.spawn(async move {
                    let answer = caller.forget(node, reference, at).await;
                    Done::Forgotten { pod, serial, answer }
                });
            }
        }
    }

    fn start_write(&mut self, pod: PodUid, now: Instant) {
        let Some((record, track)) = self.writable(&pod) else {
            self.statuses.finish(pod, Finish::Settled, now, 0.0);
            return;
        };
        let observed = track.stage == Stage::Applied { wish: record.wish };
        match self.statuses.turn(record, observed, clock::wall()) {
            Turn::Equal => {
                self.caller.metrics.status_write("equal");
                self.statuses.accepted(&pod, None);
                self.statuses.finish(pod.clone(), Finish::Settled, now, 0.0);
                self.after_write(&pod);
            }
            Turn::Write { patch, version } => {
                let (client, reference) = (self.caller.client.clone(), record.pod.clone());
                self.jobs.spawn(async move {
                    let written = status_writer::write(client, reference, patch).await;
                    Done::Written { pod, version, written }
                });
            }
        }
    }

    /// The pod's record, if its object is there and on a node of ours.
    pub(super) fn writable(&self, pod: &PodUid) -> Option<(&Record, &Track)> {
        let (record, track) = (self.index.get(pod)?, self.tracks.get(pod)?);
        let ours = self.nodes.get(&record.node)?.view.is_complete();
        (ours && track.present).then_some((record, track))
    }
}
