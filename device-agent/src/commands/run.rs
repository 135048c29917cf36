//! `hawser-agent run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure, Place};
use crate::agent::{Agent, AgentConfig, StartError};
use crate::identity::Identity;
use crate::runtime::cri::{Cri, CriConfig};
use crate::runtime::process::{Process, ProcessConfig};

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
    /// How many pods the device takes.
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=512), value_name = "N")]
    max_pods: u32,
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
    let places = Places::of(&args, &config.identity)?;
    let mut agent = match choose(args.runtime, args.cri.as_ref(), hawser_cri::socket::find(), &places) {
        Some(socket) => {
            let set_up = CriConfig::new(socket, config.identity.device.as_str(), places.engine_pods, places.secrets);
            let runtime = Cri::connect(set_up).await.map_err(|error| Failure::new(Exit::Engine, error))?;
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

/// The socket of the engine that is to run pods; `None`: the host itself is to. `found` is where an engine seems to be.
fn choose(kind: RuntimeKind, given: Option<&PathBuf>, found: Option<PathBuf>, places: &Places) -> Option<PathBuf> {
    let has_pods = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    // Where none is found, the error names the first of the usual places.
    let somewhere = || given.cloned().or(found.clone()).unwrap_or_else(|| hawser_cri::socket::USUAL[0].into());
    match kind {
        RuntimeKind::Process => None,
        RuntimeKind::Cri => Some(somewhere()),
        RuntimeKind::Auto if given.is_some() || has_pods(&places.engine_pods) => Some(somewhere()),
        RuntimeKind::Auto if has_pods(&places.host_pods) => None,
        RuntimeKind::Auto => found,
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
    fn a_device_uses_the_engine_it_has_and_keeps_to_what_its_pods_run_on() {
        let state = tempfile::tempdir().unwrap();
        let places = Places {
            host_pods: state.path().join("pods"),
            engine_pods: state.path().join("sandboxes"),
            secrets: PathBuf::new(),
        };
        let (given, found) = (PathBuf::from("/given.sock"), Some(PathBuf::from("/found.sock")));
        let usual = Some(PathBuf::from(hawser_cri::socket::USUAL[0]));
        let choose =
            |kind, given: Option<&PathBuf>, found: &Option<PathBuf>| choose(kind, given, found.clone(), &places);
        assert_eq!(choose(RuntimeKind::Process, Some(&given), &found), None);
        assert_eq!(choose(RuntimeKind::Cri, Some(&given), &found), Some(given.clone()));
        assert_eq!(choose(RuntimeKind::Cri, None, &found), found);
        assert_eq!(choose(RuntimeKind::Cri, None, &None), usual);
        assert_eq!(choose(RuntimeKind::Auto, None, &None), None);
        assert_eq!(choose(RuntimeKind::Auto, None, &found), found);
        assert_eq!(choose(RuntimeKind::Auto, Some(&given), &None), Some(given));
        std::fs::create_dir_all(places.host_pods.join("uid")).unwrap();
        assert_eq!(choose(RuntimeKind::Auto, None, &found), None, "an engine that was installed later changes nothing");
        std::fs::create_dir_all(places.engine_pods.join("uid")).unwrap();
        assert_eq!(choose(RuntimeKind::Auto, None, &None), usual, "an engine that is gone is missed");
    }
}
