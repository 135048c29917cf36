//! What `kubectl` has of a device: the price of one command, how fast logs, commands and forwarded ports are, what streams
//! that say nothing hold in memory, and what much traffic does to the state that travels beside it.
//!
//! All of it but memory and state is kubectl against a pod, whoever runs it: so a kubelet can be measured the same way.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::process::actor;
use hawser_e2e::recipes;
use hawser_e2e::world::{Port, World};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::latency::Place;
use crate::memory::{mib, pss_kib};

const POD: &str = "server";
const COMMANDS: usize = 100;
const LINES: usize = 1000;
const IDLE: usize = 100;
const BULK: u64 = 200_000_000;
const PODS: usize = 20;

pub(crate) async fn run() -> Result<()> {
    let world = World::start("bench-streams", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let port = Port::take()?;
    start_server(&world, &port).await?;
    commands(&kubectl).await?;
    typing(&kubectl).await?;
    println!(
        "exec, output: {}",
        speed(&kubectl, &["exec", POD, "--", "head", "-c", &BULK.to_string(), "/dev/zero"]).await?
    );
    logs(&world, &kubectl).await?;
    forwarded(&world, &kubectl, &port).await?;
    beside_bulk(&world, &kubectl).await?;
    world.end().await
}

async fn start_server(world: &World, port: &Port) -> Result<()> {
    let command = [actor().display().to_string(), port.address().port().to_string()];
    let more = json!({ "containers": [{
        "name": "main", "image": "host", "command": command, "env": [{ "name": "HAWSER_ACTOR", "value": "echo" }],
    }] });
    let pod = world.create_pod(&recipes::pod_with(POD, world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    Ok(())
}

/// One command after another, each with a kubectl of its own.
async fn commands(kubectl: &Kubectl) -> Result<()> {
    for (what, arguments) in [
        ("kubectl alone (get --raw /readyz)", &["get", "--raw", "/readyz"][..]),
        ("exec of `true`, kubectl included", &["exec", POD, "--", "true"]),
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
async fn typing(kubectl: &Kubectl) -> Result<()> {
    let mut cat = kubectl.start(&["exec", "-i", POD, "--", "cat"])?;
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

async fn logs(world: &World, kubectl: &Kubectl) -> Result<()> {
    // Less than what is kept of a log.
    let script = "yes 'a line of a log as programs write it, which is neither short nor very long: 0123456789' | head -c 8000000; exec sleep 100000";
    let pod = world.create_pod(&recipes::pod("writer", world.device(0), script)).await?;
    world.pod_ready(&pod).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for what in ["logs", "logs, once more"] {
        println!("{what}: {}", speed(kubectl, &["logs", "writer"]).await?);
    }
    Ok(())
}

async fn forwarded(world: &World, kubectl: &Kubectl, port: &Port) -> Result<()> {
    let mut running = kubectl.start(&["port-forward", POD, &format!(":{}", port.address().port())])?;
    let line = running.line().await?.context("kubectl listens")?;
    let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> ")).context("where")?.0;
    let connect = async || {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut greeting = vec![0; format!("port {}\n", port.address().port()).len()];
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
    idle(world, connect).await?;
    running.kill().await
}

/// Connections that say nothing.
async fn idle(world: &World, connect: impl AsyncFn() -> Result<TcpStream>) -> Result<()> {
    let (agent, bridge) = (world.agent_pid(0).context("the agent")?, world.bridge_pid().context("the bridge")?);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = (pss_kib(agent)?, pss_kib(bridge)?);
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        connections.push(connect().await?);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = (pss_kib(agent)?, pss_kib(bridge)?);
    let told = |before: u64, after: u64| format!("{:.2} → {:.2} MiB PSS", mib(before), mib(after));
    println!(
        "{IDLE} idle forwarded connections: agent {}, bridge {}",
        told(before.0, after.0),
        told(before.1, after.1)
    );
    Ok(())
}

/// State while commands say as much as they can.
async fn beside_bulk(world: &World, kubectl: &Kubectl) -> Result<()> {
    for (what, streams) in [("created → Ready, no streams", 0), ("created → Ready, beside 4 endless outputs", 4)] {
        let mut bulk = Vec::new();
        for _ in 0..streams {
            let mut command = kubectl.command(&["exec", POD, "--", "cat", "/dev/zero"]);
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
