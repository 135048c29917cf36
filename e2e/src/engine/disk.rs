//! A disk of an engine's own: it can be full without harm to anybody else, and however full the disk of this machine is,
//! there is room for images.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::{BOX, Engine};

const MEGABYTE: usize = 1024 * 1024;
/// Room for all that a story needs, in megabytes. Only what is used takes memory.
pub(super) const ROOMY: u32 = 4096;
/// What fills it.
const BALLAST: &str = "ballast";

impl Engine {
    /// An engine with the box and no other image, on a disk of so many megabytes.
    pub fn start_on_small_disk(megabytes: u32) -> Result<Self> {
        Self::start_on(BOX, megabytes)?.with_box()
    }

    /// Fills its disk until only so many megabytes are free.
    pub fn fill_disk(&self, leave: u64) -> Result<()> {
        let mut ballast = File::options().append(true).create(true).open(self.root().join(BALLAST))?;
        let block = vec![1; MEGABYTE];
        loop {
            let disk = rustix::fs::statvfs(self.root())?;
            if disk.f_bavail * disk.f_frsize <= leave * MEGABYTE as u64 {
                return Ok(());
            }
            ballast.write_all(&block)?;
        }
    }

    /// Takes away what filled it.
    pub fn clear_disk(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.root().join(BALLAST))?)
    }
}

pub(super) fn mount(place: &Path, megabytes: u32) -> Result<()> {
    std::fs::create_dir_all(place)?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "hawser-e2e"]).arg(place).stderr(Stdio::null());
    ensure!(mount.status()?.success(), "{} cannot be mounted", place.display());
    Ok(())
}
