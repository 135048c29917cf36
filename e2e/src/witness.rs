//! A file in which workloads leave traces: what ran, in which order, as which process.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::is_alive;
use crate::wait::{SOON, eventually};

/// A file that workloads write to.
#[derive(Debug)]
pub struct Witness {
    path: PathBuf,
}

impl Witness {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(format!("{name}.witness")) }
    }

    /// The file.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Shell code with which a workload writes down its process id. Ends with `;`.
    pub fn sign(&self) -> String {
        // Kubernetes makes one `$` of two.
        format!("echo $$$$ >> {};", self.path())
    }

    /// Shell code that writes a line. Without `;`.
    pub fn note(&self, line: &str) -> String {
        format!("echo {line} >> {}", self.path())
    }

    /// Writes a line itself, for workloads that wait for it. They see it whole or not at all.
    pub fn write(&self, line: &str) -> Result<()> {
        let draft = self.path.with_extension("draft");
        std::fs::write(&draft, line).with_context(|| draft.display().to_string())?;
        std::fs::rename(&draft, &self.path).with_context(|| self.path())
    }

    /// All lines so far.
    pub fn lines(&self) -> Result<Vec<String>> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| self.path()),
        }
    }

    /// The process ids that signed.
    pub fn pids(&self) -> Result<Vec<u32>> {
        Ok(self.lines()?.iter().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// How many of them are alive.
    pub fn alive(&self) -> Result<usize> {
        Ok(self.pids()?.into_iter().filter(|pid| is_alive(*pid)).count())
    }

    /// Kills those that are alive, as a power cut would.
    pub fn kill(&self) -> Result<()> {
        for pid in self.pids()?.into_iter().filter(|pid| is_alive(*pid)) {
            std::process::Command::new("kill").arg("-KILL").arg(pid.to_string()).status()?;
        }
        Ok(())
    }

    /// Waits until none is alive.
    pub async fn until_dead(&self) -> Result<()> {
        self.until_alive(0).await
    }

    /// Waits until exactly so many are alive.
    pub async fn until_alive(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} of {} alive", self.path()), SOON, || async {
            match self.alive() {
                Ok(alive) if alive == count => Ok(()),
                Ok(alive) => Err(alive.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_while_it_is_written_sees_a_whole_line() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let witness = Witness::new(folder.path(), "steps");
        witness.write("0")?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..5_000).try_for_each(|step: u32| witness.write(&step.to_string())));
            while !writer.is_finished() {
                assert_eq!(witness.lines()?.len(), 1);
            }
            writer.join().expect("the writer does not panic")
        })
    }
}
