//! Huge pages: memory that the device has set aside in pages of some megabytes, for those who ask for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hawser_wire::amounts::Bytes;

/// Where the kernel has a directory for each size, whether there are any of it or not.
pub(crate) const POOLS: &str = "/sys/kernel/mm/hugepages";

/// How many bytes are set aside, by the size of a page in bytes; `pools` is a directory like [`POOLS`].
pub(crate) fn set_aside(pools: &Path) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(pools).into_iter().flatten().flatten();
    let pool = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let page =
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024)?;
        let many = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse::<u64>().ok()?;
        Some((page, many.checked_mul(page)?)).filter(|_| page > 0)
    };
    entries.filter_map(pool).collect()
}

/// What Kubernetes calls pages of this size, as `hugepages-2Mi`.
pub(crate) fn resource(page_bytes: u64) -> String {
    format!("hugepages-{}", Bytes(page_bytes))
}

const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];

/// What engines and the kernel's cgroups call pages of this size, as `2MB`.
pub(crate) fn size_name(page_bytes: u64) -> String {
    let (mut size, mut unit) = (page_bytes, 0);
    while size > 0 && size.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", UNITS[unit])
}

/// The other way round.
pub(crate) fn size_named(name: &str) -> Option<u64> {
    let digits = name.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = UNITS.iter().position(|unit| *unit == &name[digits.len()..])?;
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_name_for_kubernetes_and_one_for_engines() {
        for (page, resource_name, engine_name) in [
            (64 << 10, "hugepages-64Ki", "64KB"),
            (2 << 20, "hugepages-2Mi", "2MB"),
            (32 << 20, "hugepages-32Mi", "32MB"),
            (1 << 30, "hugepages-1Gi", "1GB"),
        ] {
            assert_eq!((resource(page).as_str(), size_name(page).as_str()), (resource_name, engine_name));
            assert_eq!(size_named(engine_name), Some(page));
        }
        for name in ["", "MB", "2", "2Mi", "xMB", "2XB", "99999999999999999999GB", "16777216PB"] {
            assert_eq!(size_named(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_set_aside_is_read_of_every_size_that_there_is() {
        let pools = tempfile::tempdir().unwrap();
        for (name, many) in
            [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n"), ("hugepages-xkB", "1"), ("else", "1")]
        {
            fs::create_dir(pools.path().join(name)).unwrap();
            fs::write(pools.path().join(name).join("nr_hugepages"), many).unwrap();
        }
        fs::create_dir(pools.path().join("hugepages-64kB")).unwrap();
        assert_eq!(set_aside(pools.path()), BTreeMap::from([(2 << 20, 6 << 20), (1 << 30, 0)]));
        assert!(set_aside(Path::new("/no/such/place")).is_empty());
    }
}
