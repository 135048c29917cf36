//! The verbs on containers that are programs of the host. Such a container lives with its shim, which is called.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hawser_wire::PodUid;
use hawser_wire::stream::{AttachRequest, ExecRequest, LogsRequest, Stats, StreamRefusal};
use tokio::sync::watch;

use super::disk::DiskGauge;
use super::logs::Rotation;
use super::stats::Measurer;
use super::subjects::{Runs, Subjects};
use super::{attach, exec, port};
use crate::desired::DesiredSet;
use crate::runtime::process::Process;
use crate::runtime::{ContainerId, Found, FoundState, Runtime, RuntimeError};
use crate::shim::line::NoShim;
use crate::streams::service::{self, Connection, Log, Served, Service, Sight, failed, not_found, not_possible};
use crate::workloads::Clock;

/// The verbs on the containers of the `process` runtime.
#[derive(Clone)]
pub struct Verbs {
    subjects: Subjects<Process>,
    measurer: Measurer,
    disk: DiskGauge,
}

impl std::fmt::Debug for Verbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verbs").finish_non_exhaustive()
    }
}

/// A container that runs.
struct Running {
    id: ContainerId,
    /// Its shim's.
    dir: PathBuf,
}

impl Running {
    /// Its shim does not take calls.
    fn cannot_be_called(&self, error: &NoShim) -> StreamRefusal {
        let name = &self.id.name;
        match error.0.kind() {
            // It has ended in between.
            io::ErrorKind::ConnectionRefused => not_found(format!("container not found ({name:?})")),
            io::ErrorKind::NotFound => not_possible(format!(
                "container {name:?} was started by an earlier version of the agent, which could not do this: restart it"
            )),
            _ => failed(format!("the shim of container {name:?} cannot be reached: {}", error.0)),
        }
    }
}

impl Verbs {
    /// The verbs on what this runtime runs. `desired` tells what the pods are; `clock` is the device's timeline.
    pub fn new(process: Process, desired: watch::Receiver<Arc<DesiredSet>>, clock: Clock) -> Self {
        Self::of(process, Sight { desired, clock, waits: Arc::new(|_, _| None) })
    }

    fn of(process: Process, sight: Sight) -> Self {
        Self {
            subjects: Subjects { runtime: process, sight },
            measurer: Measurer::default(),
            disk: DiskGauge::default(),
        }
    }

    async fn running(&self, pod: &PodUid, container: &str) -> Result<Running, StreamRefusal> {
        let subject = self.subjects.subject(pod, container)?;
        let Found { id, .. } = self.subjects.running(&subject).await?;
        Ok(Running { dir: self.subjects.runtime.attempt_dir(&id), id })
    }
}

impl Runs for Process {
    /// The shim writes and rotates.
    const ROTATION: Rotation = Rotation::ByTheWriter;

    async fn runs(&self, pod: &PodUid, container: &str) -> Result<Vec<Found>, RuntimeError> {
        self.runs_of(pod, container).await
    }

    async fn is_over(&self, id: ContainerId) {
        drop(self.ended(id).await);
    }
}

impl Served for Process {
    type Service = Verbs;

    fn service(&self, sight: Sight) -> Verbs {
        Verbs::of(self.clone(), sight)
    }
}

impl Service for Verbs {
    async fn logs(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        self.subjects.read_log(request).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<service::Process, StreamRefusal> {
        let running = self.running(&request.pod, &request.container).await?;
        let told = exec::exec(&running.dir, request).await;
        told.unwrap_or_else(|error| Err(running.cannot_be_called(&error)))
    }

    async fn attach(&self, request: AttachRequest) -> Result<service::Process, StreamRefusal> {
        let running = self.running(&request.pod, &request.container).await?;
        let (process, id) = (self.subjects.runtime.clone(), running.id.clone());
        let ended = async move { process.ended(id).await.code };
        let told = attach::attach(&running.dir, request.channels, ended).await;
        told.unwrap_or_else(|error| Err(running.cannot_be_called(&error)))
    }

    async fn port_forward(&self, pod: PodUid, port: u16) -> Result<Connection, StreamRefusal> {
        let spec = self.subjects.spec(&pod)?.1;
        for (container, _) in spec.all_containers() {
            let runs = self.subjects.runtime.runs(&pod, &container.name).await;
            let runs = runs.map_err(|error| failed(error.line()))?;
            if matches!(runs.last(), Some(Found { state: FoundState::Running { .. }, .. })) {
                return port::connect(port).await;
            }
        }
        Err(not_possible(format!("pod {:?} does not run", spec.name)))
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        let now = (self.subjects.sight.clock)();
        let stats = self.measurer.measure(&self.subjects.runtime, now).await?;
        Ok(Stats { disk: self.disk.told(&self.subjects, now), ..stats })
    }
}
