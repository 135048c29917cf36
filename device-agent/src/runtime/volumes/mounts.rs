//! Mounts that the agent makes for an engine, and takes away again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::removal::remove_tree;

/// Makes what an open descriptor stands for appear at `target`, whatever becomes of the path that it was opened by.
pub(super) fn bind(source: impl AsFd, target: &Path) -> io::Result<()> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&source)?.st_mode);
    unmount_below(target)?;
    remove_tree(target)?;
    if kind == FileType::Directory {
        fs::create_dir(target)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(target, flags, Mode::from_raw_mode(0o600))?;
    }
    Ok(rustix::mount::mount_bind(format!("/proc/self/fd/{}", source.as_fd().as_raw_fd()), target)?)
}

/// Mounts a file system in memory of at most `bytes`.
pub(super) fn memory(target: &Path, bytes: u64) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = std::ffi::CString::new(format!("size={bytes},mode=700"))?;
    Ok(rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str())?)
}

/// Mounts a file system of huge pages, of at most `bytes`. Without, the pages that its user may have are the limit.
pub(super) fn huge_pages(target: &Path, page_bytes: u64, bytes: Option<u64>) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let size = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options = std::ffi::CString::new(format!("pagesize={page_bytes}{size},mode=700"))?;
    Ok(rustix::mount::mount("nodev", target, "hugetlbfs", flags, options.as_c_str())?)
}

/// Whether something is mounted at this path.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mounted(path)?.iter().any(|mounted| mounted == path))
}

/// Takes away everything that is mounted at a path and below it. What still uses it keeps it until it ends.
pub(in crate::runtime) fn unmount_below(path: &Path) -> io::Result<()> {
    for mounted in mounted(path)?.iter().rev() {
        match rustix::mount::unmount(mounted, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // It went with one that was above it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is mounted at a path and below it, in the order in which it was mounted.
fn mounted(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(below(&fs::read("/proc/self/mountinfo")?, path))
}

fn below(mountinfo: &[u8], path: &Path) -> Vec<PathBuf> {
    let points = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescaped).filter(|point| point.starts_with(path)).collect()
}

/// The kernel writes blanks, line ends and backslashes as three octal digits.
fn unescaped(point: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(point.len());
    let mut rest = point;
    while let [first, more @ ..] = rest {
        let octal =
            more.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        if let Some(digits) = octal {
            path.push(digits.iter().fold(0_u8, |byte, digit| byte.wrapping_mul(8).wrapping_add(digit - b'0')));
            rest = &more[3..];
        } else {
            path.push(*first);
            rest = more;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_a_path_is_found_in_the_kernels_list() {
        let list = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:5 / /a rw shared:1 - tmpfs tmpfs rw\n\
                     31 30 0:6 /x /a/b\\040c rw - tmpfs tmpfs rw\n32 22 0:7 / /ab rw - tmpfs tmpfs rw\nbroken\n";
        assert_eq!(below(list, Path::new("/a")), [PathBuf::from("/a"), PathBuf::from("/a/b c")]);
        assert!(below(list, Path::new("/none")).is_empty());
        assert_eq!(unescaped(b"/x\\134y\\9"), PathBuf::from("/x\\y\\9"));
    }

    #[test]
    fn a_descriptor_is_mounted_whatever_its_path_has_become() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: mounting takes root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (real, target) = (dir.path().join("real"), dir.path().join("target"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("file"), "kept").unwrap();
        let open = fs::File::open(&real).unwrap();
        fs::rename(&real, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("/", &real).unwrap();
        bind(&open, &target).unwrap();
        bind(&open, &target).unwrap();
        assert!(is_mounted(&target).unwrap());
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
        // What is mounted is never removed with what it is mounted on.
        assert!(remove_tree(&target).is_err());
        unmount_below(dir.path()).unwrap();
        assert!(!is_mounted(&target).unwrap());
        remove_tree(&target).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("elsewhere/file")).unwrap(), "kept");
    }
}
