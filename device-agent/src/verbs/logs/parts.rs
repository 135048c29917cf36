//! The files of a log on the disk: which there are, and which is which when they are renamed meanwhile.
//!
//! The writer renames `x.log` to `x.log.1`, that to `x.log.2` and so on, drops the last one and begins a new `x.log`. So a
//! name says nothing for long; a file that is held open stays itself, and its inode is not given to another.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tail;

/// More files than any writer of ours keeps.
const MAX_PARTS: usize = 64;
/// How often the files are looked at again when they were renamed under our eyes.
const TRIES: u32 = 20;
/// Nobody has a line in hand for longer.
const QUIET: Duration = Duration::from_secs(10);

/// Which file, for as long as it is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    device: u64,
    pub(super) inode: u64,
}

impl Key {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// One open file of a log.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) key: Key,
    file: File,
    /// How long it was when it was opened.
    length: u64,
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", path.display())));
        }
        Ok(Self { key: Key::of(&metadata), length: metadata.len(), file })
    }
}

impl Part {
    /// Whether nothing more came here for a good while before the last that came to the file after it.
    pub(super) fn was_quiet_before(&self, next: &Self) -> bool {
        let changed = |part: &Self| part.file.metadata()?.modified();
        let quiet = changed(self).and_then(|last| changed(next)?.duration_since(last).map_err(io::Error::other));
        quiet.is_ok_and(|quiet| quiet >= QUIET)
    }
}

impl tail::Part for Part {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// All files of a log, the oldest first, as they were at one moment. None if the log is not there, or not there yet.
pub(super) fn snapshot(log: &Path) -> io::Result<Vec<Part>> {
    for _ in 0..TRIES {
        let before = list(log)?;
        let parts: io::Result<Vec<Part>> = before.iter().map(|path| Part::open(path)).collect();
        let parts = match parts {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            parts => parts?,
        };
        // Renaming moves files in one direction only: if every name is still what it was, it was so all the time.
        let same = |(path, part): (&PathBuf, &Part)| is_still(path, part.key);
        if before == list(log)? && before.iter().zip(&parts).all(same) {
            return Ok(parts);
        }
    }
    Err(io::Error::other("the log is rotated faster than it can be read"))
}

/// Whether this name still leads to this file.
pub(super) fn is_still(path: &Path, key: Key) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| Key::of(&metadata) == key)
}

/// The names of the files, the oldest first.
fn list(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        match file.to_str().and_then(|file| file.strip_prefix(name)) {
            Some("") => numbers.push(0),
            Some(rest) => numbers.extend(rest.strip_prefix('.').and_then(|number| number.parse::<u32>().ok())),
            None => {}
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(MAX_PARTS);
    let path = |number: &u32| match number {
        0 => log.to_owned(),
        number => dir.join(format!("{name}.{number}")),
    };
    Ok(numbers.iter().rev().map(path).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tail::Part as _;
    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_age() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        assert!(snapshot(&log).unwrap().is_empty());
        for (name, text) in [("0.log", "new"), ("0.log.1", "older"), ("0.log.2", "old"), ("0.log.10", "oldest of all")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        for other in ["1.log", "0.log.x", "0.log.1.gz", "00.log"] {
            std::fs::write(dir.path().join(other), "").unwrap();
        }
        let lengths: Vec<u64> = snapshot(&log).unwrap().iter().map(Part::length).collect();
        assert_eq!(lengths, [13, 3, 5, 3]);
    }

    #[test]
    fn something_else_in_its_place_is_said_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("0.log")).unwrap();
        assert!(snapshot(&dir.path().join("0.log")).unwrap_err().to_string().contains("is no file"));
    }
}
