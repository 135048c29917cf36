//! Making and starting containers.

use std::io;

use hawser_cri::{CallError, ContainerState, CreateContainerRequest};
use hawser_wire::deployment::Container;

use super::admission::{check_non_root, not_enforced};
use super::sandbox::ready;
use super::{Cri, describe, exit, failure, labels, place};
use crate::runtime::volumes::place::Naming;
use crate::runtime::{ContainerStart, PrepareError, RuntimeError, StartError, Started};

impl Cri {
    pub(super) async fn start_container(&self, start: &ContainerStart) -> Result<Started, StartError> {
        let id = &start.id;
        let failed = |what: &str, error: CallError| StartError::NotCreated(failure(&format!("{what} {id}"), error));
        let container = start.container().ok_or(io::Error::other("the pod has no such container"));
        let container = container.naming(|| format!("start {id}")).map_err(StartError::NotCreated)?;
        let existing = self.find(id).await.map_err(|error| failed("look for", error))?;
        let engine_id = match existing {
            Some(existing) if existing.state() == ContainerState::Created => {
                // Made by an agent that died before it started it; what it was to be may have changed since.
                let removed = self.0.client.remove_container(&existing.id).await;
                removed.map_err(|error| failed("replace", error))?;
                self.create(start, container).await?
            }
            Some(existing) => {
                let status = self.started(&existing.id).await.map_err(|error| failed("look at", error))?;
                let handle = status.as_ref().map(exit::handle).unwrap_or_default();
                return Ok(Started { handle, not_enforced: Vec::new() });
            }
            None => self.create(start, container).await?,
        };
        let refused = self.0.client.start_container(&engine_id).await.err();
        let status = self.started(&engine_id).await.map_err(|error| failed("look at", error))?;
        match (refused, status) {
            (None, status) => Ok(Started {
                handle: status.as_ref().map(exit::handle).unwrap_or_default(),
                not_enforced: not_enforced(&start.spec, container, self.0.places.mounts),
            }),
            // It was not, or not yet: an engine that hangs may still do it. Then it is found by the next attempt.
            (Some(error), None) => Err(failed("start", error)),
            (Some(error), Some(status)) if status.state() == ContainerState::Exited => {
                Err(StartError::NotStarted { code: status.exit_code, message: error.message })
            }
            (Some(_), Some(status)) => Ok(Started { handle: exit::handle(&status), not_enforced: Vec::new() }),
        }
    }

    async fn create(&self, start: &ContainerStart, container: &Container) -> Result<String, StartError> {
        let pod = &*start.spec;
        let failed = |what: &str, error: CallError| StartError::NotCreated(failure(what, error));
        let sandboxes = self.sandboxes(&pod.uid).await.map_err(|error| failed("find the pod's sandbox", error))?;
        let Some(sandbox) = ready(&sandboxes) else {
            return Err(StartError::NoPlace("the pod's sandbox has ended".to_owned()));
        };
        let image = self.present(&container.image).await?;
        check_non_root(pod, container, &image).map_err(StartError::Config)?;
        let addresses = self.addresses().get(&pod.uid).cloned();
        let images = self.mounted_images(pod, container).await?;
        let (runtime, made, of) = (self.clone(), start.clone(), container.clone());
        let mounts = self.blocking(move || place::prepare(&runtime, &made, &of, addresses.as_deref(), &images)).await;
        let mounts = mounts?;
        let target = self.target(start).await?;
        let users = self.users(pod).await.map_err(|error| match error {
            PrepareError::Volumes(error) | PrepareError::Sandbox(error) => StartError::NotCreated(error),
            PrepareError::Impossible(words) | PrepareError::NoNetwork(words) => StartError::Config(words),
        })?;
        let config = describe::container(self.frame(), start, container, &image, mounts, target, users);
        let attempt = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let (described, _) = self.describe_sandbox(&start.spec, attempt, users).await?;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(described),
        };
        let created = self.0.client.create_container(request).await;
        created.map_err(|error| failed(&format!("make {}", start.id), error))
    }

    /// The container whose processes this one is to see, if it names one: as the engine calls what runs of it now.
    async fn target(&self, start: &ContainerStart) -> Result<Option<String>, StartError> {
        let added = start.spec.ephemeral(&start.id.name);
        let Some(name) = added.and_then(|added| added.target.as_deref()) else { return Ok(None) };
        // A kubelet's words.
        let operation = format!("unable to find target container {name}");
        let labels = labels::of_containers(self.device(), &start.id.pod, name);
        let all = self.0.client.list_containers(labels).await;
        let all = all.map_err(|error| StartError::NotCreated(failure(&operation, error)))?;
        let runs = |container: &&hawser_cri::Container| container.state() == ContainerState::Running;
        let newest = all.iter().filter(runs).max_by_key(|container| labels::id(container).map(|id| id.attempt));
        let newest = newest.ok_or_else(|| {
            StartError::NotCreated(RuntimeError { operation, source: io::Error::other("it does not run") })
        })?;
        Ok(Some(newest.id.clone()))
    }

    /// How a container is that may have been started; `None`: it was not.
    pub(super) async fn started(&self, engine_id: &str) -> Result<Option<hawser_cri::ContainerStatus>, CallError> {
        let status = self.0.client.container_status(engine_id, false).await?.status;
        Ok(status.filter(|status| status.state() != ContainerState::Created))
    }
}
