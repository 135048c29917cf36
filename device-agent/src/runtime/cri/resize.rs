//! Other limits and requests for containers that run, and for their pod as a whole.

use std::collections::BTreeMap;

use hawser_cri::{CallError, ContainerState};
use hawser_wire::deployment::{EdgeDeployment, Resources};

use super::qos::{self, of_container};
use super::{Cri, describe, failure, labels};
use crate::runtime::{ContainerId, NewSize, Resized, described};

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

    /// Why memory cannot be limited as it is to be, in the words of a kubelet: more than that is used now.
    async fn below_what_is_used(&self, to: &NewSize) -> Result<Option<String>, String> {
        let pod = &to.spec;
        let (runtime, of) = (self.clone(), pod.clone());
        let whole = self.blocking(move || runtime.0.cgroups.memory(&of)).await;
        let less = less_memory(to);
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
        Ok(too_small(whole, qos::limits(pod).memory_bytes, &less, &used))
    }
}

/// The containers that are to have less memory than now, and how much.
fn less_memory(to: &NewSize) -> Vec<(String, u64)> {
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

/// `whole`: what the pod uses and may use. Pure.
fn too_small(
    whole: Option<(u64, u64)>,
    limit: Option<u64>,
    less: &[(String, u64)],
    used: &BTreeMap<String, u64>,
) -> Option<String> {
    let mut wrong = Vec::new();
    if let (Some((used, had)), Some(limit)) = (whole, limit)
        && limit < had
        && used >= limit
    {
        wrong.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
    }
    for (name, limit) in less {
        match used.get(name) {
            None => wrong.push(format!("missing container \"{name}\" memory usage")),
            Some(used) if used >= limit => wrong.push(format!(
                "attempting to set container \"{name}\" memory limit ({limit}) below current usage ({used})"
            )),
            Some(_) => {}
        }
    }
    // As Go writes several errors.
    let words = match wrong.as_slice() {
        [] => return None,
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_not_taken_away() {
        let used = BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 70)]);
        let less =
            |list: &[(&str, u64)]| list.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect::<Vec<_>>();
        for (whole, limit, less, expected) in [
            (None, None, less(&[]), None),
            (Some((100, 200)), Some(150), less(&[("a", 60)]), None),
            // What grows is not looked at.
            (Some((100, 80)), Some(90), less(&[]), None),
            (
                Some((100, 200)),
                Some(100),
                less(&[]),
                Some(
                    "cannot decrease memory limits: attempting to set pod memory limit (100) below current usage (100)",
                ),
            ),
            (
                None,
                Some(60),
                less(&[("a", 50), ("b", 90)]),
                Some(
                    "cannot decrease memory limits: attempting to set container \"a\" memory limit (50) below current usage (50)",
                ),
            ),
            (
                Some((100, 200)),
                Some(90),
                less(&[("c", 90)]),
                Some(
                    "cannot decrease memory limits: [attempting to set pod memory limit (90) below current usage (100), \
                     missing container \"c\" memory usage]",
                ),
            ),
        ] {
            assert_eq!(too_small(whole, limit, &less, &used).as_deref(), expected);
        }
    }
}
