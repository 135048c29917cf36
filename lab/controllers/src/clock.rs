//! Where the controllers get the time of day from.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The clock of all controllers in a process. Plans never read it: they are given `now`.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// The wall clock of the machine.
    #[default]
    Wall,
    /// A wall clock that starts at `epoch` and moves with tokio's clock, so a paused runtime pauses it too.
    Tokio {
        /// The time of day at `started`.
        epoch: Timestamp,
        /// The moment of tokio's clock that `epoch` belongs to.
        started: Instant,
    },
}

impl Clock {
    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place where the controllers read the wall clock")]
            Self::Wall => Timestamp::now(),
            Self::Tokio { epoch, started } => {
                let elapsed = SignedDuration::try_from(started.elapsed()).unwrap_or(SignedDuration::MAX);
                epoch.checked_add(elapsed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// The monotonic clock that waits are measured with.
    pub(crate) fn instant(&self) -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the one place where the controllers read tokio's clock")]
        Instant::now()
    }
}

/// Time from `then` to `now`, zero when `then` lies in the future (clocks of different machines).
pub(crate) fn elapsed(then: Timestamp, now: Timestamp) -> std::time::Duration {
    now.duration_since(then).try_into().unwrap_or(std::time::Duration::ZERO)
}

/// Seconds after `then`, saturating at the end of time.
pub(crate) fn after_seconds(then: Timestamp, seconds: i64) -> Timestamp {
    then.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// How long to wait from `now` until `due`; zero when it has passed.
pub(crate) fn until(due: Timestamp, now: Timestamp) -> std::time::Duration {
    elapsed(now, due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_moves_only_with_the_runtime() {
        let clock = Clock::Tokio { epoch: Timestamp::UNIX_EPOCH, started: Clock::Wall.instant() };
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        tokio::time::advance(std::time::Duration::from_secs(90)).await;
        assert_eq!(clock.now(), after_seconds(Timestamp::UNIX_EPOCH, 90));
    }

    #[test]
    fn a_moment_in_the_future_has_not_elapsed() {
        let later = after_seconds(Timestamp::UNIX_EPOCH, 10);
        assert_eq!(elapsed(later, Timestamp::UNIX_EPOCH), std::time::Duration::ZERO);
        assert_eq!(until(later, Timestamp::UNIX_EPOCH), std::time::Duration::from_secs(10));
    }
}
