//! `hawser device`: add devices, look at them, remove them.
//!
//! Each subcommand is a struct of its arguments with one `execute`, which gets the client, the time and somewhere to
//! write, so that tests run what people run.

mod add;
mod list;
mod reach;
mod remove;
mod show;
mod text;

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

pub use add::Add;
pub use list::List;
pub use remove::Remove;
pub use show::Show;

/// Add devices, look at them, remove them.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Add a device and print the command that joins it.
    Add(Add),
    /// List the devices.
    List(List),
    /// Show all about one device.
    Show(Show),
    /// Remove a device and its Node.
    Remove(Remove),
}

/// Which cluster, and where in it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Where {
    /// The kubeconfig to use [default: KUBECONFIG, ~/.kube/config, or the service account of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace of the bridge
    #[arg(short, long, value_name = "NAME", default_value = crate::device::DEFAULT_NAMESPACE)]
    namespace: String,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

impl DeviceCommand {
    /// Runs the subcommand against the cluster that its arguments name and prints to standard output.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let now = now();
        match self {
            Self::Add(add) => add.execute(reach::client(&add.place).await?, now, &mut out).await?,
            Self::List(list) => list.execute(reach::client(&list.place).await?, now, &mut out).await?,
            Self::Show(show) => show.execute(reach::client(&show.place).await?, now, &mut out).await?,
            Self::Remove(remove) => {
                let mut answers = Terminal;
                remove.execute(reach::client(&remove.place).await?, &mut answers, &mut out).await?;
            }
        }
        Ok(out.flush()?)
    }
}

#[expect(clippy::disallowed_methods, reason = "a command asks once what time it is; below, time is an argument")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// Whom to ask before something is removed.
trait Answers {
    /// The answer to a question that was printed, or nothing if there is nobody to ask.
    fn answer(&mut self) -> Option<String>;
}

struct Terminal;

impl Answers for Terminal {
    fn answer(&mut self) -> Option<String> {
        use std::io::IsTerminal;
        let input = std::io::stdin();
        if !input.is_terminal() {
            return None;
        }
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        Some(line)
    }
}

fn print_json(out: &mut dyn Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
