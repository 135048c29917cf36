//! Volumes as directories.
//!
//! A volume of files changes in one step, so that a program never sees half of a change: the files are in a hidden
//! directory, `..data` points to it, and the visible names point through `..data`. Programs that watch `..data`, as they
//! do on Kubernetes, work here too.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use super::beneath::{self, Beneath, names};
use super::removal::remove_tree;
use crate::runtime::VolumeFile;

const DATA: &str = "..data";
const VERSION: &str = "..v";

/// Brings a volume of files up to date; whether anything had to be written.
///
/// What is there is compared byte by byte and not trusted by name: after a power cut, files may be empty that were
/// written just before. That also makes flushing them to the disk needless.
pub(super) fn write_files(volume: &Path, files: &[VolumeFile], group: Option<u32>) -> io::Result<bool> {
    let root = Beneath::open(volume)?;
    let current = root.link_target(DATA).filter(|target| number_of(target).is_some());
    if let Some(current) = &current
        && same(&volume.join(current), files)
    {
        return Ok(false);
    }
    let number = current.as_deref().and_then(number_of).unwrap_or(0);
    let next = format!("{VERSION}{}", number.wrapping_add(1));
    remove_tree(&volume.join(&next))?;
    let data = root.make(&[&next], 0o755)?;
    data.own(None, group, 0o755)?;
    for file in files {
        let names = names(&file.path)?;
        let Some((_, parents)) = names.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file of the volume has no name"));
        };
        data.make_for(parents, group, 0o755)?;
        // With a group of its own, what the owner may read the group may read.
        let mode = (file.mode & 0o777) | if group.is_some() { (file.mode & 0o400) >> 3 } else { 0 };
        let mut written = data.write_file(&file.path, mode)?;
        written.write_all(&file.content)?;
        // An agent that is not root has no files of others, nor containers that are somebody else.
        let owner = file.owner.filter(|_| rustix::process::geteuid().is_root());
        beneath::own(&written, owner, group)?;
    }
    root.link(&next, DATA)?;
    link_names(&root, files)?;
    if let Some(old) = current {
        remove_tree(&volume.join(old))?;
    }
    Ok(true)
}

/// The number of a version, if this is the name of one and not a path to somewhere else.
fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(VERSION)?.parse().ok()
}

/// One visible name per first component; names of files that are gone go.
fn link_names(root: &Beneath, files: &[VolumeFile]) -> io::Result<()> {
    let mut wanted: Vec<&str> = Vec::with_capacity(files.len());
    for file in files {
        wanted.extend(names(&file.path)?.first());
    }
    wanted.sort_unstable();
    wanted.dedup();
    for name in &wanted {
        root.link(&format!("{DATA}/{name}"), name)?;
    }
    for name in root.list()? {
        if !name.starts_with("..") && !wanted.contains(&name.as_str()) && root.link_target(&name).is_some() {
            root.unlink(&name)?;
        }
    }
    Ok(())
}

/// Whether the directory holds exactly these files.
fn same(data: &Path, files: &[VolumeFile]) -> bool {
    let Ok(root) = Beneath::open(data) else { return false };
    let equal = |file: &VolumeFile| -> io::Result<bool> {
        let mut there = root.read_file(&file.path)?;
        if there.metadata()?.len() != file.content.len() as u64 {
            return Ok(false);
        }
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let mode = there.metadata()?.permissions().mode() & 0o777;
        // The group's right to read may have been added.
        if mode & !0o040 != file.mode & 0o777 & !0o040 {
            return Ok(false);
        }
        let owner = file.owner.filter(|_| rustix::process::geteuid().is_root());
        if owner.is_some_and(|owner| there.metadata().is_ok_and(|there| there.uid() != owner)) {
            return Ok(false);
        }
        let mut content = Vec::with_capacity(file.content.len());
        there.read_to_end(&mut content)?;
        Ok(content == *file.content)
    };
    count(data) == Some(files.len()) && files.iter().all(|file| equal(file).unwrap_or(false))
}

/// How many files there are in all.
fn count(directory: &Path) -> Option<usize> {
    let mut total = 0;
    for entry in fs::read_dir(directory).ok()? {
        let entry = entry.ok()?;
        total += if entry.file_type().ok()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &str, content: &str) -> VolumeFile {
        VolumeFile { path: path.into(), mode: 0o640, content: content.as_bytes().into(), owner: None }
    }

    #[test]
    fn files_change_in_one_step_and_only_when_they_differ() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert!(write_files(dir.path(), &[file("a", "1"), file("sub/b", "2"), file("sub/c", "3")], None).unwrap());
        assert_eq!([read("a"), read("sub/b"), read("sub/c")], ["1", "2", "3"].map(|text| Some(text.to_owned())));
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let before = fs::read_link(dir.path().join(DATA)).unwrap();
        assert!(!write_files(dir.path(), &[file("a", "1"), file("sub/b", "2"), file("sub/c", "3")], None).unwrap());
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), before);
        assert!(write_files(dir.path(), &[file("a", "new"), file("d", "4")], None).unwrap());
        assert_eq!([read("a"), read("sub/b"), read("d")], [Some("new".into()), None, Some("4".into())]);
        assert!(!dir.path().join(before).exists());
    }

    #[test]
    fn what_a_power_cut_left_empty_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path(), &[file("a", "1")], None).unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        assert!(write_files(dir.path(), &[file("a", "1")], None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
    }

    #[test]
    fn no_file_is_written_outside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        for bad in ["../x", "a/../../x", ""] {
            assert!(write_files(&volume, &[file(bad, "1")], None).is_err(), "{bad:?}");
        }
        assert_eq!(count(dir.path()), Some(0));
    }
}
