//! How much of the disk something takes.

use std::io;
use std::path::Path;

use hawser_wire::stream::{FileSystem, Space as Taken};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use crate::runtime::Space;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);
/// What lies deeper is not counted: each level costs a descriptor, and a workload can dig as deep as it likes.
const DEEPEST: usize = 64;

/// What a directory and everything below it take, as far as it is on the same file system; nothing if it is not there.
/// A workload may change it meanwhile: what goes away is not counted, and no link is followed.
pub(in crate::runtime) fn of(path: &Path) -> io::Result<Space> {
    let opened = match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Space::default()),
        opened => opened?,
    };
    let top = rustix::fs::fstat(&opened)?;
    let mut space = Space::default();
    space.add(top.st_blocks as u64);
    let mut open = vec![Dir::new(opened)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != top.st_dev {
            continue;
        }
        space.add(stat.st_blocks as u64);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && open.len() < DEEPEST {
            let dir = open.last().map(Dir::fd).transpose()?;
            let below = dir.map(|dir| rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()));
            if let Some(Ok(below)) = below {
                open.push(Dir::new(below)?);
            }
        }
    }
    Ok(space)
}

/// The file system that a path is on.
pub(in crate::runtime) fn file_system(path: &Path) -> Option<FileSystem> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(FileSystem {
        capacity_bytes: bytes(found.f_blocks),
        available_bytes: bytes(found.f_bavail),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
        used: Taken {
            bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            inodes: found.f_files.saturating_sub(found.f_ffree),
        },
    })
}

impl Space {
    fn add(&mut self, blocks: u64) {
        // Blocks are of 512 bytes, whatever the file system's are.
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(512));
        self.inodes += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn everything_below_is_counted_and_nothing_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("big"), vec![1; 1 << 20]).unwrap();
        let root = dir.path().join("root");
        assert_eq!(of(&root).unwrap(), Space::default());
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let empty = of(&root).unwrap();
        assert_eq!(empty.inodes, 3);
        std::fs::write(root.join("a/b/file"), vec![1; 256 << 10]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), root.join("a/link")).unwrap();
        let full = of(&root).unwrap();
        assert_eq!(full.inodes, 5);
        let more = full.bytes - empty.bytes;
        assert!((256 << 10..300 << 10).contains(&more), "{more} bytes");
    }

    #[test]
    fn a_workload_that_digs_deep_costs_no_more_than_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = std::fs::File::open(dir.path()).map(OwnedFd::from).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(of(dir.path()).unwrap().inodes, DEEPEST as u64 + 1);
        crate::runtime::volumes::removal::remove_tree(dir.path()).unwrap();
    }
}
