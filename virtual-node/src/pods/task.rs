//! The owner of everything that is known about pods. One task; its loop only updates memory and starts jobs, so it never
//! waits for the API server or the provider, and neither do those who send to it for long. This file holds the state, the
//! loop and what others tell; [`news`] takes in what the API says, [`start`] starts jobs, [`done`] takes in how they ended.

mod done;
mod news;
mod start;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::index::{Index, NotKept, Record};
use super::plan::Stage;
use super::reconcile::{Caller, NoAnswer};
use super::status_writer::{StatusWriter, Written};
use crate::api::CallError;
use crate::clock;
use crate::config::Config;
use crate::events::Events;
use crate::ids::{NodeName, PodRef, PodUid, Revision};
use crate::kubelet::Found;
use crate::provider::{Applied, EventReport, NotApplied, PodReport, Provider, Receipt, Subject};
use crate::queue::DirtyQueue;
use crate::watch::News;

/// A failure is told when it follows so many others: the first ones are the weather.
const LOUD: u32 = 2;

/// What others tell the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// The node will be ours: keep what is reported for it.
    Expected(NodeName),
    /// The Node object is ours, and its pods are to have these addresses: look after them.
    Owned { node: NodeName, pod_ranges: Vec<String> },
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
    /// Which pod is meant by a request to the kubelet API.
    Find { namespace: String, name: String, uid: Option<PodUid>, answer: oneshot::Sender<Option<Found>> },
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
    /// The provider has been told that the view is complete, and these addresses.
    Synced { pod_ranges: Vec<String> },
}

impl View {
    fn is_complete(&self) -> bool {
        matches!(self, Self::Listed { .. } | Self::Synced { .. })
    }
}

#[derive(Debug)]
struct Node {
    view: View,
    live: bool,
    /// See [`Provider::synced`].
    pod_ranges: Vec<String>,
}

impl Node {
    fn expected() -> Self {
        Self { view: View::Expected, live: false, pod_ranges: Vec::new() }
    }
}

/// What was done about a pod.
#[derive(Debug)]
struct Track {
    /// Tells the answer to a job of this track from one of an earlier track of the same pod (node removed and back).
    serial: u64,
    stage: Stage,
    present: bool,
    /// Its node was somebody else's since the pod was seen: whether it is still there, the next list of the node says.
    unseen: bool,
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
    Synced { node: NodeName, pod_ranges: Vec<String>, answer: Result<(), NoAnswer> },
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

    fn command(&mut self, command: Command) {
        match command {
            Command::Expected(node) => {
                self.nodes.entry(node).or_insert_with(Node::expected);
            }
            Command::Owned { node, pod_ranges } => {
                let Some(known) = self.nodes.get_mut(&node) else { return };
                known.pod_ranges = pod_ranges;
                match &known.view {
                    View::Expected => known.view = View::Unlisted,
                    View::Synced { pod_ranges } if *pod_ranges != known.pod_ranges => {}
                    // It is told when its view is complete, or has been.
                    View::Unlisted | View::Listing { .. } | View::Listed { .. } | View::Synced { .. } => return,
                }
                self.views.mark_now(node);
            }
            Command::Lost(node) => self.node_lost(&node),
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
            Command::Find { namespace, name, uid, answer } => {
                // Nobody waits for it any more: fine.
                let _ = answer.send(self.index.find(&namespace, &name, uid.as_ref()).map(found));
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

    /// Nothing is done about the node's pods while it is somebody else's. But the provider knows those that were handed
    /// to it, and is to hear of their end, now or when the node is ours again; those that are still there then have their
    /// turn anew.
    fn node_lost(&mut self, node: &NodeName) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.view = View::Expected;
        }
        for pod in self.index.on_node(node) {
            self.serial += 1;
            match self.tracks.get_mut(&pod) {
                Some(track) if track.stage != Stage::Fresh => {
                    track.serial = self.serial;
                    (track.unseen, track.again_at) = (true, None);
                    if track.present {
                        let held = matches!(track.stage, Stage::Applied { .. } | Stage::Wanted { held: true });
                        track.stage = Stage::Wanted { held };
                    }
                    self.statuses.obsolete(&pod);
                    self.pods.mark_now(pod);
                }
                _ => self.drop_pod(&pod),
            }
        }
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
}

/// What a request needs to know of a pod.
fn found(record: &Record) -> Found {
    let spec = record.document().pod().spec.unwrap_or_default();
    let containers = spec.init_containers.into_iter().flatten().chain(spec.containers).map(|container| container.name);
    let ephemeral = spec.ephemeral_containers.into_iter().flatten().map(|container| container.name);
    Found { node: record.node.clone(), pod: record.pod.clone(), containers: containers.chain(ephemeral).collect() }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
