//! Limits and requests that change while a pod runs: what its containers were given, and the conditions that say how far it
//! is, as a kubelet tells them. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodCondition, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::qos::value;
use crate::provider::{GivenResources, ResizeCondition, Resizing};

const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";
/// What can be changed.
const GOVERNED: [&str; 2] = ["cpu", "memory"];

type Amounts = BTreeMap<String, Quantity>;

/// What a container of the spec was given.
pub(super) fn given(
    container: &Container,
    told: &ContainerStatus,
    old: &PodStatus,
    resizing: &Resizing,
) -> GivenResources {
    let wanted = container.resources.clone().unwrap_or_default();
    let both = |given: ResourceRequirements| GivenResources { allocated: given.clone(), actual: given };
    match resizing {
        Resizing::AsSpecified => both(wanted),
        Resizing::Told(resized) => match resized.given.get(&container.name) {
            Some(given) => GivenResources {
                allocated: in_the_words_of(&wanted, &given.allocated),
                actual: in_the_words_of(&wanted, &given.actual),
            },
            None => both(wanted),
        },
        Resizing::Impossible(_) => {
            let all = old.init_container_statuses.iter().chain(&old.container_statuses).flatten();
            let mut before = all.filter(|before| before.name == told.name && before.container_id == told.container_id);
            both(match before.find_map(|before| before.resources.as_ref()) {
                Some(before) => in_the_words_of(&wanted, before),
                None => wanted,
            })
        }
    }
}

/// The given amounts of what can be changed, and all others as wanted; equal ones are written as they are wanted.
pub(super) fn in_the_words_of(wanted: &ResourceRequirements, given: &ResourceRequirements) -> ResourceRequirements {
    let list = |wanted: &Option<Amounts>, given: &Option<Amounts>| {
        let mut list = wanted.clone().unwrap_or_default();
        for name in GOVERNED {
            let amount = given.as_ref().and_then(|given| given.get(name));
            match (amount, list.get(name)) {
                (None, _) => drop(list.remove(name)),
                (Some(amount), Some(wanted)) if is_given(name, wanted, amount) => {}
                (Some(amount), _) => drop(list.insert(name.to_owned(), amount.clone())),
            }
        }
        // An empty list and none are the same, and an unchanged one stays as it is written.
        if list.is_empty() { wanted.as_ref().map(|_| list) } else { Some(list) }
    };
    let mut requests = given.requests.clone();
    // What is requested because it is the limit need not be written down.
    if let Some(requests) = &mut requests {
        let limits = given.limits.as_ref();
        let said = wanted.requests.as_ref();
        requests.retain(|name, amount| {
            let follows = limits.and_then(|limits| limits.get(name)) == Some(amount);
            said.is_some_and(|said| said.contains_key(name)) || !follows
        });
    }
    ResourceRequirements {
        requests: list(&wanted.requests, &requests),
        limits: list(&wanted.limits, &given.limits),
        claims: wanted.claims.clone(),
    }
}

/// Whether that is what was wanted: a device knows thousandths of a processor and bytes, and gives no less.
fn is_given(name: &str, wanted: &Quantity, given: &Quantity) -> bool {
    let parts = if name == "cpu" { 1_000.0 } else { 1.0 };
    // What is wanted may be a fraction that has no exact form.
    let whole = |amount: &Quantity| value(&amount.0).map(|amount| (amount * parts - 1e-6).ceil());
    whole(wanted) == whole(given)
}

/// Completes the conditions of a status of which everything else is known.
pub(super) fn tell(spec: &PodSpec, resizing: &Resizing, status: &mut PodStatus, now: Timestamp) {
    let (pending, in_progress) = match resizing {
        Resizing::AsSpecified => return,
        _ if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) => (None, None),
        Resizing::Told(resized) => (resized.pending.clone(), resized.in_progress.clone()),
        Resizing::Impossible(why) => {
            let pending = ResizeCondition {
                reason: "Infeasible".to_owned(),
                message: why.clone(),
                generation: status.observed_generation,
            };
            (differs(spec, status).then_some(pending), None)
        }
    };
    let conditions = status.conditions.get_or_insert_default();
    for (kind, told) in [(PENDING, pending), (IN_PROGRESS, in_progress)] {
        let at = conditions.iter().position(|condition| condition.type_ == kind);
        let new = told.map(|told| condition(kind, told, at.map(|at| &conditions[at]), now));
        match (at, new) {
            (Some(at), Some(new)) => conditions[at] = new,
            (Some(at), None) => drop(conditions.remove(at)),
            (None, Some(new)) => conditions.push(new),
            (None, None) => {}
        }
    }
}

fn condition(kind: &str, told: ResizeCondition, old: Option<&PodCondition>, now: Timestamp) -> PodCondition {
    let ResizeCondition { reason, message, generation } = told;
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let mut new = PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: text(reason),
        message: text(message),
        observed_generation: generation,
        last_transition_time: Some(Time(now)),
        last_probe_time: Some(Time(now)),
    };
    let Some(old) = old else { return new };
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if said(&old.reason) == new.reason {
        new.last_transition_time = old.last_transition_time.clone().or(new.last_transition_time);
        if said(&old.message) == new.message && old.observed_generation == new.observed_generation {
            new.last_probe_time = old.last_probe_time.clone();
        }
    }
    new
}

/// Whether a container was given something else than the spec says.
fn differs(spec: &PodSpec, status: &PodStatus) -> bool {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let told = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let amount =
        |list: Option<&Amounts>, name: &str| list.and_then(|list| list.get(name)).and_then(|one| value(&one.0));
    containers.into_iter().any(|container| {
        let wanted = container.resources.clone().unwrap_or_default();
        let given = told().find(|told| told.name == container.name).and_then(|told| told.resources.as_ref());
        given.is_some_and(|given| {
            GOVERNED.iter().any(|name| {
                amount(given.requests.as_ref(), name) != amount(wanted.requests.as_ref(), name)
                    || amount(given.limits.as_ref(), name) != amount(wanted.limits.as_ref(), name)
            })
        })
    })
}

#[cfg(test)]
mod tests;
