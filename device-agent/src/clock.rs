//! The device's timeline: milliseconds that continue over reboots, never go back, and do not follow the wall clock.
//!
//! It is the kernel's time since boot (which counts suspension) plus an offset. Within one boot the offset is fixed, so a
//! restart of the agent loses nothing. After a reboot the timeline goes on from the last time that may have been told: the
//! ledger holds a bound that is always a little ahead, so that a power cut cannot make it go back. A wall clock at 1970
//! plays no part.

use std::sync::Arc;

use hawser_wire::{BootId, DeviceTime};

use crate::ledger::ClockRecord;
use crate::link::Moment;

/// How far ahead of now the bound in the ledger is put. A reboot without a graceful stop skips at most so much.
const AHEAD_MILLIS: u64 = 10 * 60 * 1000;
/// How often the bound is moved: an SD card should not wear out from the time passing.
pub(crate) const MOVE_BOUND_EVERY: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// Where raw time comes from: the kernel, or a test.
#[derive(Clone)]
pub struct TimeSource {
    /// Which start of the kernel this is.
    pub boot: BootId,
    /// Milliseconds since that start; never goes back.
    pub since_boot: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The wall clock: milliseconds since 1970. May jump; 0 before 1970.
    pub wall: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl std::fmt::Debug for TimeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimeSource").field("boot", &self.boot).finish_non_exhaustive()
    }
}

impl TimeSource {
    /// The kernel's.
    pub fn kernel() -> Self {
        Self { boot: kernel_boot_id(), since_boot: Arc::new(kernel_millis), wall: Arc::new(wall_millis) }
    }
}

fn kernel_millis() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (time.tv_sec as u64) * 1000 + (time.tv_nsec as u64) / 1_000_000
}

#[expect(clippy::disallowed_methods, reason = "the one place where the agent reads the wall clock, to tell it")]
fn wall_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn kernel_boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot_id_of(text.trim())
}

/// The short form of the kernel's boot id.
fn boot_id_of(text: &str) -> BootId {
    let mut short = [0; 8];
    short.copy_from_slice(&hawser_wire::ContentHash::of(text.as_bytes()).0[..8]);
    BootId(short)
}

/// The device's timeline.
#[derive(Debug, Clone)]
pub struct DeviceClock {
    source: TimeSource,
    offset: u64,
}

impl DeviceClock {
    /// Goes on from the ledger.
    pub fn resume(source: TimeSource, record: Option<ClockRecord>) -> Self {
        let offset = resumed_offset(record, source.boot, (source.since_boot)());
        Self { source, offset }
    }

    /// Now.
    pub fn now(&self) -> DeviceTime {
        DeviceTime((self.source.since_boot)().saturating_add(self.offset))
    }

    /// Which start of the kernel this is.
    pub fn boot(&self) -> BootId {
        self.source.boot
    }

    /// Now, with fresh randomness.
    pub(crate) fn moment(&self) -> Result<Moment, getrandom::Error> {
        let (mut ephemeral, mut jitter) = ([0; 32], [0; 8]);
        getrandom::fill(&mut ephemeral)?;
        getrandom::fill(&mut jitter)?;
        let jitter = u64::from_ne_bytes(jitter);
        Ok(Moment { at: self.now(), wall_millis: (self.source.wall)(), ephemeral, jitter })
    }

    /// What the ledger is to hold while the clock runs.
    pub(crate) fn running_record(&self) -> ClockRecord {
        self.record(AHEAD_MILLIS)
    }

    /// What the ledger is to hold when the agent stops.
    pub(crate) fn final_record(&self) -> ClockRecord {
        self.record(0)
    }

    fn record(&self, ahead: u64) -> ClockRecord {
        let told_up_to = DeviceTime(self.now().0.saturating_add(ahead));
        ClockRecord { boot: self.source.boot, offset_millis: self.offset, told_up_to }
    }
}

fn resumed_offset(record: Option<ClockRecord>, boot: BootId, since_boot: u64) -> u64 {
    match record {
        Some(record) if record.boot == boot => record.offset_millis,
        Some(record) => record.told_up_to.0.saturating_sub(since_boot),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 8]);

    fn record(offset_millis: u64, told: u64) -> Option<ClockRecord> {
        Some(ClockRecord { boot: BOOT, offset_millis, told_up_to: DeviceTime(told) })
    }

    #[test]
    fn never_goes_back() {
        let other = BootId([2; 8]);
        // (record, boot, since boot) → time
        let cases = [
            (None, BOOT, 500, 500),
            (record(100, 1_000), BOOT, 500, 600),
            (record(100, 1_000), BOOT, 5_000, 5_100),
            (record(100, 1_000), other, 20, 1_000),
            (record(100, 1_000), other, 5_000, 5_000),
            (record(0, u64::MAX), other, 5, u64::MAX),
        ];
        for (record, boot, since_boot, expected) in cases {
            assert_eq!(
                since_boot + resumed_offset(record, boot, since_boot),
                expected,
                "{record:?} {boot} {since_boot}"
            );
        }
    }

    #[test]
    fn a_wall_clock_at_1970_changes_nothing() {
        let source = TimeSource { boot: BOOT, since_boot: Arc::new(|| 77), wall: Arc::new(|| 0) };
        let clock = DeviceClock::resume(source, None);
        let moment = clock.moment().unwrap();
        assert_eq!((moment.at, moment.wall_millis), (DeviceTime(77), 0));
    }

    #[test]
    fn the_bound_in_the_ledger_is_ahead_while_it_runs_and_exact_when_it_stops() {
        let source = TimeSource { boot: BOOT, since_boot: Arc::new(|| 77), wall: Arc::new(|| 0) };
        let clock = DeviceClock::resume(source, record(3, 50));
        assert_eq!(clock.running_record().told_up_to, DeviceTime(80 + AHEAD_MILLIS));
        assert_eq!(clock.final_record().told_up_to, DeviceTime(80));
    }
}
