//! From a pod and what it refers to, to an edge deployment. Pure.
//!
//! What a field means is what a kubelet makes of it, and where something is missing the words are a kubelet's, because
//! people and tools look for them.

mod asks;
mod care;
mod downward;
mod engine;
mod environment;
mod ephemeral;
mod huge_pages;
mod volumes;

pub(crate) use self::engine::pull_secrets;

use std::collections::BTreeMap;

use hawser_wire::ContentHash;
use hawser_wire::deployment::{
    Container, EdgeDeployment, Interactive, Mount, Propagation, PullPolicy, ReadOnlyBelow, Resources, RestartPolicy,
    RestartToResize, User,
};
use hawser_wire::quantity;
use k8s_openapi::api::core::v1::{self, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use virtual_node::provider::{ContainerWaiting, NotApplied, Waiting};

use super::references::{Fetched, containers, mounted_volumes, volumes_of_ephemeral};
use super::subject::Subject;
use super::{Notice, Object};

/// What a pod becomes.
#[derive(Debug)]
pub(crate) struct Translation {
    pub(crate) deployment: EdgeDeployment,
    pub(crate) blobs: BTreeMap<ContentHash, Object>,
    pub(crate) notices: Vec<Notice>,
}

/// Why a part of a pod cannot be translated.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// Something is missing that may come, in a kubelet's words.
    Waits(String),
    /// The same of a volume, in all of a kubelet's words.
    Mount(String),
    /// The same of what all containers share.
    Sandbox(String),
    /// It can never be, naming the field.
    Refused(String),
}

type Translated<T> = Result<T, Problem>;

/// Where a container stands in the spec, e.g. `spec.containers[0]`, and what is special about it.
struct Place<'p> {
    path: String,
    container: &'p v1::Container,
    init: bool,
}

/// Translates a pod whose fields have all been looked at.
pub(crate) fn translate(pod: &Subject<'_>, fetched: &Fetched) -> Result<Translation, NotApplied> {
    let mut problems = Problems::default();
    let spec = pod.spec;

    let mut blobs = BTreeMap::new();
    let mut all_volumes = Vec::new();
    for volume in mounted_volumes(spec) {
        match volumes::volume(pod, volume, fetched, &mut blobs) {
            Ok(volume) => all_volumes.push(volume),
            Err(problem) => problems.volume(&volume.name, problem),
        }
    }

    let mut missing = BTreeMap::new();
    for volume in volumes_of_ephemeral(spec) {
        match volumes::volume(pod, volume, fetched, &mut blobs) {
            Ok(volume) => all_volumes.push(volume),
            Err(problem) => drop(missing.insert(volume.name.as_str(), problem)),
        }
    }

    let (mut init_containers, mut main_containers) = (Vec::new(), Vec::new());
    for place in places(spec) {
        let list = if place.init { &mut init_containers } else { &mut main_containers };
        match container(pod, &place, fetched) {
            Ok(container) => list.push(container),
            Err(problem) => problems.container(&place.container.name, problem),
        }
    }

    let settings = pod_settings(pod).unwrap_or_else(|problem| {
        problems.pod(problem);
        PodSettings::default()
    });
    let engine = engine::engine(spec, fetched).unwrap_or_else(|problem| {
        problems.pod(problem);
        None
    });
    problems.verdict()?;
    let deployment = EdgeDeployment {
        uid: pod.uid.clone(),
        namespace: pod.namespace.to_owned(),
        name: pod.name.to_owned(),
        restart_policy: match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        },
        grace_seconds: clamp(spec.termination_grace_period_seconds.unwrap_or(30)),
        active_deadline_seconds: spec.active_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok()),
        init_containers,
        containers: main_containers,
        volumes: all_volumes,
        hostname: hostname(pod),
        host_network: host_network(spec),
        fs_group: settings.fs_group,
        supplemental_groups: settings.supplemental_groups,
        engine,
        priority: spec.priority.filter(|priority| *priority != 0),
        ephemeral_containers: ephemeral::containers(pod, fetched, &missing),
        generation: generation(pod),
    };
    let notices = ephemeral::too_many(spec).into_iter().chain(engine::missing_pull_secrets(spec, fetched)).collect();
    Ok(Translation { deployment, blobs, notices })
}

/// What went wrong anywhere in the pod.
#[derive(Default)]
struct Problems {
    refused: Vec<String>,
    mounts: Vec<String>,
    sandbox: Option<String>,
    containers: Vec<ContainerWaiting>,
}

impl Problems {
    fn volume(&mut self, volume: &str, problem: Problem) {
        match problem {
            Problem::Waits(words) => {
                self.mounts.push(format!("MountVolume.SetUp failed for volume \"{volume}\" : {words}"));
            }
            other => self.pod(other),
        }
    }

    fn container(&mut self, container: &str, problem: Problem) {
        match problem {
            Problem::Waits(message) => self.containers.push(ContainerWaiting {
                container: container.to_owned(),
                reason: "CreateContainerConfigError".to_owned(),
                message,
            }),
            other => self.pod(other),
        }
    }

    fn pod(&mut self, problem: Problem) {
        match problem {
            Problem::Mount(words) => self.mounts.push(words),
            Problem::Sandbox(words) => self.sandbox = Some(words),
            Problem::Waits(words) | Problem::Refused(words) => self.refused.push(words),
        }
    }

    // A kubelet mounts volumes, then makes the sandbox, then looks at containers: a missing volume hides a missing variable.
    fn verdict(self) -> Result<(), NotApplied> {
        let Self { refused, mounts, sandbox, containers } = self;
        if !refused.is_empty() {
            return Err(NotApplied::Refused { reason: "UnsupportedField".to_owned(), message: refused.join("; ") });
        }
        let mount = mounts.into_iter().next().map(|words| ("FailedMount", words));
        let sandbox = sandbox.map(|words| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {words}")));
        if let Some((reason, event_message)) = mount.or(sandbox) {
            let event_reason = reason.to_owned();
            return Err(NotApplied::Waiting(Waiting { containers: Vec::new(), event_reason, event_message }));
        }
        if let Some(first) = containers.first() {
            let event_message = format!("Error: {}", first.message);
            return Err(NotApplied::Waiting(Waiting { event_reason: "Failed".to_owned(), event_message, containers }));
        }
        Ok(())
    }
}

fn places(spec: &PodSpec) -> impl Iterator<Item = Place<'_>> {
    let init_count = spec.init_containers.as_ref().map_or(0, Vec::len);
    containers(spec).enumerate().map(move |(at, container)| {
        let init = at < init_count;
        let path = match init {
            true => format!("spec.initContainers[{at}]"),
            false => format!("spec.containers[{}]", at - init_count),
        };
        Place { path, container, init }
    })
}

fn container(pod: &Subject<'_>, place: &Place<'_>, fetched: &Fetched) -> Translated<Container> {
    let Place { path, container, init } = place;
    Ok(Container {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        pull_policy: pull_policy(container.image_pull_policy.as_deref()),
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        mounts: mounts(pod.spec, place)?,
        resources: resources(container, path)?,
        sidecar: *init && container.restart_policy.as_deref() == Some("Always"),
        user: user(pod, place)?,
        termination_message_path: match container.termination_message_path.as_deref() {
            None | Some("") => "/dev/termination-log".to_owned(),
            Some(path) => path.to_owned(),
        },
        termination_message_from_logs: container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        env: environment::environment(pod, place, fetched)?,
        interactive: interactive(container),
        confinement: engine::confinement(pod.spec, place),
        care: care::care(place)?,
        restart_to_resize: restart_to_resize(container),
    })
}

/// Nothing for the first: most pods are never changed.
fn generation(pod: &Subject<'_>) -> Option<u64> {
    let told = pod.pod.metadata.generation.and_then(|generation| u64::try_from(generation).ok());
    told.filter(|generation| *generation > 1)
}

/// Nothing where all of it can be changed while the container runs, as it is if nobody says anything.
fn restart_to_resize(container: &v1::Container) -> Option<RestartToResize> {
    let restarts = |name: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
    };
    let policy = RestartToResize { cpu: restarts("cpu"), memory: restarts("memory") };
    (policy != RestartToResize::default()).then_some(policy)
}

fn interactive(container: &v1::Container) -> Option<Interactive> {
    let (stdin, tty) = (container.stdin.unwrap_or(false), container.tty.unwrap_or(false));
    // A stdin that is not there cannot end.
    let once = stdin && container.stdin_once.unwrap_or(false);
    (stdin || tty).then_some(Interactive { stdin, once, tty })
}

fn pull_policy(asked: Option<&str>) -> PullPolicy {
    match asked {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

fn mounts(spec: &PodSpec, place: &Place<'_>) -> Translated<Vec<Mount>> {
    let mounts = place.container.volume_mounts.iter().flatten().enumerate();
    mounts.map(|(at, mount)| self::mount(spec, mount, &format!("{}.volumeMounts[{at}]", place.path))).collect()
}

fn mount(spec: &PodSpec, mount: &v1::VolumeMount, path: &str) -> Translated<Mount> {
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
    if volume.is_none() {
        return Err(Problem::Refused(format!("{path}.name: there is no volume `{}`", mount.name)));
    }
    let expression = mount.sub_path_expr.clone().filter(|text| !text.is_empty());
    Ok(Mount {
        volume: mount.name.clone(),
        path: mount.mount_path.clone(),
        read_only: mount.read_only.unwrap_or(false) || volume.is_some_and(claimed_read_only),
        sub_path_expr: expression.is_some(),
        sub_path: expression.or_else(|| mount.sub_path.clone().filter(|text| !text.is_empty())),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Some(Propagation::FromDevice),
            Some("Bidirectional") => Some(Propagation::BothWays),
            _ => None,
        },
        read_only_below: match mount.recursive_read_only.as_deref() {
            Some("Enabled") => Some(ReadOnlyBelow::Always),
            Some("IfPossible") => Some(ReadOnlyBelow::IfPossible),
            _ => None,
        },
    })
}

/// Whether a volume is claimed only to be read: then no mount of it writes.
fn claimed_read_only(volume: &v1::Volume) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true))
}

const STORAGE: &str = "ephemeral-storage";

fn resources(container: &v1::Container, path: &str) -> Translated<Resources> {
    let Some(resources) = &container.resources else { return Ok(Resources::default()) };
    let read = amounts(resources, &format!("{path}.resources"))?;
    Ok(Resources {
        cpu_request_millis: read.cpu_request_millis.or(read.cpu_limit_millis),
        memory_request_bytes: read.memory_request_bytes.or(read.memory_limit_bytes),
        storage_request_bytes: read.storage_request_bytes.or(read.storage_limit_bytes),
        ..read
    })
}

/// What is asked for, without what follows from it.
fn amounts(resources: &ResourceRequirements, path: &str) -> Translated<Resources> {
    let (limits, requests) = (format!("{path}.limits"), format!("{path}.requests"));
    let (limits, requests) = ((&resources.limits, limits.as_str()), (&resources.requests, requests.as_str()));
    Ok(Resources {
        cpu_request_millis: amount(requests, "cpu", quantity::millis)?,
        cpu_limit_millis: amount(limits, "cpu", quantity::millis)?,
        memory_request_bytes: amount(requests, "memory", quantity::units)?,
        memory_limit_bytes: amount(limits, "memory", quantity::units)?,
        storage_request_bytes: amount(requests, STORAGE, quantity::units)?,
        storage_limit_bytes: amount(limits, STORAGE, quantity::units)?,
    })
}

type Amounts = Option<BTreeMap<String, Quantity>>;

/// One amount of a list that stands at this path.
fn amount(
    (list, path): (&Amounts, &str),
    name: &str,
    parse: fn(&str) -> Result<u64, quantity::InvalidQuantity>,
) -> Translated<Option<u64>> {
    let found = list.as_ref().and_then(|list| list.get(name)).map(|quantity| parse(&quantity.0));
    found.transpose().map_err(|error| Problem::Refused(format!("{path}.{name}: {error}")))
}

/// What the container says about its user, else what the pod says.
fn user(pod: &Subject<'_>, place: &Place<'_>) -> Translated<User> {
    let own = place.container.security_context.as_ref();
    let shared = pod.spec.security_context.as_ref();
    let uid = effective_user(pod.spec, place.container);
    let gid = own.and_then(|own| own.run_as_group).or(shared.and_then(|shared| shared.run_as_group));
    let non_root =
        own.and_then(|own| own.run_as_non_root).or(shared.and_then(|shared| shared.run_as_non_root)).unwrap_or(false);
    if non_root && uid == Some(0) {
        return Err(Problem::Waits(format!(
            "container's runAsUser breaks non-root policy (pod: \"{}_{}({})\", container: {})",
            pod.name, pod.namespace, pod.uid, place.container.name
        )));
    }
    let field = |name: &str| format!("{}.securityContext.{name}", place.path);
    Ok(User { uid: id(uid, &field("runAsUser"))?, gid: id(gid, &field("runAsGroup"))?, non_root })
}

fn effective_user(spec: &PodSpec, container: &v1::Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|own| own.run_as_user);
    own.or(spec.security_context.as_ref().and_then(|shared| shared.run_as_user))
}

/// The user of all containers, if they have one and the same.
fn common_user(spec: &PodSpec) -> Option<i64> {
    let mut users = containers(spec).map(|container| effective_user(spec, container));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

#[derive(Default)]
struct PodSettings {
    fs_group: Option<u32>,
    supplemental_groups: Vec<u32>,
}

fn pod_settings(pod: &Subject<'_>) -> Translated<PodSettings> {
    let Some(context) = &pod.spec.security_context else { return Ok(PodSettings::default()) };
    let groups = context.supplemental_groups.iter().flatten();
    Ok(PodSettings {
        fs_group: id(context.fs_group, "spec.securityContext.fsGroup")?,
        supplemental_groups: groups
            .filter_map(|group| id(Some(*group), "spec.securityContext.supplementalGroups").transpose())
            .collect::<Translated<_>>()?,
    })
}

fn id(id: Option<i64>, path: &str) -> Translated<Option<u32>> {
    id.map(u32::try_from).transpose().map_err(|_| Problem::Refused(format!("{path}: expected 0 to {}", u32::MAX)))
}

fn host_network(spec: &PodSpec) -> bool {
    spec.host_network.unwrap_or(false)
}

/// The longest host name that Linux takes.
const MAX_HOSTNAME: usize = 63;

fn hostname(pod: &Subject<'_>) -> Option<String> {
    if host_network(pod.spec) {
        return None;
    }
    let given = pod.spec.hostname_override.as_deref().or(pod.spec.hostname.as_deref());
    let name = given.filter(|name| !name.is_empty()).unwrap_or(pod.name);
    let end = name.char_indices().nth(MAX_HOSTNAME).map_or(name.len(), |(at, _)| at);
    Some(if end == name.len() { name } else { name[..end].trim_end_matches(['-', '.']) }.to_owned())
}

fn clamp(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
