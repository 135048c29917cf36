//! What the engine has of ours.

use std::time::Duration;

use hawser_cri::{CallError, Container as EngineContainer, ContainerState, ErrorKind};
use hawser_wire::PodUid;

use super::{Cri, exit, failure, labels};
use crate::runtime::{Found, FoundState, RuntimeError};

impl Cri {
    /// What was started of a container and is still kept, by attempt.
    pub(crate) async fn runs_of(&self, pod: &PodUid, container: &str) -> Result<Vec<Found>, RuntimeError> {
        let labels = labels::of_containers(self.device(), pod, container);
        let containers = self.0.client.list_containers(labels).await;
        let containers = containers.map_err(|error| failure("list the containers of the engine", error))?;
        let mut runs = self.found(&containers).await?;
        runs.sort_by_key(|run| run.id.attempt);
        Ok(runs)
    }

    /// Those of the engine's containers that we have started.
    pub(super) async fn found(&self, containers: &[EngineContainer]) -> Result<Vec<Found>, RuntimeError> {
        let mut found = Vec::with_capacity(containers.len());
        for (id, engine_id) in containers.iter().filter_map(|c| Some((labels::id(c)?, &c.id))) {
            let status = match self.started(engine_id).await {
                Ok(Some(status)) => status,
                Ok(None) => continue,
                Err(CallError { kind: ErrorKind::NotFound, .. }) => continue,
                Err(error) => return Err(failure(&format!("look at {id}"), error)),
            };
            let state = match status.state() {
                ContainerState::Exited => FoundState::Ended(self.exit(&id, &status).await),
                _ => {
                    let started = Duration::from_nanos(u64::try_from(status.started_at).unwrap_or(0));
                    FoundState::Running { started_ago: exit::wall().saturating_sub(started) }
                }
            };
            let image = status.labels.get(labels::IMAGE).cloned();
            found.push(Found { id, image, handle: exit::handle(&status), state });
        }
        Ok(found)
    }
}
