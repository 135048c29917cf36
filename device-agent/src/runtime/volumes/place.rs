//! Where a pod lives on the disk.
//!
//! ```text
//! <root>/                                         0711
//!   <pod uid>/                                    0710, of the pod's group: nobody else gets in
//!     users                                       0600: where its own users begin for the device, with an engine
//!     given/<volume>/                             0700: this local volume was given to the pod's group
//!     volumes/<volume>/                           0755: emptyDir (0777) and files that are no secret
//!     logs/<container>/<attempt>.log              0700
//!     containers/<container>/work/                0755: the container's own directory, of its user
//!     containers/<container>/<n>/                 0700: attempt n: lock, control, state.json, exit.json; with an engine
//!                                                 0711: hosts, termination, part-<m>: mounted parts of volumes
//! <secrets>/                                      0711
//!   <pod uid>/                                    0710, of the pod's group
//!     <volume>/                                   0755: secret files and emptyDir (1777) in memory
//! ```
//!
//! The agent owns all of it but `work`. What is above `<root>` and `<secrets>` has to let the users of workloads pass, as
//! `/var/lib`, `/run` and the state directory do. An agent that is not root has no groups to give and no users to
//! separate: then the directories of pods are 0700.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hawser_wire::PodUid;
use hawser_wire::deployment::{EdgeDeployment, EmptyDir, HostPath, Volume, VolumeSource};
use hawser_wire::stream::FileSystem;

use super::beneath::{Beneath, is_name, names};
use super::files::write_files;
use super::removal::remove_tree;
use super::{group, host_path, mounts, ownership, part, space};
use crate::runtime::{ContainerId, DiskUse, MAX_VOLUME_FILE, PodSetup, RuntimeError};

/// Names the operation that failed.
pub(in crate::runtime) trait Naming<T> {
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
pub(in crate::runtime) struct Places {
    pub(in crate::runtime) root: PathBuf,
    pub(in crate::runtime) secrets: PathBuf,
    /// Whether volumes may be mounts: that takes root, and somebody who sees them.
    pub(in crate::runtime) mounts: bool,
}

impl Places {
    pub(in crate::runtime) fn pod(&self, uid: &PodUid) -> PathBuf {
        self.root.join(uid.as_str())
    }

    pub(in crate::runtime) fn secret_pod(&self, uid: &PodUid) -> PathBuf {
        self.secrets.join(uid.as_str())
    }

    pub(in crate::runtime) fn container(&self, uid: &PodUid, name: &str) -> PathBuf {
        self.pod(uid).join("containers").join(name)
    }

    pub(in crate::runtime) fn attempt(&self, id: &ContainerId) -> PathBuf {
        self.container(&id.pod, &id.name).join(id.attempt.to_string())
    }

    pub(in crate::runtime) fn log(&self, id: &ContainerId) -> PathBuf {
        self.pod(&id.pod).join("logs").join(&id.name).join(format!("{}.log", id.attempt))
    }

    fn volume(&self, uid: &PodUid, volume: &Volume) -> PathBuf {
        let in_memory = match &volume.source {
            VolumeSource::EmptyDir(empty) => empty.memory,
            VolumeSource::Files(files) => files.secret,
            VolumeSource::HostPath(path) => return PathBuf::from(&path.path),
            // Has no place here: the engine has it, and mounts it.
            VolumeSource::Image(_) => false,
            // A file system of its own.
            VolumeSource::HugePages(_) => false,
        };
        if in_memory {
            self.secret_pod(uid).join(&volume.name)
        } else {
            self.pod(uid).join("volumes").join(&volume.name)
        }
    }

    /// What a pod takes of the disk.
    pub(in crate::runtime) fn disk_use(&self, pod: &EdgeDeployment) -> Result<DiskUse, RuntimeError> {
        let measure = |path: &Path| space::of(path).naming(|| format!("measure {}", path.display()));
        let mut used = DiskUse::default();
        for volume in pod.volumes.iter().filter(|volume| is_name(&volume.name)) {
            // What is in a directory of the device's own, or in an image, is not the pod's, and huge pages are no part of a disk.
            if matches!(volume.source, VolumeSource::HostPath(_) | VolumeSource::Image(_) | VolumeSource::HugePages(_))
            {
                continue;
            }
            let path = self.volume(&pod.uid, volume);
            let kind = if path.starts_with(&self.secrets) { &mut used.in_memory } else { &mut used.volumes };
            kind.insert(volume.name.clone(), measure(&path)?);
        }
        for (container, _) in pod.all_containers().filter(|(container, _)| is_name(&container.name)) {
            let mut space = measure(&self.container(&pod.uid, &container.name))?;
            let logs = measure(&self.pod(&pod.uid).join("logs").join(&container.name))?;
            space += logs;
            used.containers.insert(container.name.clone(), space);
            used.logs.insert(container.name.clone(), logs);
        }
        Ok(used)
    }

    /// The file system that holds all this but secrets.
    pub(in crate::runtime) fn file_system(&self) -> Option<FileSystem> {
        space::file_system(&self.root)
    }

    /// Makes the pod's directories and brings its volumes up to date.
    pub(in crate::runtime) fn prepare(&self, pod: &PodSetup) -> Result<(), RuntimeError> {
        let (uid, spec) = (&pod.uid, &*pod.spec);
        make_root(&self.root).naming(|| format!("make {}", self.root.display()))?;
        let place = self.pod(uid);
        self.enclose(uid).naming(|| format!("make {}", place.display()))?;
        for part in ["volumes", "logs", "containers"] {
            make(&place.join(part), 0o711).naming(|| format!("make {}", place.join(part).display()))?;
        }
        for volume in &spec.volumes {
            let path = self.volume(uid, volume);
            if let VolumeSource::HostPath(wanted) = &volume.source {
                let naming = || format!("MountVolume.SetUp failed for volume \"{}\" ", volume.name);
                host_path::prepare(wanted).and_then(|path| self.give(spec, volume, wanted, &path)).naming(naming)?;
                continue;
            }
            if path.starts_with(&self.secrets) {
                self.prepare_secrets(uid)?;
            }
            let naming = || format!("write volume {} to {}", volume.name, path.display());
            match &volume.source {
                VolumeSource::EmptyDir(empty) => {
                    let group = spec.fs_group;
                    let mode = empty_mode(empty, group);
                    match empty.size_limit.filter(|_| empty.memory && self.mounts) {
                        Some(bytes) => {
                            make_mounted(&path, group, mode, |path| mounts::memory(path, bytes)).naming(naming)?;
                        }
                        None if path.exists() => {}
                        None => make_empty(&path, group, mode).naming(naming)?,
                    }
                }
                VolumeSource::Files(_) => {
                    make(&path, 0o755).naming(naming)?;
                    let files = pod.files.get(&volume.name).map(Vec::as_slice).unwrap_or_default();
                    write_files(&path, files, spec.fs_group).naming(naming)?;
                }
                VolumeSource::HugePages(_) if !self.mounts => {
                    return Err(io::Error::other(UNSEEN)).naming(naming);
                }
                VolumeSource::HugePages(wanted) => {
                    let mode = if spec.fs_group.is_some() { 0o2775 } else { 0o755 };
                    let mount = |path: &Path| mounts::huge_pages(path, wanted.page_bytes, wanted.size_limit);
                    make_mounted(&path, spec.fs_group, mode, mount).naming(naming)?;
                }
                VolumeSource::HostPath(_) | VolumeSource::Image(_) => {}
            }
        }
        Ok(())
    }

    /// Gives what is in a local volume to the pod's group, once in the pod's life.
    fn give(&self, spec: &EdgeDeployment, volume: &Volume, wanted: &HostPath, path: &Path) -> io::Result<()> {
        let Some(group) = spec.fs_group.filter(|_| wanted.of_group) else { return Ok(()) };
        let given = self.pod(&spec.uid).join("given");
        let done = given.join(&volume.name);
        if done.exists() {
            return Ok(());
        }
        ownership::give(path, group, wanted.only_if_differs)?;
        make(&given, 0o700)?;
        make(&done, 0o700)
    }

    /// Makes the pod's directory, which the pod's processes enter and nobody else.
    fn enclose(&self, uid: &PodUid) -> io::Result<()> {
        let place = self.pod(uid);
        make(&place, 0o700)?;
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        match Beneath::open(&place)?.own(None, Some(group::claim(&self.root, &place)?), 0o710) {
            // In a user namespace without such groups it stays closed, which matters to none but other users.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            done => done,
        }
    }

    /// The group whose members enter the pod's directories; `None`: there is none to give.
    pub(in crate::runtime) fn group(&self, uid: &PodUid) -> Option<u32> {
        group::of(&self.pod(uid)).filter(|_| rustix::process::geteuid().is_root())
    }

    /// Secrets are in memory or nowhere.
    fn prepare_secrets(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        make_root(&self.secrets).naming(|| format!("make {}", self.secrets.display()))?;
        check_ours(&self.secrets)
            .and_then(|()| check_in_memory(&self.secrets))
            .naming(|| format!("keep secrets in {}", self.secrets.display()))?;
        let path = self.secret_pod(uid);
        let group = self.group(uid);
        let mode = if group.is_some() { 0o710 } else { 0o700 };
        make(&path, 0o700)
            .and_then(|()| Beneath::open(&path)?.own(None, group, mode))
            .naming(|| format!("make {}", path.display()))
    }

    /// Removes the places of all pods but those in which something was started.
    ///
    /// An agent that died between making a place and the first start has written nothing down about the pod. If that is not
    /// wanted any more, nobody would ever remove its secrets.
    pub(in crate::runtime) fn remove_unused(&self, used: &BTreeSet<&PodUid>) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        let uids = entries.flatten().filter_map(|entry| PodUid::new(entry.file_name().to_str()?).ok());
        // Where there are secrets, there is a place: what else lies in the directory of the secrets is not ours.
        for uid in uids.filter(|uid| !used.contains(uid)) {
            if let Err(error) = self.remove(&uid) {
                tracing::warn!(error = error.line(), %uid, "what was prepared for a pod stays");
            }
        }
    }

    /// Removes everything that a pod has on the disk and in memory.
    pub(in crate::runtime) fn remove(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        for path in [self.secret_pod(uid), self.pod(uid)] {
            remove_mounted(&path).naming(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// A file of a volume, which workloads may have written: no link is followed.
    pub(in crate::runtime) fn read(&self, uid: &PodUid, volume: &Volume, path: &str) -> Result<Vec<u8>, RuntimeError> {
        let read = || {
            let file = Beneath::open(&self.volume(uid, volume))?.read_file(path)?;
            let mut bytes = Vec::new();
            file.take(MAX_VOLUME_FILE + 1).read_to_end(&mut bytes)?;
            match bytes.len() as u64 {
                0..=MAX_VOLUME_FILE => Ok(bytes),
                _ => Err(io::Error::other(format!("it has more than {MAX_VOLUME_FILE} bytes"))),
            }
        };
        read().naming(|| format!("read {path} of volume {}", volume.name))
    }

    /// Makes a part of a volume appear at `target`, so that nobody who follows that path can be led elsewhere.
    pub(in crate::runtime) fn mount_part(
        &self,
        uid: &PodUid,
        volume: &Volume,
        part: &str,
        target: &Path,
    ) -> io::Result<()> {
        if !self.mounts {
            return Err(io::Error::other(UNSEEN));
        }
        mounts::bind(part::open(&self.volume(uid, volume), part)?, target)
    }

    pub(in crate::runtime) fn mount_source(
        &self,
        uid: &PodUid,
        volume: &Volume,
        sub_path: Option<&str>,
    ) -> io::Result<PathBuf> {
        let path = self.volume(uid, volume);
        let Some(sub_path) = sub_path.filter(|sub_path| !sub_path.is_empty()) else { return Ok(path) };
        let names = names(sub_path)?;
        let source = names.iter().fold(path.clone(), |path, name| path.join(name));
        match &volume.source {
            // Nobody but the agent writes there, so its links are ours.
            VolumeSource::Files(_) if source.exists() => Ok(source),
            VolumeSource::Files(_) => Err(io::Error::other(format!("there is no {sub_path} in the volume"))),
            // Who may write there is the device's business, and so are its links.
            VolumeSource::HostPath(_) if source.exists() => Ok(source),
            VolumeSource::HostPath(_) => {
                let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
                Beneath::follow(&path)?.make(&names, mode)?;
                Ok(source)
            }
            VolumeSource::Image(_) => Err(io::Error::other("an image has no place here")),
            VolumeSource::EmptyDir(_) | VolumeSource::HugePages(_) => {
                let root = Beneath::open(&path)?;
                if root.read_file(sub_path).is_err() {
                    // As open as the volume itself, or only root could write there.
                    let (group, mode) = root.group_and_mode()?;
                    root.make_for(&names, Some(group), mode)?;
                }
                Ok(source)
            }
        }
    }
}

/// Why nothing can be mounted.
const UNSEEN: &str = "the engine does not see what the agent mounts";

/// As open as a kubelet makes it. In memory there is the sticky bit besides, as on any new file system in memory.
fn empty_mode(empty: &EmptyDir, group: Option<u32>) -> u32 {
    let sticky = if empty.memory { 0o1000 } else { 0 };
    let of_group = if group.is_some() { 0o2000 } else { 0 };
    0o777 | sticky | of_group
}

/// Makes a directory, or gives the one that is there this mode. For directories that nobody else may change.
pub(in crate::runtime) fn make(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let there = fs::symlink_metadata(path)?;
    if !there.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "something else is in its place"));
    }
    if there.permissions().mode() & 0o7777 == mode {
        Ok(())
    } else {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

/// Makes one of the two roots and what is above it. One that is there keeps its mode: it was somebody's choice.
fn make_root(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    make(path, 0o711)
}

/// Makes an emptyDir, in one step: an agent that dies meanwhile leaves none that its workload could not write to.
fn make_empty(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let draft = path.with_file_name("..new");
    remove_tree(&draft)?;
    make(&draft, 0o700)?;
    Beneath::open(&draft)?.own(None, group, mode)?;
    fs::rename(&draft, path)
}

/// Makes an emptyDir that is a file system of its own. One that is there keeps its size.
fn make_mounted(
    path: &Path,
    group: Option<u32>,
    mode: u32,
    mount: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    if path.exists() {
        // An agent that died meanwhile has left what nobody could use yet.
        if mounts::is_mounted(path)? && fs::metadata(path)?.permissions().mode() & 0o777 != 0o700 {
            return Ok(());
        }
        remove_mounted(path)?;
    }
    make(path, 0o700)?;
    mount(path)?;
    Beneath::open(path)?.own(None, group, mode)
}

/// Removes a tree and what is mounted in it, but nothing of what is mounted there.
pub(in crate::runtime) fn remove_mounted(path: &Path) -> io::Result<()> {
    mounts::unmount_below(path)?;
    remove_tree(path)
}

/// On a memory file system where everybody may make directories, somebody else may have been first.
fn check_ours(path: &Path) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    if there.is_dir() && there.uid() == own && there.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "it is not a directory that belongs to user {own} and that nobody else may write to: remove it, or choose another \
         with --secrets-dir"
    )))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_volume_is_as_open_as_a_kubelet_makes_it() {
        let mode = |memory, group| empty_mode(&EmptyDir { memory, size_limit: None }, group);
        assert_eq!((mode(false, None), mode(false, Some(7))), (0o777, 0o2777));
        assert_eq!((mode(true, None), mode(true, Some(7))), (0o1777, 0o3777));
    }
}
