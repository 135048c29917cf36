//! `hawser-agent run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure, Place};
use crate::agent::{Agent, AgentConfig, StartError};
use crate::identity::Identity;
use crate::runtime::process::{Process, ProcessConfig};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// What runs the containers.
    #[arg(long, value_enum, default_value_t = RuntimeKind::Process)]
    runtime: RuntimeKind,
    /// Where the secrets of pods are: a directory on a tmpfs, so that they never reach the card
    /// [default: the first of /run, $XDG_RUNTIME_DIR, /dev/shm that can be used]
    #[arg(long, env = "HAWSER_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// How many pods the device takes.
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=512), value_name = "N")]
    max_pods: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RuntimeKind {
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
    let RuntimeKind::Process = args.runtime;
    let runtime = Process::new(process_config(&args, &config.identity)?);
    let mut agent = Agent::start(config, Arc::new(runtime)).await?;

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

fn process_config(args: &RunArgs, identity: &Identity) -> Result<ProcessConfig, Failure> {
    // Shims outlive the agent and its working directory.
    let state = std::path::absolute(&args.place.state_dir).map_err(|error| Failure::new(Exit::StateDir, error))?;
    let secrets = match &args.secrets_dir {
        Some(given) => std::path::absolute(given).map_err(|error| Failure::new(Exit::StateDir, error))?,
        None => secrets_dir(identity).ok_or_else(|| {
            let error =
                anyhow::anyhow!("there is no writable tmpfs for the secrets of pods; name one with --secrets-dir");
            Failure::new(Exit::StateDir, error)
        })?,
    };
    Ok(ProcessConfig::new(state.join("pods"), secrets))
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
