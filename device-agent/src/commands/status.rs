//! `hawser-agent status`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use hawser_wire::DeviceTime;

use super::{Exit, Failure, Place};
use crate::agent::{Status, StatusError, WorkloadLine};
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::link::desired_of;
use crate::state_dir::{StateDir, StateDirError};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    place: Place,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

pub(super) async fn status(args: StatusArgs) -> Result<ExitCode, Failure> {
    let identity = args.place.identity()?;
    let status = match Status::ask(&args.place.state_dir).await {
        Ok(status) => status,
        Err(StatusError::NotRunning) => of_a_stopped_agent(&args.place, &identity)?,
        Err(error @ StatusError::NoAnswer(_)) => return Err(Failure::new(Exit::Failed, error)),
    };
    match args.output {
        Format::Json => match serde_json::to_string_pretty(&status) {
            Ok(text) => println!("{text}"),
            Err(error) => return Err(Failure::new(Exit::Failed, error)),
        },
        Format::Text => print!("{}", text(&status)),
    }
    Ok(match (status.running, status.connected && status.session_millis.is_some()) {
        (false, _) => ExitCode::from(Exit::NotRunning as u8),
        (true, false) => ExitCode::from(Exit::NoSession as u8),
        (true, true) => ExitCode::SUCCESS,
    })
}

/// What the ledger says. The lock shows that nobody writes to it meanwhile.
fn of_a_stopped_agent(place: &Place, identity: &Identity) -> Result<Status, Failure> {
    let dir = match StateDir::lock(&place.state_dir) {
        // It runs after all; perhaps on a directory in which it could not make its socket.
        Err(StateDirError::InUse(path)) => {
            let error = anyhow::anyhow!(
                "an agent runs on the state directory {} and cannot be asked how it is; look into its log, and see whether it may write there",
                path.display()
            );
            return Err(Failure::new(Exit::Failed, error));
        }
        locked => locked?,
    };
    let recovered = Ledger::peek(dir.path(), *identity.key.secret());
    let recovered = recovered.map_err(|error| Failure::new(Exit::StateDir, error))?;
    Ok(Status::from_ledger(identity, &recovered, &desired_of(&recovered)))
}

fn text(status: &Status) -> String {
    let mut lines = vec![format!("Device:    {}", status.device)];
    if !status.running {
        lines
            .push("Agent:     not running; this is what its ledger says (start it with `hawser-agent run`)".to_owned());
    } else {
        lines.push(format!("Agent:     running, version {}", status.agent_version));
    }
    lines.push(format!("Hub:       {}{}", status.hub, hub(status)));
    lines.push(format!("Bridge:    {}", bridge(status)));
    let version = status.accepted_version.as_deref().unwrap_or("none yet");
    let lacking = match status.lacking_objects {
        0 => String::new(),
        count => format!(", {count} objects still to be fetched"),
    };
    lines.push(format!("Desired:   version {version}{lacking}"));
    lines.push(format!("Reports:   {} waiting to be acknowledged", status.unacknowledged_reports));
    if let Some(why) = &status.state_not_writable {
        lines.push(format!("State:     cannot be written ({why}); going on from memory"));
    }
    lines.push(String::new());
    lines.extend(table(&status.workloads));
    lines.join("\n") + "\n"
}

fn hub(status: &Status) -> String {
    match (status.running, status.connected, &status.hub_error) {
        (false, ..) => String::new(),
        (true, true, _) => ", connected".to_owned(),
        (true, false, Some(why)) => format!(", not connected: {why}"),
        (true, false, None) => ", connecting".to_owned(),
    }
}

fn bridge(status: &Status) -> String {
    let refusal = status.refusal.as_ref().map(|why| format!("; it refused us last: {why}")).unwrap_or_default();
    match (status.session_millis, status.heard_millis_ago) {
        (Some(since), Some(heard)) => format!("session for {}, last heard {} ago{refusal}", human(since), human(heard)),
        _ => format!("no session{refusal}"),
    }
}

/// Milliseconds as people say them.
fn human(millis: u64) -> String {
    let seconds = DeviceTime(millis).0 / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn table(workloads: &[WorkloadLine]) -> Vec<String> {
    if workloads.is_empty() {
        return vec!["No workloads.".to_owned()];
    }
    let mut rows = vec![["NAMESPACE", "NAME", "WANTED", "READY", "STATUS", "RESTARTS"].map(str::to_owned)];
    for workload in workloads {
        let status = workload.reason.as_ref().or(workload.phase.as_ref());
        rows.push([
            workload.namespace.clone().unwrap_or_else(|| "-".to_owned()),
            workload.name.clone().unwrap_or_else(|| workload.uid.clone()),
            workload.wanted.clone(),
            format!("{}/{}", workload.ready, workload.containers),
            status.cloned().unwrap_or_else(|| "-".to_owned()),
            workload.restarts.to_string(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_human() {
        for (millis, text) in
            [(0, "0s"), (59_999, "59s"), (192_000, "3m12s"), (7_260_000, "2h1m"), (176_400_000, "2d1h")]
        {
            assert_eq!(human(millis), text);
        }
    }

    #[test]
    fn tables_align() {
        let line = |name: &str, restarts| WorkloadLine {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            uid: "u".to_owned(),
            wanted: "run".to_owned(),
            phase: Some("Running".to_owned()),
            reason: None,
            ready: 1,
            containers: 2,
            restarts,
        };
        let rows = table(&[line("a", 1), line("a-long-name", 12)]);
        assert_eq!(
            rows,
            [
                "NAMESPACE   NAME          WANTED   READY   STATUS    RESTARTS",
                "default     a             run      1/2     Running   1",
                "default     a-long-name   run      1/2     Running   12",
            ]
        );
    }
}
