//! The owner of everything that is known about pods. One task; its loop only updates memory and starts jobs, so it never
//! waits for the API server or the provider, and neither do those who send to it for long.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::index::{Change, Index, Life, NotKept, Record};
use super::plan::{self, Answered, Facts, Next, Plan, Show, Stage};
use super::reconcile::{Caller, NoAnswer};
use super::status_writer::{self, StatusWriter, Turn, Written};
use crate::api::CallError;
use crate::clock;
use crate::config::Config;
use crate::events::Events;
use crate::ids::{NodeName, PodRef, PodUid, Revision};
use crate::provider::{Applied, EventReport, NotApplied, PodReport, Provider, Receipt, Subject};
use crate::queue::{DirtyQueue, Finish};
use crate::watch::News;

/// A failure is told when it follows so many others: the first ones are the weather.
const LOUD: u32 = 2;

/// What others tell the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// The node will be ours: keep what is reported for it.
    Expected(NodeName),
    /// The Node object is ours: look after its pods.
    Owned(NodeName),
    /// Somebody else has taken the Node object over: its pods are theirs now.
    Lost(NodeName),
    /// The node is no more.
    Removed(NodeName),
    /// Whether the node is heard.
    Liveness { node: NodeName, live: bool },
    /// See [`Reporter::pod_status`](crate::Reporter::pod_status).
    Status { node: NodeName, pod: PodRef, report: Box<PodReport>, receipt: oneshot::Sender<Receipt> },
    /// See [`Reporter::pod_gone`](crate::Reporter::pod_gone).
    Gone { node: NodeName, pod: PodRef, last: Option<Box<PodReport>>, receipt: oneshot::Sender<Receipt> },
    /// An Event about a pod, on its way past the one who knows where the pod is.
    Event { event: Box<EventReport>, receipt: oneshot::Sender<Receipt> },
}

/// What was left undone at the end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leftovers {
    pub(crate) statuses: usize,
    pub(crate) calls: usize,
}

/// How far our view of a node's pods has come.
#[derive(Debug)]
enum View {
    /// The Node object is not ours yet.
    Expected,
    /// Its pods are to be listed.
    Unlisted,
    /// They are being listed. Pods that vanish meanwhile are remembered, lest the list bring them back.
    Listing { vanished: HashSet<PodUid> },
    /// They are known; these have not been handed to the provider for the first time.
    Listed { outstanding: HashSet<PodUid> },
    /// The provider has been told that the view is complete.
    Synced,
}

impl View {
    fn is_complete(&self) -> bool {
        matches!(self, Self::Listed { .. } | Self::Synced)
    }
}

#[derive(Debug)]
struct Node {
    view: View,
    live: bool,
}

/// What was done about a pod.
#[derive(Debug)]
struct Track {
    /// Tells the answer to a job of this track from one of an earlier track of the same pod (node removed and back).
    serial: u64,
    stage: Stage,
    present: bool,
    again_at: Option<Instant>,
    delete_failures: u32,
}

/// A list of all pods under way: nothing is concluded from it before its end.
#[derive(Debug)]
struct Relist {
    nodes: HashSet<NodeName>,
    seen: HashSet<PodUid>,
}

#[derive(Debug)]
enum Done {
    Applied { pod: PodUid, serial: u64, before: Stage, wish: u64, answer: Result<Applied, NotApplied> },
    Stopped { pod: PodUid, serial: u64, before: Stage, answer: Result<(), NoAnswer> },
    Forgotten { pod: PodUid, serial: u64, answer: Result<(), NoAnswer> },
    Deleted { pod: PodUid, serial: u64, answer: Result<(), CallError> },
    Written { pod: PodUid, version: u64, written: Written },
    Listed { node: NodeName, answer: Result<Vec<Result<Record, NotKept>>, CallError> },
    Synced { node: NodeName, answer: Result<(), NoAnswer> },
}

/// See the [module documentation](self).
pub(crate) struct PodsTask<P> {
    caller: Caller<P>,
    config: Arc<Config>,
    events: Events,
    index: Index,
    tracks: HashMap<PodUid, Track>,
    nodes: HashMap<NodeName, Node>,
    position: Option<Revision>,
    relist: Option<Relist>,
    pods: DirtyQueue<PodUid>,
    views: DirtyQueue<NodeName>,
    statuses: StatusWriter,
    jobs: JoinSet<Done>,
    serial: u64,
    stopping: bool,
}

impl<P: Provider> PodsTask<P> {
    pub(crate) fn new(caller: Caller<P>, config: Arc<Config>, events: Events) -> Self {
        Self {
            caller,
            events,
            index: Index::default(),
            tracks: HashMap::new(),
            nodes: HashMap::new(),
            position: None,
            relist: None,
            pods: DirtyQueue::new(config.concurrent_pods, config.apply_backoff),
            views: DirtyQueue::new(config.concurrent_nodes, config.write_backoff),
            statuses: StatusWriter::new(config.concurrent_status_writes, config.write_backoff),
            jobs: JoinSet::new(),
            serial: 0,
            stopping: false,
            config,
        }
    }

    /// Runs until `stop`, and then until what is unwritten is written or the grace is over.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut news: mpsc::Receiver<News<Pod>>,
        stop: CancellationToken,
    ) -> Leftovers {
        let mut give_up: Option<Instant> = None;
        let (mut commands_open, mut news_open) = (true, true);
        loop {
            self.start_jobs();
            self.count();
            if self.stopping && !commands_open && self.is_idle() {
                break;
            }
            let due = [self.pods.next_due(), self.views.next_due(), self.statuses.queue.next_due()];
            let due = due.into_iter().flatten().min();
            // All arms are cancel-safe: channels and join sets lose nothing, the sleeps are begun anew.
            tokio::select! {
                command = commands.recv(), if commands_open => match command {
                    Some(command) => self.command(command),
                    None => commands_open = false,
                },
                piece = news.recv(), if news_open && !self.stopping => match piece {
                    Some(piece) => self.news(piece),
                    None => news_open = false,
                },
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                    Ok(done) => self.done(done),
                    // Jobs catch the provider's panics, so this is a fault of ours; the queue keeps the key running, and
                    // the process goes on without that pod. It must not go unseen.
                    Err(error) => tracing::error!(%error, "a job about a pod was lost; this is a bug"),
                },
                () = sleep_until(due) => {}
                () = stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    give_up = Some(clock::instant() + self.config.stop_grace);
                }
                () = sleep_until(give_up), if give_up.is_some() => break,
            }
        }
        Leftovers { statuses: self.statuses.with_unwritten().count(), calls: self.jobs.len() }
    }

    /// Nothing is under way, and nothing is left that could be written.
    fn is_idle(&self) -> bool {
        self.jobs.is_empty() && !self.statuses.with_unwritten().any(|pod| self.writable(pod).is_some())
    }

    fn count(&self) {
        let metrics = &self.caller.metrics;
        metrics.pods(self.index.len(), self.index.bytes());
        metrics.queued("pods", self.pods.depth());
        metrics.queued("statuses", self.statuses.queue.depth());
    }

    fn at(&self) -> Revision {
        self.position.unwrap_or_default()
    }

    // What others say.

    fn command(&mut self, command: Command) {
        match command {
            Command::Expected(node) => {
                self.nodes.entry(node).or_insert(Node { view: View::Expected, live: false });
            }
            Command::Owned(node) => {
                if let Some(known) = self.nodes.get_mut(&node)
                    && matches!(known.view, View::Expected)
                {
                    known.view = View::Unlisted;
                    self.views.mark_now(node);
                }
            }
            Command::Lost(node) => {
                for pod in self.index.on_node(&node) {
                    self.drop_pod(&pod);
                }
                if let Some(known) = self.nodes.get_mut(&node) {
                    known.view = View::Expected;
                }
            }
            Command::Removed(node) => self.node_removed(&node),
            Command::Liveness { node, live } => {
                if let Some(known) = self.nodes.get_mut(&node) {
                    let returned = live && !known.live;
                    known.live = live;
                    // While it was away the cluster may have marked its pods as not ready.
                    if returned {
                        for pod in self.index.on_node(&node) {
                            self.statuses.compare(&pod, None);
                        }
                    }
                }
            }
            Command::Status { node, pod, report, receipt } => {
                if self.may_be_written(&node, &pod.uid) {
                    self.statuses.report(&node, &pod.uid, report, Some(receipt));
                } else {
                    // Nobody waits for it any more: fine.
                    let _ = receipt.send(Receipt::Obsolete);
                }
            }
            Command::Gone { node, pod, last, receipt } => {
                if !self.may_be_written(&node, &pod.uid) {
                    // Nobody waits for it any more: fine.
                    let _ = receipt.send(Receipt::Obsolete);
                    return;
                }
                if let Some(last) = last {
                    self.statuses.report(&node, &pod.uid, last, None);
                }
                self.statuses.gone(&node, &pod.uid, receipt);
                self.consider_gone(&pod.uid);
            }
            Command::Event { event, receipt } => {
                let (Subject::Pod(pod) | Subject::Container { pod, .. }) = &event.subject else { return };
                let node = self.index.get(&pod.uid).map(|record| record.node.clone());
                self.events.send(node, *event, Some(receipt));
            }
        }
    }

    /// Whether a report on the pod has, or may soon have, an object to be written to. Nobody speaks for another node's pod.
    fn may_be_written(&self, node: &NodeName, pod: &PodUid) -> bool {
        let elsewhere = self.index.get(pod).is_some_and(|record| record.node != *node);
        if elsewhere || self.statuses.node_of(pod).is_some_and(|other| other != node) {
            return false;
        }
        match self.nodes.get(node) {
            None => false,
            Some(known) if known.view.is_complete() => self.tracks.get(pod).is_some_and(|track| track.present),
            Some(_) => true,
        }
    }

    fn consider_gone(&mut self, pod: &PodUid) {
        if !self.statuses.is_gone(pod) {
            return;
        }
        match self.index.get(pod) {
            Some(record) if record.deletion.is_some() => self.pods.mark_now(pod.clone()),
            // Not to be deleted: its end is in its status.
            Some(_) if !self.statuses.may_still_write(pod) => self.statuses.gone_accepted(pod, true),
            Some(_) | None => {}
        }
    }

    /// A deletion may have waited for the last status.
    fn after_write(&mut self, pod: &PodUid) {
        if self.index.get(pod).is_some_and(|record| record.deletion.is_some()) {
            self.pods.mark_now(pod.clone());
        }
        self.consider_gone(pod);
    }

    fn node_removed(&mut self, node: &NodeName) {
        self.nodes.remove(node);
        self.views.remove(node);
        for pod in self.index.on_node(node) {
            self.drop_pod(&pod);
        }
        for pod in self.statuses.on_node(node) {
            self.statuses.obsolete(&pod);
        }
    }

    fn drop_pod(&mut self, pod: &PodUid) {
        self.index.remove(pod);
        self.tracks.remove(pod);
        self.pods.remove(pod);
        self.statuses.obsolete(pod);
    }

    // What the API says.

    fn news(&mut self, news: News<Pod>) {
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

    fn pod_applied(&mut self, pod: Pod) {
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

    fn take_in(&mut self, record: Record) {
        let (pod, node) = (record.pod.uid.clone(), record.node.clone());
        if self.tracks.get(&pod).is_some_and(|track| !track.present) {
            // An older form, seen late: what is gone does not come back under the same UID.
            return;
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

    fn vanish(&mut self, pod: &PodUid) {
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

    // What is started.

    fn start_jobs(&mut self) {
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
        match self.nodes.get_mut(&node).map(|node| &mut node.view) {
            Some(view @ (View::Unlisted | View::Listing { .. })) if self.position.is_some() => {
                *view = View::Listing { vanished: HashSet::new() };
                self.jobs.spawn(async move {
                    let answer = caller.list(node.clone(), at).await;
                    Done::Listed { node, answer }
                });
            }
            Some(View::Listed { outstanding }) if outstanding.is_empty() => {
                self.jobs.spawn(async move {
                    let answer = caller.synced(node.clone(), at).await;
                    Done::Synced { node, answer }
                });
            }
            _ => self.views.finish(node, Finish::Settled, now, 0.0),
        }
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
    fn writable(&self, pod: &PodUid) -> Option<(&Record, &Track)> {
        let (record, track) = (self.index.get(pod)?, self.tracks.get(pod)?);
        let ours = self.nodes.get(&record.node)?.view.is_complete();
        (ours && track.present).then_some((record, track))
    }

    // How it ended.

    fn done(&mut self, done: Done) {
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
            Done::Synced { node, answer } => {
                let finish = match (self.nodes.get_mut(&node), answer) {
                    (Some(known), Ok(())) => {
                        known.view = View::Synced;
                        Finish::Settled
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
    fn first_word(&mut self, node: &NodeName, pod: &PodUid) {
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

fn revision_of(pod: &Pod) -> Revision {
    pod.metadata.resource_version.as_deref().and_then(Revision::parse).unwrap_or_default()
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
