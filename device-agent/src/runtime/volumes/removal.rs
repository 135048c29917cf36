//! Removing what a workload left, however it left it.
//!
//! A workload may nest directories deeper than there are descriptors or stack for, and take the agent's rights to them
//! away where both are the same user. No link is followed, and what is
//! mounted there is not entered.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How many directories are held open at once. What lies deeper is moved up first.
const DEPTH: usize = 32;
/// How many names are held at once.
const BATCH: usize = 256;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is being emptied.
struct Open {
    dir: OwnedFd,
    /// Its name in the one above.
    name: CString,
}

/// Removes a tree, a file or a link. One that is not there is removed already.
pub(in crate::runtime) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match rustix::fs::open(parent, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        parent => parent?,
    };
    let name = text(name)?;
    if !is_full(&parent, &name)? {
        return Ok(());
    }
    let mut way = vec![Open { dir: enter(&parent, &name)?, name }];
    let mut moved = 0;
    while let Some(at) = way.last() {
        match remove_names(&at.dir)? {
            Emptied::Yes => {
                let Some(done) = way.pop() else { break };
                let above = way.last().map_or(&parent, |above| &above.dir);
                rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR)?;
            }
            Emptied::NotYet => {}
            Emptied::Full(name) if way.len() < DEPTH => {
                let dir = enter(&at.dir, &name)?;
                way.push(Open { dir, name });
            }
            Emptied::Full(name) => lift(at, &name, &way[0], &mut moved)?,
        }
    }
    Ok(())
}

/// What a look into a directory led to.
enum Emptied {
    Yes,
    /// There may be more names.
    NotYet,
    /// This directory in it is not empty.
    Full(CString),
}

/// Removes what can be removed at once.
fn remove_names(dir: &OwnedFd) -> io::Result<Emptied> {
    let mut seen = 0;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        seen += 1;
        if is_full(dir, name)? {
            return Ok(Emptied::Full(name.to_owned()));
        }
        // Names that come while others go may be missed, so it is read anew.
        if seen == BATCH {
            break;
        }
    }
    Ok(if seen == 0 { Emptied::Yes } else { Emptied::NotYet })
}

/// Removes a name, unless it is a directory with something in it.
fn is_full(dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        // POSIX allows the latter for directories.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory that is to be emptied, with all rights to it.
fn enter(dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let all = Mode::from_raw_mode(0o700);
    let opened = match open_here(dir, name) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, all, AtFlags::empty())?;
            open_here(dir, name)?
        }
        opened => opened?,
    };
    // Root needs none, and whoever is not root owns it.
    let _ = rustix::fs::fchmod(&opened, all);
    Ok(opened)
}

/// Opens a directory, unless something is mounted on it: that is somebody else's, and is not removed with ours. Kernels
/// before 5.6 cannot tell.
fn open_here(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat2(dir, name, DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV) {
        // Some sandboxes refuse what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()),
        opened => opened,
    }
}

/// Moves a directory up to the top, under a name that is not taken there.
fn lift(at: &Open, name: &std::ffi::CStr, top: &Open, moved: &mut u64) -> io::Result<()> {
    // Where it lies belongs to it, so changing that takes rights to it.
    drop(enter(&at.dir, name)?);
    loop {
        *moved += 1;
        match rustix::fs::renameat(&at.dir, name, &top.dir, format!("..lifted-{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            done => return Ok(done?),
        }
    }
}

fn text(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(io::Error::other)
}

/// Removes a log and its older parts.
pub(in crate::runtime) fn remove_log(log: &Path) -> io::Result<()> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else { return Ok(()) };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let rest = file.to_str().and_then(|file| file.strip_prefix(name));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn trees_files_links_and_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let keep = tempfile::tempdir().unwrap();
        fs::write(keep.path().join("kept"), "").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(tree.join("empty")).unwrap();
        for number in 0..3 * BATCH {
            fs::write(tree.join(format!("a/b/{number}")), "").unwrap();
        }
        symlink(keep.path(), tree.join("a/link")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
        remove_tree(&tree.join("below/nothing")).unwrap();
        let link = dir.path().join("link");
        symlink(keep.path(), &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(!link.is_symlink() && keep.path().join("kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_there_are_descriptors_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("..lifted-1")).unwrap();
        fs::write(top.join("..lifted-1/in-the-way"), "").unwrap();
        fs::write(top.join("..lifted-2"), "in the way").unwrap();
        let mut at = rustix::fs::open(&top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2_000 {
            for name in ["d", "e"] {
                rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
            }
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    /// It says something where tests do not run as root.
    #[test]
    fn rights_that_were_taken_away_are_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("cache/module/sub")).unwrap();
        fs::write(tree.join("cache/module/sub/file"), "").unwrap();
        for (path, mode) in [("cache/module/sub", 0o000), ("cache/module", 0o555), ("cache", 0o000), (".", 0o111)] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
