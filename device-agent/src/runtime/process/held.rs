//! What is held by shims: found, waited for, and swept up when a shim is dead.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use hawser_wire::PodUid;
use rustix::fs::FlockOperation;
use rustix::process::{PidfdFlags, WaitOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::work::WORK;
use super::{CONTAINER_ID, Process, WORKLOAD_DIR};
use crate::runtime::volumes::beneath::is_name;
use crate::runtime::volumes::place::{Naming, Places};
use crate::runtime::{ContainerId, Exit, ExitCause, Found, FoundState, Handle, RuntimeError};
use crate::shim::files::{self, EXIT, ExitFile, LOCK, STATE, StateFile};
use crate::shim::identity::{Identity, since_boot};
use crate::shim::sweep_left;

/// How a container is, as its directory tells.
enum Held {
    /// There was never a shim, or it is about to begin.
    Nothing,
    /// A shim has begun and has not said yet who runs.
    Beginning,
    Running(StateFile),
    Ended(ExitFile),
    /// The shim is dead and did not say how it ended.
    Lost(StateFile),
}

/// Whether a shim lives there.
pub(super) fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(LOCK)) else { return false };
    // The lock goes with the file at the end of this function.
    matches!(rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
}

fn look(dir: &Path, boot: &str) -> Held {
    // In this order: whatever is written between two looks is then seen by the later one.
    let locked = is_locked(dir);
    let state: Option<StateFile> = files::read(&dir.join(STATE)).ok().flatten();
    let exit: io::Result<Option<ExitFile>> = files::read(&dir.join(EXIT));
    match (exit, state) {
        // A shim that has written the exit has nothing left to do.
        (Ok(Some(exit)), _) => Held::Ended(exit),
        (_, Some(state)) if locked && state.boot == boot => Held::Running(state),
        (_, Some(state)) => Held::Lost(state),
        (_, None) if locked => Held::Beginning,
        (Ok(None), None) => Held::Nothing,
        // A spoilt exit file and nothing else: it did run.
        (Err(_), None) => Held::Ended(lost_exit(boot, None)),
    }
}

const LOST: &str = "nobody saw how the container ended: its shim was killed";
const REBOOTED: &str = "nobody saw how the container ended: the device was restarted";

fn lost_exit(boot: &str, state: Option<&StateFile>) -> ExitFile {
    let rebooted = state.is_some_and(|state| state.boot != boot);
    ExitFile {
        boot: boot.to_owned(),
        code: 137,
        signal: None,
        cause: ExitCause::Lost,
        message: Some(if rebooted { REBOOTED } else { LOST }.to_owned()),
        started: None,
        finished: None,
    }
}

/// Ends what a dead shim left, and writes down that it did.
fn bury(id: &ContainerId, dir: &Path, boot: &str, state: &StateFile) -> ExitFile {
    if state.boot == boot {
        // Another agent on this machine may run the same pod, and another attempt works in the same directory.
        let work = dir.with_file_name(WORK).display().to_string();
        sweep_left(state, &[format!("{WORKLOAD_DIR}={work}"), format!("{CONTAINER_ID}={id}")]);
    }
    let exit = lost_exit(boot, Some(state));
    // If this cannot be written it is found out again.
    let _ = files::write_exit(dir, &exit);
    exit
}

/// All attempts of a pod that have a directory.
pub(super) fn attempts(places: &Places, uid: &PodUid) -> Result<Vec<ContainerId>, RuntimeError> {
    let containers = places.pod(uid).join("containers");
    let mut ids = Vec::new();
    for name in entries(&containers)?.into_iter().filter(|name| is_name(name)) {
        for attempt in entries(&containers.join(&name))?.into_iter().filter_map(|number| number.parse().ok()) {
            ids.push(ContainerId { pod: uid.clone(), name: name.clone(), attempt });
        }
    }
    Ok(ids)
}

/// The names in a directory; none if it is not there.
fn entries(dir: &Path) -> Result<Vec<String>, RuntimeError> {
    let naming = || format!("list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.naming(naming)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.naming(naming)?.file_name().into_string());
    }
    Ok(names)
}

pub(super) fn inventory(places: &Places, boot: &str) -> Result<Vec<Found>, RuntimeError> {
    let mut found = Vec::new();
    for uid in entries(&places.root)?.iter().filter_map(|name| PodUid::new(name).ok()) {
        let ids = attempts(places, &uid)?;
        found.extend(ids.into_iter().filter_map(|id| find(places, id, boot)));
    }
    Ok(found)
}

/// What was started of one container, by attempt.
pub(super) fn runs(places: &Places, uid: &PodUid, name: &str, boot: &str) -> Result<Vec<Found>, RuntimeError> {
    let mut ids = attempts(places, uid)?;
    ids.retain(|id| id.name == name);
    ids.sort_unstable();
    Ok(ids.into_iter().filter_map(|id| find(places, id, boot)).collect())
}

fn find(places: &Places, id: ContainerId, boot: &str) -> Option<Found> {
    let dir = places.attempt(&id);
    let mut image = None;
    let state = match look(&dir, boot) {
        Held::Nothing => return None,
        Held::Beginning => FoundState::Running { started_ago: Duration::ZERO },
        Held::Running(state) => {
            image = state.image;
            FoundState::Running { started_ago: since_boot().saturating_sub(state.started) }
        }
        Held::Ended(exit) => {
            if let Ok(Some(state)) = files::read::<StateFile>(&dir.join(STATE)) {
                reap(state.shim);
                image = state.image;
            }
            FoundState::Ended(exit.exit(boot))
        }
        Held::Lost(state) => {
            let exit = bury(&id, &dir, boot, &state);
            image = state.image;
            FoundState::Ended(exit.exit(boot))
        }
    };
    Some(Found { id, image, handle: Handle::default(), state })
}

/// Resolves when the container has ended.
pub(super) async fn ended(process: &Process, id: ContainerId) -> Exit {
    let dir = process.0.places.attempt(&id);
    let mut pause = Duration::from_millis(20);
    loop {
        let looked = dir.clone();
        let held = process.blocking(move |inner| look(&looked, &inner.boot)).await;
        match held {
            Held::Ended(exit) => {
                // The shim writes the exit and then ends itself.
                if let Ok(Some(state)) = files::read::<StateFile>(&dir.join(STATE))
                    && state.boot == process.0.boot
                {
                    wait_for(state.shim).await;
                }
                return exit.exit(&process.0.boot);
            }
            Held::Nothing => return Exit::lost("it was never started, or all its traces are lost"),
            Held::Lost(state) => {
                let exit = process.blocking(move |inner| bury(&id, &dir, &inner.boot, &state)).await;
                return exit.exit(&process.0.boot);
            }
            // Between taking the lock and writing the state lie milliseconds.
            Held::Beginning => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Held::Running(state) => wait_for(state.shim).await,
        }
    }
}

/// Resolves when this process has ended; reaps it if it is ours.
async fn wait_for(shim: Identity) {
    match watch(shim) {
        Ok(Some(pidfd)) => {
            // Whatever goes wrong here, the next look tells how it is.
            let _ = pidfd.readable().await;
        }
        Ok(None) => {}
        // Kernels before 5.3 cannot tell; then it is looked up, once a second.
        Err(_) => {
            while shim.exists() && !reap(shim) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    while !reap(shim) && is_zombie_of_ours(shim) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `None`: it has ended already.
#[expect(deprecated, reason = "unsound only for types whose `as_raw_fd` is not their own; the replacement is unsafe")]
fn watch(shim: Identity) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    let Some(pid) = shim.pid() else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        pidfd => pidfd?,
    };
    // The pid cannot change hands while it is held, so this check is not too early.
    if !shim.exists() {
        return Ok(None);
    }
    AsyncFd::with_interest(pidfd, Interest::READABLE).map(Some)
}

/// Whether it was ours and has ended.
fn reap(shim: Identity) -> bool {
    shim.exists()
        && shim.pid().is_some_and(|pid| matches!(rustix::process::waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_))))
}

/// A shim that has let go of its lock may need another moment to end.
fn is_zombie_of_ours(shim: Identity) -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    crate::shim::identity::Stat::read(shim.pid).is_ok_and(|stat| stat.start == shim.start && stat.parent == own)
}
