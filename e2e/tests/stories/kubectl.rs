//! An operator at the keyboard: the real kubectl, and the Python client.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use hawser_e2e::world::World;
use tokio::process::Command;

/// `None`, with a word about it, where kubectl is missing.
fn kubectl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|program| program.is_file());
    if found.is_none() {
        println!("NOT TESTED: kubectl is not in PATH");
    }
    found
}

async fn run(world: &World, kubectl: &Path, line: &str) -> Result<Output> {
    let mut command = Command::new(kubectl);
    command.args(["--kubeconfig"]).arg(world.kubeconfig()).args(["-n", world.namespace()]);
    command.args(line.split_whitespace()).stdin(Stdio::null()).current_dir(root());
    command.output().await.with_context(|| format!("kubectl {line}"))
}

async fn succeeds(world: &World, kubectl: &Path, line: &str) -> Result<String> {
    let output = run(world, kubectl, line).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "kubectl {line}: {told}{}", String::from_utf8_lossy(&output.stderr));
    Ok(told)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_can_be_walked_with_kubectl() -> Result<()> {
    let Some(kubectl) = kubectl() else { return Ok(()) };
    let world = World::start("kubectl", 2).await?;
    let device = world.device(0);
    let walk = |line: String| {
        let (world, kubectl) = (&world, &kubectl);
        async move { succeeds(world, kubectl, &line).await }
    };
    let line = |text: &str| walk(text.to_owned());

    let nodes = line("get nodes").await?;
    let node = nodes.lines().find(|row| row.starts_with(device)).with_context(|| nodes.clone())?;
    let columns: Vec<_> = node.split_whitespace().collect();
    assert_eq!(columns[1..3], ["Ready", "edge"], "{nodes}");
    let devices = line("get devices").await?;
    assert!(devices.starts_with("NAME") && devices.contains(device), "{devices}");
    let described = walk(format!("describe node {device}")).await?;
    for fact in ["hawser.dev/device:NoSchedule", "MemoryPressure", "cpu:", "Kernel Version:", "process://"] {
        assert!(described.contains(fact), "{fact} in {described}");
    }

    let applied = line("apply -f docs/examples/hello.yaml").await?;
    assert!(applied.contains("deployment.apps/cheer created"), "{applied}");
    let rolled = line("rollout status deployment/cheer --timeout=60s").await?;
    assert!(rolled.contains("successfully rolled out"), "{rolled}");
    let pods = line("get pods -o wide").await?;
    let running = pods.lines().filter(|row| row.contains("1/1") && row.contains("Running")).count();
    assert_eq!(running, 2, "{pods}");

    line("scale deployment/cheer --replicas=3").await?;
    line("rollout status deployment/cheer --timeout=60s").await?;
    line("set env deployment/cheer TEXT=hello").await?;
    line("rollout status deployment/cheer --timeout=90s").await?;
    line("rollout undo deployment/cheer").await?;
    line("rollout status deployment/cheer --timeout=90s").await?;
    let events = line("events").await?;
    assert!(events.contains("Started"), "{events}");
    let described = line("describe pods").await?;
    assert!(described.contains("process://") && described.contains("Started"), "{described}");

    line("delete -f docs/examples/hello.yaml --timeout=60s").await?;
    line("wait --for=delete pod -l app=cheer --timeout=60s").await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_kubeconfig_is_said() -> Result<()> {
    let world = World::start("kubeconfig", 0).await?;
    let output = world.hawser(&["device", "list", "--kubeconfig", "/nonexistent/kubeconfig"]).await?;
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told.trim().lines().count(), 1, "one clear line: {told}");
    assert!(told.contains("/nonexistent/kubeconfig"), "{told}");
    world.end().await
}

const PYTHON: &str = r"
import sys, time
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
v1 = client.CoreV1Api()
namespace, node = sys.argv[2], sys.argv[3]
ready = {c.type: c.status for c in v1.read_node(node).status.conditions}
assert ready['Ready'] == 'True', ready
pod = {'metadata': {'name': 'snake'}, 'spec': {'nodeName': node, 'terminationGracePeriodSeconds': 1,
    'tolerations': [{'key': 'hawser.dev/device', 'operator': 'Exists'}],
    'containers': [{'name': 'main', 'image': 'host', 'command': ['sleep', '1000']}]}}
v1.create_namespaced_pod(namespace, pod)
for event in watch.Watch().stream(v1.list_namespaced_pod, namespace, timeout_seconds=60):
    conditions = event['object'].status.conditions or []
    if any(c.type == 'Ready' and c.status == 'True' for c in conditions):
        print('ready'); break
v1.delete_namespaced_pod('snake', namespace)
for _ in range(600):
    if not v1.list_namespaced_pod(namespace).items:
        print('gone'); break
    time.sleep(0.1)
";

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_sees_the_same() -> Result<()> {
    let python = std::env::var("HAWSER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_client = Command::new(&python).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status().await;
    if !has_client.is_ok_and(|status| status.success()) {
        println!("NOT TESTED: {python} has no module `kubernetes` (HAWSER_PYTHON names another Python)");
        return Ok(());
    }
    let world = World::start("python", 1).await?;
    let output = Command::new(&python)
        .args(["-c", PYTHON])
        .arg(world.kubeconfig())
        .args([world.namespace(), world.device(0)])
        .output()
        .await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["ready", "gone"]);
    world.end().await
}
