//! From measurements to conditions: thresholds like the kubelet's, with distance between coming and going. Pure.

use hawser_wire::report::Condition;

use crate::upkeep::{Short, Shortage};

const MIB: u64 = 1024 * 1024;
/// A pressure goes only after it was gone for so long, so that a condition does not flap.
const CALM_MILLIS: u64 = 60_000;

/// What changes while the device runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) memory_total: Option<u64>,
    pub(super) memory_available: Option<u64>,
    pub(super) disk: Option<Disk>,
    /// What the ledger says when the disk refuses.
    pub(super) ledger_trouble: Option<String>,
    pub(super) processes: Option<u64>,
    pub(super) processes_max: Option<u64>,
    /// Why the processor is held back, in words; `None`: this device cannot tell.
    pub(super) throttled: Option<Vec<String>>,
}

/// The file system of the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) inodes: u64,
    pub(super) inodes_available: u64,
}

/// The pressures, remembered from one measurement to the next.
#[derive(Debug, Default)]
pub(super) struct Judge {
    memory: Pressure,
    disk: Pressure,
    processes: Pressure,
}

#[derive(Debug, Default)]
struct Pressure {
    holds: bool,
    /// Since when it would be over.
    calm_since: Option<u64>,
}

impl Pressure {
    /// `high`: it begins. `low`: it may end. Between the two it stays as it is.
    fn update(&mut self, now: u64, high: bool, low: bool) -> bool {
        if high {
            (self.holds, self.calm_since) = (true, None);
        } else if !low {
            self.calm_since = None;
        } else if self.holds {
            let since = *self.calm_since.get_or_insert(now);
            self.holds = now.saturating_sub(since) < CALM_MILLIS;
        }
        self.holds
    }
}

impl Judge {
    /// The conditions, given what is measured now (milliseconds).
    pub(super) fn conditions(&mut self, now: u64, measured: &Measured) -> Vec<Condition> {
        let mut conditions = vec![self.memory(now, measured), self.disk(now, measured), self.processes(now, measured)];
        conditions.extend(measured.throttled.as_deref().map(throttled));
        conditions
    }

    fn memory(&mut self, now: u64, measured: &Measured) -> Condition {
        let (Some(total), Some(available)) = (measured.memory_total, measured.memory_available) else {
            return unknown("MemoryPressure", "/proc/meminfo cannot be read");
        };
        let least = memory_threshold(total);
        let holds = self.memory.update(now, available < least, available >= least + least / 4);
        let message = format!("less than {} MiB of memory are available", least / MIB);
        pressure("MemoryPressure", holds, "InsufficientMemory", "SufficientMemory", message)
    }

    fn disk(&mut self, now: u64, measured: &Measured) -> Condition {
        if let Some(trouble) = &measured.ledger_trouble {
            self.disk.update(now, true, false);
            let message = format!("the agent's state cannot be written ({trouble}); it goes on from memory");
            return pressure("DiskPressure", true, "StateNotWritable", "", message);
        }
        let Some(disk) = measured.disk else {
            return unknown("DiskPressure", "the file system of the state directory cannot be measured");
        };
        // 10 % of the space and 5 % of the inodes, as the kubelet; file systems without a count of inodes have 0.
        let below = |space: u64, inodes: u64| {
            disk.available < disk.total / 100 * space || disk.inodes_available < disk.inodes / 100 * inodes
        };
        let holds = self.disk.update(now, below(10, 5), !below(12, 7));
        let message = "less than 10 % of the space or 5 % of the inodes of the state directory's file system are free";
        pressure("DiskPressure", holds, "InsufficientDisk", "SufficientDisk", message.to_owned())
    }

    fn processes(&mut self, now: u64, measured: &Measured) -> Condition {
        let (Some(used), Some(max)) = (measured.processes, measured.processes_max) else {
            return unknown("PIDPressure", "/proc cannot be read");
        };
        let holds = self.processes.update(now, used > max / 100 * 90, used < max / 100 * 85);
        let message = format!("more than 90 % of {max} process ids are in use");
        pressure("PIDPressure", holds, "InsufficientPID", "SufficientPID", message)
    }
}

/// What the device is short of in this moment: there a pressure begins.
pub(super) fn shortages(measured: &Measured) -> Vec<Shortage> {
    let short = |of, threshold, available: Option<u64>| {
        available.filter(|available| *available < threshold).map(|available| Shortage { of, threshold, available })
    };
    let Measured { memory_total, memory_available, disk, processes, processes_max, .. } = measured;
    let memory = memory_total.and_then(|total| short(Short::Memory, memory_threshold(total), *memory_available));
    let storage = disk.and_then(|disk| short(Short::Storage, disk.total / 100 * 10, Some(disk.available)));
    let inodes = disk.and_then(|disk| short(Short::Inodes, disk.inodes / 100 * 5, Some(disk.inodes_available)));
    let processes = processes_max
        .and_then(|max| short(Short::Processes, max - max / 100 * 90, processes.map(|used| max.saturating_sub(used))));
    [memory, storage, inodes, processes].into_iter().flatten().collect()
}

/// How much memory must be available: 100 MiB as for the kubelet, less on small boards.
pub(super) fn memory_threshold(total: u64) -> u64 {
    (100 * MIB).min(total / 20)
}

fn throttled(why: &[String]) -> Condition {
    let holds = !why.is_empty();
    let (reason, message) =
        if holds { ("HeldBack", why.join(", ")) } else { ("NotThrottled", "the processor runs freely".to_owned()) };
    Condition { kind: "Throttled".to_owned(), holds: Some(holds), reason: reason.to_owned(), message }
}

fn pressure(kind: &str, holds: bool, bad: &str, good: &str, message: String) -> Condition {
    let (reason, message) = if holds { (bad, message) } else { (good, String::new()) };
    Condition { kind: kind.to_owned(), holds: Some(holds), reason: reason.to_owned(), message }
}

fn unknown(kind: &str, why: &str) -> Condition {
    Condition { kind: kind.to_owned(), holds: None, reason: "NotMeasured".to_owned(), message: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm() -> Measured {
        Measured {
            memory_total: Some(4096 * MIB),
            memory_available: Some(2048 * MIB),
            disk: Some(Disk { total: 1000 * MIB, available: 500 * MIB, inodes: 1000, inodes_available: 900 }),
            processes: Some(100),
            processes_max: Some(32768),
            ..Measured::default()
        }
    }

    fn holds(judge: &mut Judge, now: u64, measured: &Measured, kind: &str) -> Option<bool> {
        judge.conditions(now, measured).into_iter().find(|condition| condition.kind == kind).unwrap().holds
    }

    #[test]
    fn a_pressure_comes_at_once_and_goes_when_it_was_gone_for_a_minute() {
        let mut judge = Judge::default();
        let memory = |available: u64| Measured { memory_available: Some(available * MIB), ..calm() };
        let steps = [
            (0, 101, false),
            (10, 99, true),
            (20, 110, true),
            (30, 126, true),
            (40, 110, true),
            (50, 200, true),
            (60_040, 200, true),
            (60_050, 200, false),
            (60_060, 110, false),
        ];
        for (now, available, expected) in steps {
            assert_eq!(holds(&mut judge, now, &memory(available), "MemoryPressure"), Some(expected), "at {now}");
        }
    }

    #[test]
    fn each_pressure_has_its_measure() {
        let full = Disk { total: 1000 * MIB, available: 90 * MIB, inodes: 1000, inodes_available: 900 };
        let no_inodes = Disk { available: 500 * MIB, inodes_available: 10, ..full };
        let cases = [
            ("DiskPressure", Measured { disk: Some(full), ..calm() }),
            ("DiskPressure", Measured { disk: Some(no_inodes), ..calm() }),
            ("DiskPressure", Measured { ledger_trouble: Some("No space left on device".to_owned()), ..calm() }),
            ("PIDPressure", Measured { processes: Some(32_000), ..calm() }),
            ("Throttled", Measured { throttled: Some(vec!["under-voltage".to_owned()]), ..calm() }),
        ];
        for (kind, measured) in cases {
            let conditions = Judge::default().conditions(0, &measured);
            let holding: Vec<&str> =
                conditions.iter().filter(|c| c.holds == Some(true)).map(|c| c.kind.as_str()).collect();
            assert_eq!(holding, [kind]);
        }
    }

    #[test]
    fn the_device_is_short_of_something_exactly_where_a_pressure_begins() {
        assert_eq!(shortages(&calm()), []);
        assert_eq!(shortages(&Measured::default()), []);
        let disk = calm().disk.unwrap();
        let cases = [
            (Short::Memory, 100 * MIB, 99 * MIB, Measured { memory_available: Some(99 * MIB), ..calm() }),
            (
                Short::Storage,
                100 * MIB,
                90 * MIB,
                Measured { disk: Some(Disk { available: 90 * MIB, ..disk }), ..calm() },
            ),
            (Short::Inodes, 50, 49, Measured { disk: Some(Disk { inodes_available: 49, ..disk }), ..calm() }),
            (Short::Processes, 3_338, 3_000, Measured { processes: Some(32_768 - 3_000), ..calm() }),
        ];
        for (of, threshold, available, measured) in cases {
            assert_eq!(shortages(&measured), [Shortage { of, threshold, available }]);
            let pressed = Judge::default().conditions(0, &measured).iter().filter(|c| c.holds == Some(true)).count();
            assert_eq!(pressed, 1, "{of:?}");
        }
        let trouble = Measured { ledger_trouble: Some("read-only".to_owned()), ..calm() };
        assert_eq!(shortages(&trouble), [], "no pod is to blame for a state that cannot be written");
    }

    #[test]
    fn what_is_not_measured_is_unknown_and_a_small_board_has_a_small_threshold() {
        let conditions = Judge::default().conditions(0, &Measured::default());
        assert!(conditions.iter().all(|condition| condition.holds.is_none()));
        assert_eq!(memory_threshold(512 * MIB), 512 * MIB / 20);
        assert_eq!(memory_threshold(8192 * MIB), 100 * MIB);
    }

    #[test]
    fn numbers_that_move_do_not_make_a_new_report() {
        let mut judge = Judge::default();
        let before = judge.conditions(0, &calm());
        let moved = Measured { memory_available: Some(2000 * MIB), processes: Some(104), ..calm() };
        assert_eq!(judge.conditions(10, &moved), before);
    }
}
