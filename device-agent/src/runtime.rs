//! What runs containers on the device, behind one trait.
//!
//! A runtime knows nothing about restart policies, order or deadlines: it makes a place for a pod, starts one container
//! when told, says when it ended, and removes what is left. Everything that decides is in
//! [`lifecycle`](crate::workloads::lifecycle).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::deployment::{EdgeDeployment, PullPolicy, Resources, Volume, VolumeSource};
use hawser_wire::report::{Condition, Image};
use hawser_wire::stream::FileSystem;
use hawser_wire::{AddressRange, PodUid};
use serde::{Deserialize, Serialize};

pub mod cri;
mod less_memory;
pub mod process;
pub mod scripted;
pub(crate) mod volumes;

/// Runs containers.
///
/// # Expected flow
///
/// After the start of the agent: [`inventory`](Self::inventory), once. Then for each pod
/// [`prepare`](Self::prepare), for each container [`image`](Self::image), [`pull`](Self::pull) if that says so,
/// [`start`](Self::start) and [`ended`](Self::ended), now and then [`exec`](Self::exec),
/// [`signal`](Self::signal), [`remove`](Self::remove) for attempts that nobody can ask about any more, and at the very
/// end [`remove_pod`](Self::remove_pod).
///
/// # What a runtime guarantees
///
/// - **Every operation is idempotent.** The agent may die between any two steps and repeats what it is not sure of.
/// - **A container id is started at most once.** [`ContainerId`] is deterministic (pod, container, attempt). `start` of
///   an id that was started before, by whichever agent process, changes nothing and returns `Ok`: how it is comes from
///   `ended`.
/// - **Nothing is ignored silently.** What of a description cannot hold here either refuses the container
///   ([`refuse`](Self::refuse)) or is told when it starts ([`Started::not_enforced`]).
/// - **Containers outlive the agent.** Nothing a runtime does when it is dropped, and no death of the agent, touches
///   them.
/// - **An exit is told exactly, as often as asked.** `ended` resolves with the same [`Exit`] until the container is
///   removed, even if the container ended while no agent ran.
/// - **No orphans.** When `ended` has resolved, no process of the container is left.
/// - **`remove_pod` leaves nothing**: no process, no file, no mount.
///
/// # What a runtime may assume
///
/// - All calls for one container id are made by one owner, one after another, except that `ended` is pending meanwhile,
///   and `exec` runs beside everything else.
/// - `prepare` has succeeded before the first `start`, and may be called again at any time with changed volumes, and
///   is called again after [`StartError::NoPlace`].
/// - `image` has said [`ImageState::Ready`] or [`ImageState::Present`], or `pull` has succeeded, shortly before `start`.
///
/// # Caveats
///
/// - Futures may be dropped at any time; the operation then may or may not have happened (see idempotence).
/// - A failed operation is tried again by the caller with back-off, so implementations do not retry.
pub trait Runtime: Send + Sync + 'static {
    /// How container ids of this runtime begin: `process` in `process://…`.
    fn scheme(&self) -> &'static str;

    /// A name of the life that containers live in. When it differs from an earlier one, everything that ran then is
    /// gone (for processes: the kernel's boot id).
    fn epoch(&self) -> String;

    /// Whether the pod as a whole can never be taken in here, in the words with which a kubelet rejects one. Pure, and asked
    /// before anything is made for a pod of which nothing has ever run.
    fn reject(&self, _pod: &EdgeDeployment) -> Option<Refusal> {
        None
    }

    /// Whether `container` can never run here, and why. Pure, and asked before every start.
    fn refuse(&self, pod: &EdgeDeployment, container: &hawser_wire::deployment::Container) -> Option<Refusal>;

    /// Variables that a container gets before its own, and that its own may refer to. Pure.
    fn environment(&self, _pod: &EdgeDeployment, _id: &ContainerId) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Everything of ours that runs, or has run and was not removed.
    fn inventory(&self) -> impl Future<Output = Result<Vec<Found>, RuntimeError>> + Send;

    /// Makes the pod's place and brings its volumes up to date. Changed files reach running containers. A place that
    /// was lost while containers of it ran or have run is made anew.
    fn prepare(&self, pod: PodSetup) -> impl Future<Output = Result<PodReady, PrepareError>> + Send;

    /// Whether a container can be started with the image that is on the device. It asks nobody but the device, so it is
    /// quick; a runtime without images has nothing to do.
    fn image(&self, _want: ImageWanted) -> impl Future<Output = Result<ImageState, ImageProblem>> + Send {
        async { Ok(ImageState::Ready) }
    }

    /// Fetches a container's image. It may take as long as the network does; dropping it gives up.
    fn pull(&self, _want: ImageWanted) -> impl Future<Output = Result<Pulled, ImageProblem>> + Send {
        async { Ok(Pulled::default()) }
    }

    /// A file of a pod's volume, if it is one of its own and has at most [`MAX_VOLUME_FILE`] bytes.
    fn volume_file(
        &self,
        _uid: PodUid,
        volume: Volume,
        path: String,
    ) -> impl Future<Output = Result<Vec<u8>, RuntimeError>> + Send {
        let operation = format!("read {path} of volume {}", volume.name);
        async { Err(RuntimeError { operation, source: std::io::ErrorKind::Unsupported.into() }) }
    }

    /// Starts a container, and says what of its description does not hold here.
    fn start(&self, start: ContainerStart) -> impl Future<Output = Result<Started, StartError>> + Send;

    /// Resolves when the container has ended and everything of it has been swept up. A container that was never
    /// started, or of which all traces are lost, has ended as [`Exit::lost`].
    fn ended(&self, id: ContainerId) -> impl Future<Output = Exit> + Send;

    /// Sends a signal to the container; a kill ends everything in it. `Ok` if it has ended already. It may resolve when the
    /// signal was heard or as late as when the container has ended; another signal may be sent meanwhile.
    fn signal(&self, id: ContainerId, signal: Signal) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Runs a command in a container that runs, beside its program, and waits for its end. After `limit`, or when the
    /// future is dropped, the command is ended with all that it started.
    fn exec(
        &self,
        id: ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> impl Future<Output = Result<Executed, ExecError>> + Send;

    /// Whether the containers of this pod can be given other limits and requests while they run, and if not, why. Pure.
    fn refuse_resize(&self, _pod: &EdgeDeployment) -> Option<String> {
        Some("the runtime of the device cannot resize pods".to_owned())
    }

    /// Gives other limits and requests to the pod and to containers of it that run. One that has ended meanwhile is done.
    fn resize(&self, _to: NewSize) -> impl Future<Output = Resized> + Send {
        async { Resized { done: Vec::new(), problem: Some("the runtime of the device cannot resize pods".to_owned()) } }
    }

    /// Removes what is left of a container that has ended.
    fn remove(&self, id: ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Kills what still runs of a pod and removes everything that is left of it.
    fn remove_pod(&self, uid: PodUid) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The images on the device and the disk that holds them; `None`: this runtime has none. `wanted` are the images that
    /// pods of this device name.
    fn image_store(
        &self,
        _wanted: &BTreeSet<String>,
    ) -> impl Future<Output = Result<Option<ImageStore>, RuntimeError>> + Send {
        async { Ok(None) }
    }

    /// Removes an image that nothing uses. One that is gone already is no failure.
    fn remove_image(&self, _id: String) -> impl Future<Output = Result<(), RuntimeError>> + Send {
        async { Ok(()) }
    }

    /// What a pod takes of the device's disk.
    fn disk_use(&self, _pod: Arc<EdgeDeployment>) -> impl Future<Output = Result<DiskUse, RuntimeError>> + Send {
        async { Ok(DiskUse::default()) }
    }

    /// The file systems that pods write to; `None`: that is not known.
    fn file_systems(&self) -> impl Future<Output = Option<FileSystems>> + Send {
        async { None }
    }

    /// What the device tells about its runtime. Asked again and again; it says how it is, and does not fail.
    ///
    /// `pod_ranges` are the addresses that the cluster gave to the pods here, for a runtime whose network waits for them.
    fn facts(&self, _pod_ranges: &[AddressRange]) -> impl Future<Output = RuntimeFacts> + Send {
        async { RuntimeFacts::default() }
    }

    /// The file to which the container's output is written now, in the CRI log format; older parts have a number
    /// appended.
    fn log(&self, id: &ContainerId) -> Option<PathBuf>;
}

/// What a device tells about its runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// The images on the device, largest first.
    pub images: Vec<Image>,
    /// Conditions of the device that are the runtime's business.
    pub conditions: Vec<Condition>,
    /// A directory on the disk that holds images and what containers write; `None`: there is none besides the agent's own, or
    /// nobody knows.
    pub disk: Option<PathBuf>,
}

/// What a pod takes of the device's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Its volumes, by name.
    pub volumes: BTreeMap<String, Space>,
    /// Its containers, by name: what they write outside of volumes, and their logs.
    pub containers: BTreeMap<String, Space>,
    /// What of that is logs.
    pub logs: BTreeMap<String, Space>,
    /// Its volumes in memory, by name, which take nothing of the disk.
    pub in_memory: BTreeMap<String, Space>,
}

/// The file systems that pods write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystems {
    /// That of the device's state.
    pub node: FileSystem,
    /// That of an engine's images and containers; what is used of it is what images take.
    pub images: Option<FileSystem>,
}

/// A part of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl std::ops::AddAssign for Space {
    fn add_assign(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.inodes = self.inodes.saturating_add(more.inodes);
    }
}

/// Images and the disk that holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageStore {
    /// The size of the disk in bytes.
    pub total: u64,
    /// How many bytes of it are free.
    pub available: u64,
    /// The images.
    pub images: Vec<StoredImage>,
}

/// An image on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its identity.
    pub id: String,
    /// One of its names, for people.
    pub name: String,
    /// Its size in bytes; parts may be shared with other images.
    pub bytes: u64,
    /// A container has it, whoever's container that is, or a pod of this device names it.
    pub in_use: bool,
    /// The runtime itself needs it.
    pub kept: bool,
}

/// One start of one container of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// The pod.
    pub pod: PodUid,
    /// The container's name.
    pub name: String,
    /// 0 for the first start; the container's restart count.
    pub attempt: u32,
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.pod, self.name, self.attempt)
    }
}

/// A container that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub id: ContainerId,
    /// The image that it was started from, as its pod wrote it; `None`: the runtime does not remember it.
    pub image: Option<String>,
    /// What the runtime calls it.
    pub handle: Handle,
    /// How it is.
    pub state: FoundState,
}

/// What a runtime calls a container that it has made, for people who look at the device itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The container's identity; empty: that of its [`ContainerId`].
    pub container: String,
    /// The identity of its image; empty: there is none.
    pub image: String,
}

/// How a container is that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundState {
    /// It runs, or ends in this moment.
    Running {
        /// How long ago it was started.
        started_ago: Duration,
    },
    /// It has ended.
    Ended(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What ended it.
    pub cause: ExitCause,
    /// The termination message.
    pub message: Option<String>,
    /// How long it ran, if that is known.
    pub ran: Option<Duration>,
    /// How long ago it ended, if that is known.
    pub ago: Option<Duration>,
}

/// What ended a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// It ended by itself, or by a signal.
    Own,
    /// It used more memory than it may.
    OutOfMemory,
    /// It could not be started at all.
    Start,
    /// Nobody saw how it ended: the device was restarted, or what watched over it was killed.
    Lost,
}

impl Exit {
    /// The exit of a container whose end nobody saw, as a kubelet puts it.
    pub fn lost(why: &str) -> Self {
        Self { code: 137, signal: None, cause: ExitCause::Lost, message: Some(why.to_owned()), ran: None, ago: None }
    }
}

/// What a container is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Term,
    /// End.
    Kill,
}

/// Other limits and requests for a pod.
#[derive(Debug, Clone)]
pub struct NewSize {
    /// The pod, with those that it is to have.
    pub spec: Arc<EdgeDeployment>,
    /// Its containers that run with others, and with which ones; `None`: nobody remembers.
    pub containers: Vec<(ContainerId, Option<Resources>)>,
}

/// What became of [`Runtime::resize`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resized {
    /// The containers that have what they are to have.
    pub done: Vec<ContainerId>,
    /// Why not all of it holds. It is tried again.
    pub problem: Option<String>,
}

/// The place of a pod.
#[derive(Debug, Clone)]
pub struct PodSetup {
    /// The pod.
    pub uid: PodUid,
    /// What it is to be.
    pub spec: Arc<EdgeDeployment>,
    /// The content of all volumes of files, resolved, by volume name.
    pub files: BTreeMap<String, Vec<VolumeFile>>,
}

/// One file of a volume, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// Its path below the volume.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub content: Arc<[u8]>,
    /// The user that it belongs to; `None`: the agent's own.
    pub owner: Option<u32>,
}

/// What became of [`Runtime::prepare`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodReady {
    /// The pod's own addresses; `None`: it shares the device's.
    pub addresses: Option<Vec<String>>,
    /// What is worth telling about a place that was made just now.
    pub told: Vec<Told>,
}

/// Something about a pod that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// A CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Why [`Runtime::prepare`] failed.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The pod's volumes and directories.
    #[error(transparent)]
    Volumes(#[from] RuntimeError),
    /// What its containers share: network and namespaces.
    #[error("Failed to create pod sandbox: {}", .0.line())]
    Sandbox(RuntimeError),
    /// There is no network for it; a kubelet's words.
    #[error("network is not ready: {0}")]
    NoNetwork(String),
    /// What its containers share cannot be as the pod wants it; a kubelet's words.
    #[error("Failed to create pod sandbox: {0}")]
    Impossible(String),
}

/// An image that a container is to be started with: its own, or that of a volume that it mounts.
#[derive(Debug, Clone)]
pub struct ImageWanted {
    /// For which container.
    pub id: ContainerId,
    /// Its pod.
    pub spec: Arc<EdgeDeployment>,
    /// The place of the volume among the pod's; `None`: it is the container's own image.
    volume: Option<usize>,
}

impl ImageWanted {
    /// The first image that a container needs: those of volumes come before its own, as for a kubelet.
    pub fn first(id: ContainerId, spec: Arc<EdgeDeployment>) -> Self {
        Self { volume: None, id, spec }.from(0)
    }

    /// What the container needs after this one; `None`: that was all.
    pub fn next(self) -> Option<Self> {
        let after = self.volume? + 1;
        Some(self.from(after))
    }

    fn from(self, start: usize) -> Self {
        let mounted = |name: &str| {
            self.container().is_some_and(|container| container.mounts.iter().any(|mount| mount.volume == name))
        };
        let is_image = |volume: &Volume| matches!(volume.source, VolumeSource::Image(_)) && mounted(&volume.name);
        let mut volumes = self.spec.volumes.iter().enumerate().skip(start);
        let volume = volumes.find(|(_, volume)| is_image(volume)).map(|(at, _)| at);
        Self { volume, ..self }
    }

    /// The image's name, and when to pull it; `None`: the pod has no such container.
    pub fn image(&self) -> Option<(&str, PullPolicy)> {
        match self.volume.map(|at| &self.spec.volumes[at].source) {
            Some(VolumeSource::Image(image)) => Some((&image.reference, image.pull_policy)),
            _ => self.container().map(|container| (container.image.as_str(), container.pull_policy)),
        }
    }

    /// The image's name; empty: the pod has no such container.
    pub fn name(&self) -> &str {
        self.image().map_or("", |(name, _)| name)
    }

    /// Whether it is the image of a volume.
    pub fn is_volume(&self) -> bool {
        self.volume.is_some()
    }

    /// The container as the pod describes it.
    pub fn container(&self) -> Option<&hawser_wire::deployment::Container> {
        described(&self.spec, &self.id)
    }
}

/// How it is about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// There are none: the container can be started.
    Ready,
    /// It is on the device: the container can be started.
    Present,
    /// It has to be fetched first.
    Pull,
}

/// An image that was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Its size; `None`: nobody knows.
    pub bytes: Option<u64>,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ImageProblem {
    /// The image's name.
    pub image: String,
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`…
    pub reason: String,
    /// The registry's or the engine's own words.
    pub message: String,
}

impl ImageProblem {
    /// Whether a reason is one for which an image could not be fetched, so that it is tried again and again.
    pub(crate) fn is_of_pull(reason: &str) -> bool {
        matches!(reason, "ErrImagePull" | "RegistryUnavailable" | "SignatureValidationFailed")
    }
}

/// What [`Runtime::start`] is to start.
#[derive(Debug, Clone)]
pub struct ContainerStart {
    /// Which container.
    pub id: ContainerId,
    /// Its pod.
    pub spec: Arc<EdgeDeployment>,
    /// The program and its arguments, expanded; empty: the image's own.
    pub command: Vec<String>,
    /// The environment, expanded.
    pub env: Vec<(String, String)>,
    /// The mounts' paths in their volumes, expanded, in the order of the container's mounts.
    pub sub_paths: Vec<Option<String>>,
}

impl ContainerStart {
    /// The container as the pod describes it.
    pub fn container(&self) -> Option<&hawser_wire::deployment::Container> {
        described(&self.spec, &self.id)
    }
}

/// The container as its pod describes it.
pub(crate) fn described<'s>(
    spec: &'s EdgeDeployment,
    id: &ContainerId,
) -> Option<&'s hawser_wire::deployment::Container> {
    spec.all_containers().map(|(container, _)| container).find(|c| c.name == id.name)
}

/// Why a container, or a pod, can never run here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A CamelCase word.
    pub reason: String,
    /// Thing, cause, fix.
    pub message: String,
}

impl Refusal {
    /// The word for the Event: what a kubelet refuses at the door has its own, what it refuses later has `Failed`.
    pub fn event_reason(&self) -> &str {
        match self.reason.as_str() {
            door @ ("SysctlForbidden" | "AppArmor" | "SupplementalGroupsPolicyNotSupported") => door,
            _ => "Failed",
        }
    }
}

/// What became of a start that went well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    /// What the runtime calls it.
    pub handle: Handle,
    /// What of the container's description does not hold here: field, cause, fix, a line each. Empty when the container
    /// was started before.
    pub not_enforced: Vec<String>,
}

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no container; try again later.
    #[error("{0}")]
    NotCreated(#[from] RuntimeError),
    /// There is no container, because what it is to be does not fit what is on the device; try again later.
    #[error("{0}")]
    Config(String),
    /// The pod's place is not there any more: prepare it again.
    #[error("the pod's place is gone: {0}")]
    NoPlace(String),
    /// The container exists and its program could not be started: it has ended with this code.
    #[error("{message}")]
    NotStarted {
        /// 127: there is no such program; 126: it cannot be executed; 128: anything else.
        code: i32,
        /// What was wrong.
        message: String,
    },
}

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Executed {
    /// Its exit code; 126 or 127 if it could not be started.
    pub code: i32,
    /// The beginning of what it wrote, to stdout and stderr, at most [`MAX_EXEC_OUTPUT`] bytes.
    pub output: Vec<u8>,
}

/// How long a file may be that [`Runtime::volume_file`] reads.
pub const MAX_VOLUME_FILE: u64 = 1024 * 1024;

/// How much of a command's output is kept.
pub const MAX_EXEC_OUTPUT: usize = 10 * 1024;

/// Why a command in a container has no end to tell.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It took longer than it may, and was ended.
    #[error("it took too long")]
    TimedOut,
    /// Nobody knows what became of it.
    #[error("{0}")]
    Failed(RuntimeError),
}

/// An operation of a runtime that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct RuntimeError {
    /// What was tried, with its object.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub source: std::io::Error,
}

impl RuntimeError {
    /// Operation and cause in one line, for reports.
    pub fn line(&self) -> String {
        format!("{}: {}", self.operation, self.source)
    }
}
