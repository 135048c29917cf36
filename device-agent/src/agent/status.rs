//! How the agent is, for people and scripts: asked over a socket in the state directory, answered once, in JSON.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::report::Phase;
use hawser_wire::{DeviceTime, PodUid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::DeviceClock;
use crate::desired::{DesiredPod, DesiredSet, DesiredWish};
use crate::identity::Identity;
use crate::ledger::{Durability, Recovered};
use crate::link::task::{LinkState, PodLine};

const SOCKET: &str = "agent.sock";
/// 512 pods of a few hundred bytes.
const MAX_ANSWER: u64 = 1024 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The device's name.
    pub device: String,
    /// Where the hub is.
    pub hub: String,
    /// Whether the agent runs; if not, the rest is what the ledger says.
    pub running: bool,
    /// The agent's version.
    pub agent_version: String,
    /// Whether the hub has us.
    pub connected: bool,
    /// Why not.
    pub hub_error: Option<String>,
    /// For how long there has been a session with the bridge, in milliseconds.
    pub session_millis: Option<u64>,
    /// How long ago the bridge was last heard, in milliseconds.
    pub heard_millis_ago: Option<u64>,
    /// The last refusal of the bridge, if none of its welcomes came later.
    pub refusal: Option<String>,
    /// The version of the desired set.
    pub accepted_version: Option<String>,
    /// How many objects are still to be fetched.
    pub lacking_objects: usize,
    /// How many reports wait for an acknowledgement.
    pub unacknowledged_reports: usize,
    /// How many messages were not accepted since the start.
    pub refused_messages: u64,
    /// Why the state cannot be written; `None`: it can.
    pub state_not_writable: Option<String>,
    /// The workloads.
    pub workloads: Vec<WorkloadLine>,
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadLine {
    /// The pod's namespace, if its edge deployment is here.
    pub namespace: Option<String>,
    /// The pod's name, if its edge deployment is here.
    pub name: Option<String>,
    /// The pod's UID.
    pub uid: String,
    /// What is wanted: `run`, `stop`, `retain`, or `remove`.
    pub wanted: String,
    /// Where the pod is in its life.
    pub phase: Option<String>,
    /// Why it is so.
    pub reason: Option<String>,
    /// How many containers are ready.
    pub ready: usize,
    /// How many containers there are.
    pub containers: usize,
    /// How often containers were started again.
    pub restarts: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No agent runs on this directory.
    #[error("no agent is running on this state directory")]
    NotRunning,
    /// It does not answer.
    #[error("the agent does not answer on its socket")]
    NoAnswer(#[source] io::Error),
}

/// What the answers are made of.
pub(super) struct Board {
    pub(super) identity: Identity,
    pub(super) clock: DeviceClock,
    pub(super) link: watch::Receiver<LinkState>,
    pub(super) desired: watch::Receiver<Arc<DesiredSet>>,
    pub(super) ledger: watch::Receiver<Durability>,
}

impl Board {
    fn status(&self) -> Status {
        let state = self.link.borrow().clone();
        let desired = self.desired.borrow().clone();
        let now = self.clock.now();
        let ago = |time: Option<DeviceTime>| time.map(|time| now.millis_since(time));
        Status {
            running: true,
            connected: state.link.connected,
            hub_error: state.hub_error,
            session_millis: ago(state.link.session_since),
            heard_millis_ago: ago(state.link.heard),
            refusal: state.link.refusal.map(|refusal| refusal.message),
            accepted_version: desired.version.map(|version| version.to_string()),
            lacking_objects: state.link.lacking,
            unacknowledged_reports: state.link.unacknowledged,
            refused_messages: state.refused_messages,
            state_not_writable: match &*self.ledger.borrow() {
                Durability::Durable => None,
                Durability::InMemory { reason } => Some(reason.to_string()),
            },
            workloads: workloads(&desired, &state.pods),
            ..Status::of(&self.identity)
        }
    }
}

impl Status {
    fn of(identity: &Identity) -> Self {
        Self {
            device: identity.device.to_string(),
            hub: identity.hub.to_string(),
            running: false,
            agent_version: super::VERSION.to_owned(),
            connected: false,
            hub_error: None,
            session_millis: None,
            heard_millis_ago: None,
            refusal: None,
            accepted_version: None,
            lacking_objects: 0,
            unacknowledged_reports: 0,
            refused_messages: 0,
            state_not_writable: None,
            workloads: Vec::new(),
        }
    }

    /// What the ledger says while no agent runs.
    pub(crate) fn from_ledger(identity: &Identity, recovered: &Recovered, desired: &DesiredSet) -> Self {
        Self {
            accepted_version: desired.version.map(|version| version.to_string()),
            unacknowledged_reports: recovered.said.len(),
            workloads: workloads(desired, &BTreeMap::new()),
            ..Self::of(identity)
        }
    }

    /// Asks the agent that runs on this directory.
    pub async fn ask(state_dir: &Path) -> Result<Self, StatusError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, ask(state_dir)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(status) => Ok(status),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(StatusError::NotRunning)
            }
            Err(error) => Err(StatusError::NoAnswer(error)),
        }
    }
}

async fn ask(state_dir: &Path) -> io::Result<Status> {
    let directory = Directory::open(state_dir)?;
    let stream = UnixStream::connect(directory.socket()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The state directory, held open, so that the socket's path is short however long the directory's is: the system takes
/// 107 bytes.
struct Directory(std::fs::File);

impl Directory {
    fn open(path: &Path) -> io::Result<Self> {
        std::fs::File::open(path).map(Self)
    }

    fn socket(&self) -> std::path::PathBuf {
        use std::os::fd::AsRawFd;
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(SOCKET)
    }
}

/// Answers until stopped. Without a socket the agent is of use all the same.
pub(super) async fn serve(board: Board, state_dir: std::path::PathBuf, stop: CancellationToken) {
    let listener = match listen(&state_dir) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "`hawser-agent status` will not reach this agent");
            return stop.cancelled().await;
        }
    };
    loop {
        // Both arms are cancel-safe: a connection not accepted stays in the queue.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: not a reason to spin.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        // One at a time: whoever does not read is cut off.
        let _ = tokio::time::timeout(Duration::from_secs(1), answer(stream, &board.status())).await;
    }
    // Left behind, it would say "connection refused", which is also right.
    let _ = std::fs::remove_file(state_dir.join(SOCKET));
}

fn listen(state_dir: &Path) -> io::Result<UnixListener> {
    let directory = Directory::open(state_dir)?;
    let socket = directory.socket();
    // Left behind by an agent that was killed; the lock on the directory says that nobody uses it.
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&socket)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(mut stream: UnixStream, status: &Status) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(status)?).await?;
    stream.shutdown().await
}

fn workloads(desired: &DesiredSet, reported: &BTreeMap<PodUid, PodLine>) -> Vec<WorkloadLine> {
    let wanted = desired.pods.iter().map(|(uid, pod)| line(uid, Some(pod), reported.get(uid)));
    let leaving = reported.iter().filter(|(uid, _)| !desired.pods.contains_key(uid));
    wanted.chain(leaving.map(|(uid, known)| line(uid, None, Some(known)))).collect()
}

fn line(uid: &PodUid, pod: Option<&DesiredPod>, known: Option<&PodLine>) -> WorkloadLine {
    let spec = pod.and_then(|pod| pod.deployment.as_ref()).map(|deployment| &deployment.spec);
    let wanted = match pod.map(|pod| pod.wish) {
        Some(DesiredWish::Run) => "run",
        Some(DesiredWish::Stop { .. }) => "stop",
        Some(DesiredWish::Retain) => "retain",
        None => "remove",
    };
    let phase = known.map(|known| match known.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    });
    WorkloadLine {
        namespace: spec.map(|spec| spec.namespace.clone()),
        name: spec.map(|spec| spec.name.clone()),
        uid: uid.to_string(),
        wanted: wanted.to_owned(),
        phase: phase.map(str::to_owned),
        reason: known.and_then(|known| known.reason.clone()),
        ready: known.map_or(0, |known| known.ready),
        containers: known.map_or_else(|| spec.map_or(0, |spec| spec.containers.len()), |known| known.containers),
        restarts: known.map_or(0, |known| known.restarts),
    }
}
