//! What `kubectl` has of a device: the price of one command, how fast logs, commands and forwarded ports are, what streams
//! that say nothing hold in memory, and what much traffic does to the state that travels beside it.
//!
//! All of it but state is kubectl against a pod, whoever runs it: so a kubelet is measured the same way.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::process::actor;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::world::{Port, World};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::latency::Place;
use crate::memory::{mib, pss_kib};
use crate::pair::Pair;

const COMMANDS: usize = 100;
const LINES: usize = 1000;
const IDLE: usize = 100;
const BULK: u64 = 200_000_000;
const PODS: usize = 20;

pub(crate) async fn run() -> Result<()> {
    let world = World::start("bench-streams", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let port = Port::take()?;
    let number = port.address().port();
    let server = [actor().display().to_string(), number.to_string()];
    let more = json!({ "containers": [{
        "name": "main", "image": "host", "command": server, "env": [{ "name": "HAWSER_ACTOR", "value": "echo" }],
    }] });
    let server = recipes::pod_with("server", world.device(0), "", more);
    let writer = recipes::pod("writer", world.device(0), WRITE);
    let processes = vec![
        ("agent", world.agent_pid(0).context("the agent")?),
        ("bridge", world.bridge_pid().context("the bridge")?),
    ];
    let side = Side { name: "", kubectl, server, writer, port: number, processes };
    side.start(&world).await?;
    side.measure().await?;
    beside_bulk(&world, &side).await?;
    world.end().await
}

/// The same of containers on a device and on a kubelet, in turns.
pub(crate) async fn beside_a_kubelet() -> Result<()> {
    const PORT: u16 = 8080;
    let Some(pair) = Pair::start("bench-verbs").await? else { return Ok(()) };
    let Pair { world, kubelet } = &pair;
    let Some(kubectl) = Kubectl::of(world) else { return pair.end().await };
    let pid = |pid: Option<u32>| pid.context("it runs");
    let of_device = vec![
        ("agent", pid(world.agent_pid(0))?),
        ("bridge", pid(world.bridge_pid())?),
        ("containerd", pid(world.engine().pid())?),
    ];
    let of_kubelet = vec![("kubelet", pid(kubelet.pid())?), ("containerd", pid(kubelet.engine().pid())?)];
    let side = |name, node: &str, processes| {
        let server = format!("exec nc -ll -p {PORT} -e sh -c 'echo port {PORT}; exec cat'");
        let pod = |what: &str, script: &str| contained(&recipes::pod(&format!("{name}-{what}"), node, script));
        let (server, writer) = (pod("server", &server), pod("writer", WRITE));
        Side { name, kubectl: kubectl.clone(), server, writer, port: PORT, processes }
    };
    let sides = [side("device", world.device(0), of_device), side("kubelet", kubelet.name(), of_kubelet)];
    for side in &sides {
        side.start(world).await?;
    }
    for side in &sides {
        side.measure().await?;
    }
    pair.end().await
}

/// Less than what is kept of a log; a kubelet shows none of a part that it has rotated away, which it does at 10 MiB.
const WRITE: &str = "yes 'a line of a log as programs write it, which is neither short nor very long: 0123456789' | head -c 5000000; exec sleep 100000";

/// Somebody who runs pods, for kubectl to look at.
struct Side {
    name: &'static str,
    kubectl: Kubectl,
    /// It gives back what it gets on this port, after a greeting.
    server: Pod,
    port: u16,
    /// It writes a log.
    writer: Pod,
    /// What its streams may take memory of.
    processes: Vec<(&'static str, u32)>,
}

impl Side {
    async fn start(&self, world: &World) -> Result<()> {
        for pod in [&self.server, &self.writer] {
            let pod = world.create_pod(pod).await?;
            world.pod_ready(&pod).await?;
        }
        // Until the log is written, and what is only busy at first has calmed down.
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok(())
    }

    async fn measure(&self) -> Result<()> {
        if !self.name.is_empty() {
            println!("\n### {}\n", self.name);
        }
        let (kubectl, pod) = (&self.kubectl, &*self.server.name_any());
        commands(kubectl, pod).await?;
        typing(kubectl, pod).await?;
        let output = &["exec", pod, "--", "head", "-c", &BULK.to_string(), "/dev/zero"];
        println!("exec, output: {}", speed(kubectl, output).await?);
        for what in ["logs", "logs, once more"] {
            println!("{what}: {}", speed(kubectl, &["logs", &self.writer.name_any()]).await?);
        }
        self.forwarded().await
    }

    async fn forwarded(&self) -> Result<()> {
        let mut running = self.kubectl.start(&["port-forward", &self.server.name_any(), &format!(":{}", self.port)])?;
        let line = running.line().await?.context("kubectl listens")?;
        let address =
            line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> ")).context("where")?.0;
        let connect = async || {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut greeting = vec![0; format!("port {}\n", self.port).len()];
            stream.read_exact(&mut greeting).await?;
            anyhow::Ok(stream)
        };
        let mut samples = Vec::new();
        for _ in 0..COMMANDS {
            let start = now();
            connect().await?;
            samples.push(start.elapsed());
        }
        print("port-forward, a connection and its first bytes", &mut samples);
        let mut stream = connect().await?;
        let mut samples = Vec::new();
        for _ in 0..LINES {
            let start = now();
            stream.write_all(b"x").await?;
            stream.read_exact(&mut [0]).await?;
            samples.push(start.elapsed());
        }
        print("port-forward, a byte there and back", &mut samples);

        let (from, mut to) = stream.into_split();
        let start = now();
        let send = async {
            let piece = vec![7; 64 * 1024];
            for _ in 0..BULK / 2 / piece.len() as u64 {
                to.write_all(&piece).await?;
            }
            to.shutdown().await?;
            anyhow::Ok(())
        };
        let (sent, heard) = tokio::join!(send, drain(from));
        sent?;
        println!("port-forward, both ways at once: {} each way", megabytes(heard?, start.elapsed()));
        self.idle(connect).await?;
        running.kill().await
    }

    /// Connections that say nothing.
    async fn idle(&self, connect: impl AsyncFn() -> Result<TcpStream>) -> Result<()> {
        let take = || self.processes.iter().map(|(_, pid)| pss_kib(*pid)).collect::<Result<Vec<_>>>();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = take()?;
        let mut connections = Vec::new();
        for _ in 0..IDLE {
            connections.push(connect().await?);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let after = take()?;
        let told = self
            .processes
            .iter()
            .zip(before.iter().zip(&after))
            .map(|((name, _), (before, after))| format!("{name} {:.2} → {:.2} MiB PSS", mib(*before), mib(*after)));
        println!("{IDLE} idle forwarded connections: {}", told.collect::<Vec<_>>().join(", "));
        Ok(())
    }
}

/// One command after another, each with a kubectl of its own.
async fn commands(kubectl: &Kubectl, pod: &str) -> Result<()> {
    for (what, arguments) in [
        ("kubectl alone (get --raw /readyz)", &["get", "--raw", "/readyz"][..]),
        ("exec of `true`, kubectl included", &["exec", pod, "--", "true"]),
    ] {
        let mut samples = Vec::new();
        for _ in 0..COMMANDS {
            let start = now();
            kubectl.says(arguments).await?;
            samples.push(start.elapsed());
        }
        print(what, &mut samples);
    }
    Ok(())
}

/// A line there and back, in a command that runs.
async fn typing(kubectl: &Kubectl, pod: &str) -> Result<()> {
    let mut cat = kubectl.start(&["exec", "-i", pod, "--", "cat"])?;
    let mut samples = Vec::new();
    for _ in 0..LINES {
        let start = now();
        cat.write(b"x\n").await?;
        ensure!(cat.line().await?.as_deref() == Some("x"), "it comes back");
        samples.push(start.elapsed());
    }
    print("a line there and back, in an open exec", &mut samples);
    cat.close_input();
    ensure!(cat.end().await?.0 == Some(0), "cat ends well");
    Ok(())
}

/// How fast kubectl's output comes.
async fn speed(kubectl: &Kubectl, arguments: &[&str]) -> Result<String> {
    let start = now();
    let mut child = kubectl.command(arguments).stdout(Stdio::piped()).spawn()?;
    let bytes = drain(child.stdout.take().context("its output")?).await?;
    ensure!(child.wait().await?.success(), "kubectl {arguments:?} fails");
    Ok(megabytes(bytes, start.elapsed()))
}

async fn drain(mut from: impl tokio::io::AsyncRead + Unpin) -> Result<u64> {
    let (mut all, mut piece) = (0, vec![0; 256 * 1024]);
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(all),
            count => all += count as u64,
        }
    }
}

/// State while commands say as much as they can.
async fn beside_bulk(world: &World, side: &Side) -> Result<()> {
    let server = side.server.name_any();
    for (what, streams) in [("created → Ready, no streams", 0), ("created → Ready, beside 4 endless outputs", 4)] {
        let mut bulk = Vec::new();
        for _ in 0..streams {
            let mut command = side.kubectl.command(&["exec", &server, "--", "cat", "/dev/zero"]);
            let mut child = command.stdout(Stdio::piped()).spawn()?;
            let mut output = child.stdout.take().context("its output")?;
            // It runs once it has said something.
            output.read_exact(&mut [0; 1024]).await?;
            bulk.push((child, tokio::spawn(drain(output))));
        }
        let mut samples = Vec::new();
        for number in 0..PODS {
            // A phase of its own for each pod, or everything locks onto somebody's tick.
            tokio::time::sleep(Duration::from_millis((number * 137 % 500) as u64)).await;
            samples.push(Place::processes(world).until_ready(&[format!("beside-{streams}-{number}")]).await?);
        }
        print(what, &mut samples);
        for (mut child, drained) in bulk {
            child.kill().await?;
            let _ = drained.await;
        }
    }
    Ok(())
}

fn megabytes(bytes: u64, during: Duration) -> String {
    format!("{:.1} MB/s ({:.0} MB)", bytes as f64 / 1e6 / during.as_secs_f64(), bytes as f64 / 1e6)
}

fn print(what: &str, samples: &mut [Duration]) {
    samples.sort();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms ({} samples)", at(0.5), at(0.99), samples.len());
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}
