//! The program `hawser` as people see it: arguments in, one line per failure out, exit codes that mean something.

pub mod bridge;
pub mod cluster;
pub mod device;
pub mod hub;
pub mod keep;
pub mod kubelet;
pub mod manifests;
pub mod process;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Ties IoT boards to a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be the virtual nodes of all devices, and talk to the devices through a hub
    Bridge(Box<bridge::BridgeArgs>),
    /// Run the embedded hub alone
    Hub(hub::HubArgs),
    /// Add devices, look at them, remove them
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Print what has to be in a cluster before a bridge can run there
    #[command(subcommand)]
    Manifests(manifests::ManifestsCommand),
}

const EXIT_CODES: &str = "\
Exit codes: 0 done or stopped as told; 1 failed while running; 2 wrong arguments;
            3 the cluster cannot be used; 4 the hub or an address cannot be used; 5 the key cannot be used";

/// Why the program ends with a failure.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What went wrong: thing, cause, fix.
    pub error: anyhow::Error,
}

impl Failure {
    /// The cluster cannot be used.
    pub fn cluster(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 3, error: error.into() }
    }

    /// The hub or an address cannot be used.
    pub fn address(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 4, error: error.into() }
    }

    /// The key cannot be used.
    pub fn key(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 5, error: error.into() }
    }

    /// Something failed while running.
    pub fn running(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 1, error: error.into() }
    }

    /// The arguments do not make sense together.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 2, error: error.into() }
    }

    /// The failure in one line, the causes behind it separated by colons.
    pub fn line(&self) -> String {
        let mut line = String::from("error");
        let mut said = String::new();
        for cause in self.error.chain() {
            let cause = cause.to_string().replace('\n', " ");
            // Some libraries repeat their cause in their own text.
            if !said.contains(&cause) {
                line.push_str(": ");
                line.push_str(&cause);
                said = cause;
            }
        }
        line
    }
}

/// Parses the arguments, does what they say, and says in one line what went wrong.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let done = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(command.run()),
        Err(error) => Err(Failure::running(anyhow::Error::new(error).context("cannot start threads"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.line());
            ExitCode::from(failure.code)
        }
    }
}

impl Command {
    /// Does it.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Bridge(args) => args.run().await,
            Self::Hub(args) => args.run().await,
            Self::Device(command) => {
                process::install_crypto();
                command.run().await.map_err(Failure::running)
            }
            Self::Manifests(command) => command.run().await.map_err(Failure::running),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent_and_every_command_has_examples() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for name in ["bridge", "hub"] {
            let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{name}");
        }
    }

    #[test]
    fn a_failure_is_one_line_that_does_not_repeat_itself() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("start");
        assert_eq!(Failure::running(error).line(), "error: start: cannot read x: no such file");
    }
}
