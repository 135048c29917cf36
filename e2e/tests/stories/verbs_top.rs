//! `kubectl top`, through a real metrics-server: with its own identity and rights, and with the bridge's certificate verified.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use hawser_e2e::ground::on_cluster;
use hawser_e2e::kubectl::{Kubectl, finished};
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::tls::Authority;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{Port, World};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// Each node needs a port of its own: metrics-server tells nodes apart by address.
const NODE_PORTS: &str = "9300-9399";
const ADDRESS: &str = "127.0.0.1";
const LOG: &str = "metrics-server.log";

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_nodes_and_containers_use() -> Result<()> {
    let Some(program) = can_be_shown() else { return Ok(()) };
    let world = World::start("top", 1).await?;
    top_is_shown(world, &program, Issuer::Own, |pod| pod).await
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_containers_of_an_engine_use() -> Result<()> {
    let Some(program) = can_be_shown() else { return Ok(()) };
    let Some(world) = World::start_with_containers("contained-top", 1).await? else { return Ok(()) };
    top_is_shown(world, &program, Issuer::Cluster, |pod| contained(&pod)).await
}

/// The metrics-server; `None`, with a word about it, where this story cannot be told.
fn can_be_shown() -> Option<PathBuf> {
    let program = metrics_server();
    if program.is_none() {
        println!("NOT TESTED: kubectl top: metrics-server is not in PATH (e2e/cluster/build metrics-server)");
    } else if !on_cluster() {
        println!("NOT TESTED: kubectl top: the lab's API server passes nothing on to other API servers");
        return None;
    }
    program
}

/// Whose certificate the bridge shows.
enum Issuer {
    /// An operator's.
    Own,
    /// The cluster's, for certificates of kubelets.
    Cluster,
}

impl Issuer {
    /// The files of a certificate, its key and its authority.
    async fn issue(self, world: &World, kubectl: &Kubectl) -> Result<[String; 3]> {
        let [certificate, key, ca] =
            ["kubelet.crt", "kubelet.key", "kubelet-ca.crt"].map(|name| world.folder().join(name));
        match self {
            Self::Own => {
                let authority = Authority::new()?;
                let (issued, of_it) = authority.issue(ADDRESS)?;
                std::fs::write(&certificate, issued)?;
                std::fs::write(&key, of_it)?;
                std::fs::write(&ca, authority.certificate())?;
            }
            Self::Cluster => {
                let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubelet-certificate.md");
                let page = std::fs::read_to_string(page)?;
                let commands = page.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```"));
                let mut shell = Command::new("sh");
                shell.args(["-eu", "-c", commands.context("the page has commands")?.0]).current_dir(world.folder());
                shell.env("KUBECONFIG", world.kubeconfig()).env("ADDRESS", ADDRESS);
                let output = finished(shell, Vec::new()).await?;
                anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let root = kubectl.says(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}"]);
                std::fs::write(&ca, root.await?)?;
            }
        }
        Ok([certificate, key, ca].map(|path| path.display().to_string()))
    }
}

async fn top_is_shown(world: World, program: &Path, issuer: Issuer, kind: impl Fn(Pod) -> Pod) -> Result<()> {
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let [certificate, key, ca] = issuer.issue(&world, &kubectl).await?;
    world.kill_bridge().await?;
    let listen = format!("{ADDRESS}:0");
    world.start_bridge_with(&[
        "--kubelet-listen",
        &listen,
        "--kubelet-ports",
        NODE_PORTS,
        "--kubelet-cert",
        &certificate,
        "--kubelet-key",
        &key,
    ])?;
    world.node_ready(0).await?;
    let busy = recipes::pod("steady", world.device(0), "while :; do sleep 0.1; done");
    let pod = world.create_pod(&kind(busy)).await?;
    world.pod_ready(&pod).await?;

    let port = Port::take()?;
    let objects = [
        (world.namespace(), objects(&world, port.address().port()).to_string()),
        ("kube-system", reader(&world).to_string()),
    ];
    for (namespace, objects) in &objects {
        kubectl.answers(&["apply", "-n", namespace, "-f", "-"], objects.clone()).await?;
    }
    let shown = shown(&world, &kubectl, program, &ca, port.address().port()).await;
    // Also after a failure: an API that nobody serves holds up the end of every namespace.
    for (namespace, objects) in &objects {
        kubectl.answers(&["delete", "-n", namespace, "-f", "-"], objects.clone()).await?;
    }
    shown.with_context(|| std::fs::read_to_string(world.folder().join(LOG)).unwrap_or_default())?;
    world.end().await
}

async fn shown(world: &World, kubectl: &Kubectl, program: &Path, ca: &str, port: u16) -> Result<()> {
    let _server = start(world, kubectl, program, ca, port).await?;
    // It wants two measurements before it says how much of a processor is used.
    let row = |text: &str, first: &str| text.lines().find(|line| line.starts_with(first)).map(str::to_owned);
    let device = world.device(0);
    let node = eventually("kubectl top node shows the device", SOON * 2, || async {
        let text = kubectl.says(&["top", "node", device]).await.map_err(|error| error.to_string())?;
        row(&text, device).filter(|row| !row.contains("<unknown>")).ok_or(text)
    })
    .await?;
    let fields: Vec<_> = node.split_whitespace().collect();
    assert!(fields[1].ends_with('m') && fields[2].ends_with('%'), "{node}");
    assert!(fields[3].ends_with("Mi") && fields[3] != "0Mi", "{node}");
    let container = eventually("kubectl top pod --containers shows the container", SOON * 2, || async {
        let text = kubectl.says(&["top", "pod", "--containers"]).await.map_err(|error| error.to_string())?;
        row(&text, "steady").ok_or(text)
    })
    .await?;
    let fields: Vec<_> = container.split_whitespace().collect();
    assert!(fields[1] == "main" && fields[2].ends_with('m') && fields[3].ends_with("Mi"), "{container}");
    Ok(())
}

async fn start(world: &World, kubectl: &Kubectl, program: &Path, ca: &str, port: u16) -> Result<Child> {
    let token = kubectl.says(&["create", "token", "metrics-server", "--duration=1h"]).await?;
    let admin = kubectl.says(&["config", "view", "--raw", "--minify", "-o", "json"]).await?;
    let mut config: Value = serde_json::from_str(&admin)?;
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let path = world.folder().join("metrics-server.kubeconfig");
    std::fs::write(&path, config.to_string())?;
    let kubeconfig = path.display();
    let log = std::fs::File::create(world.folder().join(LOG))?;
    let certificates = world.folder().join("metrics-server");
    Command::new(program)
        .arg(format!("--kubeconfig={kubeconfig}"))
        .arg(format!("--authentication-kubeconfig={kubeconfig}"))
        .arg(format!("--authorization-kubeconfig={kubeconfig}"))
        .arg(format!("--kubelet-certificate-authority={ca}"))
        .arg(format!("--cert-dir={}", certificates.display()))
        .arg(format!("--secure-port={port}"))
        .args(["--bind-address", ADDRESS, "--metric-resolution=10s", "--kubelet-request-timeout=5s"])
        .arg("--kubelet-use-node-status-port")
        .arg("--kubelet-preferred-address-types=InternalIP")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("metrics-server")
}

/// What its release has to be applied, with our names, and with a name for this machine instead of pods behind a Service.
fn objects(world: &World, port: u16) -> Value {
    let (name, namespace) = (object_name(world), world.namespace());
    let cluster_wide = |suffix: &str, to: &str| {
        json!({
            "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": { "name": format!("{name}{suffix}") },
            "roleRef": refers("ClusterRole", to), "subjects": account(world),
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "metrics-server", "namespace": namespace },
        },
        {
            "apiVersion": RBAC, "kind": "ClusterRole", "metadata": { "name": name },
            "rules": [
                { "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] },
                { "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] },
            ],
        },
        cluster_wide("", &name),
        cluster_wide("-auth", "system:auth-delegator"),
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "metrics-server", "namespace": namespace },
            "spec": { "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] },
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": "v1beta1.metrics.k8s.io" },
            "spec": {
                "service": { "name": "metrics-server", "namespace": namespace, "port": port },
                "group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
                "groupPriorityMinimum": 100, "versionPriority": 100,
            },
        },
    ] })
}

/// Who it asks whether its clients are who they say: in the namespace where that is written.
fn reader(world: &World) -> Value {
    json!({
        "apiVersion": RBAC, "kind": "RoleBinding", "metadata": { "name": object_name(world) },
        "roleRef": refers("Role", "extension-apiserver-authentication-reader"), "subjects": account(world),
    })
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn object_name(world: &World) -> String {
    format!("e2e-{}-metrics", world.name())
}

fn account(world: &World) -> Value {
    json!([{ "kind": "ServiceAccount", "name": "metrics-server", "namespace": world.namespace() }])
}

fn refers(kind: &str, name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name })
}

fn metrics_server() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("metrics-server")).find(|program| program.is_file())
}
