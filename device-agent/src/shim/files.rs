//! What the agent and a shim tell each other: the words on the streams, and the files in the attempt's directory.
//!
//! - `lock`: held by the shim as long as it lives. Whoever gets it first is the only one to start this attempt.
//! - `control`: a fifo; each byte is a signal to send to the container.
//! - `socket`: takes calls, see [`call`](super::call).
//! - `state.json`: who runs, written before the program does.
//! - `exit.json`: how it ended, written when nothing of it is left. Nothing changes after that.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identity::{Identity, since_boot};
use crate::runtime::{Exit, ExitCause};

pub(crate) const LOCK: &str = "lock";
pub(crate) const CONTROL: &str = "control";
pub(crate) const STATE: &str = "state.json";
pub(crate) const EXIT: &str = "exit.json";
/// Where the exit is prepared: its space is taken when the disk still has some.
pub(crate) const EXIT_DRAFT: &str = "exit.json.draft";

/// No file of ours is longer.
const MAX_FILE: u64 = 64 * 1024;

/// Bytes of the control fifo.
pub(crate) const TERM: u8 = b'T';
pub(crate) const KILL: u8 = b'K';

/// What to run, and how. Comes in on the shim's stdin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// As the pod wrote it.
    pub(crate) image: String,
    pub(crate) launch: Launch,
    pub(crate) log: PathBuf,
    pub(crate) log_max_bytes: u64,
    pub(crate) log_max_files: u32,
    /// Where the program may write why it ended.
    pub(crate) termination: Option<Termination>,
    /// Whether the end of the log stands in for it after a failure.
    pub(crate) termination_from_logs: bool,
    pub(crate) cgroup: Option<CgroupSpec>,
    pub(crate) interactive: Interactive,
}

/// How clients may talk to the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interactive {
    /// It has a stdin that clients may write to.
    pub(crate) stdin: bool,
    /// That ends when the first client that had it goes.
    pub(crate) once: bool,
    /// Its streams are a terminal.
    pub(crate) tty: bool,
}

/// A file below a directory that the program may change as it likes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Termination {
    pub(crate) root: PathBuf,
    pub(crate) path: String,
}

/// What the program needs before it is the program.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directory: PathBuf,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Vec<u32>,
    /// Files into which it writes its pid.
    pub(crate) cgroup_procs: Vec<PathBuf>,
    /// Directories that its user has to be able to enter.
    #[serde(default)]
    pub(crate) to_enter: Vec<PathBuf>,
    /// Its streams are a terminal, and it leads a session of its own.
    pub(crate) tty: bool,
}

/// The limits of a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CgroupSpec {
    /// Below the root of each hierarchy.
    pub(crate) path: String,
    pub(crate) cpu_millis: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) pids: Option<u64>,
}

/// What became of the start. Goes out on the shim's stdout, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The limits that the program runs without, and why.
    Started { not_enforced: Vec<String> },
    /// Another shim holds, or held, this attempt.
    Taken,
    /// The program could not be started; `exit.json` says so too.
    NotStarted { code: i32, message: String },
    /// There is no container.
    Failed { message: String },
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateFile {
    pub(crate) boot: String,
    pub(crate) shim: Identity,
    pub(crate) program: Identity,
    /// Since boot.
    pub(crate) started: Duration,
    /// The image that was started.
    #[serde(default)]
    pub(crate) image: Option<String>,
    /// The container's own directories in the cgroup hierarchies.
    #[serde(default)]
    pub(crate) cgroups: Vec<PathBuf>,
}

/// `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitFile {
    pub(crate) boot: String,
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) cause: ExitCause,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Duration>,
    pub(crate) finished: Option<Duration>,
}

impl ExitFile {
    /// As seen now, in the boot of this name.
    pub(crate) fn exit(self, boot: &str) -> Exit {
        let ran = self.started.zip(self.finished).map(|(started, finished)| finished.saturating_sub(started));
        let ago = self.finished.filter(|_| self.boot == boot).map(|finished| since_boot().saturating_sub(finished));
        Exit { code: self.code, signal: self.signal, cause: self.cause, message: self.message, ran, ago }
    }
}

/// Reads one of our files; `None` if it is not there.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE), &mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
}

/// Writes one of our files; a reader sees all of it or nothing.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&draft, path)
}

/// Takes the space for the exit, so that a disk that is full by then does not hide how the container ended.
pub(crate) fn draft_exit(dir: &Path) -> io::Result<()> {
    fs::write(dir.join(EXIT_DRAFT), [b' '; 8 * 1024])
}

/// Turns the draft into the exit, durably. A message is at most 4 KiB; escaped it might not fit, and is then cut.
pub(crate) fn write_exit(dir: &Path, exit: &ExitFile) -> io::Result<()> {
    let mut text = serde_json::to_vec(exit)?;
    if text.len() > 8 * 1024 {
        let message = exit.message.as_deref().map(|message| message.chars().take(512).collect());
        text = serde_json::to_vec(&ExitFile { message, ..exit.clone() })?;
    }
    let draft = dir.join(EXIT_DRAFT);
    let mut file = File::options().write(true).create(true).truncate(false).open(&draft)?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(EXIT))?;
    File::open(dir)?.sync_all()
}
