//! What keeping a container's log may cost of the uplink of its device. Pure.

use std::time::Duration;

/// In which time as many bytes come back as are kept.
const REFILL: Duration = Duration::from_secs(60);

/// So many bytes a minute, and twice as many at once.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    level: u64,
    at: Duration,
}

impl Budget {
    pub(super) fn new(bytes: u64, now: Duration) -> Self {
        Self { bytes, level: 2 * bytes, at: now }
    }

    /// Until when to wait before so much as is kept may be read at once; `None`: it may.
    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.refill(now);
        let lacking = self.bytes.saturating_sub(self.level);
        (lacking > 0).then(|| now + duration(lacking, self.bytes))
    }

    /// So many bytes were read.
    pub(super) fn spend(&mut self, bytes: u64, now: Duration) {
        self.refill(now);
        self.level = self.level.saturating_sub(bytes);
    }

    fn refill(&mut self, now: Duration) {
        let came = now.saturating_sub(self.at).as_millis() * u128::from(self.bytes) / REFILL.as_millis();
        let came = u64::try_from(came).unwrap_or(u64::MAX);
        // Small steps are not lost to rounding: time passes only when something has come.
        if came > 0 {
            self.level = self.level.saturating_add(came).min(2 * self.bytes);
            self.at = now;
        }
    }
}

/// In which time so many bytes come back. A little more, so that they have come then.
fn duration(lacking: u64, bytes: u64) -> Duration {
    let millis = u128::from(lacking) * REFILL.as_millis() / u128::from(bytes.max(1)) + 1;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_at_once_then_once_a_minute() {
        let at = Duration::from_secs;
        let mut budget = Budget::new(6_000, at(5));
        for _ in 0..2 {
            assert_eq!(budget.wait(at(5)), None);
            budget.spend(6_000, at(5));
        }
        let until = budget.wait(at(5)).unwrap();
        assert!(until > at(65) && until < at(66), "{until:?}");
        assert!(budget.wait(at(35)).unwrap() > at(65));
        assert_eq!(budget.wait(until), None);
        // Whoever reads little waits for nothing.
        budget.spend(100, until);
        assert_eq!(budget.wait(until + at(1)), None);
        assert_eq!(budget.wait(at(10_000)), None);
        assert_eq!(budget.level, 12_000, "and saves up nothing");
    }
}
