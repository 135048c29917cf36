//! How often one address may connect: a token bucket for each, in bounded memory. Pure: `now` is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Addresses remembered at the same time. Beyond that the fullest, that is the most patient, are forgotten.
const ADDRESSES: usize = 4096;

/// Token buckets by address.
#[derive(Debug)]
pub(crate) struct ConnectRate {
    burst: f64,
    per_second: f64,
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl ConnectRate {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self { burst: f64::from(burst), per_second: f64::from(per_second), buckets: HashMap::new() }
    }

    /// Takes one token of the address; false if there is none.
    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= ADDRESSES && !self.buckets.contains_key(&address) {
            self.forget(now);
        }
        let (burst, per_second) = (self.burst, self.per_second);
        let bucket = self.buckets.entry(address).or_insert(Bucket { tokens: burst, at: now });
        *bucket = bucket.refilled(now, burst, per_second);
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }

    /// Makes room: full buckets say nothing; if all are in use, half of them go, fullest first.
    fn forget(&mut self, now: Instant) {
        let (burst, per_second) = (self.burst, self.per_second);
        self.buckets.retain(|_, bucket| bucket.refilled(now, burst, per_second).tokens < burst);
        if self.buckets.len() >= ADDRESSES {
            let mut levels: Vec<f64> =
                self.buckets.values().map(|b| b.refilled(now, burst, per_second).tokens).collect();
            levels.sort_by(f64::total_cmp);
            let middle = levels[levels.len() / 2];
            self.buckets.retain(|_, bucket| bucket.refilled(now, burst, per_second).tokens < middle);
        }
    }
}

impl Bucket {
    fn refilled(self, now: Instant, burst: f64, per_second: f64) -> Self {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        Self { tokens: (self.tokens + elapsed * per_second).min(burst), at: now.max(self.at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[expect(clippy::disallowed_methods, reason = "an origin for the times in the test")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    #[test]
    fn a_burst_then_a_rate_for_each_address_alone() {
        let (start, mut rate) = (origin(), ConnectRate::new(3, 2));
        for _ in 0..3 {
            assert!(rate.take(address(1), start));
        }
        assert!(!rate.take(address(1), start));
        assert!(rate.take(address(2), start), "one address paid for another");
        assert!(!rate.take(address(1), start + Duration::from_millis(499)));
        assert!(rate.take(address(1), start + Duration::from_millis(501)));
        assert!(!rate.take(address(1), start + Duration::from_millis(502)));
        let later = start + Duration::from_secs(3600);
        for _ in 0..3 {
            assert!(rate.take(address(1), later));
        }
        assert!(!rate.take(address(1), later), "an idle hour filled the bucket beyond its burst");
    }

    #[test]
    fn memory_is_bounded_and_offenders_are_remembered() {
        let (start, mut rate) = (origin(), ConnectRate::new(2, 1));
        assert!(rate.take(address(0), start));
        assert!(rate.take(address(0), start));
        for n in 1..20_000 {
            assert!(rate.take(address(n), start));
        }
        assert!(rate.buckets.len() <= ADDRESSES);
        assert!(!rate.take(address(0), start), "a crowd of addresses washed an offender clean");
    }
}
