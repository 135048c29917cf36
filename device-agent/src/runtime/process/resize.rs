//! Other limits for programs that run.

use std::collections::BTreeMap;
use std::path::Path;

use hawser_wire::deployment::{EdgeDeployment, Resources};

use super::Inner;
use crate::cgroup::{Hierarchies, Limits};
use crate::runtime::{ContainerId, NewSize, Resized, described, less_memory};

impl Inner {
    /// Why the limits of a pod cannot be changed. Requests are the business of whoever finds room.
    pub(super) fn no_resize(&self, pod: &EdgeDeployment) -> Option<String> {
        let limited = |of: &Resources| of.cpu_limit_millis.is_some() || of.memory_limit_bytes.is_some();
        let any = pod.all_containers().any(|(container, _)| limited(&container.resources));
        self.no_cgroups().filter(|_| any).map(|why| format!("limits are not enforced: {why}"))
    }

    /// Memory that is in use is not taken away. A limit that the kernel cannot set was told as such at the start.
    pub(super) fn resize(&self, to: &NewSize) -> Resized {
        let mut result = Resized::default();
        let Some(parent) = &self.config.cgroup else {
            result.done.extend(to.containers.iter().map(|(id, _)| id.clone()));
            return result;
        };
        let hierarchies = Hierarchies::here();
        for (id, _) in &to.containers {
            let Some(container) = described(&to.spec, id) else { continue };
            let path = self.cgroup_below(parent, id);
            match limit(&hierarchies, Path::new(&path), id, &container.resources) {
                Ok(()) => result.done.push(id.clone()),
                Err(why) => {
                    result.problem.get_or_insert(why);
                }
            }
        }
        result
    }
}

fn limit(hierarchies: &Hierarchies, path: &Path, id: &ContainerId, to: &Resources) -> Result<(), String> {
    let name = &id.name;
    if let (Some(limit), Some((used, had))) = (to.memory_limit_bytes, hierarchies.memory(path))
        && limit < had
    {
        let used = BTreeMap::from([(name.clone(), used)]);
        if let Some(why) = less_memory::refusal(None, None, &[(name.clone(), limit)], &used) {
            return Err(why);
        }
    }
    let limits =
        Limits { cpu_shares: None, cpu_millis: to.cpu_limit_millis, memory_bytes: to.memory_limit_bytes, pids: None };
    for controller in ["memory", "cpu"] {
        let changed = hierarchies.change(controller, path, &limits);
        changed.map_err(|error| format!("limit {controller} of container \"{name}\": {error}"))?;
    }
    Ok(())
}
