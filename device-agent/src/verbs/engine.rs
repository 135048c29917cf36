//! The verbs on the containers of a container engine.
//!
//! Commands and attached clients go through the engine's own streams ([`command`]). What engines leave running when a client
//! goes, [`leftover`] ends. Connections to ports are made in the pod's network by the agent itself ([`network`]).

use std::sync::Arc;

use hawser_cri::command::Wanted;
use hawser_cri::{AttachRequest as EngineAttach, CallError, ErrorKind, ExecRequest as EngineExec};
use hawser_wire::PodUid;
use hawser_wire::stream::{AttachRequest, ExecRequest, LogsRequest, Stats, StreamRefusal};

use self::leftover::Leftovers;
use self::usage::Gauge;
use super::disk::DiskGauge;
use super::logs::Rotation;
use super::subjects::{Runs, Subject, Subjects};
use super::{logs, port};
use crate::runtime::cri::Cri;
use crate::runtime::{ContainerId, Found, RuntimeError};
use crate::streams::service::{
    Connection, Log, Process, Served, Service, Sight, failed, not_found, not_possible, refusal,
};

mod command;
mod leftover;
mod network;
mod usage;

/// The verbs on the containers of the `cri` runtime.
#[derive(Clone)]
pub struct EngineVerbs {
    subjects: Subjects<Cri>,
    leftovers: Arc<Leftovers>,
    gauge: Gauge,
    disk: DiskGauge,
}

impl std::fmt::Debug for EngineVerbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineVerbs").finish_non_exhaustive()
    }
}

impl EngineVerbs {
    /// A container that runs, and the engine's name for it.
    async fn running(&self, pod: &PodUid, container: &str) -> Result<(Subject, String), StreamRefusal> {
        let subject = self.subjects.subject(pod, container)?;
        let found = self.subjects.running(&subject).await?;
        Ok((subject, found.handle.container))
    }

    async fn start(&self, request: ExecRequest) -> Result<Process, StreamRefusal> {
        let (_, id) = self.running(&request.pod, &request.container).await?;
        let channels = request.channels;
        let asked = Wanted {
            stdin: channels.stdin,
            stdout: channels.stdout,
            stderr: channels.stderr && !channels.tty,
            tty: channels.tty,
        };
        // Engines start nothing of which nobody wants to see anything.
        let none = !(asked.stdin || asked.stdout || asked.stderr);
        let wanted = Wanted { stdout: asked.stdout || none, ..asked };
        let arrival = self.leftovers.expect(&id, &request.command).await;
        let call = EngineExec {
            container_id: id,
            cmd: request.command,
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        let url = self.subjects.runtime.client().exec(call).await;
        let url = url.map_err(|error| said_no(&request.container, &error))?;
        let running = command::Running::open(&url, wanted).await?;
        let watch = self.leftovers.watch(arrival, running.line());
        Ok(running.of_command(asked, watch))
    }
}

impl Runs for Cri {
    /// The engine writes, the agent rotates.
    const ROTATION: Rotation = Rotation::ByAnother;

    async fn runs(&self, pod: &PodUid, container: &str) -> Result<Vec<Found>, RuntimeError> {
        self.runs_of(pod, container).await
    }

    async fn is_over(&self, id: ContainerId) {
        self.look_for_end(&id).await;
    }
}

impl Served for Cri {
    type Service = EngineVerbs;

    fn service(&self, sight: Sight) -> EngineVerbs {
        EngineVerbs {
            subjects: Subjects { runtime: self.clone(), sight },
            leftovers: Arc::default(),
            gauge: Gauge::default(),
            disk: DiskGauge::default(),
        }
    }
}

impl Service for EngineVerbs {
    async fn logs(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        self.subjects.read_log(request).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<Process, StreamRefusal> {
        if request.command.is_empty() {
            return Err(refusal(400, "you must specify at least 1 command for the container"));
        }
        self.start(request).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<Process, StreamRefusal> {
        let (subject, id) = self.running(&request.pod, &request.container).await?;
        let container = subject.spec.all_containers().map(|(container, _)| container).find(|c| c.name == subject.name);
        let container = container.ok_or_else(|| logs::no_container(&subject.spec.name, &subject.name))?;
        // What the container does not have cannot be had of it.
        let own = container.interactive.unwrap_or_default();
        let channels = request.channels;
        let wanted = Wanted {
            stdin: channels.stdin && own.stdin,
            stdout: channels.stdout,
            stderr: channels.stderr && !own.tty,
            tty: own.tty,
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(refusal(400, "at least one of stdin, stdout and stderr has to be attached to"));
        }
        let call = EngineAttach {
            container_id: id,
            stdin: wanted.stdin,
            tty: wanted.tty,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        let url = self.subjects.runtime.client().attach(call).await;
        let url = url.map_err(|error| said_no(&subject.name, &error))?;
        Ok(command::Running::open(&url, wanted).await?.of_container(wanted))
    }

    async fn port_forward(&self, pod: PodUid, port: u16) -> Result<Connection, StreamRefusal> {
        let spec = self.subjects.spec(&pod)?.1;
        let network = self.subjects.runtime.network(&pod).await;
        let network = network.map_err(|error| failed(error.line()))?;
        match network {
            None => Err(not_possible(format!("pod {:?} does not run", spec.name))),
            Some(_) if spec.host_network => port::connect(port).await,
            Some(network) => network::connect(network, port).await,
        }
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        let now = (self.subjects.sight.clock)();
        let stats = self.gauge.read(&self.subjects.runtime, now).await?;
        Ok(Stats { disk: self.disk.told(&self.subjects, now), ..stats })
    }
}

/// The engine does not give streams of this container.
fn said_no(container: &str, error: &CallError) -> StreamRefusal {
    match error.kind {
        // It has ended in between. The words are a kubelet's.
        ErrorKind::NotFound => not_found(format!("container not found ({container:?})")),
        _ => failed(error.message.clone()),
    }
}
