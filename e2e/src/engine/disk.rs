//! A disk of an engine's own, which can be full without harm to anybody else.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::{BOX, Engine};

const MEGABYTE: usize = 1024 * 1024;
/// What fills it.
const BALLAST: &str = "ballast";

impl Engine {
    /// An engine with the box and no other image, on a disk of its own of so many megabytes.
    pub fn start_on_own_disk(megabytes: u32) -> Result<Self> {
        Self::start_on(BOX, Some(megabytes))?.with_box()
    }

    /// Whether it has a disk of its own.
    pub fn has_own_disk(&self) -> bool {
        self.own_disk
    }

    /// Fills its own disk until only so many megabytes are free.
    pub fn fill_disk(&self, leave: u64) -> Result<()> {
        ensure!(self.own_disk, "the disk of this engine is everybody's");
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
