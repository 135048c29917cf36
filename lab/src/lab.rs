//! The parts of the lab, started in order and stopped in the opposite one.
//!
//! ```text
//! KubeApi ← controllers
//!    ↑
//!  Bridge + embedded hub ← agents (one state directory each) → workloads
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use device_agent::agent::{Agent, AgentConfig, AgentHandle};
use device_agent::identity::Identity;
use device_agent::link::hub_url::HubUrl;
use device_agent::runtime::process::{Process, ProcessConfig};
use device_agent::runtime::scripted::Scripted;
use device_agent::runtime::{ContainerId, FoundState, Runtime, Signal};
use edge_provider::bridge::key::KeySource;
use edge_provider::bridge::{Bridge, BridgeConfig, HubChoice};
use edge_provider::device::Device;
use embedded_hub::{Accounts, HubConfig, Password};
use hawser_wire::session::StaticKey;
use hawser_wire::{DeviceId, PublicKey, Root};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, CustomResourceExt};
use lab_controllers::Controllers;
use lab_kube_api::KubeApi;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use virtual_node::KubeletConfig;

use crate::args::{Args, Runtime as RuntimeChoice};

/// The bridge's namespace.
const SYSTEM: &str = "hawser-system";
/// Who writes what the lab sets up.
const MANAGER: &str = "hawser-lab";
/// Often, so that people see a device leave and return.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long workloads may take to end when the lab stops. All of stopping is to take less than 5 s.
const WORKLOAD_GRACE: Duration = Duration::from_millis(1500);
const PART_GRACE: Duration = Duration::from_secs(2);

/// A running lab.
pub struct Lab {
    api: KubeApi,
    client: Client,
    kubeconfig: PathBuf,
    controllers: JoinHandle<Result<(), lab_controllers::Error>>,
    bridge: JoinHandle<Result<(), edge_provider::bridge::RunError>>,
    boards: Vec<Board>,
    stop: CancellationToken,
    /// Dropped last, if it is temporary.
    data: Data,
}

/// What a board needs to come together with the bridge.
struct Meeting {
    hub: HubUrl,
    bridge: PublicKey,
    client: Client,
    runtime: RuntimeChoice,
}

/// A device of the lab.
struct Board {
    agent: AgentHandle,
    /// `None`: nothing real runs.
    runtime: Option<Arc<Process>>,
    /// Where the runtime keeps secrets, outside the lab's own folder.
    secrets: PathBuf,
}

/// Where the lab keeps its things.
enum Data {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Data {
    fn open(kept: Option<&Path>) -> Result<Self> {
        match kept {
            Some(path) => {
                std::fs::create_dir_all(path).with_context(|| {
                    format!("--data {}: cannot be made; name a folder you may write", path.display())
                })?;
                // Shims and agents name their files by absolute paths.
                Ok(Self::Kept(path.canonicalize()?))
            }
            None => Ok(Self::Temporary(tempfile::Builder::new().prefix("hawser-lab-").tempdir()?)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn kept(&self) -> Option<&Path> {
        match self {
            Self::Kept(path) => Some(path),
            Self::Temporary(_) => None,
        }
    }
}

impl Lab {
    /// Starts everything. When this returns, the API answers and the agents are on their way.
    pub async fn start(args: &Args) -> Result<Self> {
        // Another part of the process may have chosen it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let data = Data::open(args.data.as_deref())?;
        let api = start_api(args.port, data.kept()).await?;
        api.write_kubeconfig(&args.kubeconfig).with_context(|| {
            format!("--kubeconfig {}: cannot be written; name another file", args.kubeconfig.display())
        })?;
        let client = client(&args.kubeconfig).await?;
        let stop = CancellationToken::new();
        let controllers = Controllers::new(client.clone(), lab_controllers::Config::default());
        let controllers = tokio::spawn(controllers.run(stop.child_token()));
        install(&client).await.context("setting up the lab's API")?;
        let bridge = Bridge::start(bridge_config(client.clone())?).await.context("starting the bridge")?;
        let hub = HubUrl::parse(bridge.hub_address()).map_err(|error| anyhow::anyhow!("{error}"))?;
        let meet = Meeting { hub, bridge: bridge.public_key(), client: client.clone(), runtime: args.runtime };
        let bridge = tokio::spawn(bridge.run(stop.child_token()));
        let kubeconfig = args.kubeconfig.clone();
        let mut lab = Self { api, client, kubeconfig, controllers, bridge, boards: Vec::new(), stop, data };
        match lab.start_boards(args.devices, &meet).await {
            Ok(()) => Ok(lab),
            Err(error) => {
                // Boards that did start would go on with their workloads.
                lab.stop().await;
                Err(error)
            }
        }
    }

    async fn start_boards(&mut self, count: u16, meet: &Meeting) -> Result<()> {
        for number in 1..=count {
            let name = format!("lab-{number}");
            let board = Board::start(&name, self.data.path(), meet).await.with_context(|| name)?;
            self.boards.push(board);
        }
        Ok(())
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.boards.len()
    }

    /// Where the API is.
    pub fn url(&self) -> String {
        self.api.url()
    }

    /// Where the kubeconfig was written.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Resolves when a part has ended that must not, with the reason.
    pub async fn broken(&mut self) -> anyhow::Error {
        let part_of_board = async {
            // Each future only looks; dropping it loses nothing.
            let ends: Vec<_> = self.boards.iter_mut().map(|board| Box::pin(board.agent.part_ended())).collect();
            if ends.is_empty() { std::future::pending().await } else { futures::future::select_all(ends).await.0 }
        };
        // Cancel-safe: each arm only waits for an end, and an end stays one.
        tokio::select! {
            ended = &mut self.bridge => ended_part("the bridge", ended),
            ended = &mut self.controllers => ended_part("the controllers", ended),
            part = part_of_board => anyhow::anyhow!("an agent's part `{part}` has ended"),
        }
    }

    /// Stops everything: agents, workloads, bridge and hub, controllers, API.
    pub async fn stop(self) {
        let mut stopping = JoinSet::new();
        for board in self.boards {
            stopping.spawn(board.stop());
        }
        while stopping.join_next().await.is_some() {}
        self.stop.cancel();
        for (name, ended) in
            [("bridge", finished(self.bridge).await), ("controllers", finished(self.controllers).await)]
        {
            if !ended {
                tracing::warn!(part = name, "did not stop in time and is cut off");
            }
        }
        self.api.stop().await;
    }
}

fn ended_part<E: std::fmt::Display>(part: &str, ended: Result<Result<(), E>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("{part} stopped although nobody told it to"),
        Ok(Err(error)) => anyhow::anyhow!("{part}: {error}"),
        Err(error) => anyhow::anyhow!("{part}: {error}"),
    }
}

async fn finished<T>(mut task: JoinHandle<T>) -> bool {
    // One that ended by itself has been asked for its result already, and may not be asked twice.
    if task.is_finished() {
        return true;
    }
    let ended = tokio::time::timeout(PART_GRACE, &mut task).await.is_ok();
    if !ended {
        task.abort();
    }
    ended
}

async fn start_api(port: u16, data: Option<&Path>) -> Result<KubeApi> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let config =
        lab_kube_api::Config { listen, data_dir: data.map(|path| path.join("api")), ..lab_kube_api::Config::default() };
    KubeApi::start(config).await.with_context(|| format!("the API cannot start on {listen}; --port names another port"))
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// What `hawser manifests all | kubectl apply -f -` does for a cluster, as far as a lab needs it.
async fn install(client: &Client) -> Result<()> {
    let parameters = PatchParams::apply(MANAGER).force();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM } });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.patch(SYSTEM, &parameters, &Patch::Apply(namespace)).await?;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Device::crd_name();
    crds.patch(name, &parameters, &Patch::Apply(Device::crd())).await?;
    let established = await_condition(crds, name, is_crd_established());
    match tokio::time::timeout(Duration::from_secs(10), established).await {
        Ok(established) => drop(established?),
        Err(_) => bail!("the API does not serve {name} after 10 s"),
    }
    Ok(())
}

fn bridge_config(client: Client) -> Result<BridgeConfig> {
    let accounts = Accounts::new(Password::generate().context("a password for the hub")?);
    Ok(BridgeConfig {
        client,
        hub: HubChoice::Embedded(HubConfig::on_loopback(accounts)),
        namespace: SYSTEM.to_owned(),
        root: Root::default(),
        key: KeySource::Secret,
        heartbeat: HEARTBEAT,
        http: None,
        advertised_hub: None,
        kubelet: Some(KubeletConfig::new(([127, 0, 0, 1], 0).into(), [127, 0, 0, 1].into())),
        keep_logs: None,
    })
}

impl Board {
    async fn start(name: &str, data: &Path, meet: &Meeting) -> Result<Self> {
        let state = data.join(name);
        std::fs::create_dir_all(&state)
            .with_context(|| format!("the folder {} cannot be made; look at what is there", state.display()))?;
        let identity = identity(name, &state, meet)?;
        admit(name, &identity, &meet.client).await?;
        let config = AgentConfig::new(identity, state.clone());
        let secrets = secrets_folder(&state);
        Ok(match meet.runtime {
            RuntimeChoice::Process => {
                let process = ProcessConfig::new(state.join("pods"), secrets.clone());
                let process = Arc::new(Process::new(process));
                let agent = Agent::start(config, process.clone()).await?;
                Self { agent, runtime: Some(process), secrets }
            }
            RuntimeChoice::Scripted => {
                let agent = Agent::start(config, Arc::new(Scripted::default())).await?;
                Self { agent, runtime: None, secrets }
            }
        })
    }

    async fn stop(self) {
        self.agent.stop().await;
        if let Some(process) = &self.runtime {
            end_workloads(process).await;
            // They are made again from the ledger when the lab goes on. There may be none.
            let _ = std::fs::remove_dir_all(&self.secrets);
        }
    }
}

/// An agent that stops leaves its workloads running. A lab that stops leaves nothing.
async fn end_workloads(runtime: &Arc<Process>) {
    let Ok(found) = runtime.inventory().await else { return };
    let running: Vec<ContainerId> = found
        .into_iter()
        .filter(|found| matches!(found.state, FoundState::Running { .. }))
        .map(|found| found.id)
        .collect();
    let mut ending = JoinSet::new();
    for id in running {
        let runtime = Arc::clone(runtime);
        ending.spawn(async move {
            // It is killed in a moment if this did not work.
            let _ = runtime.signal(id.clone(), Signal::Term).await;
            if tokio::time::timeout(WORKLOAD_GRACE, runtime.ended(id.clone())).await.is_err() {
                if let Err(error) = runtime.signal(id.clone(), Signal::Kill).await {
                    tracing::warn!(%error, container = %id, "cannot be killed");
                }
                let _ = tokio::time::timeout(WORKLOAD_GRACE, runtime.ended(id)).await;
            }
        });
    }
    while ending.join_next().await.is_some() {}
}

/// The device's identity: the one it had, or a new one. The hub's address differs from run to run.
fn identity(name: &str, state: &Path, meet: &Meeting) -> Result<Identity> {
    let file = state.join(device_agent::identity::FILE);
    let (hub, bridge) = (meet.hub.clone(), meet.bridge);
    let identity = if file.exists() {
        Identity { hub, bridge, ..Identity::load(&file)? }
    } else {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Identity {
            device: DeviceId::new(name)?,
            hub,
            root: Root::default(),
            bridge,
            key: StaticKey::from_secret(secret),
            hub_ca: None,
            hub_password: None,
            joined: true,
        }
    };
    identity.save(&file)?;
    Ok(identity)
}

/// Admits the device by its key: what `hawser device add --public-key` does, and no token is needed.
async fn admit(name: &str, identity: &Identity, client: &Client) -> Result<()> {
    let devices: Api<Device> = Api::all(client.clone());
    let device = json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "Device",
        "metadata": { "name": name },
        "spec": { "publicKey": identity.key.public().to_string(), "labels": { "hawser.dev/lab": "true" } },
    });
    devices.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(device)).await?;
    Ok(())
}

/// Secrets belong into memory. Where there is no tmpfs for everybody, the lab's own folder has to do.
fn secrets_folder(state: &Path) -> PathBuf {
    let shared = Path::new("/dev/shm");
    if !shared.is_dir() {
        return state.join("secrets");
    }
    let name: String =
        state.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    shared.join(format!("hawser{name}"))
}
