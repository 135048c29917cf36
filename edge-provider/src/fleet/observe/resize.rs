//! What a device gave its pods of processors and memory, and how far it is with changes of that.

use std::collections::BTreeMap;

use hawser_wire::amounts::{Bytes, Millicpus};
use hawser_wire::deployment::Resources;
use hawser_wire::report::{Resize, WorkloadReport};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use virtual_node::provider::{GivenResources, ResizeCondition, Resized, Resizing};

use super::{MAX_MESSAGE, cut, number};

const TOO_OLD: &str = "the agent of the device is too old to resize pods: update it; until then only containers that are \
                       started again get what is asked for";

/// As the device says; one that says nothing has an agent that cannot resize.
pub(super) fn resizing(said: &WorkloadReport) -> Resizing {
    let Some(Resize { pending, in_progress, whole }) = &said.resize else {
        return Resizing::Impossible(TOO_OLD.to_owned());
    };
    let containers = said.init_containers.iter().chain(&said.containers);
    let given = containers.filter_map(|container| {
        let given = container.given?;
        let (allocated, actual) =
            (requirements(&given.allocated), requirements(&given.actual.unwrap_or(given.allocated)));
        Some((container.name.clone(), GivenResources { allocated, actual }))
    });
    Resizing::Told(Box::new(Resized {
        given: given.collect(),
        whole: whole.as_ref().map(requirements),
        pending: pending.as_ref().map(|pending| ResizeCondition {
            reason: if pending.infeasible { "Infeasible" } else { "Deferred" }.to_owned(),
            message: cut(&pending.message, MAX_MESSAGE),
            generation: pending.generation.and_then(number),
        }),
        in_progress: in_progress.as_ref().map(|in_progress| ResizeCondition {
            reason: in_progress.error.as_ref().map_or("", |_| "Error").to_owned(),
            message: in_progress.error.as_deref().map(|error| cut(error, MAX_MESSAGE)).unwrap_or_default(),
            generation: in_progress.generation.and_then(number),
        }),
    }))
}

fn requirements(said: &Resources) -> ResourceRequirements {
    let list = |cpu: Option<u64>, memory: Option<u64>| {
        let cpu = cpu.map(|millis| ("cpu".to_owned(), Quantity(Millicpus(millis).to_string())));
        let memory = memory.map(|bytes| ("memory".to_owned(), Quantity(Bytes(bytes).to_string())));
        let list: BTreeMap<_, _> = cpu.into_iter().chain(memory).collect();
        (!list.is_empty()).then_some(list)
    };
    ResourceRequirements {
        limits: list(said.cpu_limit_millis, said.memory_limit_bytes),
        requests: list(said.cpu_request_millis, said.memory_request_bytes),
        claims: None,
    }
}
