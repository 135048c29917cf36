//! Streams from end to end: a bridge and an agent in this process, on a real hub, with programs that are scripted.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of the bridge, which use more of it")]
mod support;

mod kept;
mod service;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use device_agent::agent::{Agent, AgentConfig, AgentHandle};
use device_agent::identity::Identity;
use device_agent::link::hub_url::HubUrl;
use device_agent::runtime::scripted::Scripted;
use edge_provider::device::{Device, DeviceSpec};
use edge_provider::kept::KeepLogs;
use embedded_hub::{Accounts, Hub, HubConfig, Password};
use hawser_wire::session::StaticKey;
use hawser_wire::stream::{CHUNK, CREDIT};
use hawser_wire::{DeviceId, Root};
use kube::api::PostParams;
use peak_alloc::PeakAlloc;
use service::{Programs, byte, line};
use support::{PASSWORD, PATIENCE, World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtual_node::provider::Provider;
use virtual_node::provider::streams::{Channels, LogOptions, Output, Process, StreamError, TerminalSize};
use virtual_node::{NodeName, PodRef};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
/// The peak is of the whole process: the tests of this file take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const OUT: Channels = Channels { stdin: false, stdout: true, stderr: false, tty: false };
const IN_OUT: Channels = Channels { stdin: true, ..OUT };

struct Ground {
    world: World,
    hub: Hub,
    dir: tempfile::TempDir,
    programs: Programs,
    agent: Option<AgentHandle>,
    node: NodeName,
    pod: PodRef,
}

impl Ground {
    /// A device with one pod, heard by the bridge.
    async fn start() -> Result<Self> {
        Self::start_keeping(None).await
    }

    /// As [`Ground::start`]; the bridge keeps logs.
    async fn start_keeping(keep_logs: Option<KeepLogs>) -> Result<Self> {
        let hub = Hub::start(HubConfig::on_loopback(Accounts::new(Password::new(PASSWORD)))).await?;
        let world = World::keeping(keep_logs, hub.local_addr()).await?;
        let key = StaticKey::from_secret([5; 32]);
        let spec = DeviceSpec { public_key: Some(key.public().to_string()), ..DeviceSpec::default() };
        world.devices().create(&PostParams::default(), &Device::new("pi", spec)).await?;
        let (dir, programs) = (tempfile::tempdir()?, Programs::new());
        let node = NodeName::new("pi")?;
        world.add_pod("web", "pi").await?;
        let pod = PodRef::of(&world.pods().get("web").await?).context("it has a UID")?;
        programs.pod.send_replace(Some(hawser_wire::PodUid::new(pod.uid.as_str())?));
        let mut ground = Self { world, hub, dir, programs, agent: None, node, pod };
        ground.start_agent().await?;
        Ok(ground)
    }

    async fn start_agent(&mut self) -> Result<()> {
        let identity = Identity {
            device: DeviceId::new("pi")?,
            hub: HubUrl::parse(&format!("mqtt://{}", self.hub.local_addr())).map_err(|e| anyhow::anyhow!("{e}"))?,
            root: Root::default(),
            bridge: self.world.bridge_key(),
            key: StaticKey::from_secret([5; 32]),
            hub_ca: None,
            hub_password: None,
            joined: true,
        };
        let config = AgentConfig::new(identity, self.dir.path().to_owned());
        let programs = self.programs.clone();
        let agent = Agent::start_with(config, Arc::new(Scripted::default()), move |_| programs).await?;
        self.agent = Some(agent);
        within("the device to be heard", async || Ok(self.provider().stats(&self.node).await.is_ok())).await
    }

    fn agent(&self) -> &AgentHandle {
        self.agent.as_ref().expect("it runs")
    }

    fn provider(&self) -> &impl Provider {
        self.world.provider()
    }

    async fn exec(&self, command: &[&str], channels: Channels) -> Result<Process, StreamError> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.provider().exec(&self.node, &self.pod, "main", command, channels).await
    }

    /// Nothing is left of any stream, anywhere.
    async fn nothing_is_left(&self) -> Result<()> {
        within("every program to end", async || Ok(self.programs.alive.load(Ordering::SeqCst) == 0)).await?;
        within("every stream to end at the device", async || Ok(self.agent().streams() == 0)).await?;
        within("every stream to end at the bridge", async || Ok(self.world.metrics().streams_open() == 0)).await
    }

    async fn end(mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
        self.world.stop_bridge().await?;
        self.hub.stop(Duration::from_secs(1)).await;
        Ok(())
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, what).await.context("it took too long")
}

/// Reads so many bytes more and compares each.
async fn compare(output: &mut Output, from: u64, to: u64) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = from;
    while at < to {
        let most = buffer.len().min((to - at) as usize);
        let count = output.read(&mut buffer[..most]).await?;
        anyhow::ensure!(count > 0, "it ended after {at} bytes");
        for found in &buffer[..count] {
            anyhow::ensure!(*found == byte(at), "byte {at} is wrong");
            at += 1;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_arrives_whole_through_a_reader_that_was_slow() -> Result<()> {
    let _turn = TURN.lock().await;
    const TOTAL: u64 = 64 * 1024 * 1024;
    let ground = Ground::start().await?;
    let mut process = soon(ground.exec(&["write", &TOTAL.to_string()], OUT)).await??;
    // Nobody reads: the program is held up after its window, and others are not.
    let window = u64::from(CREDIT);
    let written = || ground.programs.written.load(Ordering::SeqCst);
    within("the window to be full", async || Ok(written() >= window)).await?;
    for _ in 0..20 {
        soon(ground.provider().stats(&ground.node)).await??;
    }
    // The window, what was read and has no room, and the pipe of the program.
    assert!(written() <= window + 2 * CHUNK as u64 + 16 * 1024, "{} bytes for nobody", written());

    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mut stdout = process.stdout.take().context("stdout")?;
    soon(compare(&mut stdout, 0, TOTAL)).await??;
    assert_eq!(soon(stdout.read(&mut [0; 1])).await??, 0, "the end");
    assert_eq!(soon(process.exit).await??, 3);
    let more = MEMORY.peak_usage().saturating_sub(before);
    assert!(more < 8 * 1024 * 1024, "{more} bytes of memory for {TOTAL} bytes of stream");
    drop(stdout);
    ground.nothing_is_left().await?;
    ground.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_at_once() -> Result<()> {
    let _turn = TURN.lock().await;
    let ground = Ground::start().await?;
    let one = async |number: u64| -> Result<()> {
        let mut process = ground.exec(&["echo"], IN_OUT).await?;
        let (mut stdin, mut stdout) =
            (process.stdin.take().context("stdin")?, process.stdout.take().context("stdout")?);
        let sent: Vec<u8> = (0..20_000 + number).map(|at| byte(at + number)).collect();
        let write = async {
            stdin.write_all(&sent).await?;
            stdin.shutdown().await
        };
        let mut back = Vec::new();
        let (written, read) = tokio::join!(write, stdout.read_to_end(&mut back));
        written?;
        read?;
        anyhow::ensure!(back.len() == sent.len() + 3 && back.starts_with(&sent) && back.ends_with(b"bye"), "{number}");
        anyhow::ensure!(process.exit.await? == 0);
        Ok(())
    };
    soon(futures::future::try_join_all((0..100).map(one))).await??;
    ground.nothing_is_left().await?;
    ground.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_verbs_say() -> Result<()> {
    let _turn = TURN.lock().await;
    let ground = Ground::start().await?;
    let (provider, node, pod) = (ground.provider(), &ground.node, &ground.pod);

    // Half-close: the server answers after the client has said everything.
    let mut connection = soon(provider.port_forward(node, pod, 80)).await??;
    connection.input.write_all(b"hello, ").await?;
    connection.input.shutdown().await?;
    let mut text = String::new();
    soon(connection.output.read_to_string(&mut text)).await??;
    assert_eq!(text, "hello, that was all");
    drop(connection);
    let refused = soon(provider.port_forward(node, pod, 81)).await?.err();
    assert_eq!(refused, Some(StreamError::NotPossible("nobody listens on port 81".to_owned())));

    let stats = soon(provider.stats(node)).await??;
    assert_eq!(stats.node.cpu_nanoseconds, Some(5));
    assert!(stats.node.at.is_some(), "a heartbeat has told the device's time");
    let pods: Vec<_> = stats.pods.iter().map(|stats| stats.pod.name.as_str()).collect();
    assert_eq!(pods, ["web"], "a pod that nobody knows is left out");

    // A terminal: the last size arrives.
    let terminal = soon(ground.exec(&["terminal"], Channels { tty: true, ..OUT })).await??;
    let mut exit = tokio::spawn(terminal.exit);
    let resize = terminal.resize.context("resize")?;
    for columns in 1..=50 {
        resize.send(TerminalSize { columns, rows: 24 }).await?;
    }
    let mut size = ground.programs.size.subscribe();
    soon(size.wait_for(|size| *size == (50, 24))).await??;
    exit.abort();
    let _ = (&mut exit).await;
    drop((terminal.stdout, resize));

    // Aborted by the client: the program ends.
    let hang = soon(ground.exec(&["hang"], OUT)).await??;
    assert_eq!(ground.programs.alive.load(Ordering::SeqCst), 1 + usize::from(ground.agent().streams() > 1));
    drop(hang);
    ground.nothing_is_left().await?;

    // Aborted by the device: the client is told.
    let (told, rest) = match soon(ground.exec(&["fail"], OUT)).await? {
        Ok(fail) => (soon(fail.exit).await?, fail.stdout),
        // It may fail so fast that opening it fails.
        Err(error) => (Err(error), None),
    };
    assert_eq!(told, Err(StreamError::Failed("the container was killed".to_owned())));
    let missing = soon(ground.exec(&["nonsense"], OUT)).await?.err();
    assert!(matches!(missing, Some(StreamError::NotFound(_))), "{missing:?}");
    drop(rest);
    ground.nothing_is_left().await?;
    ground.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_device_is_told_and_a_log_goes_on_when_it_is_back() -> Result<()> {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start().await?;
    ground.programs.lines.send_replace(3_000);
    let options = LogOptions { follow: true, tail: Some(2_900), ..LogOptions::default() };
    let mut log = soon(ground.provider().logs(&ground.node, &ground.pod, "main", options)).await??;
    let expected: Vec<u8> = (100..9_000).flat_map(|number| line(number).into_bytes()).collect();
    let mut at = 0;
    let mut read_to = async |log: &mut Output, to: usize| -> Result<()> {
        let mut buffer = vec![0; 1_000];
        while at < to {
            let most = buffer.len().min(to - at);
            let count = log.read(&mut buffer[..most]).await?;
            anyhow::ensure!(count > 0, "the log ended at {at}");
            anyhow::ensure!(buffer[..count] == expected[at..at + count], "wrong bytes at {at}");
            at += count;
        }
        Ok(())
    };
    soon(read_to(&mut log, 50_000)).await??;
    let hang = soon(ground.exec(&["hang"], OUT)).await??;

    // The device dies, and comes back while the log grows. Three times, to lose also what was continued.
    for round in 1..=3 {
        ground.agent.take().context("it runs")?.crash().await;
        ground.programs.lines.send_replace(3_000 + 2_000 * round);
        ground.start_agent().await?;
        let to: usize = (100..3_000 + 2_000 * round).map(|number| line(number).len()).sum();
        soon(read_to(&mut log, to - 10_000)).await??;
    }
    soon(read_to(&mut log, expected.len())).await??;
    assert_eq!(ground.programs.logs.load(Ordering::SeqCst), 4, "opened once, and three times more");
    let lost = soon(hang.exit).await?;
    assert!(matches!(&lost, Err(StreamError::Unreachable(why)) if why.contains("lost")), "{lost:?}");
    drop((log, hang.stdout));
    ground.nothing_is_left().await?;

    // It dies for good: what is open is told within its window, what is new at once.
    let hang = soon(ground.exec(&["hang"], OUT)).await??;
    ground.agent.take().context("it runs")?.crash().await;
    let lost = soon(hang.exit).await?;
    assert!(matches!(&lost, Err(StreamError::Unreachable(_))), "{lost:?}");
    within("the device to be offline", async || {
        let refused = ground.exec(&["hang"], OUT).await.err();
        Ok(matches!(refused, Some(StreamError::Unreachable(why)) if why.starts_with("device pi is offline since 20")))
    })
    .await?;
    ground.end().await
}
