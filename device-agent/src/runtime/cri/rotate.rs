//! Logs that rotate: the file is moved away and the engine told to begin a new one. How soon a log is looked at again follows
//! from how fast it grows, so that one that is written at full speed does not fill the disk between two looks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Cri;
use crate::runtime::ContainerId;
use crate::shim::identity::since_boot;

/// The longest pause between two looks at a log, as with a kubelet.
const CALM: Duration = Duration::from_secs(10);
/// The shortest.
const HASTE: Duration = Duration::from_millis(100);
/// How soon a log is looked at again of which it is not known how fast it grows.
const FIRST: Duration = Duration::from_secs(1);

/// What is known of how fast a log grows.
#[derive(Debug, Default)]
pub(super) struct Growth(Option<Length>);

/// How long a log was, and when.
#[derive(Debug, Clone, Copy)]
struct Length {
    bytes: u64,
    at: Duration,
}

impl Growth {
    /// How soon the log, which has so many bytes now and is begun anew if it has `max_bytes`, is to be looked at again.
    fn pause(&mut self, bytes: u64, now: Duration, max_bytes: u64) -> Duration {
        let left = if bytes >= max_bytes { max_bytes } else { max_bytes - bytes };
        let before = self.0.replace(Length { bytes: max_bytes - left, at: now });
        let Some(before) = before else { return FIRST };
        // One that is shorter was begun anew by somebody else.
        let grown = bytes.checked_sub(before.bytes).unwrap_or(bytes);
        let passed = now.saturating_sub(before.at).max(Duration::from_millis(1));
        let until_long = passed.as_secs_f64() * left as f64 / grown as f64;
        Duration::try_from_secs_f64(until_long).unwrap_or(CALM).clamp(HASTE, CALM)
    }
}

/// Begins a new log file if the present one is too long, and says how soon to look again. What fails is tried again then.
pub(super) async fn if_long(cri: &Cri, id: &ContainerId, engine_id: &str, growth: &mut Growth) -> Duration {
    let config = &cri.0.config;
    let path = cri.0.places.log(id);
    let (max_bytes, max_files) = (config.log_max_bytes, config.log_max_files);
    let looked = cri.blocking(move || {
        let bytes = length(&path);
        let due = bytes >= max_bytes && move_away(&path, max_files).is_ok() || is_away(&path);
        (bytes, due)
    });
    let (bytes, due) = looked.await;
    if due && let Err(error) = cri.0.client.reopen_container_log(engine_id).await {
        tracing::warn!(%error, container = id.name, "a log goes on in the file that was moved away");
    }
    growth.pause(bytes, since_boot(), max_bytes)
}

fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| if found.is_file() { found.len() } else { 0 })
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
    fn a_log_is_looked_at_again_when_it_may_have_become_long() {
        const MAX: u64 = 4_000_000;
        let mut growth = Growth::default();
        let mut pause = |bytes, seconds| growth.pause(bytes, Duration::from_secs(seconds), MAX);
        assert_eq!(pause(0, 100), FIRST);
        assert_eq!(pause(0, 101), CALM);
        assert_eq!(pause(1_000_000, 102), Duration::from_secs(3));
        assert_eq!(pause(1_000_010, 112), CALM, "it writes a line from time to time");
        assert_eq!(pause(400_000_000, 113), HASTE, "it was begun anew and writes at full speed");
        assert_eq!(pause(8_000_000, 114), Duration::from_millis(500));
        assert_eq!(pause(2_000_000, 115), Duration::from_secs(1));
        assert_eq!(pause(500_000, 116), Duration::from_secs(7), "somebody else has begun it anew");
    }

    #[test]
    fn files_move_up_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        assert!(!is_away(&log), "there was none yet");
        for round in 0..5 {
            fs::write(&log, format!("{round}")).unwrap();
            assert!(length(&log) == 1 && !is_away(&log));
            move_away(&log, 3).unwrap();
            assert!(is_away(&log));
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log.1", "0.log.2"]);
        assert_eq!(fs::read_to_string(dir.path().join("0.log.1")).unwrap(), "4");
    }
}
