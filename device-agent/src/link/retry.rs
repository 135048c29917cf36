//! Waiting longer after each failure, and never all at once: doubling with full jitter. Pure.

/// How long to wait before attempt `attempt` (0: the first repetition): uniformly up to `first` doubled as often, at most
/// `last`, and at least a tenth of that bound, so that bad luck makes no storm.
pub(crate) fn back_off(first: u64, last: u64, attempt: u32, jitter: u64) -> u64 {
    let bound = first.saturating_mul(1 << attempt.min(20)).min(last);
    let least = bound / 10;
    least + jitter % (bound - least + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_stays_within() {
        for attempt in 0..40 {
            let bound = (1000_u64 << attempt.min(20)).min(60_000);
            for jitter in [0, 1, 77, u64::MAX / 3, u64::MAX] {
                let wait = back_off(1000, 60_000, attempt, jitter);
                assert!((bound / 10..=bound).contains(&wait), "{attempt} {jitter} {wait}");
            }
        }
    }
}
