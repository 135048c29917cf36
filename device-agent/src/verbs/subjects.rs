//! The containers that a device is to run, as somebody asks for them by name.

use std::future::Future;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hawser_wire::PodUid;
use hawser_wire::deployment::{ContainerKind, EdgeDeployment, RestartPolicy};
use hawser_wire::stream::{LogsRequest, StreamRefusal};

use super::logs::{self, Rotation};
use crate::desired::DesiredWish;
use crate::runtime::{ContainerId, Found, FoundState, Runtime, RuntimeError};
use crate::streams::service::{Log, Sight, failed, not_found};

/// A runtime whose containers can be asked about one by one.
pub(crate) trait Runs: Runtime + Clone {
    /// How the logs that [`Runtime::log`] tells are rotated.
    const ROTATION: Rotation;

    /// What was started of a container and is still kept, by attempt.
    fn runs(&self, pod: &PodUid, container: &str) -> impl Future<Output = Result<Vec<Found>, RuntimeError>> + Send;

    /// Resolves when the container has ended. It only looks: caring for the container is the business of whoever waits for
    /// [`Runtime::ended`].
    fn is_over(&self, id: ContainerId) -> impl Future<Output = ()> + Send;
}

/// What somebody may ask for.
#[derive(Clone)]
pub(super) struct Subjects<R> {
    pub(super) runtime: R,
    pub(super) sight: Sight,
}

/// A container that somebody asks for.
pub(super) struct Subject {
    pub(super) spec: Arc<EdgeDeployment>,
    pub(super) name: String,
    init: bool,
    /// When it is started again; `None`: nothing of the pod is.
    restart: Option<RestartPolicy>,
}

impl<R> Subjects<R> {
    /// A pod of the device.
    pub(super) fn spec(&self, pod: &PodUid) -> Result<(DesiredWish, Arc<EdgeDeployment>), StreamRefusal> {
        let desired = self.sight.desired.borrow();
        let wanted =
            desired.pods.get(pod).and_then(|wanted| Some((wanted.wish, wanted.deployment.as_ref()?.spec.clone())));
        wanted.ok_or_else(|| not_found(format!("the device has no pod {pod}")))
    }

    /// The pods of the device.
    pub(super) fn specs(&self) -> Vec<(PodUid, Arc<EdgeDeployment>)> {
        let desired = self.sight.desired.borrow();
        let specs =
            desired.pods.iter().filter_map(|(uid, pod)| Some((uid.clone(), pod.deployment.as_ref()?.spec.clone())));
        specs.collect()
    }

    /// A container of a pod, whether it runs or not.
    pub(super) fn subject(&self, pod: &PodUid, container: &str) -> Result<Subject, StreamRefusal> {
        let (wish, spec) = self.spec(pod)?;
        let found = spec.all_containers().find(|(found, _)| found.name == container);
        let Some((kind, sidecar)) = found.map(|(found, kind)| (kind, found.sidecar)) else {
            return Err(logs::no_container(&spec.name, container));
        };
        let init = kind == ContainerKind::Init;
        let restart = match wish {
            // What was added to look at the pod runs once.
            DesiredWish::Run if kind == ContainerKind::Ephemeral => Some(RestartPolicy::Never),
            DesiredWish::Run if sidecar => Some(RestartPolicy::Always),
            // An init container that has failed is tried again unless the pod says never.
            DesiredWish::Run if init && spec.restart_policy == RestartPolicy::Always => Some(RestartPolicy::OnFailure),
            DesiredWish::Run => Some(spec.restart_policy),
            DesiredWish::Stop { .. } | DesiredWish::Retain => None,
        };
        Ok(Subject { spec, name: container.to_owned(), init, restart })
    }
}

impl<R: Runs> Subjects<R> {
    /// A container that runs.
    pub(super) async fn running(&self, subject: &Subject) -> Result<Found, StreamRefusal> {
        match self.runs(subject).await?.pop() {
            Some(found @ Found { state: FoundState::Running { .. }, .. }) => Ok(found),
            // A kubelet's words.
            _ => Err(not_found(format!("container not found ({:?})", subject.name))),
        }
    }

    async fn runs(&self, subject: &Subject) -> Result<Vec<Found>, StreamRefusal> {
        let runs = self.runtime.runs(&subject.spec.uid, &subject.name).await;
        runs.map_err(|error| failed(error.line()))
    }

    /// Reads a container's log.
    pub(super) async fn read_log(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        let subject = self.subject(&request.pod, &request.container)?;
        let runs = self.runs(&subject).await?;
        let from = logs::resumed(&request)?;
        let attempt = match &from {
            Some(position) if runs.iter().any(|run| run.id.attempt == position.attempt()) => position.attempt(),
            Some(_) => return Err(logs::gone()),
            None => {
                let waits = (self.sight.waits)(&request.pod, &subject.name);
                let of = logs::Subject {
                    pod: &subject.spec.name,
                    container: &subject.name,
                    waits_for_init: !subject.init && !subject.spec.init_containers.is_empty(),
                    waits: waits.as_deref(),
                    restart: subject.restart,
                };
                logs::choose(of, &runs, request.previous)?
            }
        };
        let id = ContainerId { pod: request.pod.clone(), name: subject.name, attempt };
        let path = self.runtime.log(&id).ok_or_else(|| failed("the container has no log"))?;
        let runtime = self.runtime.clone();
        let ended = Box::pin(async move { runtime.is_over(id).await });
        let since = request.since.filter(|_| from.is_none()).map(|since| {
            let ago = i128::from((self.sight.clock)().0) - i128::from(since.0);
            i64::try_from(i128::from(wall_millis()) - ago).unwrap_or(i64::MIN)
        });
        logs::open(logs::Run { path, attempt, rotation: R::ROTATION, ended }, &request, from, since).await
    }
}

/// The wall clock, by which logs are written.
#[expect(clippy::disallowed_methods, reason = "logs carry the wall clock's time, requests the device's")]
fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
