//! `hawser-agent run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use hawser_cri::{CgroupDriver, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure, Place};
use crate::agent::{Agent, AgentConfig, StartError};
use crate::facts::cannot_keep;
use crate::identity::Identity;
use crate::reserved::Reserved;
use crate::runtime::cri::{ClusterNames, Cri, CriConfig};
use crate::runtime::process::{Process, ProcessConfig};
use crate::upkeep::ImageLimits;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// What runs the containers. With `auto` a container engine if there is one, else the host itself; a device that has
    /// pods of either keeps to it.
    #[arg(long, value_enum, env = "HAWSER_RUNTIME", default_value_t = RuntimeKind::Auto)]
    runtime: RuntimeKind,
    /// The socket of the container engine, as unix:///run/containerd/containerd.sock [default: the first of the usual
    /// places of containerd, CRI-O and k3s where there is one]
    #[arg(long, env = "HAWSER_CRI", value_name = "ADDRESS", value_parser = hawser_cri::socket::parse)]
    cri: Option<PathBuf>,
    /// Where the secrets of pods are: a directory on a tmpfs, so that they never reach the card
    /// [default: the first of /run, $XDG_RUNTIME_DIR, /dev/shm that can be used]
    #[arg(long, env = "HAWSER_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// How many pods the device takes.
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=512), value_name = "N")]
    max_pods: u32,
    /// What the device keeps for the system and the agent, as cpu=200m,memory=256Mi,ephemeral-storage=1Gi,pid=500: nodes do not
    /// promise it, and pods of a container engine together do not get it.
    #[arg(long, env = "HAWSER_RESERVED", value_name = "AMOUNTS", value_parser = Reserved::parse, default_value = "")]
    reserved: Reserved,
    /// From how full a disk on (percent) unused images are removed; 100: never.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100), value_name = "PERCENT")]
    image_gc_high: u8,
    /// Until how full a disk unused images are removed; less than the above.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=99), value_name = "PERCENT")]
    image_gc_low: u8,
}

/// What concerns pods of a container engine.
#[derive(Debug, Clone, Args)]
struct EngineArgs {
    /// The servers of the cluster's DNS, if they can be reached from here; without them pods resolve names as the device
    /// does.
    #[arg(long, env = "HAWSER_CLUSTER_DNS", value_name = "IP", value_delimiter = ',')]
    cluster_dns: Vec<std::net::IpAddr>,
    /// The domain of the cluster.
    #[arg(long, env = "HAWSER_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// How the device resolves names, for pods that do as it does.
    #[arg(long, env = "HAWSER_RESOLV_CONF", value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Kernel parameters of their own namespaces that pods may set besides the safe ones, as kernel.msg*,net.core.somaxconn
    #[arg(long, env = "HAWSER_ALLOWED_UNSAFE_SYSCTLS", value_name = "NAME", value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,
    /// Confine containers that say nothing about system calls to the engine's own profile of them (RuntimeDefault), as a
    /// kubelet does with the same option
    #[arg(long, env = "HAWSER_SECCOMP_DEFAULT")]
    seccomp_default: bool,
    /// The cgroup below which pods are, in one with the device's name: a path of names, and not the one of a kubelet
    #[arg(long, env = "HAWSER_CGROUP_ROOT", value_name = "PATH", default_value = "hawser", value_parser = cgroup_root)]
    cgroup_root: String,
    /// Who makes cgroups for the engine [default: what the engine says of itself]
    #[arg(long, value_enum, env = "HAWSER_CGROUP_DRIVER", value_name = "DRIVER")]
    cgroup_driver: Option<Driver>,
    /// How many processes and threads a pod may have; 0: as many as the device has [default: a quarter of what the device
    /// can have, at most 4096]
    #[arg(long, env = "HAWSER_POD_MAX_PIDS", value_name = "N")]
    pod_max_pids: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// The engine itself (SystemdCgroup = false).
    Cgroupfs,
    /// systemd (SystemdCgroup = true).
    Systemd,
}

/// A path of names that lead nowhere else.
fn cgroup_root(given: &str) -> Result<String, String> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':');
    let is_name = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(safe);
    let path = given.trim_matches('/');
    if path.split('/').all(is_name) {
        return Ok(path.to_owned());
    }
    Err("expected names with slashes between them, as hawser or edge/hawser".to_owned())
}

impl EngineArgs {
    fn apply(&self, config: CriConfig, reserved: Reserved) -> CriConfig {
        CriConfig {
            reserved,
            cluster: ClusterNames { servers: self.cluster_dns.clone(), domain: self.cluster_domain.clone() },
            resolver: self.resolv_conf.clone(),
            sysctls: self.allowed_unsafe_sysctls.clone(),
            seccomp_default: self.seccomp_default,
            cgroup_root: self.cgroup_root.clone(),
            cgroup_driver: self.cgroup_driver.map(|driver| match driver {
                Driver::Cgroupfs => CgroupDriver::Cgroupfs,
                Driver::Systemd => CgroupDriver::Systemd,
            }),
            pod_max_processes: self.pod_max_pids.map_or(config.pod_max_processes, |most| (most > 0).then_some(most)),
            ..config
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RuntimeKind {
    /// A container engine if there is one, else the host itself.
    Auto,
    /// A container engine (containerd, CRI-O): pods with images, networks and limits.
    Cri,
    /// Commands of the host itself (`image: host`), each in its own process group, directory and cgroup.
    Process,
}

pub(super) async fn run(args: RunArgs) -> Result<(), Failure> {
    let images = image_limits(args.image_gc_high, args.image_gc_low)?;
    if let Some(why) = cannot_keep(&args.reserved) {
        let error = anyhow::anyhow!("--reserved keeps more than the device has: {why}");
        return Err(Failure::new(Exit::Usage, error));
    }
    let identity = args.place.identity()?;
    if !identity.joined {
        let path = args.place.config();
        let error =
            anyhow::anyhow!("{}: joining was begun and not finished; run `hawser-agent join` again", path.display());
        return Err(Failure::new(Exit::NotJoined, error));
    }
    // Before anything is started: a signal that comes early must not be lost.
    let signals = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, error));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);

    tracing::info!(device = %identity.device, hub = %identity.hub, version = crate::agent::VERSION, "starting");
    let mut config = AgentConfig::new(identity, args.place.state_dir.clone());
    config.max_pods = args.max_pods;
    config.images = images;
    config.reserved = args.reserved;
    let places = Places::of(&args, &config.identity)?;
    // Others cannot make containers, and may not even ask.
    let found = hawser_cri::socket::find().filter(|_| rustix::process::geteuid().is_root());
    let choice = choose(args.runtime, args.cri.as_ref(), found, &places);
    let mut agent = match engine(choice, config.identity.device.as_str(), &places, &args).await? {
        Some(runtime) => {
            config.runtime_version = runtime.version().to_owned();
            Agent::start(config, Arc::new(runtime)).await?
        }
        None => {
            let runtime = Process::new(ProcessConfig::new(places.host_pods, places.secrets));
            Agent::start(config, Arc::new(runtime)).await?
        }
    };

    // All arms are cancel-safe: signals and ended tasks are still there when asked again.
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        part = agent.part_ended() => Some(part),
    };
    tracing::info!("stopping; workloads go on");
    agent.stop().await;
    match ended {
        None => Ok(()),
        Some(part) => Err(Failure::new(
            Exit::Failed,
            anyhow::anyhow!("the part `{part}` of the agent ended by itself; see the log"),
        )),
    }
}

fn image_limits(high: u8, low: u8) -> Result<ImageLimits, Failure> {
    if low < high {
        return Ok(ImageLimits { high, low });
    }
    let error = anyhow::anyhow!("--image-gc-low is {low}, and must be less than --image-gc-high, which is {high}");
    Err(Failure::new(Exit::Usage, error))
}

/// Where pods live.
struct Places {
    /// Those of the `process` runtime.
    host_pods: PathBuf,
    /// Those of a container engine.
    engine_pods: PathBuf,
    secrets: PathBuf,
}

impl Places {
    fn of(args: &RunArgs, identity: &Identity) -> Result<Self, Failure> {
        // Containers outlive the agent and its working directory.
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Failure::new(Exit::StateDir, error));
        let state = absolute(&args.place.state_dir)?;
        let secrets = match &args.secrets_dir {
            Some(given) => absolute(given)?,
            None => secrets_dir(identity).ok_or_else(|| {
                let error =
                    anyhow::anyhow!("there is no writable tmpfs for the secrets of pods; name one with --secrets-dir");
                Failure::new(Exit::StateDir, error)
            })?,
        };
        Ok(Self { host_pods: state.join("pods"), engine_pods: state.join("sandboxes"), secrets })
    }
}

/// What is to run pods.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    Host,
    /// The engine at this socket and nothing else.
    Engine(PathBuf),
    /// The engine that happens to be there, if it is one for pods.
    Found(PathBuf),
}

/// The engine that was chosen; `None`: the host itself runs pods.
async fn engine(choice: Choice, device: &str, places: &Places, args: &RunArgs) -> Result<Option<Cri>, Failure> {
    let (socket, only) = match choice {
        Choice::Host => return Ok(None),
        Choice::Engine(socket) => (socket, true),
        Choice::Found(socket) => (socket, false),
    };
    let set_up = CriConfig::new(socket.clone(), device, places.engine_pods.clone(), places.secrets.clone());
    match Cri::connect(args.engine.apply(set_up, args.reserved)).await {
        Ok(engine) => Ok(Some(engine)),
        // An engine that is only late or ill is waited for by whoever starts us again: a device that once runs pods on
        // the host keeps to it.
        Err(error) if error.kind == ErrorKind::Unimplemented && !only => {
            tracing::warn!(
                socket = %socket.display(),
                "the container engine there does not run pods, so programs of the host are run (if it is Docker's containerd: take `cri` out of disabled_plugins in /etc/containerd/config.toml, restart it, and start with --runtime cri)"
            );
            Ok(None)
        }
        Err(error) => Err(Failure::new(Exit::Engine, error)),
    }
}

/// What is to run pods, where `found` is where an engine seems to be.
fn choose(kind: RuntimeKind, given: Option<&PathBuf>, found: Option<PathBuf>, places: &Places) -> Choice {
    let has_pods = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    // Where none is found, the error names the first of the usual places.
    let somewhere = || given.cloned().or(found.clone()).unwrap_or_else(|| hawser_cri::socket::USUAL[0].into());
    match kind {
        RuntimeKind::Process => Choice::Host,
        RuntimeKind::Cri => Choice::Engine(somewhere()),
        RuntimeKind::Auto if given.is_some() || has_pods(&places.engine_pods) => Choice::Engine(somewhere()),
        RuntimeKind::Auto if has_pods(&places.host_pods) => Choice::Host,
        RuntimeKind::Auto => found.map_or(Choice::Host, Choice::Found),
    }
}

/// A directory of this agent on a tmpfs that it may write to, the same at every start.
fn secrets_dir(identity: &Identity) -> Option<PathBuf> {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let places = std::iter::once(PathBuf::from("/run")).chain(user).chain([PathBuf::from("/dev/shm")]);
    let name = format!("hawser-agent-{}", identity.device);
    places.filter(|place| is_writable_tmpfs(place)).map(|place| place.join(&name)).next()
}

fn is_writable_tmpfs(path: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    let tmpfs = rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == TMPFS);
    tmpfs && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::StateDir(_) => Exit::StateDir,
            StartError::Hub(_) => Exit::NotJoined,
            StartError::Thread(_) | StartError::Randomness(_) => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_cgroups_leads_nowhere_else() {
        for (given, expected) in [("hawser", Some("hawser")), ("/edge/my-boat.1/", Some("edge/my-boat.1"))] {
            assert_eq!(cgroup_root(given).ok().as_deref(), expected, "{given}");
        }
        for given in ["", "/", "a//b", "..", "a/../b", "a b", "a\n"] {
            assert!(cgroup_root(given).is_err(), "{given:?}");
        }
    }

    #[test]
    fn a_device_uses_the_engine_it_has_and_keeps_to_what_its_pods_run_on() {
        let state = tempfile::tempdir().unwrap();
        let places = Places {
            host_pods: state.path().join("pods"),
            engine_pods: state.path().join("sandboxes"),
            secrets: PathBuf::new(),
        };
        let (given, found) = (PathBuf::from("/given.sock"), PathBuf::from("/found.sock"));
        let usual = || Choice::Engine(hawser_cri::socket::USUAL[0].into());
        let choose =
            |kind, given: Option<&PathBuf>, found: Option<&PathBuf>| choose(kind, given, found.cloned(), &places);
        assert_eq!(choose(RuntimeKind::Process, Some(&given), Some(&found)), Choice::Host);
        assert_eq!(choose(RuntimeKind::Cri, Some(&given), Some(&found)), Choice::Engine(given.clone()));
        assert_eq!(choose(RuntimeKind::Cri, None, Some(&found)), Choice::Engine(found.clone()));
        assert_eq!(choose(RuntimeKind::Cri, None, None), usual());
        assert_eq!(choose(RuntimeKind::Auto, None, None), Choice::Host);
        assert_eq!(choose(RuntimeKind::Auto, None, Some(&found)), Choice::Found(found.clone()));
        assert_eq!(choose(RuntimeKind::Auto, Some(&given), None), Choice::Engine(given));
        std::fs::create_dir_all(places.host_pods.join("uid")).unwrap();
        let later = "an engine that was installed later changes nothing";
        assert_eq!(choose(RuntimeKind::Auto, None, Some(&found)), Choice::Host, "{later}");
        std::fs::create_dir_all(places.engine_pods.join("uid")).unwrap();
        assert_eq!(choose(RuntimeKind::Auto, None, None), usual(), "an engine that is gone is missed");
    }
}
