//! One device of a world: its state on its disk, its agent, and the rope between it and the hub.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use hawser_lab::rope::Rope;
use serde::Deserialize;

use crate::process::Program;

/// On what the devices keep their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// The folder of the story.
    Plain,
    /// A tmpfs of a few megabytes.
    Small,
    /// A tmpfs with room for everything, so that it does not matter how full the disk of this machine is.
    Roomy,
}

impl Disk {
    pub(super) fn prepare(self, state: &Path) -> Result<()> {
        std::fs::create_dir_all(state)?;
        if let Some(size) = self.size() {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", size, "hawser-e2e"]).arg(state).stderr(Stdio::null());
            anyhow::ensure!(mount.status()?.success(), "{} cannot be mounted", state.display());
        }
        Ok(())
    }

    fn size(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Small => Some("size=4m"),
            Self::Roomy => Some("size=4g"),
        }
    }

    pub(super) fn release(self, state: &Path) {
        if self.size().is_some() {
            // What still runs there was killed before; a lazy unmount leaves nothing behind either way.
            let _ = Command::new("umount").arg("-l").arg(state).status();
        }
    }
}

/// A device of this world.
pub(super) struct Board {
    pub(super) name: String,
    pub(super) state: PathBuf,
    /// `None` where the hub speaks TLS, which a rope cannot read.
    pub(super) rope: Option<Rope>,
    pub(super) agent: Program,
    pub(super) joined_with: Join,
}

/// What `hawser device add -o json` prints for whoever runs `hawser-agent join`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// The device's name.
    pub name: String,
    /// The hub, as the bridge advertises it.
    pub hub_url: String,
    /// The bridge's public key.
    pub bridge_key: String,
    /// The join token.
    pub token: String,
}
