//! What a pod may use of processors and memory, apart from what its description says: the two differ while there is no room
//! for what it says, and nothing is started with what was not given. Pure.

use std::collections::BTreeMap;

use hawser_wire::amounts::{Bytes, Millicpus};
use hawser_wire::deployment::{Ask, Container, EdgeDeployment, Resources, RestartToResize};
use serde::{Deserialize, Serialize};

/// What can be changed while a container runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Amounts {
    cpu_request: Option<u64>,
    cpu_limit: Option<u64>,
    memory_request: Option<u64>,
    memory_limit: Option<u64>,
}

/// What a pod may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Allotment {
    /// Each container that can be given something else while it runs.
    containers: BTreeMap<String, Amounts>,
    /// The pod as a whole, if it asks for that.
    whole: Option<Amounts>,
}

impl From<Resources> for Amounts {
    fn from(of: Resources) -> Self {
        Self {
            cpu_request: of.cpu_request_millis,
            cpu_limit: of.cpu_limit_millis,
            memory_request: of.memory_request_bytes,
            memory_limit: of.memory_limit_bytes,
        }
    }
}

impl From<Amounts> for Resources {
    fn from(of: Amounts) -> Self {
        of.instead_of(Self::default())
    }
}

impl Amounts {
    fn instead_of(self, resources: Resources) -> Resources {
        Resources {
            cpu_request_millis: self.cpu_request,
            cpu_limit_millis: self.cpu_limit,
            memory_request_bytes: self.memory_request,
            memory_limit_bytes: self.memory_limit,
            ..resources
        }
    }

    /// With the limits of the pod as a whole where there are none. To limit to nothing is not to limit.
    pub(super) fn with_limits_of(self, whole: Self) -> Self {
        let limit =
            |own: Option<u64>, whole: Option<u64>| own.filter(|limit| *limit > 0).or(whole.filter(|limit| *limit > 0));
        Self {
            cpu_limit: limit(self.cpu_limit, whole.cpu_limit),
            memory_limit: limit(self.memory_limit, whole.memory_limit),
            ..self
        }
    }

    /// Whether a container that has these has to be started again to get others.
    pub(super) fn takes_a_restart(self, others: Self, policy: RestartToResize) -> bool {
        let cpu = (self.cpu_request, self.cpu_limit) != (others.cpu_request, others.cpu_limit);
        let memory = (self.memory_request, self.memory_limit) != (others.memory_request, others.memory_limit);
        (policy.cpu && cpu) || (policy.memory && memory)
    }
}

impl Allotment {
    /// What a description says.
    pub(super) fn of(pod: &EdgeDeployment) -> Self {
        let all = pod.init_containers.iter().chain(&pod.containers);
        let containers = all.map(|container| (container.name.clone(), container.resources.into())).collect();
        let whole = pod.engine.iter().flat_map(|engine| &engine.asks).find_map(|ask| match ask {
            Ask::Resources(resources) => Some((*resources).into()),
            _ => None,
        });
        Self { containers, whole }
    }

    pub(super) fn of_container(&self, name: &str) -> Option<Amounts> {
        self.containers.get(name).copied()
    }

    pub(super) fn whole(&self) -> Option<Amounts> {
        self.whole
    }

    /// A description that says this instead of what it says.
    pub(super) fn within(&self, pod: &EdgeDeployment) -> EdgeDeployment {
        let mut pod = pod.clone();
        for container in pod.init_containers.iter_mut().chain(&mut pod.containers) {
            if let Some(amounts) = self.of_container(&container.name) {
                container.resources = amounts.instead_of(container.resources);
            }
        }
        for ask in pod.engine.iter_mut().flat_map(|engine| &mut engine.asks) {
            if let (Ask::Resources(resources), Some(whole)) = (ask, self.whole) {
                *resources = whole.instead_of(*resources);
            }
        }
        pod
    }

    /// Has what it has of containers that are described, and what is described of those that came with it.
    pub(super) fn fit(&mut self, pod: &EdgeDeployment) {
        let described = Self::of(pod);
        let had = std::mem::take(&mut self.containers);
        self.containers = described.containers;
        for (name, amounts) in had {
            self.containers.entry(name).and_modify(|described| *described = amounts);
        }
    }
}

/// What a pod is to have, in the words of a kubelet's Events.
pub(super) fn summary(pod: &EdgeDeployment, generation: Option<u64>, error: Option<&str>) -> String {
    use serde_json::{Map, Value, json};
    let list = |containers: &[Container]| -> Vec<Value> {
        let one = |container: &Container| json!({"name": container.name, "resources": written(&container.resources)});
        containers.iter().map(one).collect()
    };
    let mut parts = Map::new();
    for (name, containers) in [("initContainers", &pod.init_containers), ("containers", &pod.containers)] {
        if !containers.is_empty() {
            parts.insert(name.to_owned(), list(containers).into());
        }
    }
    parts.insert("generation".to_owned(), generation.unwrap_or(1).into());
    if let Some(error) = error.filter(|error| !error.is_empty()) {
        parts.insert("error".to_owned(), error.into());
    }
    Value::Object(parts).to_string()
}

fn written(of: &Resources) -> serde_json::Value {
    let list = |cpu: Option<u64>, memory: Option<u64>| {
        let cpu = cpu.map(|millis| ("cpu".to_owned(), Millicpus(millis).to_string()));
        let memory = memory.map(|bytes| ("memory".to_owned(), Bytes(bytes).to_string()));
        cpu.into_iter().chain(memory).collect::<BTreeMap<_, _>>()
    };
    let lists = [
        ("limits", list(of.cpu_limit_millis, of.memory_limit_bytes)),
        ("requests", list(of.cpu_request_millis, of.memory_request_bytes)),
    ];
    serde_json::json!(lists.into_iter().filter(|(_, list)| !list.is_empty()).collect::<BTreeMap<_, _>>())
}
