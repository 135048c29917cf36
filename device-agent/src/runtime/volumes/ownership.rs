//! What is in a local volume becomes the group's of a pod, as a kubelet does it.
//!
//! Other workloads may write the volume while the agent, which is root, walks through it. So each thing is held by a
//! descriptor before it is looked at or changed, no link is followed below the volume, and what was looked at is what is changed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat};

/// How deep directories may be nested. Each level costs two descriptors.
const DEPTH: usize = 128;
/// What the group may do with files, and with directories, whose new files are the group's as well.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LISTED: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Gives everything below `volume`, and in the end `volume` itself, to `group`. `only_if_differs`: nothing is done if `volume`
/// itself is the group's already.
pub(super) fn give(volume: &Path, group: u32, only_if_differs: bool) -> io::Result<()> {
    // The path is the device's own, and so are its links.
    let root = rustix::fs::open(volume, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&root)?;
    if only_if_differs && stat.st_gid == group && stat.st_mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    let mut way = vec![Level::of(root)?];
    while let Some(level) = way.last_mut() {
        match level.next()? {
            Some(child) if way.len() >= DEPTH => {
                drop(child);
                return Err(io::Error::other(format!(
                    "directories in {} are nested more than {DEPTH} deep, and their group cannot be set",
                    volume.display()
                )));
            }
            Some(Child::Directory(dir)) => way.push(Level::of(dir)?),
            Some(Child::Other(thing, stat)) => change(&thing, &stat, group)?,
            None => {
                let Some(done) = way.pop() else { break };
                // Last, so that a walk that was cut short is not taken for a whole one.
                change(&done.dir, &rustix::fs::fstat(&done.dir)?, group)?;
            }
        }
    }
    Ok(())
}

/// A directory through which the walk goes.
struct Level {
    dir: OwnedFd,
    names: Dir,
}

enum Child {
    Directory(OwnedFd),
    Other(OwnedFd, Stat),
}

impl Level {
    fn of(dir: OwnedFd) -> io::Result<Self> {
        let names = Dir::read_from(&dir)?;
        Ok(Self { dir, names })
    }

    /// What comes next and is still there.
    fn next(&mut self) -> io::Result<Option<Child>> {
        while let Some(entry) = self.names.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match hold(&self.dir, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                child => return child.map(Some),
            }
        }
        Ok(None)
    }
}

fn hold(dir: &OwnedFd, name: &CStr) -> io::Result<Child> {
    let thing = rustix::fs::openat(dir, name, HANDLE, Mode::empty())?;
    let stat = rustix::fs::fstat(&thing)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(Child::Directory(rustix::fs::openat(&thing, c".", LISTED, Mode::empty())?));
    }
    Ok(Child::Other(thing, stat))
}

/// `stat` is from before, since another owner costs a file the bits that are to stay.
fn change(thing: &OwnedFd, stat: &Stat, group: u32) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    rustix::fs::chownat(thing, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    // The mode of a link means nothing.
    if kind == FileType::Symlink {
        return Ok(());
    }
    let more = if kind == FileType::Directory { DIRECTORY } else { FILE };
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 | more);
    // The only name by which the mode of what is held without being open can be changed.
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", thing.as_raw_fd()), mode)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("NOT TESTED: changing groups takes root");
        }
        root
    }

    fn mode(path: &Path) -> (u32, u32) {
        let there = fs::symlink_metadata(path).unwrap();
        (there.gid(), there.mode() & 0o7777)
    }

    #[test]
    fn everything_in_a_volume_becomes_the_groups_and_nothing_outside() {
        if !is_root() {
            return;
        }
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o600)).unwrap();
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(at("dir/file"), "").unwrap();
        fs::set_permissions(at("dir/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink(outside.path(), at("dir/link")).unwrap();
        fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o755)).unwrap();

        give(volume.path(), 4242, false).unwrap();
        assert_eq!(mode(volume.path()), (4242, 0o2775));
        assert_eq!(mode(&at("dir")), (4242, 0o2770));
        assert_eq!(mode(&at("dir/file")), (4242, 0o4771), "the bit that its owner gave it stays");
        assert_eq!(mode(&at("dir/link")).0, 4242);
        assert_eq!(mode(outside.path()).1, 0o600);
        assert_ne!(mode(outside.path()).0, 4242);
    }

    #[test]
    fn what_is_the_groups_already_is_left_alone_if_that_is_wanted() {
        if !is_root() {
            return;
        }
        let volume = tempfile::tempdir().unwrap();
        give(volume.path(), 4242, true).unwrap();
        let file = volume.path().join("key");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        give(volume.path(), 4242, true).unwrap();
        assert_eq!(mode(&file).1, 0o600);
        give(volume.path(), 4242, false).unwrap();
        assert_eq!(mode(&file).1, 0o660);
    }

    #[test]
    fn a_volume_that_is_too_deep_is_named() {
        if !is_root() {
            return;
        }
        let volume = tempfile::tempdir().unwrap();
        let mut at = volume.path().to_path_buf();
        for _ in 0..DEPTH {
            at.push("d");
            fs::create_dir(&at).unwrap();
        }
        let error = give(volume.path(), 4242, false).unwrap_err().to_string();
        assert!(error.contains("nested more than 128 deep"), "{error}");
    }
}
