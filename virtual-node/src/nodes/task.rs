//! The owner of everything that is known about nodes. One task; its loop only updates memory and starts jobs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease;
use super::object;
use super::packed::Packed;
use super::register::{self, NotSettled, Seen, Wanted};
use crate::api::CallError;
use crate::clock;
use crate::config::Config;
use crate::events::Events;
use crate::ids::{NodeName, Revision};
use crate::kubelet::Ports;
use crate::metrics::Metrics;
use crate::pods;
use crate::provider::{EventReport, Liveness, NodeReport, NodeTemplate, Receipt, Subject};
use crate::queue::{Backoff, DirtyQueue, Finish};
use crate::watch::News;

/// What others tell the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// See [`Reporter::node_present`](crate::Reporter::node_present).
    Present { node: NodeName, template: Box<NodeTemplate> },
    /// See [`Reporter::node_status`](crate::Reporter::node_status).
    Status { node: NodeName, report: Box<NodeReport>, receipt: oneshot::Sender<Receipt> },
    /// See [`Reporter::node_liveness`](crate::Reporter::node_liveness).
    Liveness { node: NodeName, liveness: Liveness },
    /// See [`Reporter::node_removed`](crate::Reporter::node_removed).
    Removed { node: NodeName, receipt: oneshot::Sender<Receipt> },
}

/// How long after a change by somebody else we look at the Node object: changes come in groups (taints after conditions).
const SETTLE: Duration = Duration::from_millis(500);
/// A failure is told when it follows so many others: the first ones are the weather.
const LOUD: u32 = 2;
/// How often the gauges are counted anew.
const COUNT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    /// `None`: the node is to be removed.
    template: Option<Packed<NodeTemplate>>,
    report: Option<Packed<NodeReport>>,
    liveness: Option<Liveness>,
    /// Counts what was said about the node, so that an answer is matched with what it answers.
    version: u64,
    receipts: Vec<(u64, oneshot::Sender<Receipt>)>,
    removals: Vec<oneshot::Sender<Receipt>>,
    seen: Option<Seen>,
    refused: bool,
    written_at: Option<Instant>,
    /// The Lease was renewed since the node was last heard again.
    renewed: bool,
}

impl Entry {
    fn is_live(&self) -> bool {
        matches!(self.liveness, Some(Liveness::Online | Liveness::NotReady { .. }))
    }

    /// The UID of the Node object, if its Lease is to be renewed.
    fn leased(&self) -> Option<&str> {
        let wanted = self.template.is_some() && self.is_live() && !self.refused;
        self.seen.as_ref().filter(|_| wanted).map(|seen| seen.uid.as_str())
    }

    fn state(&self) -> &'static str {
        match &self.liveness {
            _ if self.refused => "refused",
            _ if self.template.is_none() => "leaving",
            Some(Liveness::Online) => "online",
            Some(Liveness::NotReady { .. }) => "not_ready",
            Some(Liveness::Offline { .. }) => "offline",
            None => "unheard",
        }
    }
}

const STATES: [&str; 6] = ["refused", "leaving", "online", "not_ready", "offline", "unheard"];

#[derive(Debug)]
enum Done {
    Settled { node: NodeName, version: u64, answer: Result<Seen, NotSettled> },
    Removed { node: NodeName, answer: Result<(), NotSettled> },
    Renewed { node: NodeName, answer: Result<(), CallError> },
}

/// See the [module documentation](self).
pub(crate) struct NodesTask {
    client: kube::Client,
    config: Arc<Config>,
    events: Events,
    metrics: Metrics,
    pods: mpsc::Sender<pods::task::Command>,
    ports: Option<Arc<Ports>>,
    /// What the pods task is to be told; it takes it at once, but a handler does not wait.
    outbox: VecDeque<pods::task::Command>,
    nodes: HashMap<NodeName, Entry>,
    objects: DirtyQueue<NodeName>,
    leases: DirtyQueue<NodeName>,
    relist: Option<Relist>,
    jobs: JoinSet<Done>,
    counted_at: Option<Instant>,
    stopping: bool,
}

/// A list of our Node objects under way: nothing is concluded from it before its end.
#[derive(Debug)]
struct Relist {
    known: HashSet<NodeName>,
    listed: HashSet<String>,
}

impl NodesTask {
    pub(crate) fn new(
        client: kube::Client,
        config: Arc<Config>,
        events: Events,
        metrics: Metrics,
        pods: mpsc::Sender<pods::task::Command>,
        ports: Option<Arc<Ports>>,
    ) -> Self {
        let lease_backoff = Backoff { base: Duration::from_millis(200), max: config.lease_renewal };
        Self {
            client,
            events,
            metrics,
            pods,
            ports,
            outbox: VecDeque::new(),
            nodes: HashMap::new(),
            objects: DirtyQueue::new(config.concurrent_nodes, config.write_backoff),
            leases: DirtyQueue::new(config.concurrent_leases, lease_backoff),
            relist: None,
            jobs: JoinSet::new(),
            counted_at: None,
            stopping: false,
            config,
        }
    }

    /// Runs until `stop`, then finishes what is under way or due. Answers how many node statuses are left unwritten.
    /// Nodes are not marked as down: a bridge that restarts is no news about a device.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut news: mpsc::Receiver<News<Node>>,
        stop: CancellationToken,
    ) -> usize {
        let mut give_up: Option<Instant> = None;
        let (mut commands_open, mut news_open) = (true, true);
        let pods = self.pods.clone();
        loop {
            self.start_jobs();
            self.count();
            if self.stopping && !commands_open && self.jobs.is_empty() && self.objects.depth() == 0 {
                break;
            }
            let due = [self.objects.next_due(), self.leases.next_due().filter(|_| !self.stopping)];
            let due = due.into_iter().flatten().min();
            // All arms are cancel-safe: channels, permits and join sets lose nothing, the sleeps are begun anew.
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
                    Err(error) => tracing::error!(%error, "a job about a node was lost; this is a bug"),
                },
                permit = pods.reserve(), if !self.outbox.is_empty() => match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(command)) => permit.send(command),
                    // The pods task has ended: so shall we, soon.
                    _ => self.outbox.clear(),
                },
                () = sleep_until(due) => {}
                () = stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    give_up = Some(clock::instant() + self.config.stop_grace);
                }
                () = sleep_until(give_up), if give_up.is_some() => break,
            }
        }
        self.nodes.values().filter(|entry| !entry.receipts.is_empty()).count()
    }

    fn count(&mut self) {
        let now = clock::instant();
        self.metrics.queued("nodes", self.objects.depth());
        self.metrics.queued("leases", self.leases.depth());
        if self.counted_at.is_some_and(|at| now - at < COUNT_EVERY) {
            return;
        }
        self.counted_at = Some(now);
        let mut counts = STATES.map(|state| (state, 0));
        for entry in self.nodes.values() {
            let state = entry.state();
            for (_, count) in counts.iter_mut().filter(|(of, _)| *of == state) {
                *count += 1;
            }
        }
        for (state, count) in counts {
            self.metrics.nodes(state, count);
        }
    }

    // What others say.

    fn entry(&mut self, node: &NodeName) -> &mut Entry {
        self.nodes.entry(node.clone()).or_insert_with(|| Entry {
            template: None,
            report: None,
            liveness: None,
            version: 0,
            receipts: Vec::new(),
            removals: Vec::new(),
            seen: None,
            refused: false,
            written_at: None,
            renewed: false,
        })
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Present { node, template } => {
                let template = Packed::new(&*template);
                let entry = self.entry(&node);
                let known = entry.template.as_ref() == Some(&template);
                entry.template = Some(template);
                let ours = entry.seen.is_some() && !entry.refused;
                if ours {
                    self.tell_owned(&node);
                }
                if !known || !ours {
                    self.objects.mark_now(node);
                }
            }
            Command::Status { node, report, receipt } => {
                let known = self.nodes.get_mut(&node).filter(|entry| entry.template.is_some());
                let Some(entry) = known else {
                    // Nobody waits for it any more: fine.
                    let _ = receipt.send(Receipt::Obsolete);
                    return;
                };
                entry.report = Some(Packed::new(&*report));
                entry.version += 1;
                entry.receipts.retain(|(_, receipt)| !receipt.is_closed());
                entry.receipts.push((entry.version, receipt));
                self.objects.mark(node);
            }
            Command::Liveness { node, liveness } => {
                let Some(entry) = self.nodes.get_mut(&node) else { return };
                if entry.liveness.as_ref() == Some(&liveness) {
                    return;
                }
                let was_live = entry.is_live();
                entry.liveness = Some(liveness);
                entry.version += 1;
                if entry.is_live() && !was_live {
                    entry.renewed = false;
                    self.leases.mark_now(node.clone());
                }
                self.objects.mark_now(node);
            }
            Command::Removed { node, receipt } => {
                let entry = self.entry(&node);
                // Should it be announced again, it begins as a node of which nothing is known.
                (entry.template, entry.report, entry.liveness) = (None, None, None);
                entry.removals.push(receipt);
                for (_, receipt) in entry.receipts.drain(..) {
                    // Nobody waits for it any more: fine.
                    let _ = receipt.send(Receipt::Obsolete);
                }
                self.leases.remove(&node);
                if let Some(ports) = &self.ports {
                    ports.release(&node);
                }
                self.objects.mark_now(node);
            }
        }
    }

    // What the API says.

    fn news(&mut self, news: News<Node>) {
        match news {
            News::ListStarted => {
                let known = self.nodes.iter().filter(|(_, entry)| entry.seen.is_some());
                let known = known.map(|(name, _)| name.clone()).collect();
                self.relist = Some(Relist { known, listed: HashSet::new() });
            }
            News::ListPage(nodes) => {
                for node in nodes {
                    if let (Some(relist), Some(name)) = (&mut self.relist, &node.metadata.name) {
                        relist.listed.insert(name.clone());
                    }
                    self.changed(&node);
                }
            }
            News::ListDone(_) => {
                let Some(relist) = self.relist.take() else { return };
                for node in relist.known {
                    if !relist.listed.contains(node.as_str()) {
                        self.objects.mark_now(node);
                    }
                }
            }
            News::Applied(node) => self.changed(&node),
            News::Deleted(node) => {
                let Some(name) = node.metadata.name.as_deref().and_then(|name| NodeName::new(name).ok()) else {
                    return;
                };
                let Some(entry) = self.nodes.get(&name) else { return };
                // An older incarnation's end, seen after we have made a new one, is no news.
                if entry.seen.as_ref().is_some_and(|seen| Some(&seen.uid) == node.metadata.uid.as_ref()) {
                    tracing::info!(node = %name, "the Node object was deleted or taken from us; looking after it");
                    self.objects.mark_now(name);
                }
            }
            News::Progress(_) => {}
        }
    }

    fn changed(&mut self, node: &Node) {
        let Some(name) = node.metadata.name.as_deref().and_then(|name| NodeName::new(name).ok()) else { return };
        let Some(entry) = self.nodes.get_mut(&name) else { return };
        let Some(seen) = &mut entry.seen else { return };
        let revision = node.metadata.resource_version.as_deref().and_then(Revision::parse).unwrap_or_default();
        let digest = object::digest(node);
        if revision < seen.revision || digest == seen.digest {
            return;
        }
        (seen.revision, seen.digest) = (revision, digest);
        self.objects.mark_at(name, clock::instant() + SETTLE);
    }

    // What is started.

    fn start_jobs(&mut self) {
        let now = clock::instant();
        while let Some(node) = self.objects.take(now) {
            self.start_object(node, now);
        }
        while !self.stopping
            && let Some(node) = self.leases.take(now)
        {
            self.start_lease(node, now);
        }
    }

    fn start_object(&mut self, node: NodeName, now: Instant) {
        let (client, config) = (self.client.clone(), Arc::clone(&self.config));
        let Some(entry) = self.nodes.get(&node) else {
            self.objects.finish(node, Finish::Settled, now, 0.0);
            return;
        };
        match &entry.template {
            Some(template) => {
                let due = |at: Instant| now - at >= self.config.node_status_interval.mul_f64(0.8);
                let wanted = Wanted {
                    template: template.clone(),
                    report: entry.report.clone(),
                    liveness: entry.liveness.clone(),
                    heartbeat: entry.is_live() && entry.written_at.is_none_or(due),
                };
                let version = entry.version;
                let ports = self.ports.clone();
                self.jobs.spawn(async move {
                    let answer = Box::pin(register::settle(client, config, ports, node.clone(), wanted)).await;
                    Done::Settled { node, version, answer }
                });
            }
            None if entry.removals.is_empty() => {
                // A node that nobody has announced: there is nothing to be done about it.
                self.nodes.remove(&node);
                self.objects.finish(node, Finish::Settled, now, 0.0);
            }
            None => {
                self.jobs.spawn(async move {
                    let answer = Box::pin(register::remove(client, config, node.clone())).await;
                    Done::Removed { node, answer }
                });
            }
        }
    }

    fn start_lease(&mut self, node: NodeName, now: Instant) {
        let Some(uid) = self.nodes.get(&node).and_then(Entry::leased).map(str::to_owned) else {
            self.leases.finish(node, Finish::Settled, now, 0.0);
            return;
        };
        let (client, config) = (self.client.clone(), Arc::clone(&self.config));
        self.jobs.spawn(async move {
            let answer = Box::pin(lease::renew(client, config, node.clone(), uid)).await;
            Done::Renewed { node, answer }
        });
    }

    // How it ended.

    fn done(&mut self, done: Done) {
        let now = clock::instant();
        match done {
            Done::Settled { node, version, answer } => {
                let finish = self.settled(&node, version, answer, now);
                self.objects.finish(node, finish, now, clock::jitter());
            }
            Done::Removed { node, answer } => {
                let finish = self.removed(&node, answer);
                self.objects.finish(node, finish, now, clock::jitter());
            }
            Done::Renewed { node, answer } => {
                let finish = self.renewed(&node, answer, now);
                self.leases.finish(node, finish, now, clock::jitter());
            }
        }
    }

    fn settled(&mut self, node: &NodeName, version: u64, answer: Result<Seen, NotSettled>, now: Instant) -> Finish {
        let Some(entry) = self.nodes.get_mut(node) else { return Finish::Settled };
        let seen = match answer {
            Ok(seen) => seen,
            Err(error) => return self.not_settled(node, error),
        };
        self.metrics.node_write(if seen.wrote { "written" } else { "equal" });
        let first = entry.seen.as_ref().is_none_or(|before| before.uid != seen.uid);
        let moved = entry.seen.as_ref().is_none_or(|before| before.pod_ranges != seen.pod_ranges);
        let was_refused = std::mem::take(&mut entry.refused);
        if seen.wrote {
            entry.written_at = Some(now);
        }
        entry.seen = Some(seen);
        for (_, receipt) in entry.receipts.extract_if(.., |(of, _)| *of <= version) {
            // Nobody waits for it any more: fine.
            let _ = receipt.send(Receipt::Accepted);
        }
        let live = entry.is_live();
        if first || was_refused {
            tracing::info!(%node, "the Node object is ours");
            if live {
                self.leases.mark_now(node.clone());
            }
        }
        if first || was_refused || moved {
            self.tell_owned(node);
        }
        // A node that is not heard has no heartbeat to show.
        if live {
            Finish::Again(now + clock::about(self.config.node_status_interval, clock::jitter()))
        } else {
            Finish::Settled
        }
    }

    fn tell_owned(&mut self, node: &NodeName) {
        let Some(seen) = self.nodes.get(node).and_then(|entry| entry.seen.as_ref()) else { return };
        let pod_ranges = seen.pod_ranges.clone();
        self.outbox.push_back(pods::task::Command::Owned { node: node.clone(), pod_ranges });
    }

    fn not_settled(&mut self, node: &NodeName, error: NotSettled) -> Finish {
        let Some(entry) = self.nodes.get_mut(node) else { return Finish::Settled };
        match &error {
            NotSettled::Foreign(foreign) => {
                self.metrics.node_write("refused");
                if !entry.refused {
                    tracing::error!(%node, "{foreign}");
                    let event = EventReport {
                        subject: Subject::Node(node.clone()),
                        warning: true,
                        reason: "NodeNameTaken".to_owned(),
                        message: foreign.to_string(),
                        at: clock::wall(),
                        count: 1,
                    };
                    self.events.send(Some(node.clone()), event, None);
                }
                entry.refused = true;
                if entry.seen.take().is_some() {
                    self.outbox.push_back(pods::task::Command::Lost(node.clone()));
                }
            }
            NotSettled::Call(_) | NotSettled::Leaving => {
                self.metrics.node_write("failed");
                // Once per bad spell and node: an API server that is away is not news about each.
                if self.objects.failures(node) == LOUD {
                    tracing::warn!(%node, %error, "cannot bring the Node object up to date; trying again");
                }
            }
        }
        Finish::Failed
    }

    fn removed(&mut self, node: &NodeName, answer: Result<(), NotSettled>) -> Finish {
        let Some(entry) = self.nodes.get_mut(node) else { return Finish::Settled };
        let receipt = match answer {
            Ok(()) => Receipt::Accepted,
            Err(NotSettled::Foreign(_)) => Receipt::Obsolete,
            Err(error) => {
                tracing::warn!(%node, %error, "cannot remove the Node object; trying again");
                return Finish::Failed;
            }
        };
        for removal in entry.removals.drain(..) {
            // Nobody waits for it any more: fine.
            let _ = removal.send(receipt);
        }
        if entry.template.is_none() {
            self.nodes.remove(node);
        } else {
            // It was announced again meanwhile, and is made again from the beginning.
            (entry.seen, entry.written_at) = (None, None);
            self.objects.mark_now(node.clone());
        }
        Finish::Settled
    }

    fn renewed(&mut self, node: &NodeName, answer: Result<(), CallError>, now: Instant) -> Finish {
        if let Err(error) = answer {
            self.metrics.lease("failed");
            if self.leases.failures(node) == LOUD {
                tracing::warn!(%node, %error, "cannot renew the Lease; trying again");
            }
            return Finish::Failed;
        }
        self.metrics.lease("renewed");
        let Some(entry) = self.nodes.get_mut(node) else { return Finish::Settled };
        if entry.leased().is_none() {
            return Finish::Settled;
        }
        let renewal = self.config.lease_renewal;
        // Nodes that came alive together shall not go on renewing together: the first pause is of any length.
        let pause =
            if entry.renewed { clock::about(renewal, clock::jitter()) } else { renewal.mul_f64(clock::jitter()) };
        entry.renewed = true;
        Finish::Again(now + pause)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
