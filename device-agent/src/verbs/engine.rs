//! The verbs on the containers of a container engine.

use hawser_wire::PodUid;
use hawser_wire::stream::{AttachRequest, ExecRequest, LogsRequest, Stats, StreamRefusal};

use super::logs::Rotation;
use super::subjects::{Runs, Subjects};
use crate::runtime::cri::Cri;
use crate::runtime::{ContainerId, Found, RuntimeError};
use crate::streams::service::{Connection, Log, NotServed, Process, Served, Service, Sight};

/// The verbs on the containers of the `cri` runtime.
#[derive(Clone)]
pub struct EngineVerbs {
    subjects: Subjects<Cri>,
}

impl std::fmt::Debug for EngineVerbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineVerbs").finish_non_exhaustive()
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
        EngineVerbs { subjects: Subjects { runtime: self.clone(), sight } }
    }
}

impl Service for EngineVerbs {
    async fn logs(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        self.subjects.read_log(request).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<Process, StreamRefusal> {
        NotServed.exec(request).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<Process, StreamRefusal> {
        NotServed.attach(request).await
    }

    async fn port_forward(&self, pod: PodUid, port: u16) -> Result<Connection, StreamRefusal> {
        NotServed.port_forward(pod, port).await
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        NotServed.stats().await
    }
}
