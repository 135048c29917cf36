//! The `cri` runtime: a container engine on the device runs the pods, through the Container Runtime Interface.
//!
//! What a pod gets: a sandbox with a network of its own (or the device's), images, volumes as bind mounts, `/etc/hosts`,
//! a file for its termination message, logs in the CRI format that rotate, limits, users and groups.
//!
//! - Everything of ours carries labels: pod, container, and the device's name. What lacks that name is never touched, so a
//!   kubelet or another agent may use the same engine.
//! - The engine holds the containers. The agent may be killed, and the engine restarted: the same containers are found
//!   by their labels, and ends that nobody saw are told with the engine's exit codes and times.
//! - A sandbox whose first process has ended is replaced when the next container is to start.
//! - A pod has a cgroup of its own (`cgroups`), whose limits hold for all that is in it: threads without end end there.
//! - Secret files and `emptyDir`s in memory are in the agent's directory on a tmpfs; one with a size limit is a tmpfs of its
//!   own. What is on the disk is measured.
//! - An image that is mounted as a volume is the engine's; it mounts it, and says no if it cannot.
//! - A part of a volume that a workload can write is opened by the agent and mounted by its descriptor, because an engine
//!   would follow links. So the engine has to see what the agent mounts.
//!
//! `abilities`, `admission`, `describe`, `names`, `qos`, `security` and the decisions of `image`, `volume_images`, `users` and `exit` are pure; the rest talks to
//! engine and disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hawser_cri::{CallError, CgroupDriver, Client, Container as EngineContainer, ContainerState, ErrorKind};
use hawser_wire::deployment::{Container, EdgeDeployment, Volume};
use hawser_wire::{AddressRange, PodUid};
use tokio::sync::Semaphore;

use self::abilities::Abilities;
use self::cgroups::{PodCgroups, Whole};
use self::describe::Frame;
pub use self::names::ClusterNames;
use self::security::Profiles;
use super::volumes::beneath::is_name;
use super::volumes::place::{Naming, Places, remove_mounted};
use super::volumes::removal::remove_log;
use super::{
    ContainerId, ContainerStart, DiskUse, ExecError, Executed, Exit, FileSystems, Found, ImageProblem, ImageState,
    ImageStore, ImageWanted, NewSize, PodReady, PodSetup, PrepareError, Pulled, Refusal, Resized, Runtime,
    RuntimeError, RuntimeFacts, Signal, StartError, Started,
};
use crate::cgroup::{Hierarchies, Version, most_processes};
use crate::facts::{capacity, memory_total};
use crate::huge_pages;
use crate::reserved::Reserved;
use crate::shim::identity::boot_id;

mod abilities;
mod admission;
mod cgroups;
mod describe;
mod disk;
mod exec;
mod exit;
mod facts;
mod first;
mod found;
mod image;
mod image_store;
mod labels;
mod memory_kill;
mod names;
mod network;
mod place;
mod qos;
mod resize;
mod rotate;
#[cfg(test)]
mod samples;
mod sandbox;
mod security;
mod start;
mod used;
mod users;
mod volume_images;

pub(crate) use self::network::Network;
pub(crate) use self::qos::is_guaranteed_pod as is_guaranteed;
pub(crate) use self::used::Used;
#[cfg(test)]
pub(crate) use self::used::UsedBy;

/// How the runtime is set up.
#[derive(Debug, Clone)]
pub struct CriConfig {
    /// The engine's socket.
    pub socket: PathBuf,
    /// The device's name, by which its containers are told from all others.
    pub device: String,
    /// Where pods have their volumes and logs on the disk.
    pub root: PathBuf,
    /// Where secrets live: a directory on a tmpfs, for this agent alone.
    pub secrets: PathBuf,
    /// How long a log file may become before the next one is begun.
    pub log_max_bytes: u64,
    /// How many log files there may be of one attempt, the one that is written included.
    pub log_max_files: u32,
    /// Where the device has profiles of system calls, for pods that name one.
    pub profiles: PathBuf,
    /// Whether containers that say nothing about system calls may make those of the engine's own profile only.
    pub seccomp_default: bool,
    /// What the device knows about the cluster's names.
    pub cluster: ClusterNames,
    /// How the device itself resolves names: a `resolv.conf`.
    pub resolver: PathBuf,
    /// Kernel parameters that pods may set besides the safe ones; `*` at the end allows all that begin like it.
    pub sysctls: Vec<String>,
    /// The cgroup below which pods are, in one with the device's name: names with slashes between them.
    pub cgroup_root: String,
    /// Who makes cgroups for the engine, if that is not to be found out.
    pub cgroup_driver: Option<CgroupDriver>,
    /// How many processes and threads a pod may have; `None`: as many as the device has.
    pub pod_max_processes: Option<u64>,
    /// What all pods together leave to the device.
    pub reserved: Reserved,
}

impl CriConfig {
    /// The usual set-up.
    pub fn new(socket: PathBuf, device: &str, root: PathBuf, secrets: PathBuf) -> Self {
        let (log_max_bytes, log_max_files) = (4 * 1024 * 1024, 4);
        Self {
            socket,
            device: device.to_owned(),
            profiles: root.with_file_name("seccomp"),
            seccomp_default: false,
            root,
            secrets,
            log_max_bytes,
            log_max_files,
            cluster: ClusterNames::default(),
            resolver: PathBuf::from("/etc/resolv.conf"),
            sysctls: Vec::new(),
            cgroup_root: "hawser".to_owned(),
            cgroup_driver: None,
            pod_max_processes: Some(most_processes()),
            reserved: Reserved::default(),
        }
    }
}

/// The `cri` runtime.
#[derive(Debug, Clone)]
pub struct Cri(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    config: CriConfig,
    places: Places,
    boot: String,
    scheme: &'static str,
    /// `<name>://<version>`.
    version: String,
    cgroups: PodCgroups,
    /// Which cgroups limit memory.
    memory_cgroups: Option<Version>,
    /// And which limit how much of it is swapped out.
    swap_cgroups: Option<Version>,
    /// The sizes of huge pages that the kernel has, in bytes.
    huge_pages: Vec<u64>,
    /// The device's memory, in bytes; 0: nobody knows.
    memory: u64,
    able: Abilities,
    /// The addresses of pods that have their own, as their sandboxes were made or found.
    addresses: Mutex<BTreeMap<PodUid, Vec<String>>>,
    /// Held by who gives a pod users of its own.
    claims: Mutex<()>,
    /// The inventory was taken, so an empty sandbox may be one that is being filled.
    begun: AtomicBool,
    /// Bounds the threads that wait for disks when many pods start at once.
    hands: Semaphore,
}

/// Enough to keep a slow disk busy.
const HANDS: usize = 4;
/// A TERM alone: the engine must not kill by itself, because when to kill is not its decision.
const NEVER_KILL: i64 = 7 * 24 * 60 * 60;
/// How long it is waited for a container that was told to end. Then it has been told all the same.
const STOP_WAIT: Duration = Duration::from_secs(600);
/// How long a kill may take.
const KILL_WAIT: Duration = Duration::from_secs(60);

impl Cri {
    /// A runtime on an engine, which must answer now.
    pub async fn connect(config: CriConfig) -> Result<Self, CallError> {
        let client = Client::new(&config.socket)?;
        let told = client.version().await?;
        let scheme = match told.runtime_name.as_str() {
            "containerd" => "containerd",
            "cri-o" => "cri-o",
            _ => "cri",
        };
        let driver = match config.cgroup_driver {
            Some(driver) => driver,
            None => cgroup_driver(&client).await?,
        };
        let able = Abilities::of(
            &client.status(false).await?,
            has_apparmor(),
            &config.sysctls,
            &rustix::system::uname().release().to_string_lossy(),
        );
        let version = format!("{scheme}://{}", told.runtime_version.trim_start_matches('v'));
        tracing::info!(socket = %config.socket.display(), engine = version, "the container engine answers");
        let mounts = sees_our_mounts(&config.socket);
        if !mounts {
            tracing::warn!(
                "the container engine has other mounts than the agent, so parts of writable volumes cannot be mounted: start \
                 the agent without PrivateMounts, PrivateTmp or ProtectSystem"
            );
        }
        let whole = Whole::new(&config.reserved.left_of(&capacity()));
        let cgroups = PodCgroups::set_up(driver, &config.cgroup_root, &config.device, config.pod_max_processes, whole);
        let places = Places { root: config.root.clone(), secrets: config.secrets.clone(), mounts };
        Ok(Self(Arc::new(Inner {
            client,
            config,
            places,
            boot: boot_id(),
            scheme,
            version,
            cgroups,
            memory_cgroups: Hierarchies::here().version("memory"),
            // Once there are cgroups that show it.
            swap_cgroups: Hierarchies::here().limit_swap(),
            huge_pages: huge_pages::set_aside(Path::new(huge_pages::POOLS)).into_keys().collect(),
            memory: memory_total().unwrap_or(0),
            able,
            addresses: Mutex::default(),
            claims: Mutex::default(),
            begun: AtomicBool::new(false),
            hands: Semaphore::new(HANDS),
        })))
    }

    /// The engine for people, `<name>://<version>`.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The engine.
    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        // The semaphore is never closed; without a permit the work is merely less bounded.
        let _permit = self.0.hands.acquire().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The asynchronous runtime is shutting down, and nobody waits for this any more.
            Err(_) => std::future::pending().await,
        }
    }

    fn frame(&self) -> Frame<'_> {
        Frame {
            device: &self.0.config.device,
            memory: self.0.memory,
            profiles: Profiles { folder: &self.0.config.profiles, by_default: self.0.config.seccomp_default },
            cgroups: self.0.memory_cgroups,
            swap: self.0.swap_cgroups,
            huge_pages: &self.0.huge_pages,
        }
    }

    fn device(&self) -> &str {
        &self.0.config.device
    }

    /// No code that holds this lock can panic half way, so a poisoned one still holds what it should.
    fn addresses(&self) -> MutexGuard<'_, BTreeMap<PodUid, Vec<String>>> {
        self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever holds it is the only one who gives a pod users. It guards what is on the disk, and nothing in memory.
    fn claiming(&self) -> MutexGuard<'_, ()> {
        self.0.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container that the engine has for this attempt.
    async fn find(&self, id: &ContainerId) -> Result<Option<EngineContainer>, CallError> {
        let all = self.0.client.list_containers(labels::of_container(self.device(), id)).await?;
        Ok(all.into_iter().find(|container| labels::id(container).as_ref() == Some(id)))
    }
}

/// Whether what the agent mounts is there for the engine, too. Where that cannot be found out it is assumed.
fn sees_our_mounts(socket: &Path) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let engine = UnixStream::connect(socket).ok().and_then(|stream| rustix::net::sockopt::socket_peercred(stream).ok());
    let theirs = engine.and_then(|engine| of(&engine.pid.as_raw_nonzero().to_string()));
    theirs.is_none() || theirs == of("self")
}

/// Whether the kernel enforces profiles of AppArmor's.
fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|told| told.starts_with(b"Y"))
}

fn failure(operation: &str, error: CallError) -> RuntimeError {
    let kind = match error.kind {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::TimedOut => io::ErrorKind::TimedOut,
        ErrorKind::Unreachable => io::ErrorKind::NotConnected,
        ErrorKind::Unimplemented => io::ErrorKind::Unsupported,
        ErrorKind::Refused => io::ErrorKind::Other,
    };
    RuntimeError { operation: operation.to_owned(), source: io::Error::new(kind, error) }
}

/// Who makes cgroups. Engines that do not know the question tell their whole configuration instead.
async fn cgroup_driver(client: &Client) -> Result<CgroupDriver, CallError> {
    match client.runtime_config().await {
        Ok(answer) => Ok(answer.linux.map_or(CgroupDriver::Cgroupfs, |linux| linux.cgroup_driver())),
        Err(error) if error.kind == ErrorKind::Unimplemented => {
            let told = client.status(true).await?.info;
            let config = told.get("config").map(|config| config.replace(' ', "")).unwrap_or_default();
            let systemd = config.contains("\"SystemdCgroup\":true") || config.contains("\"systemdCgroup\":true");
            Ok(if systemd { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs })
        }
        Err(error) => Err(error),
    }
}

impl Runtime for Cri {
    fn scheme(&self) -> &'static str {
        self.0.scheme
    }

    fn epoch(&self) -> String {
        self.0.boot.clone()
    }

    fn reject(&self, pod: &EdgeDeployment) -> Option<Refusal> {
        admission::reject(pod, &self.0.able).err()
    }

    fn refuse(&self, pod: &EdgeDeployment, container: &Container) -> Option<Refusal> {
        admission::refuse(pod, container, &self.0.able).err()
    }

    async fn inventory(&self) -> Result<Vec<Found>, RuntimeError> {
        let naming = |error| failure("list the containers of the engine", error);
        let containers = self.0.client.list_containers(labels::ours(self.device())).await.map_err(naming)?;
        let found = self.found(&containers).await?;
        if !self.0.begun.swap(true, Ordering::Relaxed)
            && let Err(error) = self.sweep(&containers).await
        {
            tracing::warn!(%error, "empty sandboxes of an earlier agent stay for now");
        }
        Ok(found)
    }

    async fn prepare(&self, pod: PodSetup) -> Result<PodReady, PrepareError> {
        let (places, spec) = (self.0.places.clone(), pod.spec.clone());
        self.blocking(move || {
            if let Some(volume) = pod.spec.volumes.iter().find(|volume| !is_name(&volume.name)) {
                return Err(io::Error::other("it is not a name")).naming(|| format!("make volume {:?}", volume.name));
            }
            places.prepare(&pod)
        })
        .await?;
        let users = self.users(&spec).await?;
        self.ready_sandbox(&spec, users).await
    }

    async fn image(&self, want: ImageWanted) -> Result<ImageState, ImageProblem> {
        self.look_for_image(&want).await
    }

    async fn pull(&self, want: ImageWanted) -> Result<Pulled, ImageProblem> {
        self.pull_image(&want).await
    }

    async fn start(&self, start: ContainerStart) -> Result<Started, StartError> {
        self.start_container(&start).await
    }

    async fn ended(&self, id: ContainerId) -> Exit {
        self.wait_for_end(&id).await
    }

    async fn signal(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        let failed = |error| failure(&format!("send {signal:?} to {id}"), error);
        let Some(container) = self.find(&id).await.map_err(failed)? else { return Ok(()) };
        let (timeout, wait) = match signal {
            Signal::Term => (NEVER_KILL, STOP_WAIT),
            Signal::Kill => (0, KILL_WAIT),
        };
        match self.0.client.stop_container(&container.id, timeout, wait).await {
            Err(error) if signal == Signal::Term && error.kind == ErrorKind::TimedOut => Ok(()),
            other => other.map_err(failed),
        }
    }

    async fn exec(
        &self,
        id: ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<Executed, ExecError> {
        self.execute(&id, command, limit).await
    }

    fn refuse_resize(&self, _pod: &EdgeDeployment) -> Option<String> {
        None
    }

    async fn resize(&self, to: NewSize) -> Resized {
        self.give_new_size(&to).await
    }

    async fn remove(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let failed = |error| failure(&format!("remove {id}"), error);
        if let Some(container) = self.find(&id).await.map_err(failed)? {
            if container.state() == ContainerState::Running {
                return Err(io::Error::other("it runs")).naming(|| format!("remove {id}"));
            }
            self.0.client.remove_container(&container.id).await.map_err(failed)?;
        }
        let (places, removed) = (self.0.places.clone(), id.clone());
        let swept = self.blocking(move || {
            remove_log(&places.log(&removed)).and_then(|()| remove_mounted(&places.attempt(&removed)))
        });
        swept.await.naming(|| format!("remove {id}"))
    }

    async fn remove_pod(&self, uid: PodUid) -> Result<(), RuntimeError> {
        let failed = |error| failure(&format!("remove the sandbox of {uid}"), error);
        self.remove_sandboxes(&uid).await.map_err(failed)?;
        // Containers whose sandbox is gone already.
        for container in self.0.client.list_containers(labels::of_pod(self.device(), &uid)).await.map_err(failed)? {
            self.0.client.remove_container(&container.id).await.map_err(failed)?;
        }
        self.addresses().remove(&uid);
        let runtime = self.clone();
        self.blocking(move || {
            runtime.0.cgroups.remove(&uid).naming(|| format!("remove the cgroup of {uid}"))?;
            runtime.0.places.remove(&uid)
        })
        .await
    }

    async fn volume_file(&self, uid: PodUid, volume: Volume, path: String) -> Result<Vec<u8>, RuntimeError> {
        let places = self.0.places.clone();
        self.blocking(move || places.read(&uid, &volume, &path)).await
    }

    async fn disk_use(&self, pod: Arc<EdgeDeployment>) -> Result<DiskUse, RuntimeError> {
        self.look_at_disk(pod).await
    }

    async fn file_systems(&self) -> Option<FileSystems> {
        self.look_at_file_systems().await
    }

    async fn image_store(&self, wanted: &BTreeSet<String>) -> Result<Option<ImageStore>, RuntimeError> {
        self.look_at_images(wanted).await.map(Some)
    }

    async fn remove_image(&self, id: String) -> Result<(), RuntimeError> {
        let failed = |error| failure(&format!("remove image {id}"), error);
        self.0.client.remove_image(&id).await.map_err(failed)
    }

    async fn facts(&self, pod_ranges: &[AddressRange]) -> RuntimeFacts {
        self.look_at_engine(pod_ranges).await
    }

    fn log(&self, id: &ContainerId) -> Option<PathBuf> {
        Some(self.0.places.log(id))
    }
}
