//! What a device says, in the words of Kubernetes.
//!
//! A device is authenticated but not trusted to be well-formed: what the API server would refuse (an address that is
//! none, a quantity that is none, a word that is a novel) is left out or cut here, so that one odd value never keeps the
//! rest from being written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hawser_wire::deployment::{Container, ContainerKind, EdgeDeployment, EphemeralContainer};
use hawser_wire::report::{
    ContainerReport, ContainerState as Said, DeviceEvent, NodeFacts, Phase, Resource, Terminated, WorkloadReport,
};
use hawser_wire::{ContentHash, DeviceTime};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, NodeAddress, NodeSystemInfo, PodIP,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use virtual_node::provider::{ActsOn, ConditionReport, EventReport, NodeReport, PodPhase, PodReport, Subject};
use virtual_node::{NodeName, PodRef};

use super::clock::{DeviceClock, Moment};

mod resize;

/// The longest CamelCase word that is passed on (the bound of `Event.reason`).
const MAX_REASON: usize = 128;
/// The longest sentence that is passed on (the bound of `Event.note`).
const MAX_MESSAGE: usize = 1024;
/// The longest termination message that a kubelet passes on.
const MAX_TERMINATION: usize = 4096;
/// How many images a kubelet lists.
const MAX_IMAGES: usize = 50;
const MAX_ADDRESSES: usize = 16;
const MAX_RESOURCES: usize = 64;
const MAX_CONDITIONS: usize = 16;

/// A pod's status. `wanted` says which containers there are, in which order; without it they are as the device says.
pub fn pod_report(
    said: &WorkloadReport,
    clock: &DeviceClock,
    wanted: Option<(&EdgeDeployment, ContentHash)>,
    host_ips: &[IpAddr],
) -> PodReport {
    let waiting = if said.sandbox_ready { "PodInitializing" } else { "ContainerCreating" };
    // One that was rejected has no containers, and will have none.
    let wanted = wanted
        .filter(|_| said.phase != Phase::Failed || !(said.containers.is_empty() && said.init_containers.is_empty()));
    let spec = wanted.map(|(spec, _)| spec);
    let statuses = |said: &[ContainerReport], spec: Option<&[Container]>| match spec {
        Some(spec) => spec
            .iter()
            .map(|container| match said.iter().find(|said| said.name == container.name) {
                Some(said) => container_status(said, &container.image, clock),
                None => not_said(container, waiting),
            })
            .collect(),
        None => said.iter().map(|said| container_status(said, "", clock)).collect(),
    };
    PodReport {
        phase: match said.phase {
            Phase::Pending => PodPhase::Pending,
            Phase::Running => PodPhase::Running,
            Phase::Succeeded => PodPhase::Succeeded,
            Phase::Failed => PodPhase::Failed,
        },
        reason: said.reason.as_deref().map(|reason| cut(reason, MAX_REASON)),
        message: said.message.as_deref().map(|message| cut(message, MAX_MESSAGE)),
        start_time: said.started.and_then(|time| clock.to_timestamp(time)),
        host_ips: one_of_each_family(host_ips.iter().copied()).map(|ip| HostIP { ip: ip.to_string() }).collect(),
        pod_ips: one_of_each_family(addresses(&said.pod_ips)).map(|ip| PodIP { ip: ip.to_string() }).collect(),
        sandbox_ready: said.sandbox_ready,
        init_containers: statuses(&said.init_containers, spec.map(|spec| spec.init_containers.as_slice())),
        containers: statuses(&said.containers, spec.map(|spec| spec.containers.as_slice())),
        ephemeral_containers: ephemeral_statuses(said, clock, wanted),
        acts_on: match wanted {
            None => ActsOn::Applied,
            Some((_, hash)) if said.deployment != Some(hash) => ActsOn::Older,
            Some((spec, _)) => ActsOn::Generation(spec.generation.and_then(number).unwrap_or(1)),
        },
        resize: resize::resizing(said),
    }
}

fn number(told: u64) -> Option<i64> {
    i64::try_from(told).ok()
}

/// Containers that were added to look at the pod. A device that acts on them says so; one that acts on the edge deployment and
/// does not has an agent that knows none.
fn ephemeral_statuses(
    said: &WorkloadReport,
    clock: &DeviceClock,
    wanted: Option<(&EdgeDeployment, ContentHash)>,
) -> Vec<ContainerStatus> {
    const TOO_OLD: &str = "the agent of the device is too old to run ephemeral containers: update it";
    // A kubelet says neither of them.
    let shown = |status: ContainerStatus| ContainerStatus { ready: false, started: None, ..status };
    let Some((spec, hash)) = wanted else {
        return said.ephemeral_containers.iter().map(|said| shown(container_status(said, "", clock))).collect();
    };
    let waiting = if spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let status = |added: &EphemeralContainer| {
        let container = &added.container;
        match said.ephemeral_containers.iter().find(|said| said.name == container.name) {
            Some(said) => container_status(said, &container.image, clock),
            None if said.deployment == Some(hash) => ContainerStatus {
                state: Some(state_waiting("AgentTooOld", Some(TOO_OLD))),
                ..not_said(container, waiting)
            },
            None => not_said(container, waiting),
        }
    };
    spec.ephemeral_containers.iter().map(status).map(shown).collect()
}

/// The addresses of a device.
pub fn device_addresses(facts: &NodeFacts) -> Vec<IpAddr> {
    addresses(&facts.addresses).collect()
}

/// The Node's status, apart from the conditions that the bridge itself knows.
pub fn node_report(facts: &NodeFacts) -> NodeReport {
    let hostname = Some(cut(&facts.hostname, 253)).filter(|name| !name.is_empty());
    let address = |kind: &str, address: String| NodeAddress { address, type_: kind.to_owned() };
    let ips = addresses(&facts.addresses).map(|ip| address("InternalIP", ip.to_string()));
    let image = |image: &hawser_wire::report::Image| ContainerImage {
        names: Some(image.names.iter().take(5).map(|name| cut(name, 512)).collect()),
        size_bytes: i64::try_from(image.bytes).ok(),
    };
    NodeReport {
        capacity: resources(&facts.capacity),
        allocatable: resources(&facts.allocatable),
        node_info: NodeSystemInfo {
            architecture: cut(&facts.arch, 64),
            boot_id: cut(&facts.boot_id, 128),
            container_runtime_version: cut(&facts.runtime, 128),
            kernel_version: cut(&facts.kernel, 128),
            kube_proxy_version: String::new(),
            kubelet_version: cut(&facts.agent_version, 128),
            machine_id: cut(&facts.machine_id, 128),
            operating_system: cut(&facts.os, 64),
            os_image: cut(&facts.os_image, 256),
            swap: None,
            system_uuid: cut(&facts.system_uuid, 128),
        },
        addresses: ips.chain(hostname.map(|name| address("Hostname", name))).collect(),
        images: facts.images.iter().take(MAX_IMAGES).map(image).collect(),
        conditions: conditions(facts),
        declared_features: FEATURES.map(str::to_owned).to_vec(),
    }
}

/// What every device can, if its agent is not too old: an API server lets nobody ask for it from a node that does not say so,
/// and a scheduler sends no pods that need it.
const FEATURES: [&str; 3] = [
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// An Event. `pod` is the pod if it is about one that is known, with its containers that are not those that it is for; `seq` is
/// the number with which the device said it.
pub fn event_report(
    said: &DeviceEvent,
    seq: u64,
    node: &NodeName,
    pod: Option<(&PodRef, &[(String, ContainerKind)])>,
    clock: &DeviceClock,
    now: Moment,
) -> EventReport {
    let subject = match (pod, &said.container) {
        (Some((pod, others)), Some(container)) => {
            let list = match others.iter().find(|(name, _)| name == container) {
                Some((_, ContainerKind::Init)) => "initContainers",
                Some((_, ContainerKind::Ephemeral)) => "ephemeralContainers",
                Some((_, ContainerKind::Main)) | None => "containers",
            };
            Subject::Container { pod: pod.clone(), field_path: format!("spec.{list}{{{}}}", cut(container, 63)) }
        }
        (Some((pod, _)), None) => Subject::Pod(pod.clone()),
        (None, _) => Subject::Node(node.clone()),
    };
    EventReport {
        subject,
        warning: said.warning,
        reason: cut(&said.reason, MAX_REASON),
        message: cut(&said.message, MAX_MESSAGE),
        at: in_order(clock.to_exact(said.at).unwrap_or(now.wall), seq),
        count: said.count.clamp(1, i32::MAX as u32),
    }
}

/// The time of an Event, below its millisecond its place among those of the same one: people see seconds, and the order.
fn in_order(at: Timestamp, seq: u64) -> Timestamp {
    let millis = at.as_nanosecond().div_euclid(1_000_000);
    Timestamp::from_nanosecond(millis * 1_000_000 + i128::from(seq % 1_000_000)).unwrap_or(at)
}

/// `spec` knows the image by the name that the user gave it; the runtime may not have one yet.
fn container_status(said: &ContainerReport, image: &str, clock: &DeviceClock) -> ContainerStatus {
    let running = matches!(said.state, Said::Running(_));
    ContainerStatus {
        name: cut(&said.name, 63),
        ready: said.ready,
        started: said.started.or(Some(running)),
        restart_count: i32::try_from(said.restart_count).unwrap_or(i32::MAX),
        image: if said.image.is_empty() { image.to_owned() } else { cut(&said.image, 512) },
        image_id: cut(&said.image_id, 512),
        container_id: container_id(said.container_id.as_deref()),
        state: Some(match &said.state {
            Said::Waiting(waiting) => state_waiting(&waiting.reason, waiting.message.as_deref()),
            Said::Running(running) => ContainerState {
                running: Some(ContainerStateRunning { started_at: time(running.since, clock) }),
                ..ContainerState::default()
            },
            Said::Terminated(terminated) => state_terminated(terminated, clock),
        }),
        last_state: Some(said.last.as_ref().map_or_else(ContainerState::default, |last| state_terminated(last, clock))),
        ..ContainerStatus::default()
    }
}

/// A container of the spec that the device has not spoken of yet.
fn not_said(container: &Container, reason: &str) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        started: Some(false),
        state: Some(state_waiting(reason, None)),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    }
}

fn state_waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(cut(reason, MAX_REASON)),
        message: message.map(|message| cut(message, MAX_MESSAGE)),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn state_terminated(said: &Terminated, clock: &DeviceClock) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: container_id(said.container_id.as_deref()),
        exit_code: said.exit_code,
        signal: said.signal,
        reason: Some(cut(&said.reason, MAX_REASON)),
        message: said.message.as_deref().map(|message| cut(message, MAX_TERMINATION)),
        started_at: said.started.and_then(|at| time(at, clock)),
        finished_at: said.finished.and_then(|at| time(at, clock)),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn time(at: DeviceTime, clock: &DeviceClock) -> Option<Time> {
    clock.to_timestamp(at).map(Time)
}

/// The API server refuses an identity that does not say of which runtime it is.
fn container_id(said: Option<&str>) -> Option<String> {
    said.filter(|id| id.contains("://")).map(|id| cut(id, 256))
}

/// The API server refuses a status with two addresses of one family, and a board with Ethernet and Wi-Fi has them.
fn one_of_each_family(addresses: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = IpAddr> {
    let mut seen = [false; 2];
    addresses.filter(move |ip| !std::mem::replace(&mut seen[usize::from(ip.is_ipv6())], true))
}

fn addresses(said: &[String]) -> impl Iterator<Item = IpAddr> {
    said.iter().filter_map(|text| text.parse().ok()).take(MAX_ADDRESSES)
}

fn resources(said: &[Resource]) -> BTreeMap<String, Quantity> {
    said.iter()
        .filter(|resource| is_resource_name(&resource.name) && is_quantity(&resource.quantity))
        .take(MAX_RESOURCES)
        .map(|resource| (resource.name.clone(), Quantity(resource.quantity.clone())))
        .collect()
}

/// The first of each kind. `Ready` is not the device's to say.
fn conditions(facts: &NodeFacts) -> Vec<ConditionReport> {
    let mut conditions: Vec<ConditionReport> = Vec::new();
    for said in &facts.conditions {
        let known = said.kind == "Ready" || conditions.iter().any(|other| other.kind == said.kind);
        if known || !is_resource_name(&said.kind) || conditions.len() == MAX_CONDITIONS {
            continue;
        }
        conditions.push(ConditionReport {
            kind: said.kind.clone(),
            status: said.holds,
            reason: cut(&said.reason, MAX_REASON),
            message: cut(&said.message, MAX_MESSAGE),
        });
    }
    conditions
}

/// A qualified name, as the API server wants it of resources and condition types.
fn is_resource_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let plain = |part: &str| {
        let bytes = part.as_bytes();
        bytes.len() <= 253
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match name.split_once('/') {
        Some((domain, name)) => plain(domain) && plain(name) && name.len() <= 63,
        None => plain(name) && name.len() <= 63,
    }
}

/// A Kubernetes quantity that is not negative: digits, at most one point, then a suffix or an exponent.
fn is_quantity(text: &str) -> bool {
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let exponent = |digits: &str| {
        let digits = digits.strip_prefix(['+', '-']).unwrap_or(digits);
        (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    (1..=20).contains(&digits)
        && number.len() - digits <= 1
        && (suffixes.contains(&suffix) || suffix.strip_prefix(['e', 'E']).is_some_and(exponent))
}

/// The first `max` bytes, ending at a whole character.
fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod ephemeral_tests;

#[cfg(test)]
mod tests {
    use hawser_wire::PodUid;
    use hawser_wire::deployment::PullPolicy;

    use super::*;

    #[test]
    fn a_pod_has_one_address_of_each_family() {
        let said = ["192.0.2.2", "10.9.0.5", "fd00::2", "2001:db8::1"].map(str::to_owned);
        let kept: Vec<_> = one_of_each_family(addresses(&said)).map(|ip| ip.to_string()).collect();
        assert_eq!(kept, ["192.0.2.2", "fd00::2"]);
    }

    #[test]
    fn an_event_names_the_list_in_which_its_container_stands() {
        let pod = PodRef { namespace: "a".into(), name: "p".into(), uid: virtual_node::PodUid::new("u") };
        let node = NodeName::new("gw-1").unwrap();
        let said = |container: &str| DeviceEvent {
            pod: None,
            container: Some(container.to_owned()),
            at: DeviceTime(0),
            warning: false,
            reason: "Started".to_owned(),
            message: String::new(),
            count: 1,
        };
        let (clock, now) =
            (DeviceClock::default(), Moment { mono: std::time::Duration::ZERO, wall: Timestamp::UNIX_EPOCH });
        let others = [("first".to_owned(), ContainerKind::Init), ("look".to_owned(), ContainerKind::Ephemeral)];
        for (container, path) in [
            ("first", "spec.initContainers{first}"),
            ("main", "spec.containers{main}"),
            ("look", "spec.ephemeralContainers{look}"),
        ] {
            let report = event_report(&said(container), 1, &node, Some((&pod, &others)), &clock, now);
            let Subject::Container { field_path, .. } = report.subject else { panic!("{report:?}") };
            assert_eq!(field_path, path);
        }
    }

    #[test]
    fn a_pod_that_was_rejected_shows_no_containers() {
        let container = Container { pull_policy: PullPolicy::Always, ..Container::named("a", "host") };
        let spec = EdgeDeployment {
            containers: vec![container],
            ..EdgeDeployment::named(PodUid::new("u").unwrap(), "a", "p")
        };
        let said = |phase| WorkloadReport {
            uid: spec.uid.clone(),
            deployment: None,
            phase,
            reason: Some("SysctlForbidden".to_owned()),
            message: None,
            started: None,
            sandbox_ready: false,
            pod_ips: vec![],
            init_containers: vec![],
            containers: vec![],
            ephemeral_containers: vec![],
            resize: None,
        };
        let shown = |phase| {
            pod_report(&said(phase), &DeviceClock::default(), Some((&spec, ContentHash([1; 32]))), &[]).containers.len()
        };
        assert_eq!((shown(Phase::Failed), shown(Phase::Pending)), (0, 1));
    }
}
