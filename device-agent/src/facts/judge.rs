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
    /// The disk that holds images and what containers write, if that is another one.
    pub(super) image_disk: Option<Disk>,
    /// What the ledger says when the disk refuses.
    pub(super) ledger_trouble: Option<String>,
    pub(super) processes: Option<u64>,
    pub(super) processes_max: Option<u64>,
    /// Why the processor is held back, in words; `None`: this device cannot tell.
    pub(super) throttled: Option<Vec<String>>,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) inodes: u64,
    pub(super) inodes_available: u64,
}

impl Disk {
    /// Whether less than so much of its space or of its inodes is left, in percent. File systems without a count of inodes have 0.
    fn below(self, space: u64, inodes: u64) -> bool {
        self.available < share(self.total, space) || self.inodes_available < share(self.inodes, inodes)
    }
}

fn share(of: u64, percent: u64) -> u64 {
    of / 100 * percent
}

/// As for a kubelet: so much of the space of the disk with the state has to be free, in percent.
const STATE_SPACE: u64 = 10;
/// So much of the space of a disk of images.
const IMAGE_SPACE: u64 = 15;
/// So much of the inodes of either.
const INODES: u64 = 5;
/// So much more has to be free for a pressure to end.
const DISTANCE: u64 = 2;

/// The pressures, remembered from one measurement to the next.
#[derive(Debug, Default)]
pub(super) struct Judge {
    memory: Pressure,
    disk: Pressure,
    image_disk: Pressure,
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
        let update = |pressure: &mut Pressure, disk: Disk, space: u64| {
            pressure.update(now, disk.below(space, INODES), !disk.below(space + DISTANCE, INODES + DISTANCE))
        };
        let holds = update(&mut self.disk, disk, STATE_SPACE);
        // One that is not told of any more is not full any more.
        let images = measured.image_disk.is_some_and(|disk| update(&mut self.image_disk, disk, IMAGE_SPACE));
        let words = |space: u64, whose: &str| {
            format!("less than {space} % of the space or {INODES} % of the inodes of {whose} file system are free")
        };
        let message = match (holds, images) {
            (false, true) => words(IMAGE_SPACE, "the images'"),
            _ => words(STATE_SPACE, "the state directory's"),
        };
        pressure("DiskPressure", holds || images, "InsufficientDisk", "SufficientDisk", message)
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
    let Measured { memory_total, memory_available, disk, image_disk, processes, processes_max, .. } = measured;
    let memory = memory_total.and_then(|total| short(Short::Memory, memory_threshold(total), *memory_available));
    let storage = disk.and_then(|disk| short(Short::Storage, share(disk.total, STATE_SPACE), Some(disk.available)));
    let inodes = disk.and_then(|disk| short(Short::Inodes, share(disk.inodes, INODES), Some(disk.inodes_available)));
    let layers =
        image_disk.and_then(|disk| short(Short::LayerStorage, share(disk.total, IMAGE_SPACE), Some(disk.available)));
    let layer_inodes =
        image_disk.and_then(|disk| short(Short::LayerInodes, share(disk.inodes, INODES), Some(disk.inodes_available)));
    let processes = processes_max
        .and_then(|max| short(Short::Processes, max - max / 100 * 90, processes.map(|used| max.saturating_sub(used))));
    [memory, layers, layer_inodes, storage, inodes, processes].into_iter().flatten().collect()
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
        let image_disk = |available, inodes_available| Measured {
            image_disk: Some(Disk { total: 400 * MIB, available, inodes: 400, inodes_available }),
            ..calm()
        };
        let cases = [
            (Short::LayerStorage, 60 * MIB, 59 * MIB, image_disk(59 * MIB, 100)),
            (Short::LayerInodes, 20, 19, image_disk(100 * MIB, 19)),
        ];
        for (of, threshold, available, measured) in cases {
            assert_eq!(shortages(&measured), [Shortage { of, threshold, available }]);
            let conditions = Judge::default().conditions(0, &measured);
            let told: Vec<_> = conditions.iter().filter(|c| c.holds == Some(true)).collect();
            assert_eq!((told.len(), told[0].kind.as_str()), (1, "DiskPressure"));
            assert!(told[0].message.contains("15 % of the space or 5 % of the inodes of the images'"), "{told:?}");
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
