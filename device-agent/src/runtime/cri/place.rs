//! What a pod has on the device's disk: the same places as with the `process` runtime, and for each attempt of a
//! container the files that are mounted into it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hawser_cri::Mount;
use hawser_wire::deployment::{Container, VolumeSource};

use super::describe;
use crate::runtime::volumes::beneath::Beneath;
use crate::runtime::volumes::place::{Naming, Places, make};
use crate::runtime::{ContainerId, ContainerStart, RuntimeError};

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

/// Makes what an attempt needs on the disk; its mounts. `addresses`: the pod's own, if it has any.
pub(super) fn prepare(
    places: &Places,
    start: &ContainerStart,
    container: &Container,
    addresses: Option<&[String]>,
) -> Result<Vec<Mount>, RuntimeError> {
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
    for (mount, sub_path) in container.mounts.iter().zip(&start.sub_paths) {
        let naming = || format!("mount volume {} at {}", mount.volume, mount.path);
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.volume);
        let volume = volume.ok_or(io::Error::other("the pod has no such volume")).naming(naming)?;
        let source = places.mount_source(&id.pod, volume, sub_path.as_deref()).naming(naming)?;
        // Only the agent writes to volumes of files.
        let readonly = mount.read_only || matches!(volume.source, VolumeSource::Files(_));
        mounts.push(bind(&source, &mount.path, readonly).naming(naming)?);
    }
    if let Some(addresses) = addresses.filter(|_| !container.mounts.iter().any(|mount| mount.path == "/etc/hosts")) {
        let mut file = beneath.write_file(HOSTS, 0o644).naming(naming)?;
        io::Write::write_all(&mut file, describe::hosts(spec, addresses).as_bytes()).naming(naming)?;
        mounts.push(bind(&dir.join(HOSTS), "/etc/hosts", false).naming(naming)?);
    }
    if !container.termination_message_path.is_empty() {
        beneath.write_file(TERMINATION, 0o666).naming(naming)?;
        mounts.push(bind(&dir.join(TERMINATION), &container.termination_message_path, false).naming(naming)?);
    }
    Ok(mounts)
}

fn bind(source: &Path, path: &str, readonly: bool) -> io::Result<Mount> {
    let source = source.to_str().ok_or_else(|| io::Error::other("the directory's name is not text"))?;
    Ok(Mount { container_path: path.to_owned(), host_path: source.to_owned(), readonly })
}

/// What a container has written about its end.
pub(super) fn termination(places: &Places, id: &ContainerId) -> Option<String> {
    let file = Beneath::open(&places.attempt(id)).ok()?.read_file(TERMINATION).ok()?;
    let mut text = Vec::new();
    file.take(MAX_TERMINATION).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}
