//! All that is kept, within bounds. Pure.

use std::collections::HashMap;

use super::lines::Lines;
use super::{KeepLogs, Key};

/// Of each container, its present run and the one before.
const RUNS: usize = 2;
/// How much of a line makes it known: its time, with nanoseconds.
const KNOWN_BY: usize = 30;

/// The last lines of the logs of containers.
///
/// All together they stay below the total: as containers become more, the share of each is halved until all fit. Containers
/// for which not even the least is left are not kept.
#[derive(Debug)]
pub(crate) struct Shelf {
    keep: KeepLogs,
    /// What each run may have at present.
    share: usize,
    logs: HashMap<Key, Log>,
    used: usize,
}

/// What is kept of one container.
#[derive(Debug, Default)]
struct Log {
    now: Run,
    before: Option<Run>,
    /// The container waits to be started again.
    waits: bool,
}

/// What is kept of one run.
#[derive(Debug, Default)]
struct Run {
    lines: Lines,
    /// The log was opened. Nothing may have been written to it.
    known: bool,
    ended: bool,
    /// How far the device's wall clock, by which the lines are stamped, is ahead of ours, in milliseconds.
    ahead: i64,
}

/// A copy of what is kept of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ahead: i64,
}

/// Of the container something is kept, and nothing of a previous run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoPrevious;

/// How what comes next is related to what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// It follows.
    GoesOn,
    /// It is of the same run, and something between is missing.
    Later,
    /// It is of another run, or of one that was kept to its end and is read once more.
    Anew,
}

impl Shelf {
    pub(crate) fn new(keep: KeepLogs) -> Self {
        Self { keep, share: keep.per_container, logs: HashMap::new(), used: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.logs.len()
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Makes room for one more. `false`: there is none.
    pub(super) fn add(&mut self, key: &Key) -> bool {
        if self.logs.contains_key(key) {
            return true;
        }
        let runs = RUNS * (self.logs.len() + 1);
        let mut share = self.share;
        while share * runs > self.keep.total {
            share /= 2;
        }
        if share < KeepLogs::LEAST.min(self.keep.per_container) {
            return false;
        }
        if share < self.share {
            self.share = share;
            let runs = self.logs.values_mut().flat_map(|log| log.before.iter_mut().chain([&mut log.now]));
            runs.for_each(|run| run.lines.fit(share));
            self.used = self.logs.values().map(Log::len).sum();
        }
        self.logs.insert(key.clone(), Log::default());
        true
    }

    /// The container is no more.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(log) = self.logs.remove(key) {
            self.used -= log.len();
        }
        let runs = RUNS * self.logs.len().max(1);
        // Only when there is plenty: what is halved and doubled with each pod that comes and goes helps nobody.
        if self.share < self.keep.per_container && self.share * runs * 4 <= self.keep.total {
            self.share = (self.share * 2).min(self.keep.per_container);
        }
    }

    /// Its log was opened.
    pub(super) fn open(&mut self, key: &Key, opened: Opened, ahead: i64) {
        self.change(key, |log, _| {
            match opened {
                Opened::GoesOn => {}
                Opened::Later => log.now.lines.clear(),
                Opened::Anew if log.now.known => log.before = Some(std::mem::take(&mut log.now)),
                Opened::Anew => {}
            }
            (log.now.known, log.now.ended, log.now.ahead) = (true, false, ahead);
        });
    }

    /// This came of its log.
    pub(super) fn push(&mut self, key: &Key, piece: &[u8]) {
        self.change(key, |log, share| {
            let beginning = &piece[..piece.len().min(KNOWN_BY)];
            // What was taken for another run is the same one, read again from its end.
            if log.now.lines.len() == 0 && log.before.as_ref().is_some_and(|before| before.lines.has_line(beginning)) {
                log.before = None;
            }
            log.now.lines.push(piece, share);
        });
    }

    /// The run has ended.
    pub(super) fn end(&mut self, key: &Key) {
        self.change(key, |log, _| log.now.ended = true);
    }

    /// Whether the container waits to be started again.
    pub(super) fn waits(&mut self, key: &Key, waits: bool) {
        self.change(key, |log, _| log.waits = waits);
    }

    /// What is kept of a container's run, or of the one before. `None`: nothing is known of the container.
    pub(super) fn view(&self, key: &Key, previous: bool) -> Option<Result<View, NoPrevious>> {
        let log = self.logs.get(key).filter(|log| log.now.known)?;
        // As for a kubelet, the previous run of a container that waits to be started again is the one that has ended.
        let run = if previous && !(log.waits && log.now.ended) { log.before.as_ref() } else { Some(&log.now) };
        Some(run.map(|run| View { bytes: run.lines.to_vec(), ahead: run.ahead }).ok_or(NoPrevious))
    }

    fn change(&mut self, key: &Key, act: impl FnOnce(&mut Log, usize)) {
        // A container that has gone meanwhile has nothing to change.
        let Some(log) = self.logs.get_mut(key) else { return };
        let before = log.len();
        act(log, self.share);
        self.used = self.used - before + log.len();
    }
}

impl Log {
    fn len(&self) -> usize {
        self.now.lines.len() + self.before.as_ref().map_or(0, |before| before.lines.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::{DeviceId, PodUid};

    fn key(container: &str) -> Key {
        let (device, pod) = (DeviceId::new("pi").unwrap(), PodUid::new("u").unwrap());
        Key { device, pod, container: container.to_owned() }
    }

    fn shelf(per_container: usize, total: usize) -> Shelf {
        Shelf::new(KeepLogs { per_container, total })
    }

    fn text(shelf: &Shelf, previous: bool) -> Option<Result<String, NoPrevious>> {
        let view = shelf.view(&key("c"), previous)?;
        Some(view.map(|view| String::from_utf8(view.bytes).unwrap()))
    }

    #[test]
    fn a_run_is_kept_and_the_one_before() {
        let mut shelf = shelf(4096, 1 << 20);
        assert!(shelf.add(&key("c")));
        assert_eq!(text(&shelf, false), None, "nothing was heard of it");
        shelf.open(&key("c"), Opened::Anew, 7);
        assert_eq!((text(&shelf, false), text(&shelf, true)), (Some(Ok(String::new())), Some(Err(NoPrevious))));
        shelf.push(&key("c"), b"2026-01-01T00:00:00.000000001Z one\n");
        shelf.open(&key("c"), Opened::GoesOn, 7);
        shelf.push(&key("c"), b"2026-01-01T00:00:00.000000002Z two\n");
        assert_eq!(shelf.used(), 70);
        assert_eq!(shelf.view(&key("c"), false).unwrap().unwrap().ahead, 7);

        // It crashes, and waits: the previous run is this one.
        shelf.end(&key("c"));
        assert_eq!(text(&shelf, true), Some(Err(NoPrevious)));
        shelf.waits(&key("c"), true);
        assert_eq!(text(&shelf, true), text(&shelf, false));
        shelf.waits(&key("c"), false);
        shelf.open(&key("c"), Opened::Anew, 0);
        assert_eq!(text(&shelf, false), Some(Ok(String::new())), "it has said nothing yet");
        assert!(text(&shelf, true).unwrap().unwrap().ends_with("two\n"));
        shelf.push(&key("c"), b"2026-01-01T00:00:01.000000001Z three\n");
        assert!(text(&shelf, true).unwrap().unwrap().ends_with("two\n"));

        // Something is missing in between: only what is without a gap is kept.
        shelf.open(&key("c"), Opened::Later, 0);
        shelf.push(&key("c"), b"2026-01-01T00:00:02.000000001Z four\n");
        assert_eq!(text(&shelf, false), Some(Ok("2026-01-01T00:00:02.000000001Z four\n".to_owned())));
        shelf.remove(&key("c"));
        assert_eq!((text(&shelf, false), shelf.used(), shelf.len()), (None, 0, 0));
    }

    #[test]
    fn a_run_that_is_read_twice_is_not_its_own_predecessor() {
        let mut shelf = shelf(4096, 1 << 20);
        shelf.add(&key("c"));
        for _ in 0..2 {
            shelf.open(&key("c"), Opened::Anew, 0);
            shelf.push(&key("c"), b"2026-01-01T00:00:00.000000001Z one\n");
            shelf.end(&key("c"));
        }
        assert_eq!((text(&shelf, true), shelf.used()), (Some(Err(NoPrevious)), 35));
    }

    #[test]
    fn the_total_is_shared_out_and_never_exceeded() {
        let mut shelf = shelf(4096, 64 * 1024);
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let mut kept = 0;
        for number in 0..100 {
            let key = key(&number.to_string());
            kept += usize::from(shelf.add(&key));
            for _ in 0..2 {
                shelf.open(&key, Opened::Anew, 0);
                for _ in 0..6 {
                    shelf.push(&key, &line);
                    assert!(shelf.used() <= 64 * 1024);
                }
            }
        }
        assert_eq!((kept, shelf.len(), shelf.share), (32, 32, 1024), "for the others not even the least is left");
        assert_eq!(shelf.used(), 64 * 1024 - 32 * 1024, "a run that is taken for the same one leaves its place");
        for number in 0..30 {
            shelf.remove(&key(&number.to_string()));
        }
        assert_eq!(shelf.share, 4096, "and who stays has more again");
    }
}
