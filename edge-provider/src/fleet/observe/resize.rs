//! What a device gave its pods of processors and memory, and how far it is with changes of that.

use std::collections::BTreeMap;

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
        let cpu = cpu.map(|millis| ("cpu".to_owned(), millicpus(millis)));
        let memory = memory.map(|bytes| ("memory".to_owned(), binary(bytes)));
        let list: BTreeMap<_, _> = cpu.into_iter().chain(memory).collect();
        (!list.is_empty()).then_some(list)
    };
    ResourceRequirements {
        limits: list(said.cpu_limit_millis, said.memory_limit_bytes),
        requests: list(said.cpu_request_millis, said.memory_request_bytes),
        claims: None,
    }
}

fn millicpus(millis: u64) -> Quantity {
    Quantity(if millis.is_multiple_of(1_000) { (millis / 1_000).to_string() } else { format!("{millis}m") })
}

fn binary(bytes: u64) -> Quantity {
    let units = [("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let whole = units.into_iter().find(|(_, power)| bytes > 0 && bytes.is_multiple_of(1 << power));
    Quantity(whole.map_or_else(|| bytes.to_string(), |(unit, power)| format!("{}{unit}", bytes >> power)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_people_write_them() {
        for (millis, expected) in [(0, "0"), (100, "100m"), (1_500, "1500m"), (2_000, "2")] {
            assert_eq!(millicpus(millis).0, expected);
        }
        for (bytes, expected) in [(0, "0"), (1_000, "1000"), (1 << 10, "1Ki"), (3 << 20, "3Mi"), (1 << 34, "16Gi")] {
            assert_eq!(binary(bytes).0, expected);
        }
    }
}
