//! Paths of the device's own as volumes.

use std::fs::{self, File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hawser_wire::deployment::{HostPath, HostPathKind};

use super::beneath::names;

/// Sees to it that there is what a pod wants to mount, and says in a kubelet's words if there is not. Links are followed:
/// the paths of the device belong to whoever owns the device.
pub(super) fn prepare(volume: &HostPath) -> io::Result<PathBuf> {
    use HostPathKind::{
        Any, BlockDevice, CharDevice, Directory, DirectoryOrCreate, File, FileOrCreate, Socket as SocketFile,
    };
    let path = checked(&volume.path)?;
    let there = match fs::metadata(&path) {
        Ok(there) => Some(there.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if volume.local {
        return local(path, there);
    }
    let (right, what) = match (volume.kind, there) {
        (Any, Some(_)) => return Ok(path),
        (Any | DirectoryOrCreate, None) => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path)?;
            return Ok(path);
        }
        (FileOrCreate, None) => {
            make_file(&path)?;
            return Ok(path);
        }
        (Directory | DirectoryOrCreate, there) => (there.is_some_and(|there| there.is_dir()), "a directory"),
        (File | FileOrCreate, there) => (there.is_some_and(|there| there.is_file()), "a file"),
        (SocketFile, there) => (there.is_some_and(|there| there.is_socket()), "a socket file"),
        (CharDevice, there) => (there.is_some_and(|there| there.is_char_device()), "a character device"),
        (BlockDevice, there) => (there.is_some_and(|there| there.is_block_device()), "a block device"),
    };
    if right {
        Ok(path)
    } else {
        Err(io::Error::other(format!("hostPath type check failed: {} is not {what}", volume.path)))
    }
}

/// A local volume of the cluster is a directory.
fn local(path: PathBuf, there: Option<FileType>) -> io::Result<PathBuf> {
    let at = path.display();
    match there {
        Some(there) if there.is_dir() => Ok(path),
        None => Err(io::Error::other(format!("path \"{at}\" does not exist"))),
        Some(there) if there.is_block_device() => Err(io::Error::other(format!(
            "{at} is a block device, and a device makes and mounts no file systems: mount it on the device, and name the \
             directory in the volume"
        ))),
        Some(_) => Err(io::Error::other(format!("only directories can be local volumes, and {at} is none"))),
    }
}

/// The path, if it is absolute and made of plain names.
pub(super) fn checked(path: &str) -> io::Result<PathBuf> {
    if !path.starts_with('/') {
        return Err(io::Error::other(format!("invalid HostPath `{path}`: it must be absolute")));
    }
    names(path).map_err(|_| io::Error::other(format!("invalid HostPath `{path}`: must not contain '..'")))?;
    Ok(PathBuf::from(path))
}

fn make_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_local_volume_that_is_a_block_device_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::BlockDevice,
            rustix::fs::Mode::from_raw_mode(0o600),
            rustix::fs::makedev(7, 200),
        );
        if made.is_err() {
            println!(
                "NOT TESTED: a block device as a local volume: nodes of devices cannot be made here (run as root)"
            );
            return;
        }
        let path = path.display().to_string();
        let kind = HostPathKind::Directory;
        let volume = HostPath { path: path.clone(), kind, of_group: true, only_if_differs: false, local: true };
        let told = prepare(&volume).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{path} is a block device, and ")) && told.contains("mount it"), "{told}");
        let own = HostPath { of_group: false, local: false, ..volume };
        let told = prepare(&own).unwrap_err().to_string();
        assert_eq!(told, format!("hostPath type check failed: {path} is not a directory"));
    }

    #[test]
    fn what_a_pod_wants_of_the_device_is_there_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("file"), "kept").unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("dir"), at("link")).unwrap();
        let told = |path: &str, kind| {
            prepare(&HostPath { path: path.to_owned(), kind, of_group: false, only_if_differs: false, local: false })
                .map_err(|error| error.to_string())
        };
        for (name, kind) in [
            ("dir", HostPathKind::Any),
            ("dir", HostPathKind::Directory),
            ("dir", HostPathKind::DirectoryOrCreate),
            ("link", HostPathKind::Directory),
            ("file", HostPathKind::File),
            ("file", HostPathKind::FileOrCreate),
            ("socket", HostPathKind::Socket),
            ("made", HostPathKind::Any),
            ("made/below", HostPathKind::DirectoryOrCreate),
            ("made/file", HostPathKind::FileOrCreate),
        ] {
            assert_eq!(told(&at(name), kind), Ok(PathBuf::from(at(name))), "{name} {kind:?}");
        }
        assert!(told("/dev/null", HostPathKind::CharDevice).is_ok());
        assert!(dir.path().join("made/below").is_dir() && dir.path().join("made/file").is_file());
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "kept");
        for (name, kind, what) in [
            ("file", HostPathKind::Directory, "a directory"),
            ("none", HostPathKind::Directory, "a directory"),
            ("file", HostPathKind::DirectoryOrCreate, "a directory"),
            ("dir", HostPathKind::File, "a file"),
            ("dir", HostPathKind::FileOrCreate, "a file"),
            ("none", HostPathKind::File, "a file"),
            ("file", HostPathKind::Socket, "a socket file"),
            ("file", HostPathKind::CharDevice, "a character device"),
            ("none", HostPathKind::BlockDevice, "a block device"),
        ] {
            let path = at(name);
            assert_eq!(told(&path, kind), Err(format!("hostPath type check failed: {path} is not {what}")));
        }
        let claimed = |path: &str| {
            let kind = HostPathKind::Directory;
            prepare(&HostPath { path: path.to_owned(), kind, of_group: true, only_if_differs: false, local: true })
                .map_err(|error| error.to_string())
        };
        assert_eq!(claimed(&at("link")), Ok(PathBuf::from(at("link"))));
        assert_eq!(claimed(&at("none")), Err(format!("path \"{}\" does not exist", at("none"))));
        assert_eq!(
            claimed(&at("file")),
            Err(format!("only directories can be local volumes, and {} is none", at("file")))
        );
        assert!(!fs::exists(at("none")).unwrap());
        for bad in ["relative", "", "/a/../b", "/.."] {
            assert!(told(bad, HostPathKind::Any).unwrap_err().starts_with("invalid HostPath"), "{bad:?}");
        }
    }
}
