//! `hawser device remove`.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use hawser_wire::DeviceId;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use super::{Answers, Where, reach, show};
use crate::device::Device;

/// Remove a device and its Node.
#[derive(Debug, Args)]
#[command(after_help = "To move its pods away first: kubectl drain NAME --ignore-daemonsets

Examples:
  hawser device remove pi-4
  hawser device remove pi-4 --yes")]
pub struct Remove {
    /// The device's name
    #[arg(value_parser = |name: &str| DeviceId::new(name).map_err(|error| error.to_string()))]
    name: DeviceId,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    pub(super) place: Where,
}

impl Remove {
    pub(super) async fn execute(
        &self,
        client: Client,
        answers: &mut dyn Answers,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let name = &self.name;
        let device = show::device(&client, name).await?;
        let pods = show::count_pods(&client, name).await?;
        if !self.yes {
            writeln!(out, "{}", consequences(name, pods))?;
            write!(out, "Remove device `{name}`? [y/N] ")?;
            out.flush()?;
            match answers.answer() {
                Some(answer) if matches!(answer.trim(), "y" | "Y" | "yes") => {}
                Some(_) => return Ok(writeln!(out, "Nothing was removed.")?),
                None => {
                    writeln!(out)?;
                    bail!("nobody is there to confirm that device `{name}` is removed; pass --yes")
                }
            }
        }
        // The device that was shown, not one of the same name that was added meanwhile.
        let same = Preconditions { uid: device.metadata.uid, resource_version: None };
        let api: Api<Device> = Api::all(client);
        match api.delete(name.as_str(), &DeleteParams::background().preconditions(same)).await {
            Ok(_) => {}
            Err(error) if reach::is_missing(&error) => {}
            Err(error) => return Err(reach::explain(&format!("removing device `{name}`"), &error)),
        }
        writeln!(out, "Device `{name}` is removed; its Node and its join token follow.")?;
        writeln!(
            out,
            "On the board, stop the agent (`systemctl disable --now hawser-agent`), else what runs there goes on."
        )?;
        Ok(())
    }
}

fn consequences(name: &DeviceId, pods: Option<usize>) -> String {
    let fate = "the cluster deletes them, and controllers create others elsewhere";
    let pods = match pods {
        None => format!("If pods are bound to it, {fate}."),
        Some(0) => "No pods are bound to it.".to_owned(),
        Some(1) => {
            "One pod is bound to it: the cluster deletes it, and its controller creates another elsewhere.".to_owned()
        }
        Some(pods) => format!("{pods} pods are bound to it: {fate}."),
    };
    format!("Removing device `{name}` removes its Node. {pods} The board has to join again to come back.")
}
