//! What a pod and its containers were given, and what is mounted where, as a kubelet tells it. Pure: all of it follows from
//! the pod's spec, but for what is changed while they run (see [`resize`]).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, PodSpec, PodStatus, ResourceRequirements, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::qos::value;
use super::resize;
use crate::provider::Resizing;

type Amounts = BTreeMap<String, Quantity>;

/// Completes a status of which everything else is known.
pub(super) fn tell(spec: &PodSpec, old: &PodStatus, resizing: &Resizing, status: &mut PodStatus) {
    let spec = &given_instead_of_asked(spec, old, resizing, status);
    let runs = status.phase.as_deref() == Some("Running");
    let mut requests = effective(spec, |of| of.requests.as_ref(), false);
    let mut limits = effective(spec, |of| of.limits.as_ref(), runs);
    let overhead = spec.overhead.clone().unwrap_or_default();
    add(&mut requests, &overhead);
    // It makes no limit where there is none.
    let more = overhead.into_iter().filter(|(name, _)| limits.contains_key(name)).collect();
    add(&mut limits, &more);
    let given = ResourceRequirements { requests: some(requests.clone()), limits: some(limits), claims: None };
    let given = Some(given).filter(|given| *given != ResourceRequirements::default());
    // What is still being applied does not hold yet.
    let under_way = matches!(resizing, Resizing::Told(resized) if resized.in_progress.is_some());
    status.resources = old.resources.clone().filter(|_| under_way).or(given);
    status.allocated_resources = some(requests);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (containers, told) in
        [(init, &mut status.init_container_statuses), (&spec.containers, &mut status.container_statuses)]
    {
        for told in told.iter_mut().flatten() {
            if let Some(container) = containers.iter().find(|container| container.name == told.name) {
                tell_container(container, told, old, resizing);
            }
        }
    }
    for told in status.ephemeral_container_statuses.iter_mut().flatten() {
        let mut all = spec.ephemeral_containers.iter().flatten();
        if let Some(container) = all.find(|container| container.name == told.name) {
            told.volume_mounts = mounts(container.volume_mounts.as_deref());
            // It may ask for nothing.
            told.resources = told.container_id.as_ref().map(|_| ResourceRequirements::default());
        }
    }
}

/// The spec, with what was decided on instead of what it asks for.
fn given_instead_of_asked(spec: &PodSpec, old: &PodStatus, resizing: &Resizing, status: &PodStatus) -> PodSpec {
    let mut spec = spec.clone();
    if *resizing == Resizing::AsSpecified {
        return spec;
    }
    let told = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(told) = told().find(|told| told.name == container.name) {
            let given = resize::given(container, told, old, resizing).allocated;
            container.resources = Some(given).filter(|given| *given != ResourceRequirements::default());
        }
    }
    if let (Resizing::Told(resized), Some(wanted)) = (resizing, &spec.resources)
        && let Some(whole) = &resized.whole
    {
        spec.resources = Some(resize::in_the_words_of(wanted, whole));
    }
    spec
}

/// `container` is one that says what was decided on.
fn tell_container(container: &Container, told: &mut ContainerStatus, old: &PodStatus, resizing: &Resizing) {
    told.volume_mounts = mounts(container.volume_mounts.as_deref());
    // One that was never made was given nothing.
    let given = told.container_id.is_some().then(|| resize::given(container, told, old, resizing));
    told.allocated_resources = given.as_ref().and_then(|given| given.allocated.requests.clone());
    told.resources = given.map(|given| given.actual);
}

fn mounts(mounts: Option<&[VolumeMount]>) -> Option<Vec<VolumeMountStatus>> {
    let told = |mount: &VolumeMount| {
        let read_only = mount.read_only.filter(|only| *only);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.and(match mount.recursive_read_only.as_deref() {
                None | Some("" | "Disabled") => Some("Disabled".to_owned()),
                // The device refuses whom it cannot give this.
                Some("Enabled") => Some("Enabled".to_owned()),
                // Only the device knows what became of that.
                Some(_) => None,
            }),
            volume_status: None,
        }
    };
    let told: Vec<_> = mounts.unwrap_or_default().iter().map(told).collect();
    (!told.is_empty()).then_some(told)
}

/// The most that containers ask for at the same time, or what the pod asks for as a whole. `of_all`: only where all
/// containers ask.
fn effective(spec: &PodSpec, list: fn(&ResourceRequirements) -> Option<&Amounts>, of_all: bool) -> Amounts {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let own = |container: &Container| {
        let amounts = container.resources.as_ref().and_then(list);
        amounts.cloned().unwrap_or_default()
    };
    let mut total = Amounts::new();
    spec.containers.iter().for_each(|container| add(&mut total, &own(container)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in init {
        let mut with = own(container);
        add(&mut with, &sidecars);
        raise(&mut peak, &with);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = with;
        }
    }
    add(&mut total, &sidecars);
    raise(&mut total, &peak);
    if of_all {
        let all = || init.iter().chain(&spec.containers);
        total.retain(|name, _| all().all(|container| own(container).contains_key(name)));
    }
    let whole = spec.resources.as_ref().and_then(list);
    total.extend(whole.into_iter().flatten().map(|(name, amount)| (name.clone(), amount.clone())));
    total
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match total.get_mut(name) {
            Some(there) => *there = sum(there, amount),
            None => drop(total.insert(name.clone(), amount.clone())),
        }
    }
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        match total.get(name) {
            Some(there) if value(&there.0) >= value(&amount.0) => {}
            _ => drop(total.insert(name.clone(), amount.clone())),
        }
    }
}

/// Written as the first is: in powers of two or of ten, with the largest unit of which it is a whole number.
fn sum(one: &Quantity, other: &Quantity) -> Quantity {
    let total = value(&one.0).unwrap_or(0.0) + value(&other.0).unwrap_or(0.0);
    let (base, units) = if one.0.ends_with('i') {
        (1_024.0, ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"])
    } else {
        (1_000.0, ["E", "P", "T", "G", "M", "k"])
    };
    let whole = |number: f64| number >= 1.0 && number.fract() == 0.0;
    let unit = units.into_iter().zip((1..=6).rev()).find(|(_, power)| whole(total / f64::powi(base, *power)));
    Quantity(match unit {
        Some((unit, power)) => format!("{}{unit}", total / f64::powi(base, power)),
        None if total.fract() == 0.0 => format!("{total}"),
        // A kubelet rounds up what is less than a thousandth.
        None => format!("{}m", (total * 1_000.0).round().max(1.0)),
    })
}

fn some(amounts: Amounts) -> Option<Amounts> {
    (!amounts.is_empty()).then_some(amounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(spec: Value, status: Value) -> Value {
        let spec = serde_json::from_value(spec).unwrap();
        let mut status = serde_json::from_value(status).unwrap();
        tell(&spec, &PodStatus::default(), &Resizing::AsSpecified, &mut status);
        serde_json::to_value(status).unwrap()
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn a_container_was_given_what_it_asks_for_once_it_was_made() {
        let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w", "readOnly": true}]);
        let resources = json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let spec = json!({"containers": [{"name": "c", "resources": resources, "volumeMounts": mounts}]});
        let status = |id: Value| {
            json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "containerID": id}]})
        };
        let mounted = json!([{"name": "v", "mountPath": "/v"},
            {"name": "w", "mountPath": "/w", "readOnly": true, "recursiveReadOnly": "Disabled"}]);
        for (id, given, allocated) in
            [(json!(null), json!(null), json!(null)), (json!("c://1"), resources.clone(), json!({"cpu": "50m"}))]
        {
            let all = told(spec.clone(), status(id));
            let container = &all["containerStatuses"][0];
            assert_eq!(container["volumeMounts"], mounted);
            assert_eq!((&container["resources"], &container["allocatedResources"]), (&given, &allocated));
            assert_eq!((&all["resources"], &all["allocatedResources"]), (&resources, &json!({"cpu": "50m"})));
        }
    }

    #[test]
    fn a_container_that_was_added_was_given_nothing_in_particular() {
        let spec = json!({"containers": [], "ephemeralContainers": [{"name": "look", "image": "i"}]});
        for (id, given) in [(json!(null), json!(null)), (json!("c://1"), json!({}))] {
            let status = json!({"phase": "Running", "ephemeralContainerStatuses": [{"name": "look", "image": "i",
                "imageID": "", "ready": false, "restartCount": 0, "containerID": id}]});
            assert_eq!(told(spec.clone(), status)["ephemeralContainerStatuses"][0]["resources"], given);
        }
    }

    #[test]
    fn a_pod_was_given_what_its_containers_ask_for_at_the_same_time() {
        let cpu = |amount: &str| container(json!({"cpu": amount}), json!({}));
        let mut sidecar = cpu("50m");
        sidecar["restartPolicy"] = json!("Always");
        let memory = |amount: &str| container(json!({}), json!({"memory": amount}));
        for (name, spec, expected) in [
            ("nothing", json!({"containers": [{"name": "c"}]}), json!(null)),
            ("sum", json!({"containers": [cpu("100m"), cpu("1900m")]}), json!({"requests": {"cpu": "2"}})),
            ("thousandths", json!({"containers": [cpu("100m"), cpu("1")]}), json!({"requests": {"cpu": "1100m"}})),
            (
                "the first init container asks for more",
                json!({"initContainers": [sidecar, cpu("1")], "containers": [cpu("100m")]}),
                json!({"requests": {"cpu": "1050m"}}),
            ),
            ("units", json!({"containers": [memory("1Gi"), memory("512Mi")]}), json!({"limits": {"memory": "1536Mi"}})),
            ("bytes", json!({"containers": [memory("1M"), memory("1Mi")]}), json!({"limits": {"memory": "2048576"}})),
            ("one without", json!({"containers": [memory("1Gi"), {"name": "d"}]}), json!(null)),
            (
                "the pod itself",
                json!({"resources": {"limits": {"memory": "2Gi"}}, "containers": [memory("1Gi"), {"name": "d"}]}),
                json!({"limits": {"memory": "2Gi"}}),
            ),
            (
                "overhead",
                json!({"overhead": {"memory": "64Mi"}, "containers": [memory("64Mi")]}),
                json!({"limits": {"memory": "128Mi"}, "requests": {"memory": "64Mi"}}),
            ),
            (
                "overhead is no limit by itself",
                json!({"overhead": {"memory": "64Mi"}, "containers": [{"name": "c"}]}),
                json!({"requests": {"memory": "64Mi"}}),
            ),
        ] {
            let told = told(spec, json!({"phase": "Running"}));
            assert_eq!(told["resources"], expected, "{name}");
            assert_eq!(told["allocatedResources"], expected["requests"], "{name}");
        }
    }
}
