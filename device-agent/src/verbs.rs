//! What `kubectl logs`, `exec`, `attach`, `port-forward` and `top` do on a device whose containers are programs of the host.
//!
//! [`Verbs`] is the [`Service`] of the `process` runtime, one file per verb. A container
//! lives with its shim: whatever a verb does, and however it ends, the container goes on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hawser_wire::PodUid;
use hawser_wire::deployment::{EdgeDeployment, RestartPolicy};
use hawser_wire::stream::{AttachRequest, ExecRequest, LogsRequest, Stats, StreamRefusal};
use tokio::sync::watch;

use self::line::NoShim;
use self::stats::Measurer;
use crate::desired::{DesiredSet, DesiredWish};
use crate::runtime::process::Process;
use crate::runtime::{ContainerId, Found, FoundState, Runtime};
use crate::streams::service::{self, Connection, Log, Served, Service, Sight, failed, not_found, not_possible};
use crate::workloads::Clock;

mod attach;
mod ends;
mod exec;
mod line;
mod logs;
mod port;
mod pulled;
mod stats;

/// The verbs on the containers of the `process` runtime.
#[derive(Clone)]
pub struct Verbs {
    process: Process,
    desired: watch::Receiver<Arc<DesiredSet>>,
    clock: Clock,
    measurer: Measurer,
}

impl std::fmt::Debug for Verbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verbs").finish_non_exhaustive()
    }
}

/// A container that somebody asks for.
struct Subject {
    spec: Arc<EdgeDeployment>,
    name: String,
    init: bool,
    /// When it is started again; `None`: nothing of the pod is.
    restart: Option<RestartPolicy>,
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
        Self { process, desired, clock, measurer: Measurer::default() }
    }

    fn spec(&self, pod: &PodUid) -> Result<(DesiredWish, Arc<EdgeDeployment>), StreamRefusal> {
        let desired = self.desired.borrow();
        let wanted =
            desired.pods.get(pod).and_then(|wanted| Some((wanted.wish, wanted.deployment.as_ref()?.spec.clone())));
        wanted.ok_or_else(|| not_found(format!("the device has no pod {pod}")))
    }

    fn subject(&self, pod: &PodUid, container: &str) -> Result<Subject, StreamRefusal> {
        let (wish, spec) = self.spec(pod)?;
        let found = spec.all_containers().find(|(found, _)| found.name == container);
        let Some((init, sidecar)) = found.map(|(found, init)| (init, found.sidecar)) else {
            return Err(logs::no_container(&spec.name, container));
        };
        let restart = match wish {
            DesiredWish::Run if sidecar => Some(RestartPolicy::Always),
            // An init container that has failed is tried again unless the pod says never.
            DesiredWish::Run if init && spec.restart_policy == RestartPolicy::Always => Some(RestartPolicy::OnFailure),
            DesiredWish::Run => Some(spec.restart_policy),
            DesiredWish::Stop { .. } | DesiredWish::Retain => None,
        };
        Ok(Subject { spec, name: container.to_owned(), init, restart })
    }

    async fn running(&self, pod: &PodUid, container: &str) -> Result<Running, StreamRefusal> {
        let subject = self.subject(pod, container)?;
        match self.runs(&subject).await?.pop() {
            Some(Found { id, state: FoundState::Running { .. }, .. }) => {
                Ok(Running { dir: self.process.attempt_dir(&id), id })
            }
            // A kubelet's words.
            _ => Err(not_found(format!("container not found ({container:?})"))),
        }
    }

    async fn runs(&self, subject: &Subject) -> Result<Vec<Found>, StreamRefusal> {
        let runs = self.process.runs(&subject.spec.uid, &subject.name).await;
        runs.map_err(|error| failed(error.line()))
    }

    async fn read_log(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        let subject = self.subject(&request.pod, &request.container)?;
        let runs = self.runs(&subject).await?;
        let from = logs::resumed(&request)?;
        let attempt = match &from {
            Some(position) if runs.iter().any(|run| run.id.attempt == position.attempt()) => position.attempt(),
            Some(_) => return Err(logs::gone()),
            None => {
                let of = logs::Subject {
                    pod: &subject.spec.name,
                    container: &subject.name,
                    waits_for_init: !subject.init && !subject.spec.init_containers.is_empty(),
                    restart: subject.restart,
                };
                logs::choose(of, &runs, request.previous)?
            }
        };
        let id = ContainerId { pod: request.pod.clone(), name: subject.name, attempt };
        let path = self.process.log(&id).ok_or_else(|| failed("the container has no log"))?;
        let process = self.process.clone();
        let ended = Box::pin(async move { drop(process.ended(id).await) });
        let since = request.since.filter(|_| from.is_none()).map(|since| {
            let ago = i128::from((self.clock)().0) - i128::from(since.0);
            i64::try_from(i128::from(wall_millis()) - ago).unwrap_or(i64::MIN)
        });
        logs::open(logs::Run { path, attempt, ended }, &request, from, since).await
    }
}

impl Served for Process {
    type Service = Verbs;

    fn service(&self, sight: Sight) -> Verbs {
        Verbs::new(self.clone(), sight.desired, sight.clock)
    }
}

impl Service for Verbs {
    async fn logs(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        self.read_log(request).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<service::Process, StreamRefusal> {
        let running = self.running(&request.pod, &request.container).await?;
        let told = exec::exec(&running.dir, request).await;
        told.unwrap_or_else(|error| Err(running.cannot_be_called(&error)))
    }

    async fn attach(&self, request: AttachRequest) -> Result<service::Process, StreamRefusal> {
        let running = self.running(&request.pod, &request.container).await?;
        let (process, id) = (self.process.clone(), running.id.clone());
        let ended = async move { process.ended(id).await.code };
        let told = attach::attach(&running.dir, request.channels, ended).await;
        told.unwrap_or_else(|error| Err(running.cannot_be_called(&error)))
    }

    async fn port_forward(&self, pod: PodUid, port: u16) -> Result<Connection, StreamRefusal> {
        let spec = self.spec(&pod)?.1;
        for (container, _) in spec.all_containers() {
            let runs = self.process.runs(&pod, &container.name).await.map_err(|error| failed(error.line()))?;
            if matches!(runs.last(), Some(Found { state: FoundState::Running { .. }, .. })) {
                return port::connect(port).await;
            }
        }
        Err(not_possible(format!("pod {:?} does not run", spec.name)))
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        self.measurer.measure(&self.process, (self.clock)()).await
    }
}

/// The wall clock, by which logs are written.
#[expect(clippy::disallowed_methods, reason = "logs carry the wall clock's time, requests the device's")]
fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
