//! `kubectl exec`, `attach` and `cp`.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use hawser_e2e::kubectl::{Kubectl, finished};
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use serde_json::json;
use tokio::process::Command;

/// A pod that waits to be told what to do.
async fn waiting_pod(world: &World) -> Result<()> {
    let env = json!({ "containers": [{
        "name": "main", "image": "host", "command": ["sh", "-c", "exec sleep 1000"],
        "env": [{ "name": "GREETING", "value": "ahoy" }],
    }] });
    let pod = world.create_pod(&recipes::pod_with("box", world.device(0), "", env)).await?;
    world.pod_ready(&pod).await?;
    Ok(())
}

/// Bytes in which nothing repeats that a transfer could confuse.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_container_and_its_end_is_kubectls_end() -> Result<()> {
    let world = World::start("exec", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    waiting_pod(&world).await?;
    commands_run(&kubectl).await?;
    // Those from before Kubernetes 1.30 speak another protocol and do the same.
    commands_run(&kubectl.without_websockets()).await?;
    world.end().await
}

async fn commands_run(kubectl: &Kubectl) -> Result<()> {
    assert_eq!(kubectl.says(&["exec", "box", "--", "echo", "two words", "a\"b$c"]).await?, "two words a\"b$c\n");
    assert_eq!(kubectl.says(&["exec", "box", "--", "sh", "-c", "echo $GREETING"]).await?, "ahoy\n");
    let output = kubectl.run(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
    assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"out\n"[..]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\ncommand terminated with exit code 7\n");
    let (code, told) = kubectl.fails(&["exec", "box", "--", "no-such-program"]).await?;
    assert!(code != 0 && told.contains("no-such-program"), "{code}: {told}");
    let (_, told) = kubectl.fails(&["exec", "box", "-c", "other", "--", "true"]).await?;
    assert!(told.contains("container other is not valid for pod box"), "{told}");

    assert_eq!(
        kubectl.answers(&["exec", "-i", "box", "--", "cat"], "a line\nand no more").await?,
        "a line\nand no more"
    );
    assert_eq!(kubectl.answers(&["exec", "-i", "box", "--", "wc", "-c"], "").await?.trim(), "0");
    // Without -i there is nothing to read.
    assert_eq!(kubectl.answers(&["exec", "box", "--", "wc", "-c"], "not for you").await?.trim(), "0");
    let code = kubectl.feed(&["exec", "-i", "box", "--", "sh", "-c", "read code; exit $code"], "42\n").await?;
    assert_eq!(code.status.code(), Some(42));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_in_and_comes_out_unchanged() -> Result<()> {
    const MUCH: usize = 24 << 20;
    let world = World::start("exec-much", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    waiting_pod(&world).await?;
    let bytes = noise(MUCH);
    let file = world.witness("much");
    let path = file.path();
    std::fs::write(&path, &bytes)?;
    for kubectl in [kubectl.clone(), kubectl.without_websockets()] {
        let out = kubectl.run(&["exec", "box", "--", "cat", &path]).await?;
        assert!(out.status.success() && out.stdout == bytes, "{:?}, {} bytes", out.status, out.stdout.len());
        let sum = kubectl.says(&["exec", "box", "--", "sha256sum", &path]).await?;
        let fed = kubectl.feed(&["exec", "-i", "box", "--", "sha256sum"], bytes.clone()).await?;
        let fed = String::from_utf8_lossy(&fed.stdout).into_owned();
        assert_eq!(fed.split_whitespace().next(), sum.split_whitespace().next());
        // Both ways at once, with neither waiting for the other.
        let back = kubectl.feed(&["exec", "-i", "box", "--", "cat"], bytes.clone()).await?;
        assert!(back.status.success() && back.stdout == bytes, "{:?}, {} bytes", back.status, back.stdout.len());
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_hears_of_a_new_one() -> Result<()> {
    let world = World::start("exec-tty", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    waiting_pod(&world).await?;
    a_terminal_is_resized(&world, &kubectl).await?;
    world.end().await
}

/// A command with a terminal in the pod `box`, which sees the witnesses of this world.
pub(crate) async fn a_terminal_is_resized(world: &World, kubectl: &Kubectl) -> Result<()> {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().await.is_err() {
        println!("NOT TESTED: terminals need the program `script`");
        return Ok(());
    }
    let ready = world.witness("ready");
    // A terminal has no size before the client has told it.
    let inner = format!(
        "[ -t 0 ] || exit 1; until stty size 2>/dev/null | grep -q 33; do sleep 0.1; done; stty size; : > {ready}; \
         until stty size 2>/dev/null | grep -q 44; do sleep 0.1; done; stty size; exit 5",
        ready = ready.path()
    );
    // Our own terminal is resized when the command has seen its first size.
    let outer = format!(
        "stty rows 33 cols 77; (while [ ! -e {ready} ]; do sleep 0.1; done; stty rows 44 cols 99 < /dev/tty) & \
         {exec}; echo ended with $?",
        ready = ready.path(),
        exec = kubectl.line(&format!("exec -it box -- sh -c '{inner}'")),
    );
    let mut script = Command::new("script");
    script.args(["-qec", &outer, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "xterm").stdin(Stdio::piped());
    let output = finished(script, Vec::new()).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // What `script` types when its own input ends is echoed.
    let lines = told.lines().map(|line| line.trim_start_matches("^@").trim());
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["33 77", "44 99", "command terminated with exit code 5", "ended with 5"], "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_attaches_to_what_runs() -> Result<()> {
    let world = World::start("attach", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let script = "while read line; do echo heard $line; done; echo over";
    let more = json!({ "restartPolicy": "Never", "containers": [{
        "name": "main", "image": "host", "command": ["sh", "-c", script], "stdin": true, "stdinOnce": true,
    }] });
    let pod = world.create_pod(&recipes::pod_with("listens", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    let mut attached = kubectl.start(&["attach", "-i", "listens"])?;
    attached.write(b"one\n").await?;
    assert_eq!(attached.line().await?.as_deref(), Some("heard one"));
    attached.write(b"two\n").await?;
    assert_eq!(attached.line().await?.as_deref(), Some("heard two"));
    // `stdinOnce`: the end of the first client's input is the end of the container's.
    attached.close_input();
    let (_, left, told) = attached.end().await?;
    assert_eq!(left, ["over"], "{told}");
    world
        .pod_until(&pod, "over", |pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded"))
        .await?;
    assert_eq!(kubectl.says(&["logs", "listens"]).await?, "heard one\nheard two\nover\n");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_there_and_back() -> Result<()> {
    let world = World::start("cp", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    waiting_pod(&world).await?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir_all(folder.path().join("tree/below"))?;
    std::fs::write(at("tree/text"), "text\n")?;
    std::fs::write(at("tree/below/noise"), noise(8 << 20))?;
    for (number, kubectl) in [kubectl.clone(), kubectl.without_websockets()].iter().enumerate() {
        let there = at(&format!("there-{number}"));
        kubectl.says(&["cp", &at("tree"), &format!("box:{there}")]).await?;
        same_tree(&folder.path().join("tree"), Path::new(&there))?;
        let back = at(&format!("back-{number}"));
        kubectl.says(&["cp", &format!("box:{there}"), &back]).await?;
        same_tree(&folder.path().join("tree"), Path::new(&back))?;
    }
    crate::verbs_containers::a_tree_is_copied(&kubectl, &at("hundred")).await?;
    // Whether kubectl takes the end of an empty archive for success is its own matter.
    kubectl.run(&["cp", "box:/no/such/file", &at("nothing")]).await?;
    assert!(!Path::new(&at("nothing")).exists());
    world.end().await
}

fn same_tree(one: &Path, other: &Path) -> Result<()> {
    for name in ["text", "below/noise"] {
        let read =
            |folder: &Path| std::fs::read(folder.join(name)).with_context(|| folder.join(name).display().to_string());
        assert!(read(one)? == read(other)?, "{name} differs");
    }
    Ok(())
}

const PYTHON: &str = r"
import sys
from kubernetes import client, config
from kubernetes.stream import stream
config.load_kube_config(sys.argv[1])
v1 = client.CoreV1Api()
namespace = sys.argv[2]
call = v1.connect_get_namespaced_pod_exec
print(stream(call, 'box', namespace, command=['echo', 'hello'], stdout=True, stderr=True, stdin=False, tty=False), end='')
session = stream(call, 'box', namespace, command=['sh', '-c', 'read line; echo got $line; echo bad >&2; exit 9'],
                 stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
session.write_stdin('something\n')
session.run_forever(timeout=60)
print(session.read_stdout(), end='')
print(session.read_stderr(), end='')
print('exit', session.returncode)
# Read by the client itself, an empty log becomes the text b''.
print(v1.read_namespaced_pod_log('box', namespace, _preload_content=False).data == b'')
";

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_runs_commands() -> Result<()> {
    let python = std::env::var("HAWSER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_client = Command::new(&python).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status().await;
    if !has_client.is_ok_and(|status| status.success()) {
        println!("NOT TESTED: {python} has no module `kubernetes` (HAWSER_PYTHON names another Python)");
        return Ok(());
    }
    let world = World::start("python-exec", 1).await?;
    waiting_pod(&world).await?;
    let mut command = Command::new(&python);
    command.args(["-c", PYTHON]).arg(world.kubeconfig()).arg(world.namespace());
    let output = finished(command, Vec::new()).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told, "hello\ngot something\nbad\nexit 9\nTrue\n");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_client_has_gone_is_ended_and_the_container_is_not() -> Result<()> {
    let world = World::start("exec-gone", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let steady = world.witness("steady");
    let script = format!("{} exec sleep 1000", steady.sign());
    let pod = world.create_pod(&recipes::pod("box", world.device(0), &script)).await?;
    world.pod_ready(&pod).await?;
    steady.until_alive(1).await?;
    let witness = world.witness("command");
    // Not in a recipe: Kubernetes does not touch the words of a command that is run.
    let command = format!("echo $$ >> {}; echo ready; exec sleep 1000", witness.path());
    let mut running = kubectl.start(&["exec", "box", "--", "sh", "-c", &command])?;
    assert_eq!(running.line().await?.as_deref(), Some("ready"));
    assert_eq!(witness.alive()?, 1);
    running.kill().await?;
    witness.until_dead().await?;
    assert_eq!((steady.pids()?.len(), steady.alive()?), (1, 1), "the container goes on");
    eventually("another command runs", SOON, || async { kubectl.says(&["exec", "box", "--", "true"]).await }).await?;
    world.end().await
}
