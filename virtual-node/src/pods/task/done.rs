//! How jobs ended, and what follows from it.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{Done, LOUD, Node, PodsTask, Track, View};
use crate::api::CallError;
use crate::clock;
use crate::ids::{NodeName, PodRef, PodUid};
use crate::pods::index::{Change, Life, NotKept, Record};
use crate::pods::plan::{self, Answered, Next, Show, Stage};
use crate::pods::status_writer::Written;
use crate::provider::{Applied, EventReport, NotApplied, Provider, Subject};
use crate::queue::Finish;

impl<P: Provider> PodsTask<P> {
    pub(super) fn done(&mut self, done: Done) {
        let now = clock::instant();
        match done {
            Done::Applied { pod, serial, before, wish, answer } => self.applied(pod, serial, before, wish, answer, now),
            Done::Stopped { pod, serial, before, answer } => {
                let finish = match (self.track(&pod, serial), answer) {
                    (Some(_), Ok(())) => {
                        self.first_word_of(&pod);
                        Finish::Settled
                    }
                    (Some(track), Err(error)) => {
                        track.stage = before;
                        tracing::warn!(uid = %pod, %error, "the provider was to stop a pod; trying again");
                        Finish::Failed
                    }
                    (None, _) => Finish::Settled,
                };
                self.pods.finish(pod, finish, now, clock::jitter());
            }
            Done::Forgotten { pod, serial, answer } => {
                let finish = match (self.track(&pod, serial), answer) {
                    (Some(_), Ok(())) => {
                        self.first_word_of(&pod);
                        self.drop_pod(&pod);
                        Finish::Settled
                    }
                    (Some(_), Err(error)) => {
                        tracing::warn!(uid = %pod, %error, "the provider was to forget a pod; trying again");
                        Finish::Failed
                    }
                    (None, _) => Finish::Settled,
                };
                self.pods.finish(pod, finish, now, clock::jitter());
            }
            Done::Deleted { pod, serial, answer } => {
                let backoff = self.config.write_backoff;
                let finish = match (self.track(&pod, serial), answer) {
                    (Some(track), Ok(())) => {
                        track.stage = Stage::Deleted;
                        self.statuses.gone_accepted(&pod, false);
                        self.first_word_of(&pod);
                        Finish::Settled
                    }
                    (Some(track), Err(error)) => {
                        track.delete_failures += 1;
                        tracing::warn!(uid = %pod, %error, "cannot remove a pod that is gone; trying again");
                        Finish::Again(now + backoff.delay(track.delete_failures, clock::jitter()))
                    }
                    (None, _) => Finish::Settled,
                };
                self.pods.finish(pod, finish, now, clock::jitter());
            }
            Done::Written { pod, version, written } => self.written(pod, version, written, now),
            Done::Listed { node, answer } => self.listed(node, answer, now),
            Done::Synced { node, pod_ranges, answer } => {
                let finish = match (self.nodes.get_mut(&node), answer) {
                    (Some(known), Ok(())) => {
                        let moved = known.pod_ranges != pod_ranges;
                        known.view = View::Synced { pod_ranges };
                        if moved { Finish::Again(now) } else { Finish::Settled }
                    }
                    (Some(_), Err(error)) => {
                        tracing::warn!(%node, %error, "the provider was to take note of a complete view; trying again");
                        Finish::Failed
                    }
                    (None, _) => Finish::Settled,
                };
                self.views.finish(node, finish, now, clock::jitter());
            }
        }
    }

    fn track(&mut self, pod: &PodUid, serial: u64) -> Option<&mut Track> {
        self.tracks.get_mut(pod).filter(|track| track.serial == serial)
    }

    fn applied(
        &mut self,
        pod: PodUid,
        serial: u64,
        before: Stage,
        wish: u64,
        answer: Result<Applied, NotApplied>,
        now: Instant,
    ) {
        let life = self.index.get(&pod).map_or(Life::Waiting, |record| record.life);
        let Some(record) = self.index.get(&pod) else {
            self.pods.finish(pod, Finish::Settled, now, 0.0);
            return;
        };
        let (reference, node) = (record.pod.clone(), record.node.clone());
        if let Err(NotApplied::Unavailable { message }) = &answer {
            tracing::warn!(pod = %reference, %node, %message, "the provider cannot take the pod now; trying again");
        }
        let Answered { stage, next, show, settles_view } = plan::answered(&before, life, wish, answer);
        let Some(track) = self.track(&pod, serial) else {
            self.pods.finish(pod, Finish::Settled, now, 0.0);
            return;
        };
        track.stage = stage;
        let finish = match next {
            Next::OnChange => Finish::Settled,
            Next::After(after) => {
                track.again_at = Some(now + after);
                Finish::Again(now + after)
            }
            Next::BackOff => Finish::Failed,
        };
        if track.present {
            self.show(&node, &reference, show);
        }
        if settles_view {
            self.first_word(&node, &pod);
        }
        // What the provider has accepted is shown as the observed generation.
        self.statuses.compare(&pod, None);
        self.pods.finish(pod, finish, now, clock::jitter());
    }

    fn show(&mut self, node: &NodeName, pod: &PodRef, show: Show) {
        let (reason, message) = match show {
            Show::Nothing => return,
            Show::NoLongerWaiting => return self.statuses.no_longer_waiting(node, &pod.uid),
            Show::Waiting(waiting) => {
                let event = (waiting.event_reason.clone(), waiting.event_message.clone());
                self.statuses.waiting(node, &pod.uid, waiting);
                event
            }
            Show::Refused { reason, message } => {
                self.statuses.refused(node, &pod.uid, reason.clone(), message.clone());
                (reason, message)
            }
            Show::RefusedChange { reason, message } => {
                (reason, format!("{message}; the pod goes on running as it was before this change"))
            }
        };
        let subject = Subject::Pod(pod.clone());
        let event = EventReport { subject, warning: true, reason, message, at: clock::wall(), count: 1 };
        self.events.send(Some(node.clone()), event, None);
    }

    /// The provider has had its first word about the pod; perhaps it was the last one missing.
    pub(super) fn first_word(&mut self, node: &NodeName, pod: &PodUid) {
        if let Some(Node { view: View::Listed { outstanding }, .. }) = self.nodes.get_mut(node)
            && outstanding.remove(pod)
            && outstanding.is_empty()
        {
            self.views.mark_now(node.clone());
        }
    }

    fn first_word_of(&mut self, pod: &PodUid) {
        if let Some(node) = self.index.get(pod).map(|record| record.node.clone()) {
            self.first_word(&node, pod);
        }
    }

    fn written(&mut self, pod: PodUid, version: u64, written: Written, now: Instant) {
        let metrics = self.caller.metrics.clone();
        let finish = match written {
            Written::Accepted(fresh) => {
                metrics.status_write("written");
                self.own_write(*fresh);
                self.statuses.accepted(&pod, Some(version));
                Finish::Settled
            }
            Written::Changed(fresh) => {
                metrics.status_write("conflict");
                self.pod_applied(*fresh);
                // At once, unless somebody writes faster than we do.
                if self.statuses.queue.failures(&pod) < 3 {
                    self.statuses.queue.mark_now(pod.clone());
                }
                Finish::Failed
            }
            Written::Gone => {
                metrics.status_write("gone");
                self.vanish(&pod);
                Finish::Settled
            }
            Written::Rejected(error) => {
                metrics.status_write("rejected");
                if self.statuses.queue.failures(&pod) == 0 {
                    tracing::error!(uid = %pod, %error, "the API server does not take a reported status");
                }
                self.statuses.rejected(&pod);
                Finish::Failed
            }
            Written::Failed(error) => {
                metrics.status_write("failed");
                // Once per bad spell and pod: an API server that is away is not news about each.
                if self.statuses.queue.failures(&pod) == LOUD {
                    tracing::warn!(uid = %pod, %error, "cannot write a pod's status; trying again");
                }
                Finish::Failed
            }
        };
        self.statuses.finish(pod.clone(), finish, now, clock::jitter());
        self.after_write(&pod);
    }

    /// Takes in what the API server answered to a write of ours: nothing to compare there.
    fn own_write(&mut self, pod: Pod) {
        let Ok(record) = Record::reduce(pod) else { return };
        let uid = record.pod.uid.clone();
        if self.tracks.get(&uid).is_some_and(|track| track.present) && self.index.take_in(record) == Change::Wish {
            self.pods.mark_now(uid);
        }
    }

    fn listed(&mut self, node: NodeName, answer: Result<Vec<Result<Record, NotKept>>, CallError>, now: Instant) {
        let finish = match (self.nodes.get_mut(&node).map(|node| &mut node.view), answer) {
            (Some(View::Listing { vanished }), Ok(records)) => {
                let vanished = std::mem::take(vanished);
                for record in records {
                    match record {
                        Ok(record) if vanished.contains(&record.pod.uid) => {}
                        Ok(record) => self.take_in(record),
                        Err(error) => tracing::error!(%node, %error, "a pod from the API server cannot be kept"),
                    }
                }
                for pod in self.index.on_node(&node) {
                    if self.tracks.get(&pod).is_some_and(|track| track.unseen) {
                        self.vanish(&pod);
                    }
                }
                self.view_is_complete(&node);
                Finish::Settled
            }
            (Some(_), Err(error)) => {
                if self.views.failures(&node) == LOUD {
                    tracing::warn!(%node, %error, "cannot list the pods of a node; trying again");
                }
                Finish::Failed
            }
            (Some(_) | None, _) => Finish::Settled,
        };
        self.views.finish(node, finish, now, clock::jitter());
    }

    fn view_is_complete(&mut self, node: &NodeName) {
        let pods = self.index.on_node(node);
        let outstanding: HashSet<PodUid> = pods.iter().cloned().collect();
        if outstanding.is_empty() {
            self.views.mark_now(node.clone());
        }
        if let Some(known) = self.nodes.get_mut(node) {
            known.view = View::Listed { outstanding };
        }
        for pod in pods {
            self.pods.mark_now(pod.clone());
            self.statuses.known(&pod);
            self.consider_gone(&pod);
        }
        for pod in self.statuses.on_node(node) {
            if self.index.get(&pod).is_none() {
                self.statuses.obsolete(&pod);
            }
        }
    }
}
