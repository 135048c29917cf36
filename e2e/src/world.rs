//! The world of one story: a hub, the bridge, devices with their agents, and a namespace, on a ground.
//!
//! Everything but the ground is a process that can be killed. Between each device and the hub is a rope that can be cut.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge_provider::device::Device;
use hawser_lab::rope::{Faults, Rope};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::ground::Ground;
use crate::process::{Program, Role, command, processes_of, signal};
use crate::wait::{SOON, eventually};
pub use crate::witness::Witness;

/// The bridge's namespace.
pub const SYSTEM: &str = "hawser-system";
/// How often devices send heartbeats in stories: being offline is then noticed in seconds.
const QUICK_HEARTBEAT: u16 = 1;

/// The world of one story.
pub struct World {
    name: String,
    namespace: String,
    folder: tempfile::TempDir,
    ground: Ground,
    client: Client,
    hub_address: SocketAddr,
    heartbeat_seconds: u16,
    hub: Program,
    bridge: Program,
    devices: Vec<Board>,
    disk: Disk,
    ended: bool,
}

/// On what the devices keep their state.
#[derive(Debug, Clone, Copy)]
enum Disk {
    /// The folder of the story.
    Plain,
    /// A tmpfs of a few megabytes.
    Small,
}

impl Disk {
    fn prepare(self, state: &Path) -> Result<()> {
        std::fs::create_dir_all(state)?;
        if matches!(self, Self::Small) {
            let mounted = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=4m", "hawser-e2e"])
                .arg(state)
                .stderr(std::process::Stdio::null())
                .status()?;
            anyhow::ensure!(mounted.success(), "{} cannot be mounted", state.display());
        }
        Ok(())
    }

    fn release(self, state: &Path) {
        if matches!(self, Self::Small) {
            // What still runs there was killed before; a lazy unmount leaves nothing behind either way.
            let _ = std::process::Command::new("umount").arg("-l").arg(state).status();
        }
    }
}

/// A device of this world.
struct Board {
    name: String,
    state: PathBuf,
    rope: Rope,
    agent: Program,
    joined_with: Join,
}

/// What `hawser device add -o json` prints for whoever runs `hawser-agent join`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// The device's name.
    pub name: String,
    /// The hub, as the bridge advertises it.
    pub hub_url: String,
    /// The bridge's public key.
    pub bridge_key: String,
    /// The join token.
    pub token: String,
}

impl World {
    /// Starts everything and waits until the devices' nodes are ready.
    pub async fn start(story: &str, devices: usize) -> Result<Self> {
        Self::start_with_heartbeat(story, devices, QUICK_HEARTBEAT).await
    }

    /// As [`start`](Self::start), with heartbeats as rare as they are in the field, for measurements.
    pub async fn start_with_heartbeat(story: &str, devices: usize, heartbeat_seconds: u16) -> Result<Self> {
        let world = Self::without_devices(story, heartbeat_seconds).await?;
        world.with_devices(devices).await
    }

    /// As [`start`](Self::start), with the state of each device on a small disk of its own. `None`, with a word about it,
    /// where this process may not mount one.
    pub async fn start_on_small_disks(story: &str, devices: usize) -> Result<Option<Self>> {
        let mut world = Self::without_devices(story, QUICK_HEARTBEAT).await?;
        let probe = world.folder.path().join("probe");
        world.disk = Disk::Small;
        if world.disk.prepare(&probe).is_err() {
            println!("NOT TESTED: small disks need the right to mount one (run as root)");
            world.end().await?;
            return Ok(None);
        }
        Disk::Small.release(&probe);
        Ok(Some(world.with_devices(devices).await?))
    }

    async fn without_devices(story: &str, heartbeat_seconds: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("hawser-{story}-")).tempdir()?;
        let ground = Ground::prepare(folder.path()).await?;
        let client = ground.client().await?;
        let hub_address = free_address()?;
        // Names of their own, so that stories can be told on a cluster that is used for other things.
        let name = format!("{story}-{:x}", u32::from(hub_address.port()));
        let namespace = format!("e2e-{name}");
        let object: Namespace = serde_json::from_value(json!({ "metadata": { "name": namespace } }))?;
        Api::all(client.clone()).create(&PostParams::default(), &object).await?;
        let world = Self {
            hub: Program::new("hub", folder.path()),
            bridge: Program::new("bridge", folder.path()),
            devices: Vec::new(),
            ended: false,
            name,
            namespace,
            folder,
            ground,
            client,
            hub_address,
            heartbeat_seconds,
            disk: Disk::Plain,
        };
        world.start_hub().await?;
        world.start_bridge().await?;
        Ok(world)
    }

    async fn with_devices(mut self, count: usize) -> Result<Self> {
        for number in 0..count {
            let name = format!("{}-{number}", self.name);
            let join = self.add_device(&name).await?;
            let state = self.folder.path().join(format!("device-{number}"));
            self.disk.prepare(&state)?;
            let rope = Rope::tie(self.hub_address, Faults::default()).await?;
            let agent = Program::new(&format!("agent-{number}"), self.folder.path());
            let output = self.join_into(&join, &state, rope.address()).await?;
            if !output.status.success() {
                bail!("{name} cannot join: {}", String::from_utf8_lossy(&output.stderr));
            }
            self.devices.push(Board { name, state, rope, agent, joined_with: join });
            self.start_agent(number).await?;
        }
        for number in 0..count {
            self.node_ready(number).await?;
        }
        Ok(self)
    }

    /// Ends the story: removes what it made, and asks every program to stop. Every one must stop well.
    pub async fn end(mut self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        eventually("the namespace goes", SOON * 2, || async {
            match namespaces.get_opt(&self.namespace).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        let devices: Api<Device> = Api::all(self.client.clone());
        for device in devices.list(&ListParams::default()).await?.items {
            // Names of this world begin with its own. A story may have removed a device already.
            if device.name_any().starts_with(&self.name) {
                let _ = devices.delete(&device.name_any(), &DeleteParams::default()).await;
            }
        }
        for board in &self.devices {
            self.gone_node(&board.name).await?;
            board.agent.stop().await?;
        }
        self.bridge.stop().await?;
        self.hub.stop().await?;
        self.ended = true;
        Ok(())
    }

    // ---- names and handles ----

    /// The name of this world: the value of the label `e2e.hawser.dev/world` of its nodes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The story's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of a device.
    pub fn device(&self, number: usize) -> &str {
        &self.devices[number].name
    }

    /// A kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.ground.kubeconfig()
    }

    /// A file for traces.
    pub fn witness(&self, name: &str) -> Witness {
        Witness::new(self.folder.path(), name)
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the hub listens, without a rope before it.
    pub fn hub_address(&self) -> SocketAddr {
        self.hub_address
    }

    /// Fills the small disk of a device to the last byte, and returns what makes room again when it is removed.
    pub fn fill_disk(&self, number: usize) -> Result<PathBuf> {
        let ballast = self.devices[number].state.join("ballast");
        let mut file = std::fs::File::create(&ballast)?;
        for block in [64 * 1024, 512, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; block]).is_ok() {}
        }
        Ok(ballast)
    }

    /// The folder of a device's state.
    pub fn state_of(&self, number: usize) -> &Path {
        &self.devices[number].state
    }

    /// The pods of the story.
    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// Objects of the story's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    // ---- programs ----

    /// Starts the hub.
    pub async fn start_hub(&self) -> Result<()> {
        let password = self.folder.path().join("hub-password");
        std::fs::write(&password, "a password of this story\n")?;
        let mut hub = command(Role::Hawser);
        hub.args(["hub", "--listen", &self.hub_address.to_string()]).arg("--bridge-password-file").arg(password);
        self.hub.start(hub)?;
        eventually("the hub listens", SOON, || async {
            tokio::net::TcpStream::connect(self.hub_address).await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// SIGKILL for the hub. It keeps nothing.
    pub async fn kill_hub(&self) -> Result<()> {
        self.hub.kill().await
    }

    /// Starts the bridge, with rights of its own and no others.
    pub async fn start_bridge(&self) -> Result<()> {
        let mut bridge = command(Role::Hawser);
        bridge
            .arg("bridge")
            .arg("--kubeconfig")
            .arg(self.ground.bridge_kubeconfig())
            .args(["--namespace", SYSTEM, "--hub", &format!("mqtt://{}", self.hub_address)])
            .arg("--hub-password-file")
            .arg(self.folder.path().join("hub-password"))
            .args(["--heartbeat", &self.heartbeat_seconds.to_string(), "--http", "none"]);
        self.bridge.start(bridge)
    }

    /// SIGKILL for the bridge.
    pub async fn kill_bridge(&self) -> Result<()> {
        self.bridge.kill().await
    }

    /// The bridge's process id.
    pub fn bridge_pid(&self) -> Option<u32> {
        self.bridge.pid()
    }

    /// Starts an agent.
    pub async fn start_agent(&self, number: usize) -> Result<()> {
        self.devices[number].agent.start(self.agent_command(number))
    }

    /// Starts an agent whose wall clock says 1970. The library that pretends it is Debian's package `faketime`.
    pub async fn start_agent_in_1970(&self, number: usize) -> Result<()> {
        let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
        let mut agent = self.agent_command(number);
        if library.exists() {
            agent
                .env("LD_PRELOAD", library)
                .env("FAKETIME", "@1970-01-01 00:01:00")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        } else {
            println!(
                "NOT TESTED: the clock at 1970 (install Debian's package faketime); the rest of the story goes on"
            );
        }
        self.devices[number].agent.start(agent)
    }

    fn agent_command(&self, number: usize) -> tokio::process::Command {
        let mut agent = command(Role::Agent);
        agent.arg("run").arg("--state-dir").arg(&self.devices[number].state);
        agent
    }

    /// SIGKILL for an agent. Its workloads go on.
    pub async fn kill_agent(&self, number: usize) -> Result<()> {
        self.devices[number].agent.kill().await
    }

    /// The process id of an agent.
    pub fn agent_pid(&self, number: usize) -> Option<u32> {
        self.devices[number].agent.pid()
    }

    /// SIGKILL for everything that the agent of a device started, as a power cut would end it.
    pub fn kill_shims(&self, number: usize) -> Result<()> {
        for pid in processes_of(&self.devices[number].state) {
            std::process::Command::new("kill").arg("-KILL").arg(pid.to_string()).status()?;
        }
        Ok(())
    }

    /// Runs a second agent on the state of one that runs, and waits for it to give up.
    pub async fn run_second_agent(&self, number: usize) -> Result<Output> {
        output(self.agent_command(number)).await
    }

    /// Runs `hawser` with the rights of an operator.
    pub async fn hawser(&self, arguments: &[&str]) -> Result<Output> {
        let mut hawser = command(Role::Hawser);
        hawser.args(arguments).env("KUBECONFIG", self.kubeconfig());
        output(hawser).await
    }

    /// `hawser device add`.
    pub async fn add_device(&self, name: &str) -> Result<Join> {
        let label = format!("e2e.hawser.dev/world={}", self.name);
        // The bridge publishes its key when it has started.
        eventually(&format!("device add {name}"), SOON, || async {
            let added = self.hawser(&["device", "add", name, "--label", &label, "-n", SYSTEM, "-o", "json"]).await;
            match added {
                Ok(output) if output.status.success() => {
                    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// `hawser-agent join`, of a device that is none of this world's boards.
    pub async fn join(&self, join: &Join) -> Result<Output> {
        let state = self.folder.path().join(format!("stranger-{}", join.name));
        self.join_into(join, &state, self.hub_address).await
    }

    /// Tries to join as a device that has joined already, with the same token and another key.
    pub async fn join_again_as_another_agent(&self, number: usize) -> Result<Output> {
        let state = self.folder.path().join("impostor");
        self.join_into(&self.devices[number].joined_with, &state, self.hub_address).await
    }

    async fn join_into(&self, join: &Join, state: &Path, hub: SocketAddr) -> Result<Output> {
        let mut agent = command(Role::Agent);
        agent
            .args(["join", &format!("mqtt://{hub}"), "--name", &join.name])
            .args(["--bridge-key", &join.bridge_key, "--token", &join.token])
            .arg("--state-dir")
            .arg(state);
        output(agent).await
    }

    // ---- ropes ----

    /// Cuts the connection between a device and the hub.
    pub fn cut_rope(&self, number: usize) {
        self.devices[number].rope.cut();
    }

    /// Ties it again, with these faults.
    pub fn mend_rope(&self, number: usize, faults: Faults) {
        self.devices[number].rope.mend(faults);
    }

    /// How many messages passed, were lost, repeated, held back.
    pub fn rope_tally(&self, number: usize) -> [u64; 4] {
        self.devices[number].rope.tally().counts()
    }

    /// Bytes of messages over a device's rope so far.
    pub fn rope_bytes(&self, number: usize) -> u64 {
        self.devices[number].rope.tally().bytes()
    }

    // ---- nodes ----

    /// Waits until a device's node is ready.
    pub async fn node_ready(&self, number: usize) -> Result<Node> {
        self.node_with_ready(number, "True").await
    }

    /// Waits until a node's condition `Ready` has this status.
    pub async fn node_with_ready(&self, number: usize, status: &str) -> Result<Node> {
        self.node_with("Ready", number, status).await
    }

    /// Waits until a condition of a node has this status.
    pub async fn node_with(&self, kind: &str, number: usize, status: &str) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = self.device(number);
        eventually(&format!("node {name} has {kind}={status}"), SOON * 2, || async {
            let node = nodes.get(name).await.map_err(|error| error.to_string())?;
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            let ready = conditions.and_then(|all| all.iter().find(|condition| condition.type_ == kind));
            match ready {
                Some(ready) if ready.status == status => Ok(node),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until a device's node is gone.
    pub async fn node_gone(&self, number: usize) -> Result<()> {
        self.gone_node(self.device(number)).await
    }

    async fn gone_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually(&format!("node {name} goes"), SOON, || async {
            match nodes.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{:?}", other.map(|node| node.map(|node| node.metadata)))),
            }
        })
        .await
    }

    // ---- pods ----

    /// Creates a pod.
    pub async fn create_pod(&self, pod: &Pod) -> Result<Pod> {
        self.pods().create(&PostParams::default(), pod).await.context("the pod cannot be created")
    }

    /// Waits until the pod is ready.
    pub async fn pod_ready(&self, pod: &Pod) -> Result<Pod> {
        self.pod_ready_within(pod, SOON).await
    }

    /// Waits until the pod is ready.
    pub async fn pod_ready_within(&self, pod: &Pod, within: Duration) -> Result<Pod> {
        self.pod_until_within(pod, "ready", within, is_ready).await
    }

    /// Waits until this very pod (not a namesake) is as described.
    pub async fn pod_until(&self, pod: &Pod, what: &str, holds: impl Fn(&Pod) -> bool) -> Result<Pod> {
        self.pod_until_within(pod, what, SOON, holds).await
    }

    async fn pod_until_within(
        &self,
        pod: &Pod,
        what: &str,
        within: Duration,
        holds: impl Fn(&Pod) -> bool,
    ) -> Result<Pod> {
        let (pods, name, uid) = (self.pods(), pod.name_any(), pod.uid());
        eventually(&format!("pod {name} is {what}"), within, || async {
            let now = pods.get(&name).await.map_err(|error| error.to_string())?;
            if now.uid() == uid && holds(&now) { Ok(now) } else { Err(format!("{:#?}", now.status)) }
        })
        .await
    }

    /// Waits until this very pod is gone from the API.
    pub async fn pod_gone(&self, pod: &Pod) -> Result<()> {
        self.pod_gone_within(pod, SOON).await
    }

    /// Waits until this very pod is gone from the API.
    pub async fn pod_gone_within(&self, pod: &Pod, within: Duration) -> Result<()> {
        let (pods, name, uid) = (self.pods(), pod.name_any(), pod.uid());
        eventually(&format!("pod {name} goes"), within, || async {
            match pods.get_opt(&name).await {
                Ok(None) => Ok(()),
                Ok(Some(now)) if now.uid() != uid => Ok(()),
                other => Err(format!("{other:#?}")),
            }
        })
        .await
    }

    /// Waits until the pods of the story are as described.
    pub async fn pods_until(&self, what: &str, within: Duration, holds: impl Fn(&[Pod]) -> bool) -> Result<Vec<Pod>> {
        let pods = self.pods();
        eventually(what, within, || async {
            let now = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            if holds(&now) {
                return Ok(now);
            }
            Err(now
                .into_iter()
                .map(|pod| format!("{} {:?}", pod.name_any(), pod.status))
                .collect::<Vec<_>>()
                .join("\n"))
        })
        .await
    }

    /// Waits for an Event about a pod with this reason.
    pub async fn event(&self, pod: &str, reason: &str) -> Result<Event> {
        let events = self.api::<Event>();
        let about = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        eventually(&format!("an Event {reason} about {pod}"), SOON, || async {
            let seen = events.list(&about).await.map_err(|error| vec![error.to_string()])?.items;
            let told: Vec<_> = seen.iter().map(|e| format!("{:?}: {:?}", e.reason, e.message)).collect();
            seen.into_iter().find(|event| event.reason.as_deref() == Some(reason)).ok_or(told)
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.ended {
            let agents = self.devices.iter().map(|board| &board.agent);
            for program in [&self.hub, &self.bridge].into_iter().chain(agents) {
                println!("{}", program.tail());
            }
        }
        // Agents leave their workloads running when they end, and so does a story that fails.
        for pid in processes_of(self.folder.path()) {
            let _ = std::process::Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        }
        for board in &self.devices {
            self.disk.release(&board.state);
            // The agent leaves the folder of its secrets, as it leaves its workloads.
            for memory in ["/run", "/dev/shm"] {
                let _ = std::fs::remove_dir_all(Path::new(memory).join(format!("hawser-agent-{}", board.name)));
            }
        }
    }
}

/// Whether the pod's condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

async fn output(mut command: tokio::process::Command) -> Result<Output> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    let pid = child.id();
    match tokio::time::timeout(PATIENCE, child.wait_with_output()).await {
        Ok(output) => Ok(output?),
        Err(_) => {
            if let Some(pid) = pid {
                signal(pid, "-KILL").await?;
            }
            bail!("no end after {PATIENCE:?}: {command:?}")
        }
    }
}

/// An address of 127.0.0.1 that nobody uses now. The hub must come back to it after it was killed.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// Reads objects from YAML or JSON.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))
}
