//! The directory of a container's own, in which its volumes appear as links.

use std::io;
use std::path::{Path, PathBuf};

use hawser_wire::PodUid;
use hawser_wire::deployment::Container;

use crate::runtime::volumes::beneath::{self, Beneath, names};
use crate::runtime::volumes::place::{Naming, Places, make};
use crate::runtime::{ContainerId, ContainerStart, RuntimeError};

/// The name of a container's own directory.
pub(super) const WORK: &str = "work";

impl Places {
    pub(super) fn work(&self, id: &ContainerId) -> PathBuf {
        self.container(&id.pod, &id.name).join(WORK)
    }

    /// What a program has to be able to enter.
    pub(super) fn to_enter(&self, uid: &PodUid) -> Vec<PathBuf> {
        [self.pod(uid), self.secret_pod(uid)].into_iter().filter(|place| place.exists()).collect()
    }

    /// Makes a container's own directory: mounts appear in it as links, the termination file is there and empty.
    pub(super) fn prepare_work(&self, start: &ContainerStart, container: &Container) -> Result<PathBuf, RuntimeError> {
        let work = self.work(&start.id);
        let naming = || format!("make {}", work.display());
        make(&self.container(&start.id.pod, &start.id.name), 0o711).naming(naming)?;
        // Its mode is its user's business.
        if !work.exists() {
            make(&work, 0o755).naming(naming)?;
        }
        let root = Beneath::open(&work).naming(naming)?;
        root.own(container.user.uid, container.user.gid, 0o755).naming(naming)?;
        for (mount, sub_path) in container.mounts.iter().zip(&start.sub_paths) {
            let naming = || format!("mount volume {} at {}", mount.volume, mount.path);
            let volume = start.spec.volumes.iter().find(|volume| volume.name == mount.volume);
            let volume = volume.ok_or(io::Error::other("the pod has no such volume")).naming(naming)?;
            let source = self.mount_source(&start.id.pod, volume, sub_path.as_deref()).naming(naming)?;
            link_mount(&root, &mount.path, &source).naming(naming)?;
        }
        // Below a mount, or where the program has put something else, there is no message.
        let _ = make_termination(&root, container);
        Ok(work)
    }
}

fn link_mount(root: &Beneath, path: &str, source: &Path) -> io::Result<()> {
    let names = names(path)?;
    let (name, parents) = names.split_last().ok_or(io::Error::other("a volume cannot be mounted at /"))?;
    let source = source.to_str().ok_or(io::Error::other("the directory's name is not text"))?;
    root.make(parents, 0o755)?.link(source, name)
}

fn make_termination(root: &Beneath, container: &Container) -> io::Result<()> {
    let names = names(&container.termination_message_path)?;
    let Some((_, parents)) = names.split_last() else { return Ok(()) };
    root.make(parents, 0o755)?;
    let file = root.write_file(&container.termination_message_path, 0o666)?;
    beneath::own(&file, container.user.uid, container.user.gid)
}
