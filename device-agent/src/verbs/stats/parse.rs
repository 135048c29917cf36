//! The kernel's words about who uses what. Pure.

/// Processor time of the whole machine, in ticks: the first line of `/proc/stat`, without what was idle.
pub(super) fn machine_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; the time of guests is in user and nice already.
    let fields: Vec<u64> = fields.split_ascii_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
    (fields.len() >= 4).then(|| fields.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, n)| n).sum())
}

/// A value of `/proc/meminfo` or `smaps_rollup`, in bytes.
pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// A value of `cpu.stat` or `memory.stat`.
pub(super) fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

/// The resident pages of `/proc/<pid>/statm`.
pub(super) fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood_and_rubbish_is_not() {
        let stat =
            "cpu  433968 64355 91516 91019 2267 5 967 338 7 7\ncpu0 217931 31120 44358 47457 956 0 198 166 0 0\n";
        assert_eq!(machine_ticks(stat), Some(433_968 + 64_355 + 91_516 + 5 + 967 + 338));
        assert_eq!(machine_ticks("cpu  1 2 3 4\n"), Some(6));
        assert_eq!([machine_ticks("cpu  1 2\n"), machine_ticks(""), machine_ticks("intr 5")], [None; 3]);
        let meminfo =
            "MemTotal:       24684084 kB\nMemFree:         1481784 kB\nInactive:       3 kB\nInactive(file): 7 kB\n";
        assert_eq!(kilobytes(meminfo, "MemTotal"), Some(24_684_084 * 1024));
        assert_eq!(kilobytes(meminfo, "Inactive(file)"), Some(7 * 1024));
        assert_eq!([kilobytes(meminfo, "Mem"), kilobytes("Pss: x kB", "Pss"), kilobytes("Pss: 5", "Pss")], [None; 3]);
        let stat = "inactive_file 5\ntotal_inactive_file 9\nusage_usec 1234\n";
        assert_eq!(
            [value(stat, "total_inactive_file"), value(stat, "usage_usec"), value(stat, "usage")],
            [Some(9), Some(1234), None]
        );
        assert_eq!(
            [resident_pages("100 42 7 1 0 1 0"), resident_pages("100"), resident_pages("1 x")],
            [Some(42), None, None]
        );
    }
}
