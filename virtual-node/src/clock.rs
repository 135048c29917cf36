//! The only place of this library that reads a clock or draws a random number.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// The monotonic time that queues and timers run on (tokio's, so that tests can pause it).
#[expect(clippy::disallowed_methods, reason = "the IO edge: handed as an argument to everything that decides")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// The time that is written into objects.
#[expect(clippy::disallowed_methods, reason = "the IO edge: handed as an argument to everything that decides")]
pub(crate) fn wall() -> Timestamp {
    Timestamp::now()
}

/// A fraction in `0.0..1.0`, so that what many do at once spreads out.
pub(crate) fn jitter() -> f64 {
    // Without entropy the middle is as good as any: jitter spreads load, nothing depends on it.
    getrandom::u32().map_or(0.5, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}

/// `span`, give or take a tenth.
pub(crate) fn about(span: Duration, jitter: f64) -> Duration {
    span.mul_f64(0.9 + 0.2 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_range() {
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&jitter()));
        }
        assert_eq!(about(Duration::from_secs(10), 0.0), Duration::from_secs(9));
        assert_eq!(about(Duration::from_secs(10), 1.0), Duration::from_secs(11));
    }
}
