//! What the device keeps for itself: the system, the engine, the agent. Pods are promised the rest, and where they have a tree of
//! cgroups they get no more. Pure.

use hawser_wire::quantity;

/// Amounts that pods do not get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes of the disk with the agent's state.
    pub storage_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// What the device has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu_millis: u64,
    /// `None`: nobody knows, and so with the others.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) storage_bytes: Option<u64>,
    pub(crate) processes: Option<u64>,
}

impl Reserved {
    /// As people write it: `cpu=200m,memory=256Mi,ephemeral-storage=1Gi,pid=500`.
    pub(crate) fn parse(given: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for part in given.split(',').filter(|part| !part.is_empty()) {
            let (name, amount) = part.split_once('=').ok_or_else(|| format!("`{part}`: expected {EXAMPLE}"))?;
            let (place, parse): (_, fn(&str) -> _) = match name {
                "cpu" => (&mut all.cpu_millis, quantity::millis),
                "memory" => (&mut all.memory_bytes, quantity::units),
                "ephemeral-storage" => (&mut all.storage_bytes, quantity::units),
                "pid" => (&mut all.processes, quantity::units),
                _ => return Err(format!("`{name}` cannot be kept: expected {EXAMPLE}")),
            };
            *place = parse(amount).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(all)
    }

    /// Why a device that has so much cannot keep this; `beside`: the memory that pods are not promised anyway.
    pub(crate) fn is_too_much(&self, of: &Capacity, beside: u64) -> Option<String> {
        let wrong = |name: &str, kept: u64, has: Option<u64>| {
            let has = has.filter(|has| kept > *has)?;
            Some(format!("{name}: {kept} are kept and {has} are there"))
        };
        wrong("cpu (thousandths)", self.cpu_millis, Some(of.cpu_millis))
            .or_else(|| wrong("memory", self.memory_bytes.saturating_add(beside), of.memory_bytes))
            .or_else(|| wrong("ephemeral-storage", self.storage_bytes, of.storage_bytes))
            .or_else(|| wrong("pid", self.processes, of.processes))
    }

    /// What is left for pods.
    pub(crate) fn left_of(&self, of: &Capacity) -> Capacity {
        let left = |has: Option<u64>, kept: u64| has.map(|has| has.saturating_sub(kept));
        Capacity {
            cpu_millis: of.cpu_millis.saturating_sub(self.cpu_millis),
            memory_bytes: left(of.memory_bytes, self.memory_bytes),
            storage_bytes: left(of.storage_bytes, self.storage_bytes),
            processes: left(of.processes, self.processes),
        }
    }
}

const EXAMPLE: &str = "cpu=200m,memory=256Mi,ephemeral-storage=1Gi,pid=500, or some of them";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_written_as_for_a_kubelet() {
        let all = Reserved { cpu_millis: 200, memory_bytes: 256 << 20, storage_bytes: 1 << 30, processes: 500 };
        assert_eq!(Reserved::parse("cpu=200m,memory=256Mi,ephemeral-storage=1Gi,pid=500"), Ok(all));
        assert_eq!(Reserved::parse(""), Ok(Reserved::default()));
        assert_eq!(Reserved::parse("cpu=1.5"), Ok(Reserved { cpu_millis: 1_500, ..Reserved::default() }));
        for (given, names) in
            [("memory", "`memory`"), ("gpu=1", "`gpu`"), ("memory=lots", "memory: `lots`"), ("pid=-1", "pid")]
        {
            let error = Reserved::parse(given).unwrap_err();
            assert!(error.contains(names), "{given}: {error}");
        }
    }

    #[test]
    fn a_device_keeps_no_more_than_it_has_and_pods_get_the_rest() {
        let has = Capacity { cpu_millis: 2_000, memory_bytes: Some(1_000), storage_bytes: None, processes: Some(10) };
        let keeps =
            |cpu_millis, memory_bytes, processes| Reserved { cpu_millis, memory_bytes, storage_bytes: 7, processes };
        for (kept, names) in [
            (keeps(2_000, 900, 10), None),
            (keeps(2_001, 0, 0), Some("cpu (thousandths): 2001 are kept and 2000 are there")),
            (keeps(0, 901, 0), Some("memory: 1001 are kept and 1000 are there")),
            (keeps(0, 0, 11), Some("pid: 11 are kept and 10 are there")),
        ] {
            assert_eq!(kept.is_too_much(&has, 100).as_deref(), names, "{kept:?}");
        }
        let left = Capacity { cpu_millis: 1_500, memory_bytes: Some(100), storage_bytes: None, processes: Some(0) };
        assert_eq!(keeps(500, 900, 11).left_of(&has), left);
    }
}
