//! Which process is meant. A pid alone is not enough: it is used again.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// A process, told apart from every other one that had or will have its pid in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub(crate) start: u64,
}

impl Identity {
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let stat = Stat::read(pid.as_raw_nonzero().get())?;
        Ok(Self { pid: stat.pid, start: stat.start })
    }

    /// Whether this very process exists; a zombie does.
    pub(crate) fn exists(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.start == self.start)
    }

    /// Whether its pid is another process's now.
    pub(crate) fn is_replaced(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.start != self.start)
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }
}

/// What `/proc/<pid>/stat` says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) start: u64,
    /// It has ended, and its parent has not asked yet.
    pub(crate) zombie: bool,
    /// The processor time it has used, in the kernel's ticks, and that of its children that it has waited for.
    pub(crate) ticks: u64,
    pub(crate) waited_ticks: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(pid, &text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as expected")))
    }

    /// The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    fn parse(pid: i32, text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
        // state ppid pgrp session tty_nr tpgid flags minflt cminflt majflt cmajflt utime stime cutime cstime priority
        // nice num_threads itrealvalue starttime
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: number(19)?,
            ticks: number(11)?.saturating_add(number(12)?),
            waited_ticks: number(13)?.saturating_add(number(14)?),
            zombie: matches!(*fields.first()?, "Z" | "X"),
        })
    }

    /// All processes that can be seen.
    pub(crate) fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // A process may end while the list is read.
        pids.filter_map(|pid| Self::read(pid).ok()).collect()
    }
}

/// The name of this boot of the kernel.
pub(crate) fn boot_id() -> String {
    // Without /proc nothing here works at all; an empty name then at least never changes.
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Time since boot, suspended time included.
pub(crate) fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        let text = b"42 (a) R 1 (b) c) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        let expected = Stat {
            pid: 42,
            parent: 7,
            group: 42,
            session: 40,
            start: 98765,
            zombie: false,
            ticks: 11,
            waited_ticks: 15,
        };
        assert_eq!(Stat::parse(42, text), Some(expected));
        assert_eq!(Stat::parse(42, b"42 (x) S 7"), None);
        assert_eq!(Stat::parse(42, b""), None);
    }

    #[test]
    fn a_process_is_known_by_its_start_as_well() {
        let own = Identity::of(rustix::process::getpid()).unwrap();
        assert!(own.exists());
        assert!(!Identity { start: own.start + 1, ..own }.exists());
    }
}
