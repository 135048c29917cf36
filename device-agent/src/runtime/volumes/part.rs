//! A part of a volume (`subPath`), found without leaving the volume.
//!
//! A workload may write the volume while the agent looks, and the agent is root. So the part is opened below the open
//! volume, by the kernel where it can (links count that stay inside), name by name without any link where it cannot; and
//! it is the descriptor that is mounted, not the path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::beneath::{Beneath, names};

const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Opens the part, which is made a directory like the volume itself if there is nothing.
pub(super) fn open(volume: &Path, part: &str) -> io::Result<OwnedFd> {
    let names = names(part)?;
    // The volume may be a path of the device's own, whose links are the device's.
    let root = rustix::fs::open(volume, HANDLE, Mode::empty())?;
    match find(&root, &names) {
        Err(Errno::NOENT) => {
            let root = Beneath::follow(volume)?;
            // As open as the volume itself, or only root could write there.
            let (group, mode) = root.group_and_mode()?;
            root.make_for(&names, Some(group), mode)?;
        }
        found => return Ok(found?),
    }
    Ok(find(&root, &names)?)
}

fn find(root: &OwnedFd, names: &[&str]) -> Result<OwnedFd, Errno> {
    let path = names.join("/");
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, HANDLE, Mode::empty(), flags) {
        // Some sandboxes refuse what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => walk(root, names),
        found => found,
    }
}

/// For kernels before 5.6.
fn walk(root: &OwnedFd, names: &[&str]) -> Result<OwnedFd, Errno> {
    let mut at = rustix::fs::openat(root, ".", HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
    for name in names {
        at = rustix::fs::openat(&at, *name, HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode) == rustix::fs::FileType::Symlink {
            return Err(Errno::LOOP);
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn same(found: &OwnedFd, path: &Path) -> bool {
        let there = fs::metadata(path).unwrap();
        let stat = rustix::fs::fstat(found).unwrap();
        (stat.st_dev, stat.st_ino) == (there.dev(), there.ino())
    }

    #[test]
    fn a_part_is_inside_the_volume_or_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path();
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        symlink("a/b", volume.join("inside")).unwrap();
        symlink(outside.path(), volume.join("out")).unwrap();
        symlink("../..", volume.join("a/up")).unwrap();
        assert!(same(&open(volume, "a/b").unwrap(), &volume.join("a/b")));
        assert!(same(&open(volume, "a//./file").unwrap(), &volume.join("a/file")));
        assert!(same(&open(volume, "inside").unwrap(), &volume.join("a/b")));
        for bad in ["out", "out/secret", "a/up", "a/up/x", "..", "a/../../x"] {
            assert!(open(volume, bad).is_err(), "{bad}");
        }
        let root = rustix::fs::open(volume, HANDLE, Mode::empty()).unwrap();
        assert!(same(&walk(&root, &["a", "b"]).unwrap(), &volume.join("a/b")));
        for bad in [["inside", ""], ["out", "secret"]] {
            let names: Vec<&str> = bad.into_iter().filter(|name| !name.is_empty()).collect();
            assert!(walk(&root, &names).is_err(), "{bad:?}");
        }
        assert!(!outside.path().join("x").exists());
    }

    #[test]
    fn a_part_that_is_not_there_is_made_like_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2777)).unwrap();
        open(dir.path(), "new/deep").unwrap();
        for made in ["new", "new/deep"] {
            assert_eq!(fs::metadata(dir.path().join(made)).unwrap().permissions().mode() & 0o7777, 0o2777, "{made}");
        }
        let link = tempfile::tempdir().unwrap();
        symlink(dir.path(), link.path().join("volume")).unwrap();
        assert!(same(&open(&link.path().join("volume"), "more").unwrap(), &dir.path().join("more")));
    }
}
