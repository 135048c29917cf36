//! The queue of dirty keys of one controller.
//!
//! A key says "look again", never "do this": it is queued at most once, and when it becomes dirty while it is being
//! worked on, it is queued again afterwards. So a key is never worked on twice at the same time, and the queue holds at
//! most one entry per object of the cluster: that is its bound.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Clock;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Which keys are due. Pure: the time comes in.
#[derive(Debug)]
struct Schedule<T> {
    ready: VecDeque<T>,
    queued: BTreeSet<T>,
    running: BTreeSet<T>,
    dirty_while_running: BTreeSet<T>,
    later: BTreeMap<T, Instant>,
    failures: BTreeMap<T, u32>,
}

impl<T: Ord + Clone> Schedule<T> {
    fn add(&mut self, key: T) {
        if self.running.contains(&key) {
            self.dirty_while_running.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Looks at the key at `due`, or earlier if that was asked for before.
    fn add_at(&mut self, key: T, due: Instant) {
        let at = self.later.entry(key).or_insert(due);
        *at = (*at).min(due);
    }

    fn take(&mut self, now: Instant) -> Option<T> {
        let due: Vec<T> = self.later.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.later.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &T) {
        self.running.remove(key);
        if self.dirty_while_running.remove(key) {
            self.add(key.clone());
        }
    }

    fn succeeded(&mut self, key: &T) {
        self.failures.remove(key);
    }

    /// How long to wait before the next try: doubling from a tenth of a second to half a minute.
    fn failed(&mut self, key: &T) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LONGEST_RETRY);
        *failures = failures.saturating_add(1);
        wait
    }

    fn next_due(&self) -> Option<Instant> {
        self.later.values().min().copied()
    }
}

/// What the work on a key came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to do until something changes.
    Done,
    /// Look again after this time even if nothing changes.
    Again(Duration),
    /// Try again, waiting longer each time.
    Failed,
}

/// A [`Schedule`] that can be waited on.
#[derive(Debug)]
pub(crate) struct WorkQueue<T> {
    schedule: Mutex<Schedule<T>>,
    wake: Notify,
    clock: Clock,
}

impl<T: Ord + Clone> WorkQueue<T> {
    pub(crate) fn new(clock: Clock) -> Self {
        let schedule = Schedule {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            running: BTreeSet::new(),
            dirty_while_running: BTreeSet::new(),
            later: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        Self { schedule: Mutex::new(schedule), wake: Notify::new(), clock }
    }

    pub(crate) fn add(&self, key: T) {
        self.schedule().add(key);
        self.wake.notify_one();
    }

    pub(crate) fn add_all(&self, keys: impl IntoIterator<Item = T>) {
        for key in keys {
            self.add(key);
        }
    }

    /// The next key to work on. Cancel-safe: a key is taken only by the poll that returns it.
    pub(crate) async fn next(&self) -> T {
        loop {
            let due = {
                let mut schedule = self.schedule();
                if let Some(key) = schedule.take(self.clock.instant()) {
                    return key;
                }
                schedule.next_due()
            };
            // `notify_one` leaves a permit when nobody waits, so a key added between the look and the wait is not lost.
            match due {
                None => self.wake.notified().await,
                Some(due) => {
                    let _woken_or_due = tokio::time::timeout_at(due, self.wake.notified()).await;
                }
            }
        }
    }

    /// Returns a key that [`next`](Self::next) gave out.
    pub(crate) fn settle(&self, key: &T, outcome: Outcome) {
        let now = self.clock.instant();
        let mut schedule = self.schedule();
        match outcome {
            Outcome::Done => schedule.succeeded(key),
            Outcome::Again(wait) => {
                schedule.succeeded(key);
                schedule.add_at(key.clone(), now + wait);
            }
            Outcome::Failed => {
                let wait = schedule.failed(key);
                schedule.add_at(key.clone(), now + wait);
            }
        }
        schedule.done(key);
        drop(schedule);
        self.wake.notify_one();
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule<T>> {
        // No code runs under the lock that could panic and leave the sets at odds.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon<T>(queue: &WorkQueue<T>) -> Option<T>
    where
        T: Ord + Clone,
    {
        queue.schedule().take(queue.clock.instant())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once_and_never_worked_on_twice_at_a_time() {
        let queue = WorkQueue::new(Clock::Wall);
        queue.add_all(["a", "a", "b"]);
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(soon(&queue), None, "a is being worked on");
        queue.settle(&"a", Outcome::Done);
        assert_eq!(queue.next().await, "a", "it became dirty meanwhile");
        queue.settle(&"a", Outcome::Done);
        assert_eq!(soon(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_success_forgets_them() {
        let queue = WorkQueue::new(Clock::Wall);
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..12 {
            let before = Clock::Wall.instant();
            let key = queue.next().await;
            waits.push(Clock::Wall.instant() - before);
            queue.settle(&key, Outcome::Failed);
        }
        assert_eq!(waits[1..4], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits.last(), Some(&LONGEST_RETRY));
        let key = queue.next().await;
        queue.settle(&key, Outcome::Again(Duration::from_secs(7)));
        let before = Clock::Wall.instant();
        let key = queue.next().await;
        assert_eq!(Clock::Wall.instant() - before, Duration::from_secs(7));
        queue.settle(&key, Outcome::Failed);
        let before = Clock::Wall.instant();
        queue.next().await;
        assert_eq!(Clock::Wall.instant() - before, FIRST_RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_wish_wins_and_a_change_comes_before_it() {
        let queue = WorkQueue::new(Clock::Wall);
        let now = Clock::Wall.instant();
        queue.schedule().add_at("a", now + Duration::from_secs(60));
        queue.schedule().add_at("a", now + Duration::from_secs(10));
        queue.schedule().add_at("a", now + Duration::from_secs(90));
        assert_eq!(queue.next().await, "a");
        assert_eq!(Clock::Wall.instant() - now, Duration::from_secs(10));
    }
}
