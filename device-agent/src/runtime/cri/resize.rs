//! Other limits and requests for containers that run, and for their pod as a whole.

use std::collections::BTreeMap;

use hawser_cri::{CallError, ContainerState};
use hawser_wire::deployment::{EdgeDeployment, Resources};

use super::qos::{self, of_container};
use super::{Cri, describe, failure, labels};
use crate::runtime::{ContainerId, NewSize, Resized, described, less_memory};

impl Cri {
    /// What is below what is used now is refused before anything is changed. Then the pod as a whole gets more, its containers
    /// what they are to have, and the pod what is left.
    pub(super) async fn give_new_size(&self, to: &NewSize) -> Resized {
        let mut done = Vec::new();
        let problem = self.apply(to, &mut done).await.err();
        Resized { done, problem }
    }

    async fn apply(&self, to: &NewSize, done: &mut Vec<ContainerId>) -> Result<(), String> {
        let pod = &to.spec;
        if let Some(why) = self.below_what_is_used(to).await? {
            return Err(why);
        }
        let (runtime, of) = (self.clone(), pod.clone());
        let widened = self.blocking(move || runtime.0.cgroups.widen(&of)).await;
        widened.map_err(|error| format!("widen the pod's cgroup: {error}"))?;
        for (id, _) in &to.containers {
            self.update(pod, id).await.map_err(|error| failure(&format!("resize {id}"), error).line())?;
            done.push(id.clone());
        }
        let (runtime, of) = (self.clone(), pod.clone());
        let set = self.blocking(move || runtime.0.cgroups.set(&of)).await;
        set.map_err(|error| format!("set the limits of the pod's cgroup: {error}"))
    }

    async fn update(&self, pod: &EdgeDeployment, id: &ContainerId) -> Result<(), CallError> {
        let found = self.find(id).await?;
        let running = found.filter(|container| container.state() == ContainerState::Running);
        let (Some(running), Some(container)) = (running, described(pod, id)) else { return Ok(()) };
        let limits = describe::limits(self.frame(), pod, container);
        self.0.client.update_container_resources(&running.id, limits).await
    }

    /// Why memory cannot be limited as it is to be: more than that is used now.
    async fn below_what_is_used(&self, to: &NewSize) -> Result<Option<String>, String> {
        let pod = &to.spec;
        let (runtime, of) = (self.clone(), pod.clone());
        let whole = self.blocking(move || runtime.0.cgroups.memory(&of)).await;
        let less = containers_with_less(to);
        let mut used = BTreeMap::new();
        if !less.is_empty() {
            let stats = self.0.client.list_container_stats(labels::of_pod(self.device(), &pod.uid)).await;
            let stats = stats.map_err(|error| {
                let pod = format!("{}_{}({})", pod.name, pod.namespace, pod.uid);
                failure(&format!("unable to read memory usage for pod \"{pod}\""), error).line()
            })?;
            for stats in stats {
                let name = stats.attributes.as_ref().and_then(labels::name).map(str::to_owned);
                let memory = stats.memory.unwrap_or_default();
                let bytes = memory.usage_bytes.or(memory.working_set_bytes).map(|bytes| bytes.value);
                used.extend(name.zip(bytes));
            }
        }
        Ok(less_memory::refusal(whole, qos::limits(pod).memory_bytes, &less, &used))
    }
}

/// The containers that are to have less memory than now, and how much.
fn containers_with_less(to: &NewSize) -> Vec<(String, u64)> {
    let less = |(id, given): &(ContainerId, Option<Resources>)| {
        let wanted = some(of_container(&to.spec, described(&to.spec, id)?))?;
        // What nobody remembers is taken to be what it is to be.
        let given = (*given)?;
        some(given).is_none_or(|given| wanted < given).then(|| (id.name.clone(), wanted))
    };
    to.containers.iter().filter_map(less).collect()
}

fn some(of: Resources) -> Option<u64> {
    of.memory_limit_bytes.filter(|bytes| *bytes > 0)
}
