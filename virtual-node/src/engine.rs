//! Puts the parts together, runs them, and stops them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::{Config, InvalidConfig};
use crate::events::{self, Events};
use crate::kubelet::{self, Kubelet, Lookup};
use crate::metrics::Metrics;
use crate::nodes::object::COMPONENT_LABEL;
use crate::nodes::{self, task::NodesTask};
use crate::pods::{self, reconcile::Caller, task::Leftovers, task::PodsTask};
use crate::provider::{Liveness, Provider, Subject};
use crate::reports::{Report, Reports};
use crate::watch::{self, NEWS, Scope};

/// How many commands may wait for an owner task. They only update memory, so this is for moments; when it is full, the
/// provider's reports wait in their own channel.
const COMMANDS: usize = 256;

/// Many Kubernetes nodes, none of them a machine of ours. See the [crate documentation](crate).
pub struct VirtualNodes {
    client: kube::Client,
    config: Config,
    metrics: Metrics,
    kubelet: Option<Kubelet>,
}

/// How a run ended that ended as it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Pods whose last report was not written within the grace. Providers report again after a restart.
    pub statuses_unwritten: usize,
    /// Nodes of which the same is true.
    pub nodes_unwritten: usize,
    /// Events that were not sent.
    pub events_unsent: usize,
    /// Calls to the provider or the API server that were dropped.
    pub calls_dropped: usize,
}

impl Outcome {
    /// Whether nothing was left undone.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a run could not begin, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error("the configuration of the virtual nodes cannot work")]
    Config(#[source] InvalidConfig),
    /// A part that must run has ended: a bug of this library. Restart; nothing is lost.
    #[error("the task `{task}` has ended unexpectedly; restart the process, nothing is lost")]
    Task {
        /// Which.
        task: &'static str,
        /// The panic.
        #[source]
        source: JoinError,
    },
}

impl fmt::Debug for VirtualNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client may hold credentials.
        f.debug_struct("VirtualNodes").field("config", &self.config).finish_non_exhaustive()
    }
}

impl VirtualNodes {
    /// Nodes in the cluster that `client` talks to.
    pub fn new(client: kube::Client, config: Config) -> Self {
        Self { client, config, metrics: Metrics::default(), kubelet: None }
    }

    /// Counts in metrics that are registered somewhere.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Serves the kubelet API of all nodes, and has their objects say where it is.
    #[must_use]
    pub fn with_kubelet(mut self, kubelet: Kubelet) -> Self {
        self.kubelet = Some(kubelet);
        self
    }

    /// Runs until `stop`, or until all [`Reporter`](crate::Reporter)s are gone. Then takes in nothing new, writes what is
    /// unwritten for as long as [`Config::stop_grace`] allows, and says how it went. Nodes are not marked as down and
    /// nothing is deleted: it makes no difference to the cluster whether the process ends this way or is killed.
    pub async fn run<P: Provider>(
        self,
        provider: Arc<P>,
        reports: Reports,
        stop: CancellationToken,
    ) -> Result<Outcome, Error> {
        self.config.check().map_err(Error::Config)?;
        // A part that ends by itself stops the others through this token.
        let stop = stop.child_token();
        let parts = self.start(provider, reports, stop.clone());
        // Whoever drops this future wants all of it to end, not only the waiting.
        let _aborts = Aborts(parts.abort_handles());
        parts.wait(stop).await
    }

    fn start<P: Provider>(self, provider: Arc<P>, reports: Reports, stop: CancellationToken) -> Parts {
        let Self { client, config, metrics, kubelet } = self;
        let config = Arc::new(config);
        let grace = config.stop_grace;
        // Events outlive the other parts, which may still send some while they stop.
        let events_stop = CancellationToken::new();
        let (events, events_task) =
            events::events(client.clone(), config.component.clone(), metrics.clone(), events_stop.clone());
        let (to_pods, pod_commands) = mpsc::channel(COMMANDS);
        let (to_nodes, node_commands) = mpsc::channel(COMMANDS);
        let (pod_news, pod_news_in) = mpsc::channel(NEWS);
        let (node_news, node_news_in) = mpsc::channel(NEWS);

        let pod_watch = watch::follow(
            "pods",
            Api::<Pod>::all(client.clone()),
            Scope { fields: "spec.nodeName!=".to_owned(), ..Scope::default() },
            pod_news,
            metrics.clone(),
            stop.clone(),
        );
        let node_watch = watch::follow(
            "nodes",
            Api::<Node>::all(client.clone()),
            Scope { labels: format!("{COMPONENT_LABEL}={}", config.component), list_first: true, ..Scope::default() },
            node_news,
            metrics.clone(),
            stop.clone(),
        );
        let ports = kubelet.as_ref().map(|kubelet| Arc::new(kubelet.ports()));
        let kubelet = kubelet.zip(ports.clone()).map(|(kubelet, ports)| {
            let (provider, lookup) = (Arc::clone(&provider), Lookup(to_pods.downgrade()));
            let (client, metrics, limit) = (client.clone(), metrics.clone(), config.provider_limit);
            let serving = kubelet.run(kubelet::Parts { provider, client, metrics, lookup, limit }, ports, stop.clone());
            tokio::spawn(serving.instrument(tracing::info_span!("kubelet")))
        });
        let caller =
            Caller { provider, client: client.clone(), metrics: metrics.clone(), limit: config.provider_limit };
        let pods = PodsTask::new(caller, Arc::clone(&config), events.clone());
        let nodes = NodesTask::new(client, config, events.clone(), metrics, to_pods.clone(), ports);
        let router = Router { reports, to_pods, to_nodes, events };
        Parts {
            watches: [
                tokio::spawn(pod_watch.instrument(tracing::info_span!("pod_watch"))),
                tokio::spawn(node_watch.instrument(tracing::info_span!("node_watch"))),
            ],
            router: tokio::spawn(router.run(stop.clone()).instrument(tracing::info_span!("reports"))),
            nodes: tokio::spawn(
                nodes.run(node_commands, node_news_in, stop.clone()).instrument(tracing::info_span!("nodes")),
            ),
            pods: tokio::spawn(pods.run(pod_commands, pod_news_in, stop).instrument(tracing::info_span!("pods"))),
            events: tokio::spawn(events_task.instrument(tracing::info_span!("events"))),
            kubelet,
            events_stop,
            grace,
        }
    }
}

struct Parts {
    watches: [JoinHandle<()>; 2],
    router: JoinHandle<()>,
    nodes: JoinHandle<usize>,
    pods: JoinHandle<Leftovers>,
    events: JoinHandle<usize>,
    kubelet: Option<JoinHandle<()>>,
    events_stop: CancellationToken,
    grace: Duration,
}

struct Aborts(Vec<AbortHandle>);

impl Drop for Aborts {
    fn drop(&mut self) {
        for part in &self.0 {
            part.abort();
        }
    }
}

impl Parts {
    fn abort_handles(&self) -> Vec<AbortHandle> {
        let [pod_watch, node_watch] = &self.watches;
        let watches = [pod_watch.abort_handle(), node_watch.abort_handle()];
        let owners = [self.router.abort_handle(), self.nodes.abort_handle(), self.pods.abort_handle()];
        watches
            .into_iter()
            .chain(owners)
            .chain([self.events.abort_handle()])
            .chain(self.kubelet.as_ref().map(JoinHandle::abort_handle))
            .collect()
    }

    async fn wait(self, stop: CancellationToken) -> Result<Outcome, Error> {
        // Whatever ends first, by order or by a panic, ends the others.
        let guarded = |task, handle| ended(task, handle, stop.clone());
        let [pod_watch, node_watch] = self.watches;
        let mut events = self.events;
        let kubelet = async {
            match self.kubelet {
                Some(kubelet) => guarded("kubelet", kubelet).await,
                None => Ok(()),
            }
        };
        let (kubelet, pod_watch, node_watch, router, nodes, pods) = tokio::join!(
            kubelet,
            guarded("pod watch", pod_watch),
            guarded("node watch", node_watch),
            guarded("reports", self.router),
            ended("nodes", self.nodes, stop.clone()),
            ended("pods", self.pods, stop.clone()),
        );
        // With the last of the others the last Event is under way: the task ends when it has sent it.
        let events = match timeout(self.grace, &mut events).await {
            Ok(ended) => ended,
            Err(_) => {
                self.events_stop.cancel();
                events.await
            }
        };
        kubelet.and(pod_watch).and(node_watch).and(router)?;
        let Leftovers { statuses, calls } = pods?;
        let outcome = Outcome {
            statuses_unwritten: statuses,
            nodes_unwritten: nodes?,
            events_unsent: events.map_err(|source| Error::Task { task: "events", source })?,
            calls_dropped: calls,
        };
        tracing::info!(?outcome, "the virtual nodes have stopped");
        Ok(outcome)
    }
}

async fn ended<T>(task: &'static str, handle: JoinHandle<T>, stop: CancellationToken) -> Result<T, Error> {
    let answer = handle.await;
    stop.cancel();
    answer.map_err(|source| Error::Task { task, source })
}

/// Hands each report to the task that owns what it is about.
struct Router {
    reports: Reports,
    to_pods: mpsc::Sender<pods::task::Command>,
    to_nodes: mpsc::Sender<nodes::task::Command>,
    events: Events,
}

impl Router {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // Cancel-safe: `recv` loses nothing, the token stays cancelled.
            let report = tokio::select! {
                report = self.reports.receiver.recv() => report,
                () = stop.cancelled(), if !self.reports.receiver.is_closed() => {
                    // What is in the channel is still taken in; nothing new is.
                    self.reports.receiver.close();
                    continue;
                }
            };
            let Some(report) = report else { return };
            if self.hand_on(report).await.is_none() {
                return;
            }
        }
    }

    /// `None` once the owner has ended.
    async fn hand_on(&self, report: Report) -> Option<()> {
        use nodes::task::Command as ToNodes;
        use pods::task::Command as ToPods;
        match report {
            Report::NodePresent { node, template } => {
                self.to_pods.send(ToPods::Expected(node.clone())).await.ok()?;
                self.to_nodes.send(ToNodes::Present { node, template }).await.ok()
            }
            Report::NodeStatus { node, report, receipt } => {
                self.to_nodes.send(ToNodes::Status { node, report, receipt }).await.ok()
            }
            Report::NodeLiveness { node, liveness } => {
                let live = !matches!(liveness, Liveness::Offline { .. });
                self.to_pods.send(ToPods::Liveness { node: node.clone(), live }).await.ok()?;
                self.to_nodes.send(ToNodes::Liveness { node, liveness }).await.ok()
            }
            Report::NodeRemoved { node, receipt } => {
                self.to_pods.send(ToPods::Removed(node.clone())).await.ok()?;
                self.to_nodes.send(ToNodes::Removed { node, receipt }).await.ok()
            }
            Report::PodStatus { node, pod, report, receipt } => {
                self.to_pods.send(ToPods::Status { node, pod, report, receipt }).await.ok()
            }
            Report::PodGone { node, pod, report, receipt } => {
                self.to_pods.send(ToPods::Gone { node, pod, last: report, receipt }).await.ok()
            }
            Report::Event { event, receipt } => match &event.subject {
                Subject::Node(node) => {
                    self.events.send(Some(node.clone()), *event, Some(receipt));
                    Some(())
                }
                Subject::Pod(_) | Subject::Container { .. } => {
                    self.to_pods.send(ToPods::Event { event, receipt }).await.ok()
                }
            },
        }
    }
}
