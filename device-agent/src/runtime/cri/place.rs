//! What a pod has on the device's disk: the same places as with the `process` runtime, and for each attempt of a
//! container the files that are mounted into it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hawser_cri::{ImageSpec, Mount, MountPropagation};
use hawser_wire::deployment::{Container, Propagation, VolumeSource};

use super::admission::handler;
use super::{Cri, names};
use crate::runtime::volumes::beneath::Beneath;
use crate::runtime::volumes::place::{Naming, Places, make};
use crate::runtime::{ContainerId, ContainerStart, StartError};

const HOSTS: &str = "hosts";
const TERMINATION: &str = "termination";
/// How long a termination message may be, as for a kubelet.
const MAX_TERMINATION: u64 = 4096;

/// The log of an attempt, below the directory of the pod's logs.
pub(super) fn log_below(id: &ContainerId) -> String {
    format!("{}/{}.log", id.name, id.attempt)
}

/// The directory of the pod's logs.
pub(super) fn logs(places: &Places, pod: &hawser_wire::PodUid) -> PathBuf {
    places.pod(pod).join("logs")
}

/// Makes what an attempt needs on the disk; its mounts. `addresses`: the pod's own, if it has any; `images`: those that are
/// mounted, by volume.
pub(super) fn prepare(
    runtime: &Cri,
    start: &ContainerStart,
    container: &Container,
    addresses: Option<&[String]>,
    images: &BTreeMap<String, ImageSpec>,
) -> Result<Vec<Mount>, StartError> {
    let (places, able, cluster) = (&runtime.0.places, &runtime.0.able, &runtime.0.config.cluster);
    let (id, spec) = (&start.id, &*start.spec);
    let dir = places.attempt(id);
    let naming = || format!("make {}", dir.display());
    for part in dir.parent().into_iter().chain([&*dir]) {
        make(part, 0o711).naming(|| format!("make {}", part.display()))?;
    }
    let beneath = Beneath::open(&dir).naming(naming)?;
    if let Some(parent) = places.log(id).parent() {
        make(parent, 0o700).naming(|| format!("make {}", parent.display()))?;
    }
    let mut mounts = Vec::new();
    for (at, (mount, sub_path)) in container.mounts.iter().zip(&start.sub_paths).enumerate() {
        let naming = || format!("mount volume {} at {}", mount.volume, mount.path);
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.volume);
        let volume = volume.ok_or(io::Error::other("the pod has no such volume")).naming(naming)?;
        let below = mount.read_only_below.is_some() && able.read_only_below(handler(spec));
        if let Some(image) = images.get(&mount.volume) {
            let part = sub_path.clone().unwrap_or_default();
            check_part(&part)?;
            // Nobody writes to an image; the engine finds the part, and does not follow links out of it.
            let mounted = bind(Path::new(""), &mount.path).naming(naming)?;
            mounts.push(Mount {
                readonly: true,
                propagation: propagation(mount).into(),
                recursive_read_only: below,
                image: Some(image.clone()),
                image_sub_path: part,
                ..mounted
            });
            continue;
        }
        let only_ours = matches!(volume.source, VolumeSource::Files(_));
        let source = match sub_path.as_deref().filter(|part| !part.is_empty()) {
            Some(part) => {
                check_part(part)?;
                if only_ours {
                    places.mount_source(&id.pod, volume, Some(part)).naming(naming)?
                } else {
                    let target = dir.join(format!("part-{at}"));
                    let mounted = places.mount_part(&id.pod, volume, part, &target);
                    mounted.map_err(|error| {
                        // What is on the device is none of the pod's business.
                        tracing::warn!(%error, container = %id, volume = mount.volume, part, "a part of a volume is not mounted");
                        let (volume, container) = (&mount.volume, &container.name);
                        StartError::Config(format!(
                            "failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\""
                        ))
                    })?;
                    target
                }
            }
            None => places.mount_source(&id.pod, volume, None).naming(naming)?,
        };
        mounts.push(Mount {
            readonly: mount.read_only || only_ours,
            propagation: propagation(mount).into(),
            recursive_read_only: below,
            ..bind(&source, &mount.path).naming(naming)?
        });
    }
    if !container.mounts.iter().any(|mount| mount.path == "/etc/hosts") {
        let mut file = beneath.write_file(HOSTS, 0o644).naming(naming)?;
        let text = match addresses {
            None if spec.host_network => names::hosts(spec, Err(&of_the_device()), cluster),
            own => names::hosts(spec, Ok(own.unwrap_or_default()), cluster),
        };
        io::Write::write_all(&mut file, text.as_bytes()).naming(naming)?;
        mounts.push(bind(&dir.join(HOSTS), "/etc/hosts").naming(naming)?);
    }
    if !container.termination_message_path.is_empty() {
        beneath.write_file(TERMINATION, 0o666).naming(naming)?;
        mounts.push(bind(&dir.join(TERMINATION), &container.termination_message_path).naming(naming)?);
    }
    Ok(mounts)
}

/// The device's own hosts file; a device may have none.
fn of_the_device() -> String {
    const MOST: u64 = 1024 * 1024;
    let mut text = Vec::new();
    let read = std::fs::File::open("/etc/hosts").and_then(|file| file.take(MOST).read_to_end(&mut text));
    read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&text).into_owned())
}

/// A kubelet's words for what is no part of a volume.
fn check_part(part: &str) -> Result<(), StartError> {
    if part.starts_with('/') {
        return Err(StartError::Config(format!("error SubPath `{part}` must not be an absolute path")));
    }
    if part.split('/').any(|name| name == "..") {
        return Err(StartError::Config(format!("unable to provision SubPath `{part}`: must not contain '..'")));
    }
    Ok(())
}

fn propagation(mount: &hawser_wire::deployment::Mount) -> MountPropagation {
    match mount.propagation {
        None => MountPropagation::Private,
        Some(Propagation::FromDevice) => MountPropagation::HostToContainer,
        Some(Propagation::BothWays) => MountPropagation::Bidirectional,
    }
}

fn bind(source: &Path, path: &str) -> io::Result<Mount> {
    let source = source.to_str().ok_or_else(|| io::Error::other("the directory's name is not text"))?;
    Ok(Mount { container_path: path.to_owned(), host_path: source.to_owned(), ..Mount::default() })
}

/// What a container has written about its end.
pub(super) fn termination(places: &Places, id: &ContainerId) -> Option<String> {
    let file = Beneath::open(&places.attempt(id)).ok()?.read_file(TERMINATION).ok()?;
    let mut text = Vec::new();
    file.take(MAX_TERMINATION).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}
