//! A queue of keys that want attention: each key is in it at most once, is worked on by at most one job at a time, and
//! comes back later when its job failed.
//!
//! Pure: time and jitter come in as arguments. The task that owns a queue asks it what to start ([`DirtyQueue::take`]),
//! says how it went ([`DirtyQueue::finish`]), and sleeps until [`DirtyQueue::next_due`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How long to wait after failures: doubling from `base` to `max`, spread by jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// At most.
    pub max: Duration,
}

impl Backoff {
    /// The pause after this many failures in a row, between three quarters of the nominal pause and all of it.
    pub(crate) fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let nominal = self.base.saturating_mul(1 << doublings).min(self.max);
        nominal.mul_f64(0.75 + 0.25 * jitter)
    }
}

/// For how many ready keys there is room at all times.
const KEPT: usize = 64;

/// How the work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Nothing more to do until the key is marked again.
    Settled,
    /// Look again then.
    Again(Instant),
    /// Try again after the back-off.
    Failed,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct DirtyQueue<K> {
    entries: HashMap<K, Entry>,
    ready: VecDeque<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    running: usize,
    limit: usize,
    backoff: Backoff,
    sequence: u64,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    failures: u32,
}

#[derive(Debug)]
enum Place {
    Ready,
    Delayed {
        slot: (Instant, u64),
    },
    Running {
        /// It was marked meanwhile; `Urgent` does not even wait for the back-off.
        marked: Option<Urgency>,
        /// It is to be looked at again then.
        at: Option<Instant>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Patient,
    Urgent,
}

impl<K: Clone + Eq + Hash> DirtyQueue<K> {
    /// At most `limit` keys are worked on at once.
    pub(crate) fn new(limit: usize, backoff: Backoff) -> Self {
        Self {
            entries: HashMap::new(),
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            running: 0,
            limit: limit.max(1),
            backoff,
            sequence: 0,
        }
    }

    /// The key wants attention now, even if its last attempts failed: the facts have changed.
    pub(crate) fn mark_now(&mut self, key: K) {
        self.mark_with(key, Urgency::Urgent);
    }

    /// The key wants attention, but a back-off after failures is respected: there is only more of the same to do.
    pub(crate) fn mark(&mut self, key: K) {
        self.mark_with(key, Urgency::Patient);
    }

    fn mark_with(&mut self, key: K, urgency: Urgency) {
        match self.entries.get_mut(&key) {
            None => {
                self.entries.insert(key.clone(), Entry { place: Place::Ready, failures: 0 });
                self.ready.push_back(key);
            }
            Some(Entry { place: Place::Ready, .. }) => {}
            Some(Entry { place: Place::Running { marked, .. }, .. }) => *marked = (*marked).max(Some(urgency)),
            Some(entry @ Entry { place: Place::Delayed { .. }, .. }) => {
                if urgency == Urgency::Patient && entry.failures > 0 {
                    return;
                }
                if let Place::Delayed { slot } = std::mem::replace(&mut entry.place, Place::Ready) {
                    self.delayed.remove(&slot);
                }
                self.ready.push_back(key);
            }
        }
    }

    /// The key wants attention at `due`, or earlier if it is marked.
    pub(crate) fn mark_at(&mut self, key: K, due: Instant) {
        match self.entries.get_mut(&key) {
            None => self.delay(key, due, 0),
            Some(Entry { place: Place::Ready, .. }) => {}
            Some(Entry { place: Place::Running { at, .. }, .. }) => *at = Some(at.map_or(due, |at| at.min(due))),
            Some(Entry { place: Place::Delayed { slot }, failures }) => {
                if due < slot.0 && *failures == 0 {
                    let old = *slot;
                    self.delayed.remove(&old);
                    self.delay(key, due, 0);
                }
            }
        }
    }

    /// The next key to work on, if any is ready and the limit allows. It is running until [`finish`](Self::finish).
    pub(crate) fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(first) = self.delayed.first_entry() {
            if first.key().0 > now {
                break;
            }
            let key = first.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::Ready;
                self.ready.push_back(key);
            }
        }
        if self.running >= self.limit {
            return None;
        }
        let key = self.ready.pop_front()?;
        // What a burst over all keys has needed is not kept for the next one.
        if self.ready.is_empty() && self.ready.capacity() > KEPT {
            self.ready.shrink_to(KEPT);
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::Running { marked: None, at: None };
            self.running += 1;
        }
        Some(key)
    }

    /// The work on `key` has ended.
    pub(crate) fn finish(&mut self, key: K, finish: Finish, now: Instant, jitter: f64) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Place::Running { marked, at } = entry.place else { return };
        self.running -= 1;
        let failures = if finish == Finish::Failed { entry.failures.saturating_add(1) } else { 0 };
        let next = match (finish, marked) {
            (_, Some(Urgency::Urgent)) | (Finish::Settled | Finish::Again(_), Some(_)) => None,
            (Finish::Settled, None) => match at {
                Some(at) => Some(at),
                None => {
                    self.entries.remove(&key);
                    return;
                }
            },
            (Finish::Again(due), None) => Some(at.map_or(due, |at| at.min(due))),
            (Finish::Failed, _) => Some(now + self.backoff.delay(failures, jitter)),
        };
        match next {
            Some(due) => self.delay(key, due, failures),
            None => {
                entry.place = Place::Ready;
                entry.failures = failures;
                self.ready.push_back(key);
            }
        }
    }

    fn delay(&mut self, key: K, due: Instant, failures: u32) {
        self.sequence += 1;
        let slot = (due, self.sequence);
        self.delayed.insert(slot, key.clone());
        self.entries.insert(key, Entry { place: Place::Delayed { slot }, failures });
    }

    /// When [`take`](Self::take) will have something new without anybody marking anything.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.keys().next().map(|slot| slot.0)
    }

    /// Forgets a key that is not running; a running one is forgotten when it finishes unmarked.
    pub(crate) fn remove(&mut self, key: &K) {
        match self.entries.get_mut(key) {
            Some(Entry { place: Place::Running { marked, at }, .. }) => (*marked, *at) = (None, None),
            Some(Entry { place: Place::Delayed { slot }, .. }) => {
                self.delayed.remove(slot);
                self.entries.remove(key);
            }
            Some(Entry { place: Place::Ready, .. }) => {
                self.ready.retain(|ready| ready != key);
                self.entries.remove(key);
            }
            None => {}
        }
    }

    /// How often the key has failed in a row.
    pub(crate) fn failures(&self, key: &K) -> u32 {
        self.entries.get(key).map_or(0, |entry| entry.failures)
    }

    /// How many keys wait for a free hand.
    pub(crate) fn depth(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to begin from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_key_is_queued_once_and_worked_on_by_one() {
        let (mut q, t) = (DirtyQueue::new(8, BACKOFF), start());
        q.mark("a");
        q.mark("a");
        q.mark_now("a");
        assert_eq!(q.take(t), Some("a"));
        assert_eq!(q.take(t), None);
        q.mark("a");
        assert_eq!(q.take(t), None, "running: not handed out twice");
        q.finish("a", Finish::Settled, t, 1.0);
        assert_eq!(q.take(t), Some("a"), "marked while running: runs again");
        q.finish("a", Finish::Settled, t, 1.0);
        assert_eq!(q.take(t), None);
        assert_eq!(q.next_due(), None);
        assert!(q.entries.is_empty(), "a settled key costs nothing");
    }

    #[test]
    fn at_most_the_limit_runs() {
        let (mut q, t) = (DirtyQueue::new(2, BACKOFF), start());
        for key in ["a", "b", "c"] {
            q.mark(key);
        }
        assert_eq!((q.take(t), q.take(t), q.take(t)), (Some("a"), Some("b"), None));
        assert_eq!((q.depth(), q.running), (1, 2));
        q.finish("a", Finish::Settled, t, 1.0);
        assert_eq!(q.take(t), Some("c"));
    }

    #[test]
    fn failures_back_off_doubling_up_to_the_maximum() {
        let (mut q, mut t) = (DirtyQueue::new(1, BACKOFF), start());
        q.mark("a");
        let mut pauses = Vec::new();
        for _ in 0..11 {
            assert_eq!(q.take(t), Some("a"));
            q.finish("a", Finish::Failed, t, 1.0);
            assert_eq!(q.take(t), None);
            let due = q.next_due().unwrap();
            pauses.push((due - t).as_secs());
            t = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(q.take(t), Some("a"));
        q.finish("a", Finish::Again(t + secs(7)), t, 1.0);
        assert_eq!(q.failures(&"a"), 0, "success resets the back-off");
        assert_eq!(q.next_due(), Some(t + secs(7)));
    }

    #[test]
    fn more_of_the_same_respects_the_back_off_and_changed_facts_do_not() {
        let (mut q, t) = (DirtyQueue::new(1, BACKOFF), start());
        q.mark("a");
        q.take(t);
        q.mark("a");
        q.finish("a", Finish::Failed, t, 1.0);
        q.mark("a");
        assert_eq!(q.take(t), None);
        q.mark_now("a");
        assert_eq!(q.take(t), Some("a"));
        q.mark_now("a");
        q.finish("a", Finish::Failed, t, 1.0);
        assert_eq!(q.take(t), Some("a"), "changed while running");
    }

    #[test]
    fn the_earlier_of_two_times_wins() {
        let (mut q, t) = (DirtyQueue::new(1, BACKOFF), start());
        q.mark_at("a", t + secs(9));
        q.mark_at("a", t + secs(5));
        q.mark_at("a", t + secs(7));
        assert_eq!(q.next_due(), Some(t + secs(5)));
        assert_eq!(q.take(t + secs(4)), None);
        assert_eq!(q.take(t + secs(5)), Some("a"));
        q.mark_at("a", t + secs(6));
        q.finish("a", Finish::Settled, t + secs(5), 1.0);
        assert_eq!(q.next_due(), Some(t + secs(6)), "asked for while running");
    }

    #[test]
    fn a_removed_key_does_not_come_back() {
        let (mut q, t) = (DirtyQueue::new(3, BACKOFF), start());
        q.mark("ready");
        q.mark_at("delayed", t + secs(1));
        q.remove(&"ready");
        q.remove(&"delayed");
        assert_eq!(q.take(t + secs(2)), None);
        q.mark("running");
        q.take(t);
        q.mark("running");
        q.remove(&"running");
        q.finish("running", Finish::Settled, t, 1.0);
        assert_eq!(q.take(t + secs(2)), None);
        assert_eq!(q.running, 0);
    }
}
