//! Paths that stay where they belong.
//!
//! A workload may own the directories in which the agent works for it, and the agent may be root. So a path is walked one
//! name at a time and no link is followed, on kernels with and without `openat2`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// The names of which `path` is made; a leading `/` means the directory that it is below. `..` is refused.
pub(crate) fn names(path: &str) -> io::Result<Vec<&str>> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") || path.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} leaves its directory")));
    }
    Ok(names)
}

/// Whether `name` is one name, and not a special one.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Beneath(OwnedFd);

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Beneath {
    /// A directory that only the agent can change.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// A directory of the device's own, whose links are the device's.
    pub(super) fn follow(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    fn step(&self, name: &str) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(&self.0, name, DIRECTORY, Mode::empty())?))
    }

    fn again(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// The directory of these names, made if need be.
    pub(crate) fn make(&self, names: &[&str], mode: u32) -> io::Result<Self> {
        self.make_for(names, None, mode)
    }

    /// The directory of these names. Those that are made belong to the group and have this mode, whatever the umask is;
    /// those that are there stay as they are.
    pub(crate) fn make_for(&self, names: &[&str], group: Option<u32>, mode: u32) -> io::Result<Self> {
        let mut at = self.again()?;
        for name in names {
            let made = match rustix::fs::mkdirat(&at.0, *name, Mode::from_raw_mode(mode)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            at = at.step(name)?;
            if made {
                at.own(None, group, mode)?;
            }
        }
        Ok(at)
    }

    /// The group and the permission bits of the directory itself.
    pub(crate) fn group_and_mode(&self) -> io::Result<(u32, u32)> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok((stat.st_gid, stat.st_mode & 0o7777))
    }

    /// Opens an existing regular file for reading.
    pub(crate) fn read_file(&self, path: &str) -> io::Result<File> {
        let (at, name) = self.parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(File::from(rustix::fs::openat(&at.0, name, flags, Mode::empty())?))
    }

    /// Makes a file, or empties it. Its directories must exist.
    pub(crate) fn write_file(&self, path: &str, mode: u32) -> io::Result<File> {
        let (at, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = regular(File::from(rustix::fs::openat(&at.0, name, flags, Mode::from_raw_mode(mode))?))?;
        file.set_len(0)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file)
    }

    fn parent<'p>(&self, path: &'p str) -> io::Result<(Self, &'p str)> {
        let names = names(path)?;
        let (name, parents) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = self.again()?;
        for parent in parents {
            at = at.step(parent)?;
        }
        Ok((at, name))
    }

    /// What kind of thing a name is, if it is there.
    pub(crate) fn kind(&self, name: &str) -> io::Result<Option<FileType>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a link points, if the name is one.
    pub(crate) fn link_target(&self, name: &str) -> Option<String> {
        let target = rustix::fs::readlinkat(&self.0, name, Vec::new()).ok()?;
        target.into_string().ok()
    }

    /// Makes `name` a link to `target` in one step; an empty directory or another link gives way.
    pub(crate) fn link(&self, target: &str, name: &str) -> io::Result<()> {
        if self.link_target(name).as_deref() == Some(target) {
            return Ok(());
        }
        if self.kind(name)? == Some(FileType::Directory) {
            rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?;
        }
        let draft = format!("..link-{name}");
        match rustix::fs::unlinkat(&self.0, &draft, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::symlinkat(target, &self.0, &draft)?;
        Ok(rustix::fs::renameat(&self.0, &draft, &self.0, name)?)
    }

    /// Removes a name that is no directory.
    pub(crate) fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// The names in it, without `.` and `..`.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Sets owner and permission bits of the directory itself.
    pub(crate) fn own(&self, uid: Option<u32>, gid: Option<u32>, mode: u32) -> io::Result<()> {
        own(&self.0, uid, gid)?;
        Ok(rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }
}

/// Sets the owner, as far as one is given.
pub(crate) fn own(fd: impl std::os::fd::AsFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let uid = uid.map(rustix::process::Uid::from_raw);
    let gid = gid.map(rustix::process::Gid::from_raw);
    Ok(rustix::fs::fchown(fd, uid, gid)?)
}

fn regular(file: File) -> io::Result<File> {
    let found = file.metadata()?;
    // Where the kernel lets people link to what is not theirs, a workload could have us change or read a foreign file.
    if found.is_file() && found.nlink() == 1 {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file of its own"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_that_has_another_name_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("foreign"), "keep").unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::hard_link(folder.path().join("foreign"), inside.join("log")).unwrap();
        let dir = Beneath::open(&inside).unwrap();
        assert!(dir.write_file("log", 0o666).is_err());
        assert!(dir.read_file("log").is_err());
        assert_eq!(std::fs::read_to_string(folder.path().join("foreign")).unwrap(), "keep");
    }

    #[test]
    fn paths_that_leave_their_directory_are_refused() {
        assert_eq!(names("/a//b/./c").unwrap(), ["a", "b", "c"]);
        assert_eq!(names("/").unwrap(), [""; 0]);
        for bad in ["..", "a/../b", "/..", "a\0b"] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", ".x", "a/b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        symlink(outside.path(), dir.path().join("dir")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
        let beneath = Beneath::open(dir.path()).unwrap();
        assert!(beneath.make(&["dir", "x"], 0o755).is_err());
        assert!(beneath.read_file("dir/secret").is_err());
        assert!(beneath.read_file("file").is_err());
        assert!(beneath.write_file("file", 0o644).is_err());
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "s");
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("f"), Mode::from_raw_mode(0o600)).unwrap();
        assert!(Beneath::open(dir.path()).unwrap().read_file("f").is_err());
    }
}
