//! Where a pod lives on the disk.
//!
//! ```text
//! <root>/<pod uid>/volumes/<volume>/              emptyDir and files that are no secret
//! <root>/<pod uid>/logs/<container>/<attempt>.log
//! <root>/<pod uid>/containers/<container>/work/   the container's own directory
//! <root>/<pod uid>/containers/<container>/<n>/    attempt n: lock, control, state.json, exit.json
//! <secrets>/<pod uid>/<volume>/                   secret files and emptyDir in memory
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hawser_wire::PodUid;
use hawser_wire::deployment::{Container, EdgeDeployment, Volume, VolumeSource};

use super::beneath::{self, Beneath, names};
use super::volumes::write_files;
use crate::runtime::{ContainerId, ContainerStart, PodSetup, RuntimeError};

/// Names the operation that failed.
pub(super) trait Naming<T> {
    /// `operation` says what was tried, with its object.
    fn naming(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError>;
}

impl<T, E: Into<io::Error>> Naming<T> for Result<T, E> {
    fn naming(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError { operation: operation(), source: source.into() })
    }
}

/// The two roots.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) root: PathBuf,
    pub(super) secrets: PathBuf,
}

impl Places {
    pub(super) fn pod(&self, uid: &PodUid) -> PathBuf {
        self.root.join(uid.as_str())
    }

    pub(super) fn secret_pod(&self, uid: &PodUid) -> PathBuf {
        self.secrets.join(uid.as_str())
    }

    fn container(&self, uid: &PodUid, name: &str) -> PathBuf {
        self.pod(uid).join("containers").join(name)
    }

    pub(super) fn work(&self, id: &ContainerId) -> PathBuf {
        self.container(&id.pod, &id.name).join("work")
    }

    pub(super) fn attempt(&self, id: &ContainerId) -> PathBuf {
        self.container(&id.pod, &id.name).join(id.attempt.to_string())
    }

    pub(super) fn log(&self, id: &ContainerId) -> PathBuf {
        self.pod(&id.pod).join("logs").join(&id.name).join(format!("{}.log", id.attempt))
    }

    fn volume(&self, uid: &PodUid, volume: &Volume) -> PathBuf {
        let in_memory = match &volume.source {
            VolumeSource::EmptyDir(empty) => empty.memory,
            VolumeSource::Files(files) => files.secret,
        };
        if in_memory {
            self.secret_pod(uid).join(&volume.name)
        } else {
            self.pod(uid).join("volumes").join(&volume.name)
        }
    }

    /// Makes the pod's directories and brings its volumes up to date.
    pub(super) fn prepare(&self, pod: &PodSetup) -> Result<(), RuntimeError> {
        let (uid, spec) = (&pod.uid, &*pod.spec);
        make(&self.root, 0o711).naming(|| format!("make {}", self.root.display()))?;
        let place = self.pod(uid);
        for part in ["volumes", "logs", "containers"] {
            make(&place.join(part), 0o711).naming(|| format!("make {}", place.join(part).display()))?;
        }
        for volume in &spec.volumes {
            let path = self.volume(uid, volume);
            if path.starts_with(&self.secrets) {
                self.prepare_secrets(uid, spec)?;
            }
            let naming = || format!("write volume {} to {}", volume.name, path.display());
            match &volume.source {
                VolumeSource::EmptyDir(_) => {
                    let group = spec.fs_group;
                    let mode = if group.is_some() { 0o2777 } else { 0o777 };
                    if !path.exists() {
                        fs::create_dir(&path).naming(naming)?;
                        Beneath::open(&path).and_then(|dir| dir.own(None, group, mode)).naming(naming)?;
                    }
                }
                VolumeSource::Files(_) => {
                    make(&path, 0o755).naming(naming)?;
                    let files = pod.files.get(&volume.name).map(Vec::as_slice).unwrap_or_default();
                    write_files(&path, files, spec.fs_group).naming(naming)?;
                }
            }
        }
        Ok(())
    }

    /// Secrets are in memory or nowhere.
    fn prepare_secrets(&self, uid: &PodUid, spec: &EdgeDeployment) -> Result<(), RuntimeError> {
        make(&self.secrets, 0o711).naming(|| format!("make {}", self.secrets.display()))?;
        check_in_memory(&self.secrets).naming(|| format!("keep secrets in {}", self.secrets.display()))?;
        let path = self.secret_pod(uid);
        let users: BTreeSet<Option<u32>> = spec.all_containers().map(|(container, _)| container.user.uid).collect();
        // One user: nobody else gets in. Several: the files' own bits decide.
        let mode = if users.len() == 1 { 0o700 } else { 0o711 };
        let owner = users.first().copied().flatten().filter(|_| users.len() == 1);
        make(&path, mode)
            .and_then(|()| Beneath::open(&path)?.own(owner, None, mode))
            .naming(|| format!("make {}", path.display()))
    }

    /// Makes a container's own directory: mounts appear in it as links, the termination file is there and empty.
    pub(super) fn prepare_work(&self, start: &ContainerStart, container: &Container) -> Result<PathBuf, RuntimeError> {
        let work = self.work(&start.id);
        let naming = || format!("make {}", work.display());
        make(&work, 0o755).naming(naming)?;
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

    fn mount_source(&self, uid: &PodUid, volume: &Volume, sub_path: Option<&str>) -> io::Result<PathBuf> {
        let path = self.volume(uid, volume);
        let Some(sub_path) = sub_path.filter(|sub_path| !sub_path.is_empty()) else { return Ok(path) };
        let names = names(sub_path)?;
        let source = names.iter().fold(path.clone(), |path, name| path.join(name));
        match &volume.source {
            // Nobody but the agent writes there, so its links are ours.
            VolumeSource::Files(_) if source.exists() => Ok(source),
            VolumeSource::Files(_) => Err(io::Error::other(format!("there is no {sub_path} in the volume"))),
            VolumeSource::EmptyDir(_) => {
                let root = Beneath::open(&path)?;
                if root.read_file(sub_path).is_err() {
                    root.make(&names, 0o777)?;
                }
                Ok(source)
            }
        }
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

/// Makes a directory and those above it; the mode is that of the last one.
pub(super) fn make(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn check_in_memory(path: &Path) -> io::Result<()> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(path)?.f_type as i64;
    if kind & 0xffff_ffff == TMPFS || kind & 0xffff_ffff == RAMFS {
        return Ok(());
    }
    Err(io::Error::other("it is on a disk, and secrets may only be in memory: choose a directory on a tmpfs"))
}
