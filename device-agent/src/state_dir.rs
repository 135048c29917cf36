//! The one directory that the agent writes to, and that only one agent may write to.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// Where the state is unless `--state-dir` says otherwise.
pub const DEFAULT: &str = "/var/lib/hawser-agent";

/// How long an agent that starts lets somebody finish who has the directory: a command that only looks (`status`, `join`),
/// or an agent that is about to end.
const PATIENCE: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The directory, locked until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    // The lock is on the directory itself: it works on a read-only disk, and leaves nothing behind.
    _lock: File,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It cannot be made or opened.
    #[error("the state directory {0} cannot be opened; run as root, or choose another with --state-dir")]
    Open(PathBuf, #[source] io::Error),
    /// Another agent uses it.
    #[error("another agent is running on the state directory {0}; stop it, or choose another with --state-dir")]
    InUse(PathBuf),
}

impl StateDir {
    /// Makes the directory if there is none, and locks it.
    pub fn lock(path: &Path) -> Result<Self, StateDirError> {
        let open = |error| StateDirError::Open(path.into(), error);
        // What is inside is nobody else's business. But a root's workloads may be other users, and have to pass on their
        // way to their own directories: they see nothing, and whatever lies here is closed by itself. One that exists
        // keeps its mode.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(path).map_err(open)?;
        let directory = File::open(path).map_err(open)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.into(), _lock: directory }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateDirError::InUse(path.into())),
            Err(error) => Err(open(error.into())),
        }
    }

    /// As [`StateDir::lock`], but gives whoever has it a moment to finish.
    pub async fn claim(path: &Path) -> Result<Self, StateDirError> {
        let mut waited = Duration::ZERO;
        loop {
            match Self::lock(path) {
                Err(StateDirError::InUse(_)) if waited < PATIENCE => {
                    waited += ASK_EVERY;
                    tokio::time::sleep(ASK_EVERY).await;
                }
                answer => return answer,
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_agent_is_refused_and_a_later_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = StateDir::lock(&path).unwrap();
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        let error = StateDir::lock(&path).unwrap_err();
        assert!(matches!(error, StateDirError::InUse(_)));
        assert_eq!(error.to_string().lines().count(), 1);
        drop(first);
        StateDir::lock(&path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_starts_waits_for_somebody_who_only_looks_and_not_for_another_agent() {
        let path = tempfile::tempdir().unwrap();
        let looks = StateDir::lock(path.path()).unwrap();
        let looking = async {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(looks);
        };
        let (claimed, ()) = tokio::join!(StateDir::claim(path.path()), looking);
        let _agent = claimed.unwrap();
        assert!(matches!(StateDir::claim(path.path()).await, Err(StateDirError::InUse(_))));
    }
}
