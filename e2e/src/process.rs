//! The programs under test, as processes of their own.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::wait::eventually;

/// How long a program may take to stop when asked.
const STOP: Duration = Duration::from_secs(20);

/// Which program the actor is to be.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// `hawser`.
    Hawser,
    /// `hawser-agent`.
    Agent,
}

/// The command that runs a program. The stories have one binary of their own that can be either program, so that
/// `cargo test -p hawser-e2e` builds all it needs.
pub fn command(role: Role) -> Command {
    let mut command = Command::new(actor());
    command.env(
        "HAWSER_ACTOR",
        match role {
            Role::Hawser => "hawser",
            Role::Agent => "hawser-agent",
        },
    );
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The program that is any of them.
pub fn actor() -> PathBuf {
    // Tests and the bench are beside it or one folder below.
    let mut folder = std::env::current_exe().unwrap_or_default();
    loop {
        if !folder.pop() {
            return PathBuf::from("hawser-actor");
        }
        let actor = folder.join("hawser-actor");
        if actor.is_file() {
            return actor;
        }
    }
}

/// A program that may be killed and started again. What it prints goes to one file over all its lives.
#[derive(Debug)]
pub struct Program {
    name: String,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Program {
    /// A program that does not run yet.
    pub fn new(name: &str, folder: &Path) -> Self {
        Self { name: name.to_owned(), log: folder.join(format!("{name}.log")), child: Mutex::new(None) }
    }

    /// Starts it.
    pub fn start(&self, mut command: Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{} cannot be started", self.name))?;
        *self.lock() = Some(child);
        Ok(())
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().and_then(Child::id)
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        let child = self.lock().take();
        if let Some(mut child) = child {
            child.kill().await.with_context(|| format!("{} cannot be killed", self.name))?;
        }
        Ok(())
    }

    /// SIGTERM, and waits. It is an error if the program does not stop or does not stop well.
    pub async fn stop(&self) -> Result<()> {
        let child = self.lock().take();
        let Some(mut child) = child else { return Ok(()) };
        if let Some(pid) = child.id() {
            // Told before it listens, a program dies of the signal, as every program does.
            let _ = eventually("it listens to signals", STOP, || async { listens_to_term(pid) }).await;
            signal(pid, "-TERM").await?;
        }
        match tokio::time::timeout(STOP, child.wait()).await {
            Ok(status) => {
                let status = status?;
                if status.success() { Ok(()) } else { bail!("{} stopped with {status}\n{}", self.name, self.tail()) }
            }
            Err(_) => {
                child.kill().await?;
                bail!("{} did not stop within {STOP:?}\n{}", self.name, self.tail())
            }
        }
    }

    /// All that it printed, over all its lives.
    pub fn said(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        const MOST: u64 = 6000;
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(MOST)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        format!("---- {} ----\n{}", self.name, read().unwrap_or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether a process has come far enough to hear SIGTERM. One that is gone will not come further.
fn listens_to_term(pid: u32) -> Result<(), String> {
    const TERM: u32 = 15;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return Ok(()) };
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    match caught.map(|mask| u64::from_str_radix(mask.trim(), 16)) {
        Some(Ok(mask)) if mask & (1 << (TERM - 1)) == 0 && is_alive(pid) => Err(format!("it catches {mask:x}")),
        _ => Ok(()),
    }
}

/// Runs a command to its end, which must come within a minute.
pub async fn output(mut command: Command) -> Result<Output> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    match tokio::time::timeout(PATIENCE, child.wait_with_output()).await {
        Ok(output) => Ok(output?),
        Err(_) => {
            if let Some(pid) = pid {
                signal(pid, "-KILL").await?;
            }
            bail!("no end after {PATIENCE:?}: {command:?}")
        }
    }
}

/// Sends a signal by the program that is made for it: std has no safe call.
pub async fn signal(pid: u32, signal: &str) -> Result<()> {
    Command::new("kill").arg(signal).arg(pid.to_string()).stderr(Stdio::null()).status().await?;
    Ok(())
}

/// The processes whose command line or environment names this folder.
pub fn processes_of(folder: &Path) -> Vec<u32> {
    let needle = folder.as_os_str().as_encoded_bytes().to_vec();
    let names = |path: PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let of = |file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
            names(of("cmdline")) || names(of("environ"))
        })
        .collect()
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
