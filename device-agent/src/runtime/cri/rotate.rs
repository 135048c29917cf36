//! Logs that rotate: the file is moved away and the engine told to begin a new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Cri;
use crate::runtime::ContainerId;

/// Begins a new log file if the present one is too long. What fails is tried again at the next look.
pub(super) async fn if_long(cri: &Cri, id: &ContainerId, engine_id: &str) {
    let config = &cri.0.config;
    let path = cri.0.places.log(id);
    let (max_bytes, max_files) = (config.log_max_bytes, config.log_max_files);
    let due = cri.blocking(move || is_long(&path, max_bytes) && move_away(&path, max_files).is_ok() || is_away(&path));
    if due.await
        && let Err(error) = cri.0.client.reopen_container_log(engine_id).await
    {
        tracing::warn!(%error, container = id.name, "a log goes on in the file that was moved away");
    }
}

fn is_long(path: &Path, max_bytes: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() >= max_bytes)
}

/// Whether the file was moved away and the engine has not begun a new one: it was not told, or did not hear.
fn is_away(path: &Path) -> bool {
    let missing = |path: &Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    missing(path) && !missing(&numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Older parts have higher numbers; the oldest goes.
fn move_away(path: &Path, max_files: u32) -> io::Result<()> {
    let numbered = |number: u32| numbered(path, number);
    // The engine writes to the file that was moved until it is told, so there is always an older one.
    let older = max_files.max(2) - 1;
    for number in (1..older).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_move_up_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        assert!(!is_away(&log), "there was none yet");
        for round in 0..5 {
            fs::write(&log, format!("{round}")).unwrap();
            assert!(is_long(&log, 1) && !is_long(&log, 2) && !is_away(&log));
            move_away(&log, 3).unwrap();
            assert!(is_away(&log));
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log.1", "0.log.2"]);
        assert_eq!(fs::read_to_string(dir.path().join("0.log.1")).unwrap(), "4");
    }
}
