//! The commands of `hawser-agent`: read the arguments, do it, say how it went.

mod join;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::identity::{self, Identity, IdentityError};
use crate::state_dir;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed that none of the others names
  2  the arguments are wrong
  3  this device has not joined, or its configuration cannot be used
  4  the bridge refused
  5  the hub cannot be reached, or no bridge answers
  6  the state directory cannot be used, or another agent uses it
  7  (status) no agent is running
  8  (status) the agent is running without a session with the bridge
  9  the container engine cannot be used

Environment:
  HAWSER_LOG   how much is logged: error, warn, info (default), debug, trace";

/// Ties this device to a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "hawser-agent", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this device known to the bridge, once. `hawser device add` prints the whole command.
    #[command(
        after_help = "Example:\n  hawser-agent join mqtts://hub.example --name pi-4 --bridge-key 3f…9a --token hwt1.….…"
    )]
    Join(join::JoinArgs),
    /// Run the agent until it is told to stop; workloads go on without it.
    #[command(
        after_help = "Examples:\n  hawser-agent run\n  hawser-agent run --state-dir ./state\n  hawser-agent run --cri unix:///run/k3s/containerd/containerd.sock"
    )]
    Run(run::RunArgs),
    /// Say how the agent is, whether it runs or not.
    #[command(after_help = "Examples:\n  hawser-agent status\n  hawser-agent status -o json")]
    Status(status::StatusArgs),
}

/// Where everything is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The directory for everything the agent keeps.
    #[arg(long, env = "HAWSER_STATE_DIR", default_value = state_dir::DEFAULT, value_name = "DIR")]
    state_dir: PathBuf,
    /// The configuration file, which holds the device's secret key [default: agent.json in the state directory]
    #[arg(long, env = "HAWSER_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.state_dir.join(identity::FILE))
    }

    fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::load(&self.config())
    }
}

/// How a command ends, for the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotJoined = 3,
    Refused = 4,
    Unreachable = 5,
    StateDir = 6,
    NotRunning = 7,
    NoSession = 8,
    Engine = 9,
}

/// What went wrong, and how the command ends.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new(Exit::NotJoined, error)
    }
}

impl From<state_dir::StateDirError> for Failure {
    fn from(error: state_dir::StateDirError) -> Self {
        Self::new(Exit::StateDir, error)
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    // One thread: the agent waits far more than it works, and every further thread costs memory.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(Exit::Failed, anyhow::Error::new(error).context("cannot start"))),
    };
    let done = match cli.command {
        Command::Join(args) => runtime.block_on(join::join(args)).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => runtime.block_on(run::run(args)).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => runtime.block_on(status::status(args)),
    };
    // A name lookup may still hang in a thread of its own; nobody needs it any more.
    runtime.shutdown_background();
    done.unwrap_or_else(|failure| fail(&failure))
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("error: {:#}", failure.error);
    ExitCode::from(failure.exit as u8)
}

fn log() {
    let level = std::env::var("HAWSER_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colours).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }
}
