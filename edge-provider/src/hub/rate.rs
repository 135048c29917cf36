//! A bucket of tokens: so many at once, so many per time afterwards. Pure.

use std::time::Duration;

/// How much a bucket holds, and how fast it fills.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// One more after each of these.
    pub every: Duration,
}

/// The bucket: the time at which it will be full again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// Takes one, if there is one.
    pub fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + rate.every;
        if full_at > now + rate.every * rate.burst {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let rate = Rate { burst: 3, every: Duration::from_secs(2) };
        let mut bucket = Bucket::default();
        let at = Duration::from_secs;
        assert_eq!(
            [0, 0, 0, 0, 1, 2, 2].map(|s| bucket.take(rate, at(100 + s))),
            [true, true, true, false, false, true, false]
        );
        assert_eq!([0, 0, 0, 0].map(|s| bucket.take(rate, at(200 + s))), [true, true, true, false]);
    }
}
