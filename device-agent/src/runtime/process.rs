//! The `process` runtime: a pod's command runs on the host.
//!
//! There is no container engine. `image: host` says that the pod knows this; any other image is refused. Each container
//! has a [shim](crate::shim), which outlives the agent. [`docs/decisions/0003`] says why.
//!
//! What a program sees:
//!
//! - Its working directory is its own directory, `$HAWSER_WORKLOAD_DIR`, unless `workingDir` names one on the host.
//! - There is no mount namespace. A volume mounted at `/etc/app` appears at `$HAWSER_WORKLOAD_DIR/etc/app`, which is
//!   `etc/app` in its working directory; `$(HAWSER_WORKLOAD_DIR)` works in commands and variables. `readOnly` and an
//!   `emptyDir`'s size limit cannot be enforced here. One mount below another is refused.
//! - The termination message file is at `$HAWSER_WORKLOAD_DIR/dev/termination-log`, or wherever the pod puts it.
//! - Besides its own environment it gets `PATH`, `HOME`, `HAWSER_WORKLOAD_DIR`, `HAWSER_CONTAINER_ID` and, if the pod
//!   has one, `HOSTNAME`.
//! - Secret files are only ever in memory, below a directory on a tmpfs.
//! - Where the agent is root, programs that are not have one more group, the pod's own, which is what lets them enter the
//!   pod's directories, and keeps out everybody else. A program that changes its user by itself leaves that group:
//!   `runAsUser` does not. Programs of one user can still watch each other; pods to be kept apart need different users.
//! - CPU and memory limits, and a bound on processes, hold where the agent may make cgroups, which takes root. What does
//!   not hold is told by an Event when the container starts. A program that is not root leaves a quarter of its user's
//!   processes to others in any case.
//!
//! [`docs/decisions/0003`]: https://github.com/hawser/hawser/blob/main/docs/decisions/0003-a-shim-per-process.md

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hawser_wire::deployment::{Container, EdgeDeployment, Volume};
use hawser_wire::{ContentHash, PodUid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use tokio::sync::Semaphore;

use self::admission::{not_enforced, refuse};
use super::volumes::beneath::is_name;
use super::volumes::place::{Naming, Places, make};
use super::volumes::removal::{remove_log, remove_tree};
use super::{
    ContainerId, ContainerStart, DiskUse, ExecError, Executed, Exit, FileSystems, Found, NewSize, PodReady, PodSetup,
    PrepareError, Refusal, Resized, Runtime, RuntimeError, Signal, StartError, Started,
};
use crate::cgroup::most_processes;
use crate::shim::files::{self, CONTROL, CgroupSpec, Interactive, KILL, LOCK, Launch, Reply, Spec, TERM, Termination};
use crate::shim::identity::boot_id;

mod admission;
mod exec;
mod held;
mod resize;
mod work;

/// The image that says "the host's own programs".
pub const HOST_IMAGE: &str = "host";

/// How the runtime is set up.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Where pods live on the disk.
    pub root: PathBuf,
    /// Where secrets live: a directory on a tmpfs, for this agent alone.
    pub secrets: PathBuf,
    /// The program that [`shim::main`](crate::shim::main) is behind when its first argument is `shim`.
    pub shim: PathBuf,
    /// The cgroup below which containers get theirs; `None`: no limits.
    pub cgroup: Option<String>,
    /// How many processes and threads a container may have, where it has a cgroup.
    pub max_processes: u64,
    /// How long a log file may be.
    pub log_max_bytes: u64,
    /// How many log files there may be of one attempt, the one that is written included.
    pub log_max_files: u32,
}

impl ProcessConfig {
    /// The usual set-up: this very program is the shim. `root` is for this agent alone.
    pub fn new(root: PathBuf, secrets: PathBuf) -> Self {
        Self {
            root,
            secrets,
            // The program that runs, even when the file it came from has been replaced meanwhile.
            shim: PathBuf::from("/proc/self/exe"),
            cgroup: Some("hawser".to_owned()),
            max_processes: most_processes(),
            log_max_bytes: 4 * 1024 * 1024,
            log_max_files: 4,
        }
    }
}

/// The `process` runtime.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ProcessConfig,
    places: Places,
    boot: String,
    /// Tells our cgroups from those of another agent on this machine, which may run the same pod.
    tag: String,
    /// Nothing was prepared in this life yet.
    fresh: AtomicBool,
    /// Bounds the threads that wait for disks and shims when many pods start at once; the others wait in line.
    hands: Semaphore,
}

/// Enough to keep a slow disk and a few cores busy.
const HANDS: usize = 4;
/// How long a shim may take to say whether it started its program.
const START_TIMEOUT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// How long a removal waits for what it killed.
const REMOVE_WAIT: Duration = Duration::from_secs(10);

/// The variables that name a container's own directory and the attempt. What a dead shim leaves is known by them, too.
const WORKLOAD_DIR: &str = "HAWSER_WORKLOAD_DIR";
const CONTAINER_ID: &str = "HAWSER_CONTAINER_ID";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Process {
    /// A runtime on these directories. They are made when they are needed.
    pub fn new(config: ProcessConfig) -> Self {
        let places = Places { root: config.root.clone(), secrets: config.secrets.clone(), mounts: false };
        let root = ContentHash::of(config.root.as_os_str().as_encoded_bytes());
        let tag = root.to_string().chars().take(8).collect();
        Self(Arc::new(Inner {
            config,
            places,
            boot: boot_id(),
            tag,
            fresh: AtomicBool::new(true),
            hands: Semaphore::new(HANDS),
        }))
    }

    /// What was started of a container and is still kept, by attempt.
    pub(crate) async fn runs_of(&self, pod: &PodUid, container: &str) -> Result<Vec<Found>, RuntimeError> {
        let (pod, container) = (pod.clone(), container.to_owned());
        self.blocking(move |inner| held::runs(&inner.places, &pod, &container, &inner.boot)).await
    }

    /// What a run has on the disk besides its log; its shim listens there.
    pub(crate) fn attempt_dir(&self, id: &ContainerId) -> PathBuf {
        self.0.places.attempt(id)
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = self.0.clone();
        // The semaphore is never closed; without a permit the work is merely less bounded.
        let _permit = self.0.hands.acquire().await;
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The asynchronous runtime is shutting down, and nobody waits for this any more.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Runtime for Process {
    fn scheme(&self) -> &'static str {
        "process"
    }

    fn epoch(&self) -> String {
        self.0.boot.clone()
    }

    fn refuse(&self, pod: &EdgeDeployment, container: &Container) -> Option<Refusal> {
        refuse(pod, container, rustix::process::geteuid().as_raw()).err()
    }

    fn environment(&self, pod: &EdgeDeployment, id: &ContainerId) -> Vec<(String, String)> {
        let work = self.0.places.work(id).display().to_string();
        let mut env = vec![
            ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
            ("HOME".to_owned(), work.clone()),
            (WORKLOAD_DIR.to_owned(), work),
            (CONTAINER_ID.to_owned(), id.to_string()),
        ];
        env.extend(pod.hostname.iter().map(|hostname| ("HOSTNAME".to_owned(), hostname.clone())));
        env
    }

    async fn inventory(&self) -> Result<Vec<Found>, RuntimeError> {
        self.blocking(|inner| {
            let found = held::inventory(&inner.places, &inner.boot)?;
            if inner.fresh.swap(false, Ordering::Relaxed) {
                inner.places.remove_unused(&found.iter().map(|found| &found.id.pod).collect());
            }
            Ok(found)
        })
        .await
    }

    async fn prepare(&self, pod: PodSetup) -> Result<PodReady, PrepareError> {
        self.blocking(move |inner| {
            if let Some(volume) = pod.spec.volumes.iter().find(|volume| !is_name(&volume.name)) {
                let error = io::Error::other("it is not a name");
                return Err(error).naming(|| format!("make volume {:?}", volume.name)).map_err(PrepareError::Volumes);
            }
            inner.fresh.store(false, Ordering::Relaxed);
            inner.places.prepare(&pod)?;
            Ok(PodReady::default())
        })
        .await
    }

    async fn start(&self, start: ContainerStart) -> Result<Started, StartError> {
        self.blocking(move |inner| inner.start(&start)).await
    }

    async fn ended(&self, id: ContainerId) -> Exit {
        held::ended(self, id).await
    }

    async fn signal(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        self.blocking(move |inner| inner.signal(&id, signal)).await
    }

    async fn exec(
        &self,
        id: ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<Executed, ExecError> {
        self.execute(&id, command, limit).await
    }

    fn refuse_resize(&self, pod: &EdgeDeployment) -> Option<String> {
        self.0.no_resize(pod)
    }

    async fn resize(&self, to: NewSize) -> Resized {
        self.blocking(move |inner| inner.resize(&to)).await
    }

    async fn remove(&self, id: ContainerId) -> Result<(), RuntimeError> {
        self.blocking(move |inner| {
            let dir = inner.places.attempt(&id);
            if held::is_locked(&dir) {
                return Err(io::Error::other("it runs")).naming(|| format!("remove {id}"));
            }
            let log = inner.places.log(&id);
            remove_log(&log).and_then(|()| remove_tree(&dir)).naming(|| format!("remove {id}"))
        })
        .await
    }

    async fn remove_pod(&self, uid: PodUid) -> Result<(), RuntimeError> {
        let pod = uid.clone();
        let ids = self.blocking(move |inner| held::attempts(&inner.places, &pod)).await?;
        for id in ids {
            if held::is_locked(&self.0.places.attempt(&id)) {
                self.signal(id.clone(), Signal::Kill).await?;
                let ended = tokio::time::timeout(REMOVE_WAIT, held::ended(self, id.clone())).await;
                ended.map_err(io::Error::from).naming(|| format!("wait for {id} to end"))?;
            }
        }
        self.blocking(move |inner| inner.places.remove(&uid)).await
    }

    async fn volume_file(&self, uid: PodUid, volume: Volume, path: String) -> Result<Vec<u8>, RuntimeError> {
        self.blocking(move |inner| inner.places.read(&uid, &volume, &path)).await
    }

    async fn disk_use(&self, pod: Arc<EdgeDeployment>) -> Result<DiskUse, RuntimeError> {
        self.blocking(move |inner| inner.places.disk_use(&pod)).await
    }

    async fn file_systems(&self) -> Option<FileSystems> {
        let node = self.blocking(move |inner| inner.places.file_system()).await?;
        Some(FileSystems { node, images: None })
    }

    fn log(&self, id: &ContainerId) -> Option<PathBuf> {
        Some(self.0.places.log(id))
    }
}

impl Inner {
    fn start(&self, start: &ContainerStart) -> Result<Started, StartError> {
        let id = &start.id;
        let container = start.container().ok_or(io::Error::other("the pod has no such container"));
        let container = container.naming(|| format!("start {id}")).map_err(StartError::NotCreated)?;
        let dir = self.places.attempt(id);
        if dir.join(files::STATE).exists() || dir.join(files::EXIT).exists() {
            return Ok(Started::default());
        }
        let reply = self.run_shim(start, container, &dir).map_err(StartError::NotCreated)?;
        match reply {
            // Taken: another shim is at it, started by an agent that died. How it goes is told by its files.
            Reply::Started { not_enforced: of_limits } => {
                let mut told = not_enforced(&start.spec, container, self.no_cgroups().as_deref());
                told.extend(of_limits);
                Ok(Started { not_enforced: told, ..Started::default() })
            }
            Reply::Taken => Ok(Started::default()),
            Reply::NotStarted { code, message } => Err(StartError::NotStarted { code, message }),
            Reply::Failed { message } => {
                Err(io::Error::other(message)).naming(|| format!("start {id}")).map_err(StartError::NotCreated)
            }
        }
    }

    fn run_shim(&self, start: &ContainerStart, container: &Container, dir: &PathBuf) -> Result<Reply, RuntimeError> {
        let id = &start.id;
        let spec = self.spec(start, container)?;
        let mut bytes = Vec::new();
        ciborium::into_writer(&spec, &mut bytes).map_err(io::Error::other).naming(|| format!("describe {id}"))?;
        if let Some(parent) = spec.log.parent() {
            make(parent, 0o700).naming(|| format!("make {}", parent.display()))?;
        }
        make(dir, 0o700).naming(|| format!("make {}", dir.display()))?;
        let lock = dir.join(LOCK);
        std::fs::File::options().append(true).create(true).open(&lock).naming(|| format!("make {}", lock.display()))?;

        let mut child = Command::new(&self.config.shim)
            .args(["shim", "run"])
            .arg(dir)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .naming(|| format!("start the shim {}", self.config.shim.display()))?;
        let pid = Pid::from_child(&child);
        let sent = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&bytes));
        let reply = sent.and_then(|()| child.stdout.take().map_or(Err(io::ErrorKind::BrokenPipe.into()), listen));
        // A shim that holds a container is reaped when that ends, also by an agent that did not start it. One that
        // holds nothing ends now.
        match &reply {
            Ok(Reply::Started { .. }) => {}
            Ok(_) => drop(rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())),
            Err(_) => drop(rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG)),
        }
        reply.naming(|| format!("hear from the shim of {id}"))
    }

    /// Why containers get no cgroups; `None`: they do, as far as the kernel has them.
    fn no_cgroups(&self) -> Option<String> {
        let own = rustix::process::geteuid().as_raw();
        match &self.config.cgroup {
            None => Some("the agent is set up without cgroups".to_owned()),
            Some(_) if own != 0 => {
                Some(format!("the agent runs as user {own} and may not make cgroups; run it as root, or leave it out"))
            }
            Some(_) => None,
        }
    }

    /// Below the root of each hierarchy.
    fn cgroup_below(&self, parent: &str, id: &ContainerId) -> String {
        format!("{parent}/{id}-{}", self.tag)
    }

    fn spec(&self, start: &ContainerStart, container: &Container) -> Result<Spec, RuntimeError> {
        let id = &start.id;
        let work = self.places.prepare_work(start, container)?;
        let directory = container.working_dir.as_ref().map_or(work.clone(), |directory| work.join(directory));
        let user = container.user.uid;
        let mut groups: BTreeSet<u32> =
            start.spec.supplemental_groups.iter().copied().chain(start.spec.fs_group).collect();
        // Root enters without, and keeps the groups that it has.
        if user.is_some_and(|user| user != 0) {
            let group = self.places.group(&id.pod);
            if group.is_none() && rustix::process::geteuid().is_root() {
                let message = "this user namespace has no group for the pod (see /proc/self/gid_map): map the groups from \
                               1879048192 on, or leave out runAsUser";
                return Err(io::Error::other(message)).naming(|| format!("start {id} as another user"));
            }
            groups.extend(group);
        }
        let limits = container.resources;
        let cgroup = self.config.cgroup.as_ref().filter(|_| self.no_cgroups().is_none()).map(|parent| CgroupSpec {
            path: self.cgroup_below(parent, id),
            cpu_millis: limits.cpu_limit_millis,
            memory_bytes: limits.memory_limit_bytes,
            pids: Some(self.config.max_processes),
        });
        Ok(Spec {
            image: container.image.clone(),
            launch: Launch {
                command: start.command.clone(),
                env: start.env.clone(),
                directory,
                uid: user,
                gid: container.user.gid,
                groups: groups.into_iter().collect(),
                cgroup_procs: Vec::new(),
                to_enter: self.places.to_enter(&id.pod),
                tty: false,
            },
            log: self.places.log(id),
            log_max_bytes: self.config.log_max_bytes,
            log_max_files: self.config.log_max_files,
            termination: Some(Termination { root: work, path: container.termination_message_path.clone() }),
            termination_from_logs: container.termination_message_from_logs,
            cgroup,
            interactive: container.interactive.map_or_else(Interactive::default, |interactive| Interactive {
                stdin: interactive.stdin,
                once: interactive.once,
                tty: interactive.tty,
            }),
        })
    }

    /// Through the shim, which knows that the pid is still its program's. If it does not listen, it is dead, and then
    /// so is the program.
    fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        let path = self.places.attempt(id).join(CONTROL);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let byte = if signal == Signal::Term { TERM } else { KILL };
        let sent = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(control) => rustix::io::write(&control, &[byte]).map(drop),
            Err(rustix::io::Errno::NXIO | rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        };
        sent.naming(|| format!("send {signal:?} to {id}"))
    }
}

/// The one line that a shim says.
fn listen(stdout: std::process::ChildStdout) -> io::Result<Reply> {
    let mut fds = [PollFd::new(&stdout, PollFlags::IN)];
    if poll(&mut fds, Some(&START_TIMEOUT))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it said nothing for 30 s"));
    }
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::other("it ended without a word; is the program that was named as shim really one?"));
    }
    Ok(serde_json::from_str(&line)?)
}
