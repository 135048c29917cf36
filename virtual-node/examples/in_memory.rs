//! A whole provider: pods "run" as entries in a map. Good for trying Deployments against many nodes without any machine.
//!
//! ```text
//! cargo run -p virtual-node --example in_memory -- --nodes 3        # any cluster that KUBECONFIG names
//! kubectl get nodes -l type=in-memory
//! kubectl create deployment web --image=nothing --replicas=5
//! kubectl patch deployment web -p '{"spec":{"template":{"spec":{"tolerations":[{"key":"in-memory","operator":"Exists"}]}}}}'
//! kubectl logs deployment/web
//! kubectl exec -it deployment/web -- cat               # or: echo WORDS, exit CODE
//! kubectl port-forward deployment/web 8080:80          # what you send comes back
//! ```
//!
//! Ctrl-C stops it; the nodes stay, and become NotReady when their Leases run out. With `--remove` they are taken away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStatus, NodeAddress, Pod, Taint};
use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use virtual_node::provider::streams::{Channels, Connection, Input, LogOptions, Output, Process, StreamError};
use virtual_node::provider::{Applied, Liveness, NodeReport, NodeTemplate, NotApplied, PodPhase, PodReport};
use virtual_node::{
    Kubelet, KubeletConfig, NodeName, PodRef, PodUid, Provider, Reporter, Revision, VirtualNodes, reports,
};

/// Nodes that are nothing but entries in a map.
#[derive(Parser)]
struct Args {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Where the kubelet API is served.
    #[arg(long, default_value = "127.0.0.1:10250")]
    kubelet: std::net::SocketAddr,
    /// Remove the nodes at the end.
    #[arg(long)]
    remove: bool,
}

struct InMemory {
    reporter: Reporter,
    running: Mutex<HashMap<PodUid, PodReport>>,
}

impl Provider for InMemory {
    async fn apply(&self, pod: Arc<Pod>, _: Revision) -> Result<Applied, NotApplied> {
        let (Some(at), Some(spec)) = (PodRef::of(&pod), &pod.spec) else {
            return Err(NotApplied::Unavailable { message: "the pod is incomplete".to_owned() });
        };
        if spec.host_network == Some(true) {
            let message = "spec.hostNetwork: there is no network here; leave it out".to_owned();
            return Err(NotApplied::Refused { reason: "UnsupportedField".to_owned(), message });
        }
        // Applying again changes nothing: what runs goes on running, since when it did.
        let report = self.running.lock().unwrap().entry(at.uid.clone()).or_insert_with(|| start(spec)).clone();
        let node = NodeName::new(spec.node_name.clone().unwrap_or_default())
            .map_err(|error| NotApplied::Unavailable { message: error.to_string() })?;
        let _ = self.reporter.pod_status(node, at, report).await;
        Ok(Applied::Settled)
    }

    async fn stop(&self, node: &NodeName, pod: &PodRef, _grace: Duration, _: Revision) {
        self.running.lock().unwrap().remove(&pod.uid);
        let _ = self.reporter.pod_gone(node.clone(), pod.clone(), None).await;
    }

    async fn forget(&self, _: &NodeName, pod: &PodRef, _: Revision) {
        self.running.lock().unwrap().remove(&pod.uid);
    }

    // What was not applied until now would be removed here, if anything outlived this process.
    async fn synced(&self, _: &NodeName, _: Vec<String>, _: Revision) {}

    async fn logs(&self, node: &NodeName, pod: &PodRef, name: &str, _: LogOptions) -> Result<Output, StreamError> {
        let log = format!("{name} of {pod} is nothing but an entry in a map of {node}\n");
        Ok(Box::pin(std::io::Cursor::new(log.into_bytes())))
    }

    async fn exec(
        &self,
        _: &NodeName,
        _: &PodRef,
        _: &str,
        command: Vec<String>,
        channels: Channels,
    ) -> Result<Process, StreamError> {
        // Bounded pipes: who reads slowly slows the writer.
        let (stdin_end, stdin) = tokio::io::simplex(PIPE);
        let (stdout, stdout_end) = tokio::io::simplex(PIPE);
        Ok(Process {
            stdin: channels.stdin.then(|| Box::pin(stdin) as Input),
            stdout: channels.stdout.then(|| Box::pin(stdout) as Output),
            stderr: channels.stderr.then(|| Box::pin(tokio::io::empty()) as Output),
            resize: None,
            // The command is the future itself: it ends when nobody waits for it any more.
            exit: Box::pin(run(command, Box::pin(stdin_end), Box::pin(stdout_end))),
        })
    }

    async fn port_forward(&self, _: &NodeName, _: &PodRef, _: u16) -> Result<Connection, StreamError> {
        let (output, input) = tokio::io::simplex(PIPE);
        Ok(Connection { output: Box::pin(output), input: Box::pin(input) })
    }
}

const PIPE: usize = 64 << 10;

/// The commands that every container has.
async fn run(command: Vec<String>, mut stdin: Output, mut stdout: Input) -> Result<i32, StreamError> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let failed = |error: std::io::Error| StreamError::Failed(error.to_string());
    let code = match words.as_slice() {
        ["echo", words @ ..] => {
            stdout.write_all(format!("{}\n", words.join(" ")).as_bytes()).await.map_err(failed)?;
            0
        }
        ["cat"] => {
            tokio::io::copy(&mut stdin, &mut stdout).await.map_err(failed)?;
            0
        }
        ["exit", code] => code.parse().unwrap_or(2),
        _ => return Err(StreamError::NotFound(format!("no command `{}`: there is echo, cat, exit", words.join(" ")))),
    };
    stdout.shutdown().await.map_err(failed)?;
    Ok(code)
}

fn start(spec: &k8s_openapi::api::core::v1::PodSpec) -> PodReport {
    let now = jiff::Timestamp::from_second(jiff::Zoned::now().timestamp().as_second()).unwrap_or_default();
    let running = ContainerStateRunning { started_at: Some(Time(now)) };
    let container = |container: &k8s_openapi::api::core::v1::Container| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        ready: true,
        started: Some(true),
        state: Some(ContainerState { running: Some(running.clone()), ..ContainerState::default() }),
        ..ContainerStatus::default()
    };
    PodReport {
        phase: PodPhase::Running,
        start_time: Some(now),
        sandbox_ready: true,
        containers: spec.containers.iter().map(container).collect(),
        ..PodReport::default()
    }
}

fn template(name: &NodeName) -> NodeTemplate {
    let taint = Taint { key: "in-memory".into(), effect: "NoSchedule".into(), ..Taint::default() };
    // The scheduler spreads pods over host names.
    let labels = [("type", "in-memory"), ("kubernetes.io/hostname", name.as_str())];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    NodeTemplate { labels, taints: vec![taint], ..Default::default() }
}

fn machine(name: &NodeName) -> NodeReport {
    let amount = |key: &str, value: &str| (key.to_owned(), Quantity(value.to_owned()));
    let capacity = [amount("cpu", "64"), amount("memory", "256Gi"), amount("pods", "1000")];
    let mut report =
        NodeReport { capacity: capacity.clone().into(), allocatable: capacity.into(), ..Default::default() };
    report.node_info.kubelet_version = concat!("in-memory-", env!("CARGO_PKG_VERSION")).to_owned();
    report.addresses = vec![NodeAddress { type_: "Hostname".into(), address: name.to_string() }];
    report
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let (reporter, inbox) = reports(256);
    let provider = Arc::new(InMemory { reporter: reporter.clone(), running: Mutex::default() });
    let stop = CancellationToken::new();
    let client = kube::Client::try_default().await?;
    let kubelet = Kubelet::bind(&client, KubeletConfig::new(args.kubelet, args.kubelet.ip())).await?;
    let config = virtual_node::Config { component: "in-memory".to_owned(), ..virtual_node::Config::default() };
    let nodes = VirtualNodes::new(client, config).with_kubelet(kubelet);
    let engine = tokio::spawn(nodes.run(provider, inbox, stop.clone()));

    let names: Vec<NodeName> =
        (1..=args.nodes).map(|n| NodeName::new(format!("in-memory-{n}"))).collect::<Result<_, _>>()?;
    for name in &names {
        reporter.node_present(name.clone(), template(name)).await?;
        reporter.node_status(name.clone(), machine(name)).await?;
        reporter.node_liveness(name.clone(), Liveness::Online).await?;
    }
    println!("{} nodes are up: kubectl get nodes -l type=in-memory. Ctrl-C stops them.", names.len());
    tokio::signal::ctrl_c().await?;
    if args.remove {
        let mut removals = Vec::new();
        for name in &names {
            removals.push(reporter.node_removed(name.clone()).await?);
        }
        for removal in removals {
            removal.outcome().await?;
        }
    }
    stop.cancel();
    println!("{:?}", engine.await??);
    Ok(())
}
