//! What a pod asks of a node: resources and host ports. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::placement::quantity::{self, Nano};

/// Amounts by resource name.
pub(super) type Resources = BTreeMap<String, Nano>;

fn add(sum: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        let place = sum.entry(name.clone()).or_insert(0);
        *place = place.saturating_add(*amount);
    }
}

fn raise(to: &mut Resources, at_least: &Resources) {
    for (name, amount) in at_least {
        let place = to.entry(name.clone()).or_insert(0);
        *place = (*place).max(*amount);
    }
}

fn read(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
    quantities.into_iter().flatten().map(|(name, amount)| (name.clone(), quantity::asked(amount))).collect()
}

fn of_container(container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    let mut requests = read(resources.and_then(|resources| resources.requests.as_ref()));
    // A limit without a request is a request; the API server fills it in, but not every one does.
    for (name, limit) in read(resources.and_then(|resources| resources.limits.as_ref())) {
        requests.entry(name).or_insert(limit);
    }
    requests
}

/// The most that the pod needs at any time: all containers and sidecars together, or one init container beside the
/// sidecars that started before it, whichever is more; then the overhead of its runtime class.
pub(super) fn of_pod(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut running = Resources::new();
    for container in &spec.containers {
        add(&mut running, &of_container(container));
    }
    let (mut sidecars, mut starting) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut beside = sidecars.clone();
            add(&mut beside, &own);
            raise(&mut starting, &beside);
        }
    }
    raise(&mut running, &starting);
    // Requests of the pod as a whole stand for those of its containers.
    running.extend(read(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())));
    add(&mut running, &read(spec.overhead.as_ref()));
    running
}

/// A port of the host that a container takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

pub(super) fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

pub(super) fn conflict(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    wanted.iter().any(|port| taken.iter().any(|other| port.conflicts(other)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerPort, ResourceRequirements};

    use super::*;
    use crate::placement::quantity::whole;
    use crate::samples;

    fn container(cpu: &str, sidecar: bool) -> Container {
        Container {
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Quantity(cpu.to_owned()))].into()),
                ..ResourceRequirements::default()
            }),
            restart_policy: sidecar.then(|| "Always".to_owned()),
            ..samples::container("busybox")
        }
    }

    fn pod(containers: &[&str], init: &[(&str, bool)]) -> Pod {
        let mut pod = samples::pod("p");
        let spec = pod.spec.get_or_insert_default();
        spec.containers = containers.iter().map(|cpu| container(cpu, false)).collect();
        spec.init_containers = Some(init.iter().map(|(cpu, sidecar)| container(cpu, *sidecar)).collect());
        pod
    }

    fn cpu(pod: &Pod) -> Nano {
        of_pod(pod).get("cpu").copied().unwrap_or(0)
    }

    #[test]
    fn the_most_at_any_time_counts() {
        for (containers, init, expected) in [
            (&["1", "2"][..], &[][..], 3),
            (&["1"], &[("5", false), ("2", false)][..], 5),
            (&["1"], &[("2", true)], 3),
            (&["1"], &[("2", true), ("5", false)], 7),
            (&["1"], &[("5", false), ("2", true)], 5),
            (&["4"], &[("1", true), ("2", true)], 7),
        ] {
            assert_eq!(cpu(&pod(containers, init)), whole(expected), "{containers:?} {init:?}");
        }
    }

    #[test]
    fn overhead_pod_requests_and_limits() {
        let quantities = |cpu: &str| Some([("cpu".to_owned(), Quantity(cpu.to_owned()))].into());
        let mut one = pod(&["1"], &[]);
        one.spec.get_or_insert_default().overhead = quantities("1");
        assert_eq!(cpu(&one), whole(2));
        one.spec.get_or_insert_default().resources =
            Some(ResourceRequirements { requests: quantities("3"), ..ResourceRequirements::default() });
        assert_eq!(cpu(&one), whole(4));
        let mut limited = pod(&["1"], &[]);
        limited.spec.get_or_insert_default().containers[0].resources =
            Some(ResourceRequirements { limits: quantities("6"), ..ResourceRequirements::default() });
        assert_eq!(cpu(&limited), whole(6));
    }

    #[test]
    fn host_ports_conflict_on_the_same_address() {
        let with = |ip: &str, protocol: &str, port: i32| {
            let mut container = samples::container("busybox");
            container.ports = Some(vec![ContainerPort {
                host_port: Some(port),
                host_ip: Some(ip.into()),
                protocol: Some(protocol.into()),
                ..ContainerPort::default()
            }]);
            host_ports(&PodSpec { containers: vec![container], ..PodSpec::default() })
        };
        for (left, right, expected) in [
            (with("", "TCP", 80), with("", "TCP", 80), true),
            (with("", "TCP", 80), with("", "UDP", 80), false),
            (with("", "TCP", 80), with("", "TCP", 81), false),
            (with("0.0.0.0", "TCP", 80), with("10.0.0.1", "TCP", 80), true),
            (with("10.0.0.2", "TCP", 80), with("10.0.0.1", "TCP", 80), false),
            (with("", "TCP", 0), with("", "TCP", 0), false),
        ] {
            assert_eq!(conflict(&left, &right), expected, "{left:?} {right:?}");
        }
    }
}
