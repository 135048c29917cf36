//! What the stories need: a cluster, a way to make it misbehave, a provider that does as it is told, and waiting for what
//! is to happen instead of sleeping.
//!
//! The stories run against the lab's API, or unchanged against the cluster that `VIRTUAL_NODE_TEST_KUBECONFIG` names.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use virtual_node::provider::{Applied, Liveness, NodeTemplate, NotApplied, PodPhase, PodReport};
use virtual_node::{Config, NodeName, Outcome, PodRef, Provider, Reporter, Revision, VirtualNodes, reports};

/// Longer than anything takes on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

const LEASES: &str = "kube-node-lease";

/// A name that no other test uses.
fn unique(stem: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{stem}-{:x}-{count}", now.as_micros() % 0x1_0000_0000)
}

/// What the way to the API server does to requests.
type Rule = dyn Fn(&http::Request<Body>) -> Option<u16> + Send + Sync;

/// One story's world: a cluster, names of its own, and the engine that is being tested.
pub(crate) struct World {
    /// Talks to the API server without faults.
    pub(crate) client: kube::Client,
    /// The node that the story is about.
    pub(crate) node: NodeName,
    pub(crate) namespace: String,
    pub(crate) component: String,
    pub(crate) provider: Arc<Scripted>,
    pub(crate) reporter: Reporter,
    faults: Arc<Mutex<Option<Box<Rule>>>>,
    short_watches: bool,
    engine: Option<(CancellationToken, JoinHandle<Result<Outcome, virtual_node::Error>>)>,
    _cluster: Cluster,
}

enum Cluster {
    Given,
    /// Runs for as long as it is held.
    Lab(#[expect(dead_code, reason = "held, not read")] lab_kube_api::KubeApi),
}

async fn cluster() -> Result<(kube::Client, Cluster)> {
    // Another test of this process may have chosen it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (kubeconfig, cluster) = match std::env::var("VIRTUAL_NODE_TEST_KUBECONFIG") {
        Ok(path) => (Kubeconfig::read_from(path)?, Cluster::Given),
        Err(_) => {
            let api = lab_kube_api::KubeApi::start(lab_kube_api::Config::default()).await?;
            (Kubeconfig::from_yaml(&api.kubeconfig()?)?, Cluster::Lab(api))
        }
    };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok((kube::Client::try_from(config)?, cluster))
}

/// Lets `user` do what the library says that it needs, and nothing more. On a cluster that checks, every story shows that
/// this is enough.
async fn grant(client: &kube::Client, user: &str) -> Result<()> {
    let metadata = |name: &str| json!({"name": name});
    let subjects = json!([{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]);
    let reference = |kind: &str| json!({"kind": kind, "name": user, "apiGroup": "rbac.authorization.k8s.io"});
    let role = json!({"metadata": metadata(user), "rules": virtual_node::rbac::cluster_rules()});
    let binding = json!({"metadata": metadata(user), "subjects": subjects, "roleRef": reference("ClusterRole")});
    let params = PostParams::default();
    Api::<ClusterRole>::all(client.clone()).create(&params, &serde_json::from_value(role)?).await?;
    Api::<ClusterRoleBinding>::all(client.clone()).create(&params, &serde_json::from_value(binding)?).await?;
    let role = json!({"metadata": metadata(user), "rules": virtual_node::rbac::lease_rules()});
    let binding = json!({"metadata": metadata(user), "subjects": subjects, "roleRef": reference("Role")});
    Api::<Role>::namespaced(client.clone(), LEASES).create(&params, &serde_json::from_value(role)?).await?;
    Api::<RoleBinding>::namespaced(client.clone(), LEASES).create(&params, &serde_json::from_value(binding)?).await?;
    Ok(())
}

impl World {
    /// A world with a running engine and one node that is online, as the cluster sees it.
    pub(crate) async fn with_node() -> Result<Self> {
        let mut world = Self::empty().await?;
        world.start().await?;
        world.node_is(|node| condition(node, "Ready").is_some_and(|ready| ready.0 == "True")).await?;
        Ok(world)
    }

    /// A world in which nothing runs yet.
    pub(crate) async fn empty() -> Result<Self> {
        let (client, cluster) = cluster().await?;
        let namespace = unique("story");
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
        let (reporter, _) = reports(1);
        let component = unique("component");
        if matches!(cluster, Cluster::Given) {
            grant(&client, &component).await?;
        }
        Ok(Self {
            client,
            node: NodeName::new(unique("gateway"))?,
            namespace,
            component,
            provider: Arc::new(Scripted::new()),
            reporter,
            faults: Arc::default(),
            short_watches: false,
            engine: None,
            _cluster: cluster,
        })
    }

    /// Starts an engine, as after a restart of the process: it knows nothing, and neither does the provider.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.start_engine();
        self.reporter.node_present(self.node.clone(), template()).await?;
        self.reporter.node_liveness(self.node.clone(), Liveness::Online).await?;
        Ok(())
    }

    /// Starts an engine that has not been told of any node.
    pub(crate) fn start_engine(&mut self) {
        let (reporter, inbox) = reports(64);
        self.reporter = reporter;
        self.provider = Arc::new(Scripted::new());
        let backoff = virtual_node::Backoff { base: Duration::from_millis(50), max: Duration::from_millis(400) };
        let config = Config {
            component: self.component.clone(),
            lease_renewal: Duration::from_millis(500),
            restore_after: Duration::from_millis(100),
            apply_backoff: backoff,
            write_backoff: backoff,
            ..Config::default()
        };
        let stop = CancellationToken::new();
        let nodes = VirtualNodes::new(self.faulty_client(), config);
        let running = tokio::spawn(nodes.run(Arc::clone(&self.provider), inbox, stop.clone()));
        self.engine = Some((stop, running));
    }

    /// Stops the engine and says how it went.
    pub(crate) async fn stop(&mut self) -> Result<Outcome> {
        let (stop, running) = self.engine.take().context("no engine runs")?;
        stop.cancel();
        Ok(tokio::time::timeout(PATIENCE, running).await???)
    }

    /// Kills the engine: no grace, nothing is written.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let (_, running) = self.engine.take().context("no engine runs")?;
        running.abort();
        let _ = running.await;
        Ok(())
    }

    /// From now on requests of the engine for which `rule` names a status are answered with it.
    pub(crate) fn faults(&self, rule: impl Fn(&http::Request<Body>) -> Option<u16> + Send + Sync + 'static) {
        *self.faults.lock().unwrap() = Some(Box::new(rule));
    }

    /// From now on all is well.
    pub(crate) fn no_faults(&self) {
        *self.faults.lock().unwrap() = None;
    }

    /// The engine's watches end after a second. To be said before it is started.
    pub(crate) fn watches_are_short(&mut self) {
        self.short_watches = true;
    }

    fn faulty_client(&self) -> kube::Client {
        let (inner, faults) = (self.client.clone(), Arc::clone(&self.faults));
        let short = self.short_watches;
        let user = http::HeaderValue::from_str(&self.component).expect("a component's name is plain");
        let service = tower::service_fn(move |mut request: http::Request<Body>| {
            request.headers_mut().insert("impersonate-user", user.clone());
            if short {
                let uri = request.uri().to_string().replace("timeoutSeconds=290", "timeoutSeconds=1");
                *request.uri_mut() = uri.parse().expect("still a URI");
            }
            let fault = faults.lock().unwrap().as_ref().and_then(|rule| rule(&request));
            let inner = inner.clone();
            async move {
                let Some(code) = fault else { return inner.send(request).await };
                let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "reason": if code == 410 { "Expired" } else { "" }, "message": "ordered by the story"});
                let response = http::Response::builder().status(code).header("content-type", "application/json");
                response.body(Body::from(body.to_string().into_bytes())).map_err(kube::Error::HttpError)
            }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    pub(crate) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), LEASES)
    }

    /// Creates a pod bound to the story's node.
    pub(crate) async fn create_pod(&self, name: &str) -> Result<PodRef> {
        self.create_pod_with(name, json!({})).await
    }

    /// The same, and waits until the provider has been asked for it: nobody reports on a pod before.
    pub(crate) async fn applied_pod(&self, name: &str) -> Result<PodRef> {
        let pod = self.create_pod(name).await?;
        self.provider.asked(&Call::Apply(pod.clone())).await?;
        Ok(pod)
    }

    /// A pod bound to the story's node, with more in its spec.
    pub(crate) async fn create_pod_with(&self, name: &str, more: Value) -> Result<PodRef> {
        let mut pod = json!({
            "metadata": {"name": name, "labels": {"story": "yes"}},
            "spec": {"nodeName": self.node.as_str(), "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "nothing"}]},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod)?;
        // The service account of a new namespace takes a moment.
        let created =
            eventually("the pod to be admitted", async || self.pods().create(&PostParams::default(), &pod).await.ok())
                .await?;
        PodRef::of(&created).context("a created pod has a UID")
    }

    pub(crate) async fn delete_pod(&self, name: &str, grace: u32) -> Result<()> {
        self.pods().delete(name, &DeleteParams::default().grace_period(grace)).await?;
        Ok(())
    }

    /// Waits until the pod is there and as described.
    pub(crate) async fn pod_is(&self, name: &str, what: impl Fn(&Pod) -> bool) -> Result<Pod> {
        eventually(&format!("pod {name} to be as described"), async || {
            self.pods().get_opt(name).await.ok().flatten().filter(&what)
        })
        .await
    }

    /// Waits until the pod's object is gone.
    pub(crate) async fn pod_is_gone(&self, pod: &PodRef) -> Result<()> {
        eventually(&format!("pod {pod} to be gone"), async || {
            let found = self.pods().get_opt(&pod.name).await.ok()?;
            found.is_none_or(|found| found.metadata.uid.as_deref() != Some(pod.uid.as_str())).then_some(())
        })
        .await
    }

    pub(crate) async fn node_is(&self, what: impl Fn(&Node) -> bool) -> Result<Node> {
        eventually("the node to be as described", async || {
            self.nodes().get_opt(self.node.as_str()).await.ok().flatten().filter(&what)
        })
        .await
    }

    pub(crate) async fn lease_is(&self, what: impl Fn(&Lease) -> bool) -> Result<Lease> {
        eventually("the lease to be as described", async || {
            self.leases().get_opt(self.node.as_str()).await.ok().flatten().filter(&what)
        })
        .await
    }

    /// Waits for an Event with this reason about an object of this name.
    pub(crate) async fn event(
        &self,
        namespace: &str,
        about: &str,
        reason: &str,
        what: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let fields = ListParams::default().fields(&format!("involvedObject.name={about},reason={reason}"));
        eventually(&format!("an event {reason} about {about}"), async || {
            events.list(&fields).await.ok()?.items.into_iter().find(&what)
        })
        .await
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("waited too long for {what}"))
}

/// Status and reason of a condition.
pub(crate) fn condition(node: &Node, kind: &str) -> Option<(String, String)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone().unwrap_or_default()))
}

/// Status of a pod's condition.
pub(crate) fn pod_condition(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    Some(conditions.iter().find(|condition| condition.type_ == kind)?.status.clone())
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn template() -> NodeTemplate {
    let taint = serde_json::from_value(json!({"key": "story", "effect": "NoSchedule"})).unwrap();
    NodeTemplate {
        labels: [("story".to_owned(), "yes".to_owned())].into(),
        taints: vec![taint],
        ..NodeTemplate::default()
    }
}

/// A report of a pod whose one container runs.
pub(crate) fn running() -> PodReport {
    let status = json!({"name": "main", "image": "nothing", "imageID": "", "containerID": "story://1", "ready": true,
        "started": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
    PodReport {
        phase: PodPhase::Running,
        sandbox_ready: true,
        containers: vec![serde_json::from_value(status).unwrap()],
        ..PodReport::default()
    }
}

/// A report of a pod whose one container has ended.
pub(crate) fn ended(exit_code: i32) -> PodReport {
    let state = json!({"terminated": {"exitCode": exit_code, "finishedAt": "2026-01-01T00:01:00Z"}});
    let mut report = running();
    report.phase = if exit_code == 0 { PodPhase::Succeeded } else { PodPhase::Failed };
    report.sandbox_ready = false;
    for container in &mut report.containers {
        container.ready = false;
        container.state = serde_json::from_value(state.clone()).ok();
    }
    report
}

/// What the engine asked the provider for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Apply(PodRef),
    Stop(PodRef, Duration),
    Forget(PodRef),
    Synced(NodeName, Vec<String>),
}

/// A provider that writes down what it is asked for and answers what it was told to; otherwise it accepts everything and
/// does nothing.
pub(crate) struct Scripted {
    calls: watch::Sender<Vec<Call>>,
    answers: Mutex<HashMap<String, VecDeque<Result<Applied, NotApplied>>>>,
    device: Mutex<Option<Reporter>>,
}

impl Scripted {
    fn new() -> Self {
        Self { calls: watch::channel(Vec::new()).0, answers: Mutex::default(), device: Mutex::default() }
    }

    /// From now on what is applied is reported as running, and what is stopped as gone.
    pub(crate) fn behaves_like_a_device(&self, reporter: Reporter) {
        *self.device.lock().unwrap() = Some(reporter);
    }

    fn device(&self) -> Option<Reporter> {
        self.device.lock().unwrap().clone()
    }

    /// How the next calls of `apply` for the pod of this name are to be answered, the last one for ever.
    pub(crate) fn answer(&self, pod: &str, answers: impl IntoIterator<Item = Result<Applied, NotApplied>>) {
        self.answers.lock().unwrap().insert(pod.to_owned(), answers.into_iter().collect());
    }

    /// What was asked so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// Waits until it was asked for this.
    pub(crate) async fn asked(&self, call: &Call) -> Result<()> {
        self.asked_so(&format!("{call:?}"), |calls| calls.contains(call)).await
    }

    /// Waits until what was asked is as described.
    pub(crate) async fn asked_so(&self, what: &str, so: impl Fn(&[Call]) -> bool) -> Result<()> {
        let mut calls = self.calls.subscribe();
        tokio::time::timeout(PATIENCE, calls.wait_for(|calls| so(calls)))
            .await
            .with_context(|| format!("the provider was not asked for {what}, but {:?}", self.calls()))??;
        Ok(())
    }

    fn note(&self, call: Call) {
        self.calls.send_modify(|calls| calls.push(call));
    }
}

impl Provider for Scripted {
    async fn apply(&self, pod: Arc<Pod>, _: Revision) -> Result<Applied, NotApplied> {
        let reference = PodRef::of(&pod).expect("the engine applies pods of an API server");
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            match answers.get_mut(&reference.name) {
                Some(answers) if answers.len() > 1 => answers.pop_front(),
                Some(answers) => answers.front().cloned(),
                None => None,
            }
        };
        if let (Some(device), Some(node)) = (self.device(), pod.spec.as_ref().and_then(|spec| spec.node_name.clone())) {
            let node = NodeName::new(node).expect("a node's name");
            let _ = device.pod_status(node, reference.clone(), running()).await;
        }
        self.note(Call::Apply(reference));
        answer.unwrap_or(Ok(Applied::Settled))
    }

    async fn stop(&self, node: &NodeName, pod: &PodRef, grace: Duration, _: Revision) {
        if let Some(device) = self.device() {
            let _ = device.pod_gone(node.clone(), pod.clone(), Some(ended(143))).await;
        }
        self.note(Call::Stop(pod.clone(), grace));
    }

    async fn forget(&self, _: &NodeName, pod: &PodRef, _: Revision) {
        self.note(Call::Forget(pod.clone()));
    }

    async fn synced(&self, node: &NodeName, pod_ranges: Vec<String>, _: Revision) {
        self.note(Call::Synced(node.clone(), pod_ranges));
    }
}
