//! The whole agent against a real hub and a small bridge: joining, running, crashing, and every refusal a person can meet.

use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use device_agent::agent::{Agent, AgentConfig, StartError, Status};
use device_agent::identity::Identity;
use device_agent::runtime::scripted::Scripted;
use embedded_hub::{Accounts, BRIDGE_USERNAME, Hub, HubConfig, Password};
use hawser_wire::deployment::{Container, EdgeDeployment, PullPolicy, Resources, RestartPolicy, User};
use hawser_wire::desired::{Chunk, Index, IndexEntry, ObjectRef, Wish};
use hawser_wire::report::{Phase, ReportItem};
use hawser_wire::session::{Names, Responder, Session, StaticKey};
use hawser_wire::session_messages::{Envelope, Hello, Intent, Refusal, RefusalKind, WelcomePayload};
use hawser_wire::token::JoinToken;
use hawser_wire::{
    Ack, Channel, ContentHash, DeviceId, Down, Open, PodUid, PublicKey, Root, TokenId, Up, Version, decode, encode,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::sync::watch;

const BRIDGE_PASSWORD: &str = "bridge-password";

/// What the bridge knows and has heard.
struct World {
    key: StaticKey,
    token: Option<JoinToken>,
    expired: bool,
    /// So many hellos it cannot answer yet.
    put_off: u32,
    /// It hears and does, and what it answers is lost.
    unheard: bool,
    device_key: Option<PublicKey>,
    session: Option<Session>,
    object: Vec<u8>,
    index: Index,
    items: Vec<(u64, ReportItem)>,
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn token() -> JoinToken {
    JoinToken { id: TokenId([7; 8]), secret: [8; 32] }
}

fn device() -> DeviceId {
    DeviceId::new("pi").unwrap()
}

impl World {
    fn new() -> Self {
        let spec = EdgeDeployment {
            uid: PodUid::new("pod-1").unwrap(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            restart_policy: RestartPolicy::Always,
            grace_seconds: 5,
            active_deadline_seconds: None,
            init_containers: Vec::new(),
            containers: vec![container()],
            volumes: Vec::new(),
            hostname: None,
            host_network: true,
            fs_group: None,
            supplemental_groups: Vec::new(),
            engine: None,
            priority: None,
            ephemeral_containers: Vec::new(),
            generation: None,
        };
        let object = encode(&spec);
        let reference = ObjectRef { hash: ContentHash::of(&object), len: object.len() as u64 };
        let entries = vec![IndexEntry { uid: spec.uid, wish: Wish::Run(reference) }];
        Self {
            key: StaticKey::from_secret(random()),
            token: Some(token()),
            expired: false,
            put_off: 0,
            unheard: false,
            device_key: None,
            session: None,
            object,
            index: Index::new(Version { epoch: 0, revision: 10, edit: 0 }, entries).unwrap(),
            items: Vec::new(),
        }
    }

    fn handle(&mut self, payload: &[u8]) -> Vec<Envelope> {
        let Open::Known(envelope) = decode::<Open<Envelope>>(payload, 70_000).unwrap().value else { return vec![] };
        match envelope {
            Envelope::Hello(hello) => vec![
                self.hello(&hello)
                    .unwrap_or_else(|kind| Envelope::Refusal(Refusal { kind, message: "says the bridge".to_owned() })),
            ],
            Envelope::Sealed(sealed) => {
                let opened = self.session.as_mut().and_then(|session| session.open::<Up>(&sealed).ok());
                let Some(opened) = opened else { return vec![Envelope::NoSession(sealed.session)] };
                let answers = self.up(opened.value.known().unwrap());
                let session = self.session.as_mut().unwrap();
                answers.iter().map(|answer| Envelope::Sealed(session.seal(answer).unwrap())).collect()
            }
            _ => vec![],
        }
    }

    fn hello(&mut self, hello: &Hello) -> Result<Envelope, RefusalKind> {
        let (root, device) = (Root::default(), device());
        let names = Names { root: &root, device: &device };
        if self.put_off > 0 {
            self.put_off -= 1;
            return Err(RefusalKind::Unavailable);
        }
        let responder = Responder::read(names, &self.key, random(), hello).map_err(|_| RefusalKind::Unreadable)?;
        let secret = match hello.intent {
            Intent::Join(id) => {
                let token = self.token.take().filter(|token| token.id == id).ok_or(RefusalKind::TokenUsed)?;
                if self.expired {
                    return Err(RefusalKind::TokenExpired);
                }
                self.device_key = Some(responder.device_key);
                Some(token.secret)
            }
            Intent::Resume => match self.device_key {
                None => return Err(RefusalKind::UnknownDevice),
                Some(key) if key != responder.device_key => return Err(RefusalKind::OtherKey),
                Some(_) => None,
            },
        };
        let payload = WelcomePayload {
            protocol: responder.protocol(),
            bridge_version: "test".to_owned(),
            heartbeat_seconds: 1,
            bridge_millis: 0,
        };
        let (session, welcome) = responder.answer(secret.as_ref(), &payload).map_err(|_| RefusalKind::Unreadable)?;
        self.session = Some(session);
        Ok(Envelope::Welcome(welcome))
    }

    fn up(&mut self, up: Up) -> Vec<Down> {
        match up {
            Up::Heartbeat(beat) if beat.digest == Some(self.index.digest) => vec![],
            Up::Heartbeat(_) => vec![Down::Index(self.index.clone())],
            Up::Want(want) => {
                let (total, data) = (self.object.len() as u64, self.object.clone());
                vec![Down::Chunk(Chunk { hash: want.objects[0].hash, total, offset: 0, data })]
            }
            Up::Report(report) => {
                let seqs = report.items.iter().map(|item| item.seq).collect();
                let known = report.items.into_iter().filter_map(|item| Some((item.seq, item.item.known()?)));
                self.items.extend(known);
                vec![Down::Ack(Ack { seqs })]
            }
            Up::Stream(_) => vec![],
        }
    }
}

fn container() -> Container {
    Container {
        name: "main".to_owned(),
        image: "host".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        command: vec!["sleep".to_owned()],
        args: vec!["600".to_owned()],
        working_dir: None,
        env: Vec::new(),
        mounts: Vec::new(),
        resources: Resources::default(),
        sidecar: false,
        user: User::default(),
        termination_message_path: "/dev/termination-log".to_owned(),
        termination_message_from_logs: false,
        interactive: None,
        confinement: None,
        care: None,
        restart_to_resize: None,
    }
}

/// A hub, and a bridge on it.
struct Cluster {
    hub: Hub,
    world: Arc<Mutex<World>>,
    /// Changes with every message the bridge has handled.
    handled: watch::Receiver<u64>,
    bridge: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let accounts = Accounts::new(Password::new(BRIDGE_PASSWORD));
        let hub = Hub::start(HubConfig::on_loopback(accounts)).await.unwrap();
        let address = hub.local_addr();
        let mut options = MqttOptions::new("bridge-test", address.ip().to_string(), address.port());
        options.set_credentials(BRIDGE_USERNAME, BRIDGE_PASSWORD);
        options.set_max_packet_size(100_000, 100_000);
        let (client, mut event_loop) = AsyncClient::new(options, 64);
        client.try_subscribe("hawser/+/up", QoS::AtLeastOnce).unwrap();
        let world = Arc::new(Mutex::new(World::new()));
        let (handled_in, handled) = watch::channel(0);
        let shared = world.clone();
        let bridge = tokio::spawn(async move {
            while let Ok(event) = event_loop.poll().await {
                let Event::Incoming(Packet::Publish(publish)) = event else { continue };
                let (answers, unheard) = {
                    let mut world = shared.lock().unwrap();
                    (world.handle(&publish.payload), world.unheard)
                };
                for answer in answers.into_iter().filter(|_| !unheard) {
                    let topic = Channel::Down.topic(&Root::default(), &device());
                    let _ = client.try_publish(topic, QoS::AtLeastOnce, false, encode(&answer));
                }
                handled_in.send_modify(|count| *count += 1);
            }
        });
        Self { hub, world, handled, bridge }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while !holds(&self.world.lock().unwrap()) {
                self.handled.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "never: {what}");
    }

    fn url(&self) -> String {
        format!("mqtt://{}", self.hub.local_addr())
    }

    fn bridge_key(&self) -> String {
        self.world.lock().unwrap().key.public().to_string()
    }

    async fn join(&self, dir: &Path) -> Output {
        join(dir, &self.url(), "pi", &self.bridge_key(), &token().to_text()).await
    }

    async fn stop(self) {
        self.bridge.abort();
        self.hub.stop(Duration::from_secs(1)).await;
    }
}

async fn agent(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hawser-agent"));
    command.args(arguments).env_remove("HAWSER_STATE_DIR").kill_on_drop(true);
    command.output().await.unwrap()
}

async fn join(dir: &Path, url: &str, name: &str, key: &str, token: &str) -> Output {
    let dir = dir.to_str().unwrap();
    agent(&["join", url, "--name", name, "--bridge-key", key, "--token", token, "--state-dir", dir]).await
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.starts_with("error")).collect()
}

fn identity(dir: &Path) -> Identity {
    Identity::load(&dir.join("agent.json")).unwrap()
}

fn is_running(world: &World) -> bool {
    world.items.iter().any(|(_, item)| matches!(item, ReportItem::Workload(report) if report.phase == Phase::Running))
}

#[tokio::test]
async fn joins_runs_survives_a_crash_and_never_repeats_a_number() {
    let mut cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let joined = cluster.join(dir.path()).await;
    assert!(joined.status.success(), "{joined:?}");
    assert!(String::from_utf8_lossy(&joined.stdout).contains("Next: hawser-agent run"), "{joined:?}");
    // The token is used up; the same identity is welcome all the same.
    let again = cluster.join(dir.path()).await;
    assert!(
        again.status.success() && String::from_utf8_lossy(&again.stdout).contains("had joined already"),
        "{again:?}"
    );

    let runtime = Arc::new(Scripted::default());
    let config = || AgentConfig::new(identity(dir.path()), dir.path().to_owned());
    let handle = Agent::start(config(), runtime.clone()).await.unwrap();
    cluster.until("the pod runs", is_running).await;
    let facts = |world: &World| world.items.iter().any(|(_, item)| matches!(item, ReportItem::Facts(_)));
    cluster.until("the facts arrive", facts).await;
    let status = Status::ask(dir.path()).await.unwrap();
    assert_eq!((status.connected, status.workloads.len()), (true, 1));
    assert_eq!(status.workloads[0].name.as_deref(), Some("web"));

    let second = Agent::start(config(), runtime.clone()).await.unwrap_err();
    assert!(matches!(second, StartError::StateDir(_)), "{second}");

    handle.crash().await;
    let before = std::mem::take(&mut cluster.world.lock().unwrap().items);
    let starts = |runtime: &Scripted| runtime.log().iter().filter(|line| line.contains("start")).count();
    let started = starts(&runtime);
    let handle = Agent::start(config(), runtime.clone()).await.unwrap();
    cluster.until("the pod is reported again", is_running).await;
    assert_eq!(starts(&runtime), started, "adopted, not started again");
    let highest = before.iter().map(|(seq, _)| *seq).max().unwrap();
    assert!(cluster.world.lock().unwrap().items.iter().all(|(seq, _)| *seq > highest));

    handle.stop().await;
    let down = agent(&["status", "--state-dir", dir.path().to_str().unwrap(), "-o", "json"]).await;
    assert_eq!(down.status.code(), Some(7), "{down:?}");
    let status: Status = serde_json::from_slice(&down.stdout).unwrap();
    assert_eq!((status.running, status.accepted_version.as_deref()), (false, Some("0.10.0")));
    cluster.stop().await;
}

#[tokio::test]
async fn each_refusal_has_its_code_and_one_line() {
    let cluster = Cluster::start().await;
    let (url, key, text) = (cluster.url(), cluster.bridge_key(), token().to_text());
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);

    let bad_name = join(&place("a"), &url, "Pi 4", &key, &text).await;
    assert_eq!(bad_name.status.code(), Some(2), "{bad_name:?}");
    let bad_token = join(&place("a"), &url, "pi", &key, "hwt1.x").await;
    assert_eq!(bad_token.status.code(), Some(2), "{bad_token:?}");

    let nobody = join(&place("a"), "mqtt://127.0.0.1:1", "pi", &key, &text).await;
    assert_eq!((nobody.status.code(), said(&nobody).contains("127.0.0.1:1")), (Some(5), true), "{nobody:?}");

    let foreign = StaticKey::from_secret([5; 32]).public().to_string();
    let wrong_key = join(&place("b"), &url, "pi", &foreign, &text).await;
    assert_eq!((wrong_key.status.code(), said(&wrong_key).contains("--bridge-key")), (Some(4), true), "{wrong_key:?}");

    cluster.world.lock().unwrap().expired = true;
    let expired = join(&place("c"), &url, "pi", &key, &text).await;
    assert_eq!((expired.status.code(), said(&expired).contains("hawser device add")), (Some(4), true), "{expired:?}");
    let used = join(&place("c"), &url, "pi", &key, &text).await;
    assert_eq!((used.status.code(), said(&used).contains("was used")), (Some(4), true), "{used:?}");

    // One that failed can be tried again with another token, with the key it made.
    {
        let mut world = cluster.world.lock().unwrap();
        (world.expired, world.token) = (false, Some(token()));
    }
    let made = *identity(&place("c")).key.secret();
    let joined = join(&place("c"), &url, "pi", &key, &text).await;
    assert!(joined.status.success(), "{joined:?}");
    assert_eq!(*identity(&place("c")).key.secret(), made);

    let other = join(&place("c"), &url, "other", &key, &text).await;
    assert_eq!((other.status.code(), said(&other).contains("`pi`")), (Some(3), true), "{other:?}");
    let never = agent(&["status", "--state-dir", place("d").to_str().unwrap()]).await;
    assert_eq!((never.status.code(), said(&never).contains("hawser-agent join")), (Some(3), true), "{never:?}");
    cluster.stop().await;
}

/// `hawser-agent join` under way.
fn joining(dir: &Path, url: &str, key: &str) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hawser-agent"));
    command.args(["join", url, "--name", "pi", "--bridge-key", key, "--token", &token().to_text(), "--state-dir"]);
    command.arg(dir).stdout(std::process::Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_needs_no_new_token() {
    let mut cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    cluster.world.lock().unwrap().unheard = true;
    let mut first = joining(dir.path(), &cluster.url(), &cluster.bridge_key());
    cluster.until("the bridge has taken token and key", |world| world.device_key.is_some()).await;
    assert!(cluster.world.lock().unwrap().token.is_none(), "the token is gone");
    // The power goes, or whoever waits gives up.
    first.kill().await.unwrap();
    assert!(!identity(dir.path()).joined, "nobody told it that it has joined");

    cluster.world.lock().unwrap().unheard = false;
    let again = cluster.join(dir.path()).await;
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && told.contains("had joined already"), "{again:?}");
    assert!(identity(dir.path()).joined);
    cluster.stop().await;
}

#[tokio::test]
async fn a_bridge_that_is_starting_is_waited_for() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    cluster.world.lock().unwrap().put_off = 2;
    let joined = cluster.join(dir.path()).await;
    assert!(joined.status.success(), "{joined:?}");
    assert_eq!(cluster.world.lock().unwrap().put_off, 0);
    cluster.stop().await;
}

/// Passes connections on to a hub, and ends the first one when the device first speaks to the bridge.
async fn losing_the_first(hub: std::net::SocketAddr) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut device, _) = listener.accept().await.unwrap();
            let mut hub = tokio::net::TcpStream::connect(hub).await.unwrap();
            if number > 0 {
                let _ = tokio::io::copy_bidirectional(&mut device, &mut hub).await;
                continue;
            }
            let (mut from_device, mut to_device) = device.split();
            let (mut from_hub, mut to_hub) = hub.split();
            let until_it_speaks = async {
                let (mut packet, topic) = ([0; 1024], b"hawser/pi/up");
                loop {
                    let len = from_device.read(&mut packet).await.unwrap();
                    if len == 0 || packet[..len].windows(topic.len()).any(|window| window == topic) {
                        return;
                    }
                    to_hub.write_all(&packet[..len]).await.unwrap();
                }
            };
            // Cancelled only to end: which half ends first does not matter.
            tokio::select! {
                () = until_it_speaks => {}
                _ = tokio::io::copy(&mut from_hub, &mut to_device) => {}
            }
        }
    });
    address
}

#[tokio::test]
async fn a_join_outlives_the_loss_of_its_connection() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("mqtt://{}", losing_the_first(cluster.hub.local_addr()).await);
    let joined = join(dir.path(), &url, "pi", &cluster.bridge_key(), &token().to_text()).await;
    assert!(joined.status.success(), "{joined:?}");
    cluster.stop().await;
}

/// A running `hawser-agent run`, as systemd would have it.
async fn run(dir: &Path) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hawser-agent"));
    let secrets = dir.join("secrets");
    command.args([
        "run",
        "--runtime",
        "process",
        "--state-dir",
        dir.to_str().unwrap(),
        "--secrets-dir",
        secrets.to_str().unwrap(),
    ]);
    command.env("HAWSER_LOG", "warn").kill_on_drop(true).spawn().unwrap()
}

fn container_id(world: &World) -> Option<String> {
    world.items.iter().rev().find_map(|(_, item)| match item {
        ReportItem::Workload(report) if report.phase == Phase::Running => report.containers[0].container_id.clone(),
        _ => None,
    })
}

/// Other users may pass through the state directory on their way to their pods: whatever else is there is closed by
/// itself.
fn closed_to_others(state: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(state).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        let name = entry.file_name().into_string().unwrap();
        let passable = if matches!(name.as_str(), "pods" | "secrets") { 0o011 } else { 0 };
        assert_eq!(mode, passable, "{name}");
        names.push(name);
    }
    assert!(names.len() >= 4, "identity, ledger, socket, pods: {names:?}");
}

#[tokio::test]
async fn the_program_runs_is_killed_adopts_and_stops() {
    let mut cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let unjoined = agent(&["run", "--state-dir", dir.path().to_str().unwrap()]).await;
    assert_eq!(unjoined.status.code(), Some(3), "{unjoined:?}");
    assert!(cluster.join(dir.path()).await.status.success());
    let mut first = run(dir.path()).await;
    cluster.until("the pod runs", |world| container_id(world).is_some()).await;
    let id = container_id(&cluster.world.lock().unwrap());
    first.start_kill().unwrap();
    first.wait().await.unwrap();

    cluster.world.lock().unwrap().items.clear();
    let mut second = run(dir.path()).await;
    cluster.until("the pod is reported again", |world| container_id(world).is_some()).await;
    assert_eq!(container_id(&cluster.world.lock().unwrap()), id, "adopted");
    let status = agent(&["status", "--state-dir", dir.path().to_str().unwrap()]).await;
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && text.contains("connected") && text.contains("web"), "{status:?}");

    closed_to_others(dir.path());

    cluster.world.lock().unwrap().index = Index::new(Version { epoch: 0, revision: 11, edit: 0 }, Vec::new()).unwrap();
    let gone = |world: &World| world.items.iter().any(|(_, item)| matches!(item, ReportItem::Gone(_)));
    cluster.until("the pod is gone", gone).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(second.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), second.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    cluster.stop().await;
}

#[tokio::test]
async fn goes_on_from_the_ledger_without_a_hub() {
    let mut cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    assert!(cluster.join(dir.path()).await.status.success());
    let config = || AgentConfig::new(identity(dir.path()), dir.path().to_owned());
    let handle = Agent::start(config(), Arc::new(Scripted::default())).await.unwrap();
    cluster.until("the pod runs", is_running).await;
    handle.stop().await;
    cluster.stop().await;

    // A reboot: nothing runs any more, the kernel started anew, the wall clock is at 1970, the hub is gone.
    let mut rebooted = config();
    rebooted.time.boot = hawser_wire::BootId([9; 8]);
    rebooted.time.since_boot = Arc::new(|| 5_000);
    rebooted.time.wall = Arc::new(|| 0);
    let runtime = Arc::new(Scripted::default());
    let handle = Agent::start(rebooted, runtime.clone()).await.unwrap();
    let started = tokio::time::timeout(Duration::from_secs(20), async {
        while !runtime.log().iter().any(|line| line.contains("start")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(started.await.is_ok(), "{:?}", runtime.log());
    handle.stop().await;
}
