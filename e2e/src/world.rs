//! The world of one story: a hub, the bridge, devices with their agents, and a namespace, on a ground.
//!
//! Everything but the ground is a process that can be killed. Between each device and the hub is a rope that can be cut.

mod board;
mod hub;
mod port;
mod programs;
mod waits;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use edge_provider::device::Device;
use hawser_lab::rope::{Faults, Rope};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::engine::Engine;
use crate::ground::Ground;
use crate::process::{Program, processes_of};
use crate::tls::Authority;
use crate::wait::{SOON, eventually};
pub use crate::witness::Witness;
use board::Board;
pub use board::{Disk, Join};
use hub::HubPlace;
pub use hub::{HubKind, mosquitto};
pub use port::Port;

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
    hub_place: HubPlace,
    /// Who issues the hub's certificates, where there is TLS.
    authority: Option<Authority>,
    heartbeat_seconds: u16,
    hub: Program,
    bridge: Program,
    devices: Vec<Board>,
    disk: Disk,
    /// What runs the pods of the devices; `None`: the runtime `process`.
    engine: Option<Arc<Engine>>,
    tainted: bool,
    ended: bool,
}

/// What a story asks of its world.
#[derive(Debug, Clone)]
pub struct Setting {
    story: String,
    devices: usize,
    heartbeat_seconds: u16,
    disk: Disk,
    hub: HubKind,
    engine: Option<Arc<Engine>>,
    tainted: bool,
}

impl Setting {
    /// No devices, the embedded hub, heartbeats every second.
    pub fn of(story: &str) -> Self {
        Self {
            story: story.to_owned(),
            devices: 0,
            heartbeat_seconds: QUICK_HEARTBEAT,
            disk: Disk::Plain,
            hub: HubKind::Embedded,
            engine: None,
            tainted: true,
        }
    }

    /// How many devices.
    pub fn devices(self, devices: usize) -> Self {
        Self { devices, ..self }
    }

    /// How often devices send heartbeats.
    pub fn heartbeat_seconds(self, heartbeat_seconds: u16) -> Self {
        Self { heartbeat_seconds, ..self }
    }

    /// On what the devices keep their state.
    pub fn disk(self, disk: Disk) -> Self {
        Self { disk, ..self }
    }

    /// Which hub.
    pub fn hub(self, hub: HubKind) -> Self {
        Self { hub, ..self }
    }

    /// The devices run their pods with this engine.
    pub fn engine(self, engine: Arc<Engine>) -> Self {
        Self { engine: Some(engine), disk: Disk::Roomy, ..self }
    }

    /// The nodes take every pod, also one that does not ask for a device.
    pub fn untainted(self) -> Self {
        Self { tainted: false, ..self }
    }

    /// Starts everything and waits until the devices' nodes are ready.
    pub async fn start(self) -> Result<World> {
        let mut world = World::without_devices(&self).await?;
        for number in 0..self.devices {
            world.add_board(number).await?;
        }
        for number in 0..self.devices {
            world.node_ready(number).await?;
        }
        Ok(world)
    }
}

impl World {
    /// Starts everything and waits until the devices' nodes are ready.
    pub async fn start(story: &str, devices: usize) -> Result<Self> {
        Setting::of(story).devices(devices).start().await
    }

    /// As [`start`](Self::start), with heartbeats as rare as they are in the field, for measurements.
    pub async fn start_with_heartbeat(story: &str, devices: usize, heartbeat_seconds: u16) -> Result<Self> {
        Setting::of(story).devices(devices).heartbeat_seconds(heartbeat_seconds).start().await
    }

    /// As [`start`](Self::start), with the state of each device on a small disk of its own. `None`, with a word about it,
    /// where this process may not mount one.
    pub async fn start_on_small_disks(story: &str, devices: usize) -> Result<Option<Self>> {
        let probe = tempfile::tempdir()?;
        if Disk::Small.prepare(probe.path()).is_err() {
            println!("NOT TESTED: small disks need the right to mount one (run as root)");
            return Ok(None);
        }
        Disk::Small.release(probe.path());
        Setting::of(story).devices(devices).disk(Disk::Small).start().await.map(Some)
    }

    /// As [`start`](Self::start), with devices that run containers on one engine. `None`, with a word about it, where that
    /// cannot be had.
    pub async fn start_with_containers(story: &str, devices: usize) -> Result<Option<Self>> {
        if let Some(missing) = crate::engine::missing() {
            println!("NOT TESTED: {story}: containers: {missing}");
            return Ok(None);
        }
        let engine = Arc::new(Engine::start()?);
        Setting::of(story).devices(devices).engine(engine).start().await.map(Some)
    }

    /// As [`start_with_containers`](Self::start_with_containers), with the engine's images and containers on a disk of so many megabytes.
    pub async fn start_with_containers_on_disk(story: &str, megabytes: u32) -> Result<Option<Self>> {
        if let Some(missing) = crate::engine::missing() {
            println!("NOT TESTED: {story}: containers: {missing}");
            return Ok(None);
        }
        let engine = Arc::new(Engine::start_on_small_disk(megabytes)?);
        Setting::of(story).devices(1).engine(engine).start().await.map(Some)
    }

    async fn without_devices(setting: &Setting) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("hawser-{}-", setting.story)).tempdir()?;
        let ground = Ground::prepare(folder.path()).await?;
        let client = ground.client().await?;
        let hub_place = HubPlace::new(setting.hub, folder.path())?;
        let mut authority = None;
        if let Some(ca) = hub_place.ca() {
            let new = authority.insert(Authority::new()?);
            std::fs::write(ca, new.certificate())?;
            let (certificate, key) = new.issue("localhost")?;
            hub_place.set_certificate(&certificate, &key)?;
        }
        // Names of their own, so that stories can be told on a cluster that is used for other things.
        let mut random = [0; 4];
        getrandom::fill(&mut random)?;
        let name = format!("{}-{:x}", setting.story, u32::from_ne_bytes(random));
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
            hub_place,
            authority,
            heartbeat_seconds: setting.heartbeat_seconds,
            disk: setting.disk,
            engine: setting.engine.clone(),
            tainted: setting.tainted,
        };
        world.start_hub().await?;
        world.start_bridge().await?;
        Ok(world)
    }

    /// Adds a device and starts its agent.
    async fn add_board(&mut self, number: usize) -> Result<()> {
        let name = format!("{}-{number}", self.name);
        let join = self.add_device(&name).await?;
        let state = self.folder.path().join(format!("device-{number}"));
        self.disk.prepare(&state)?;
        let rope = match self.hub_place.kind {
            HubKind::EmbeddedTls => None,
            HubKind::Embedded | HubKind::OpenMosquitto => Some(Rope::tie(self.hub_address(), Faults::default()).await?),
        };
        let agent = Program::new(&format!("agent-{number}"), self.folder.path());
        let output = self.join_board(&join, &state, rope.as_ref()).await?;
        if !output.status.success() {
            bail!("{name} cannot join: {}", String::from_utf8_lossy(&output.stderr));
        }
        self.devices.push(Board { name, state, rope, agent, joined_with: join });
        self.start_agent(number).await
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

    /// The story's folder, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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
        self.hub_place.address()
    }

    /// Who issues the hub's certificates, where there is TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
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

    /// Copies what the programs of this world have printed to a folder.
    pub fn keep_logs(&self, to: &Path) -> Result<()> {
        for entry in std::fs::read_dir(self.folder.path())? {
            let path = entry?.path();
            if let (Some("log"), Some(name)) = (path.extension().and_then(|end| end.to_str()), path.file_name()) {
                std::fs::copy(&path, to.join(name))?;
            }
        }
        Ok(())
    }

    /// The engine of the devices, in a world of containers.
    pub fn engine(&self) -> &Engine {
        self.engine.as_deref().expect("a world with an engine")
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
