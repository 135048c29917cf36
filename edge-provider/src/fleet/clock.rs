//! What time it was here when something happened on a device.
//!
//! A device stamps everything with its own timeline, which only grows. Each heartbeat yields one sample of the distance
//! to our clock, too large by the time the message travelled; the smallest of several minutes is the best estimate. The
//! mapping is a list of segments: what was mapped once is mapped the same way for ever, so that a slowly drifting
//! crystal does not rewrite the start times of running containers.

use std::time::Duration;

use hawser_wire::report::Heartbeat;
use hawser_wire::{BootId, DeviceTime};
use jiff::Timestamp;

/// Now, on both of our clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Since the bridge started; never goes back. All waiting is measured on it.
    pub mono: Duration,
    /// The wall clock. Only ever shown.
    pub wall: Timestamp,
}

/// A smaller deviation than this changes nothing.
const TOLERANCE_MILLIS: i64 = 500;
/// How long samples count, and how long a segment may still be corrected in place.
const SETTLING: Duration = Duration::from_secs(600);
/// How many segments are kept. A crystal that is off by 100 ppm makes one every hour and a half.
const MAX_SEGMENTS: usize = 32;
/// A timeline beyond this (the year 10000 in milliseconds) is nonsense.
const MAX_MILLIS: u64 = 253_402_300_800_000;

/// The mapping from one device's timeline to ours.
#[derive(Debug, Default)]
pub struct DeviceClock {
    segments: Vec<Segment>,
    boot: Option<BootId>,
    /// The newest time of the device that a heartbeat carried.
    heard: DeviceTime,
    /// The smallest sample of the current period and of the one before.
    smallest: [Option<i64>; 2],
    period_since: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    from: DeviceTime,
    offset: i64,
    since: Duration,
}

impl DeviceClock {
    /// Takes the sample that a heartbeat carries. Answers how far the device's wall clock is ahead of ours, in
    /// milliseconds, compared at the same instant; `None` if the heartbeat's time is nonsense.
    pub fn sample(&mut self, heartbeat: &Heartbeat, now: Moment) -> Option<i64> {
        let time = millis(heartbeat.now)?;
        let wall = i64::try_from(heartbeat.wall_millis.min(MAX_MILLIS)).ok()?;
        let sample = now.wall.as_millisecond() - time;
        if self.boot != Some(heartbeat.boot) {
            self.start_boot(heartbeat, sample, now);
        } else {
            self.refine(heartbeat.now, sample, now);
        }
        self.heard = self.heard.max(heartbeat.now);
        self.offset_at(heartbeat.now).map(|offset| wall - (time + offset))
    }

    /// Whether a heartbeat has been heard.
    pub fn is_set(&self) -> bool {
        !self.segments.is_empty()
    }

    /// When it was here, to the second.
    pub fn to_timestamp(&self, time: DeviceTime) -> Option<Timestamp> {
        Timestamp::from_second(self.to_millis(time)?.div_euclid(1000)).ok()
    }

    /// When it was here, as exactly as the device says it: for what is put in order.
    pub fn to_exact(&self, time: DeviceTime) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.to_millis(time)?).ok()
    }

    fn to_millis(&self, time: DeviceTime) -> Option<i64> {
        millis(time)?.checked_add(self.offset_at(time)?)
    }

    /// When it was there.
    pub fn to_device(&self, when: Timestamp) -> Option<DeviceTime> {
        let time = |segment: &Segment| u64::try_from(when.as_millisecond() - segment.offset).unwrap_or(0);
        let within = self.segments.iter().rev().find(|segment| DeviceTime(time(segment)) >= segment.from);
        within.or(self.segments.first()).map(|segment| DeviceTime(time(segment)))
    }

    fn start_boot(&mut self, heartbeat: &Heartbeat, sample: i64, now: Moment) {
        // The timeline stood still while the device was off: what lies before belongs to the boot before.
        let from = if self.is_set() { DeviceTime(self.heard.0 + 1) } else { DeviceTime(0) };
        self.boot = Some(heartbeat.boot);
        self.smallest = [Some(sample), None];
        self.period_since = now.mono;
        self.push(Segment { from, offset: sample, since: now.mono });
    }

    fn refine(&mut self, time: DeviceTime, sample: i64, now: Moment) {
        if now.mono.saturating_sub(self.period_since) >= SETTLING {
            self.smallest = [Some(sample), self.smallest[0]];
            self.period_since = now.mono;
        } else {
            self.smallest[0] = Some(self.smallest[0].map_or(sample, |smallest| smallest.min(sample)));
        }
        let (Some(best), Some(segment)) = (self.smallest.iter().flatten().min().copied(), self.segments.last_mut())
        else {
            return;
        };
        let deviation = best - segment.offset;
        if deviation.abs() <= TOLERANCE_MILLIS {
            return;
        }
        // The first samples may have travelled long: a better one soon after corrects them. Later it is drift.
        if deviation < 0 && now.mono.saturating_sub(segment.since) < SETTLING {
            segment.offset = best;
        } else if time > segment.from {
            self.push(Segment { from: time, offset: best, since: now.mono });
        }
    }

    fn push(&mut self, segment: Segment) {
        if self.segments.len() == MAX_SEGMENTS {
            // The oldest stays: what has run the longest is looked at the most.
            self.segments.remove(1);
        }
        // Most devices never need a second one.
        if self.segments.is_empty() {
            self.segments.reserve_exact(1);
        }
        self.segments.push(segment);
    }

    fn offset_at(&self, time: DeviceTime) -> Option<i64> {
        let segment = self.segments.iter().rev().find(|segment| segment.from <= time).or(self.segments.first())?;
        Some(segment.offset)
    }
}

fn millis(time: DeviceTime) -> Option<i64> {
    if time.0 > MAX_MILLIS { None } else { i64::try_from(time.0).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: i64 = 1_790_000_000_000;

    fn at(millis: u64) -> Moment {
        Moment {
            mono: Duration::from_millis(millis),
            wall: Timestamp::from_millisecond(EPOCH + millis as i64).unwrap(),
        }
    }

    fn beat(boot: u8, now: u64, wall: i64) -> Heartbeat {
        Heartbeat {
            boot: BootId([boot; 8]),
            now: DeviceTime(now),
            wall_millis: wall as u64,
            digest: None,
            answers: None,
        }
    }

    #[test]
    fn before_the_first_heartbeat_nothing_is_known() {
        assert_eq!(DeviceClock::default().to_timestamp(DeviceTime(5)), None);
    }

    #[test]
    fn a_better_sample_soon_after_corrects_the_first_one() {
        let mut clock = DeviceClock::default();
        clock.sample(&beat(1, 1_000, 0), at(9_000));
        clock.sample(&beat(1, 11_000, 0), at(11_050));
        assert_eq!(clock.to_timestamp(DeviceTime(2_000)), Timestamp::from_second(EPOCH / 1000 + 2).ok());
    }

    #[test]
    fn a_delayed_heartbeat_moves_nothing() {
        let mut clock = DeviceClock::default();
        clock.sample(&beat(1, 1_000, 0), at(1_000));
        let before = clock.to_timestamp(DeviceTime(500_000));
        clock.sample(&beat(1, 2_000, 0), at(60_000));
        assert_eq!(clock.to_timestamp(DeviceTime(500_000)), before);
    }

    #[test]
    fn a_slow_crystal_does_not_move_times_already_mapped() {
        let mut clock = DeviceClock::default();
        let early = DeviceTime(1_000);
        clock.sample(&beat(1, 1_000, 0), at(1_000));
        let mapped = clock.to_timestamp(early);
        // The device's timeline loses 1 ms per second.
        for second in 1..20_000u64 {
            clock.sample(&beat(1, 1_000 + second * 999, 0), at(1_000 + second * 1000));
            assert_eq!(clock.to_timestamp(early), mapped, "after {second} s");
        }
        let now = clock.to_timestamp(DeviceTime(1_000 + 20_000 * 999)).unwrap().as_second() - EPOCH / 1000;
        assert!((19_999..=20_002).contains(&now), "{now}");
        assert!(clock.segments.len() <= MAX_SEGMENTS);
    }

    #[test]
    fn time_spent_switched_off_is_not_counted_for_what_was_before() {
        let mut clock = DeviceClock::default();
        clock.sample(&beat(1, 10_000, 0), at(10_000));
        // Off for an hour; the timeline goes on where it stood.
        clock.sample(&beat(2, 12_000, 0), at(3_610_000));
        assert_eq!(clock.to_timestamp(DeviceTime(9_000)), Timestamp::from_second(EPOCH / 1000 + 9).ok());
        assert_eq!(clock.to_timestamp(DeviceTime(12_000)), Timestamp::from_second(EPOCH / 1000 + 3_610).ok());
    }

    #[test]
    fn a_point_in_time_is_found_on_the_timeline() {
        let mut clock = DeviceClock::default();
        assert_eq!(clock.to_device(at(5).wall), None);
        clock.sample(&beat(1, 10_000, 0), at(20_000));
        clock.sample(&beat(2, 12_000, 0), at(3_610_000));
        assert_eq!(clock.to_device(at(19_000).wall), Some(DeviceTime(9_000)));
        assert_eq!(clock.to_device(at(3_611_000).wall), Some(DeviceTime(13_000)));
        assert_eq!(clock.to_device(Timestamp::UNIX_EPOCH), Some(DeviceTime(0)), "before everything");
        // While it was off nothing was written: what follows is what was meant.
        let off = clock.to_device(at(1_000_000).wall).unwrap();
        assert!(off >= DeviceTime(10_000), "{off:?}");
    }

    #[test]
    fn the_wall_clock_is_compared_at_the_same_instant() {
        let mut clock = DeviceClock::default();
        clock.sample(&beat(1, 1_000, EPOCH + 1_000), at(1_000));
        assert_eq!(clock.sample(&beat(1, 5_000, EPOCH + 5_000), at(25_000)), Some(0), "20 s under way, yet not skewed");
        assert_eq!(clock.sample(&beat(1, 6_000, 0), at(26_000)), Some(-(EPOCH + 6_000)), "1970");
    }

    #[test]
    fn nonsense_is_not_a_sample() {
        let mut clock = DeviceClock::default();
        assert_eq!(clock.sample(&beat(1, u64::MAX, -1), at(0)), None);
        assert!(!clock.is_set());
        clock.sample(&beat(1, 1, -1), at(1));
        assert_eq!(clock.to_timestamp(DeviceTime(u64::MAX)), None);
    }
}
