//! Containers that were added to a pod to look at it. What is wrong with one of them is told of it alone: the pod is there
//! already, and goes on as it is.

use std::collections::BTreeMap;

use hawser_wire::deployment::{Container, EphemeralContainer, Hindrance};
use k8s_openapi::api::core::v1;

use super::{Place, Problem, Subject, container};
use crate::deployment::references::{Fetched, ephemeral};
use crate::deployment::{Notice, fields};

/// How many of them a device is told of. They cannot be taken away from a pod again, and their statuses share one message.
const MAX_EPHEMERAL: usize = 32;

/// `missing`: why volumes are not there that only they mount, by name.
pub(super) fn containers(
    pod: &Subject<'_>,
    fetched: &Fetched,
    missing: &BTreeMap<&str, Problem>,
) -> Vec<EphemeralContainer> {
    let targets = pod.spec.ephemeral_containers.iter().flatten().map(|added| added.target_container_name.clone());
    let all = ephemeral(pod.spec).zip(targets).enumerate().take(MAX_EPHEMERAL);
    all.map(|(at, (added, target))| {
        let translated = one(pod, &added, at, fetched, missing);
        let (container, hindrance) = match translated {
            Ok(container) => (container, None),
            Err(hindrance) => (named(&added), Some(hindrance)),
        };
        EphemeralContainer { container, target: target.filter(|target| !target.is_empty()), hindrance }
    })
    .collect()
}

/// Those of which the device is not told.
pub(super) fn too_many(spec: &v1::PodSpec) -> Option<Notice> {
    let count = spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
    (count > MAX_EPHEMERAL).then(|| Notice {
        reason: "TooManyEphemeralContainers".to_owned(),
        message: format!(
            "spec.ephemeralContainers: a device runs the first {MAX_EPHEMERAL} of the {count}; create the pod anew to begin \
             with none"
        ),
    })
}

fn one(
    pod: &Subject<'_>,
    added: &v1::Container,
    at: usize,
    fetched: &Fetched,
    missing: &BTreeMap<&str, Problem>,
) -> Result<Container, Hindrance> {
    let path = format!("spec.ephemeralContainers[{at}]");
    let refused = |message| Hindrance { reason: "UnsupportedField".to_owned(), message };
    let value = serde_json::to_value(added).map_err(|error| refused(format!("{path}: {error}")))?;
    if let Some(message) = fields::in_the_way_of_ephemeral(&value, &path) {
        return Err(refused(message));
    }
    let mut mounted = added.volume_mounts.iter().flatten();
    let problem = match mounted.find_map(|mount| missing.get_key_value(mount.name.as_str())) {
        Some((name, Problem::Waits(words))) => {
            Problem::Waits(format!("MountVolume.SetUp failed for volume \"{name}\" : {words}"))
        }
        Some((_, Problem::Mount(words) | Problem::Sandbox(words))) => Problem::Mount(words.clone()),
        Some((_, Problem::Refused(words))) => Problem::Refused(words.clone()),
        None => match container(pod, &Place { path, container: added, init: false }, fetched) {
            Ok(container) => return Ok(container),
            Err(problem) => problem,
        },
    };
    Err(match problem {
        Problem::Waits(message) | Problem::Mount(message) | Problem::Sandbox(message) => {
            Hindrance { reason: "CreateContainerConfigError".to_owned(), message }
        }
        Problem::Refused(message) => refused(message),
    })
}

/// One that cannot be translated: enough to say which it is.
fn named(added: &v1::Container) -> Container {
    Container::named(added.name.clone(), added.image.clone().unwrap_or_default())
}
