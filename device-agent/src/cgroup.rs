//! The cgroup hierarchies of the device, and limits in them: version 2, those of version 1, or some of each.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::huge_pages::size_named;

/// What can be limited.
pub(crate) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// This one can be missing: it only says no to those who did not ask.
const HUGE_PAGES: &str = "hugetlb";

/// The limits of one cgroup; `None`: as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Its weight beside its siblings, as version 1 has it.
    pub(crate) cpu_shares: Option<u64>,
    /// Thousandths of a processor.
    pub(crate) cpu_millis: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
}

/// All that is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

/// One that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    /// `None`: it is of version 2, and says itself which controllers it has.
    controllers: Option<Vec<String>>,
}

/// The kernel has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A limit that cannot be had.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The cgroup, if it is there all the same.
    pub(crate) made: Option<PathBuf>,
    /// Cause, and fix where there is one.
    pub(crate) why: String,
}

/// The period of processor quotas, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// The weights that version 1 takes.
pub(crate) const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// And the largest of version 2; the smallest is 1.
const MAX_WEIGHT: u64 = 10_000;

impl Hierarchies {
    /// Those of this process.
    pub(crate) fn here() -> Self {
        Self::of(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    /// Those in the words of `/proc/self/mounts`.
    pub(crate) fn of(mounts: &str) -> Self {
        let mut found = Vec::new();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[_, root, kind, options, ..] = fields.as_slice() else { continue };
            let controllers = match kind {
                "cgroup2" => None,
                "cgroup" => Some(options.split(',').map(str::to_owned).collect()),
                _ => continue,
            };
            found.push(Hierarchy { root: PathBuf::from(root), controllers });
        }
        Self(found)
    }

    /// Where they are mounted.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|hierarchy| hierarchy.root.as_path())
    }

    /// Makes the cgroup at `path`, below the root, in the hierarchy that has this controller, and sets what of the limits
    /// belongs to it.
    pub(crate) fn limit(&self, controller: &str, path: &Path, limits: &Limits) -> Result<(Version, PathBuf), Failed> {
        let Some(hierarchy) = self.with(controller) else {
            return Err(Failed { made: None, why: absent(controller) });
        };
        let (dir, version) = (hierarchy.root.join(path), hierarchy.version());
        let made = match version {
            Version::V1 => fs::create_dir_all(&dir),
            Version::V2 => make_v2(&hierarchy.root, path, controller),
        };
        let set = made.and_then(|()| match version {
            Version::V1 => set_v1(&dir, controller, limits),
            Version::V2 => set_v2(&dir, controller, limits),
        });
        match set {
            Ok(()) => Ok((version, dir)),
            Err(error) => Err(Failed { made: dir.is_dir().then_some(dir), why: error.to_string() }),
        }
    }

    /// Of which version the hierarchy is that has this controller.
    pub(crate) fn version(&self, controller: &str) -> Option<Version> {
        self.with(controller).map(Hierarchy::version)
    }

    /// Sets what of the limits belongs to this controller, where there is one, and the cgroup in it.
    pub(crate) fn change(&self, controller: &str, path: &Path, limits: &Limits) -> io::Result<()> {
        let Some(hierarchy) = self.with(controller) else { return Ok(()) };
        let dir = hierarchy.root.join(path);
        if !dir.is_dir() {
            return Ok(());
        }
        match hierarchy.version() {
            Version::V1 => set_v1(&dir, controller, limits),
            Version::V2 => set_v2(&dir, controller, limits),
        }
    }

    /// The weight of a cgroup, as version 1 has it.
    pub(crate) fn shares(&self, path: &Path) -> Option<u64> {
        let hierarchy = self.with("cpu")?;
        let dir = hierarchy.root.join(path);
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
        match hierarchy.version() {
            Version::V1 => read("cpu.shares"),
            Version::V2 => read("cpu.weight").map(shares_of),
        }
    }

    /// Makes the cgroup at `path` in the hierarchy that limits huge pages, if there is one, and limits them all: `of` says how many
    /// bytes there may be, by the size of a page; of other sizes nothing.
    pub(crate) fn limit_huge_pages(&self, path: &Path, of: &BTreeMap<u64, u64>) -> io::Result<()> {
        let Some(hierarchy) = self.with(HUGE_PAGES) else { return Ok(()) };
        let dir = hierarchy.root.join(path);
        let suffix = match hierarchy.version() {
            Version::V1 => fs::create_dir_all(&dir).map(|()| ".limit_in_bytes")?,
            Version::V2 => make_v2(&hierarchy.root, path, HUGE_PAGES).map(|()| ".max")?,
        };
        // The kernel has made a file for each size, and one more (`rsvd`) for what is promised and not yet used.
        for entry in fs::read_dir(&dir)?.flatten() {
            let name = entry.file_name();
            let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(suffix));
            let page = size.and_then(|size| size_named(size.strip_suffix(".rsvd").unwrap_or(size)));
            if let Some(page) = page {
                fs::write(entry.path(), of.get(&page).copied().unwrap_or(0).to_string())?;
            }
        }
        Ok(())
    }

    /// The version of the cgroups that limit how much is swapped out; `None`: none do, as with a kernel without swap.
    pub(crate) fn limit_swap(&self) -> Option<Version> {
        let hierarchy = self.with("memory")?;
        let has = match hierarchy.version() {
            Version::V1 => hierarchy.root.join("memory.memsw.limit_in_bytes").exists(),
            // The root itself is not limited, and has no such file.
            Version::V2 => {
                let mut within = fs::read_dir(&hierarchy.root).ok()?.flatten();
                within.any(|entry| entry.path().join("memory.swap.max").exists())
            }
        };
        has.then_some(hierarchy.version())
    }

    /// Whether a cgroup has the weight with which the kernel made it: nobody has said what it should be.
    pub(crate) fn weighs_as_made(&self, path: &Path) -> bool {
        let Some(hierarchy) = self.with("cpu") else { return false };
        let (file, made) = match hierarchy.version() {
            Version::V1 => ("cpu.shares", "1024"),
            Version::V2 => ("cpu.weight", "100"),
        };
        fs::read_to_string(hierarchy.root.join(path).join(file)).is_ok_and(|weight| weight.trim() == made)
    }

    /// How much memory is used in a cgroup, and how much may be: far more than there is if it is not limited.
    pub(crate) fn memory(&self, path: &Path) -> Option<(u64, u64)> {
        let hierarchy = self.with("memory")?;
        let dir = hierarchy.root.join(path);
        let read = |file: &str| match fs::read_to_string(dir.join(file)).ok()?.trim() {
            "max" => Some(u64::MAX),
            number => number.parse().ok(),
        };
        match hierarchy.version() {
            Version::V1 => read("memory.usage_in_bytes").zip(read("memory.limit_in_bytes")),
            Version::V2 => read("memory.current").zip(read("memory.max")),
        }
    }

    /// How many thousandths of a processor may be used in a cgroup; `None`: as many as there are.
    pub(crate) fn cpu_limit(&self, path: &Path) -> Option<u64> {
        let hierarchy = self.with("cpu")?;
        let dir = hierarchy.root.join(path);
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
        let (quota, period) = match hierarchy.version() {
            Version::V1 => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
            Version::V2 => {
                let both = read("cpu.max")?;
                let (quota, period) = both.trim().split_once(' ')?;
                (quota.to_owned(), period.to_owned())
            }
        };
        let (quota, period): (u64, u64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
        quota.saturating_mul(1_000).checked_div(period)
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        let has = |hierarchy: &&Hierarchy| match &hierarchy.controllers {
            Some(controllers) => controllers.iter().any(|own| own == controller),
            None => lists(&hierarchy.root.join("cgroup.controllers"), controller),
        };
        self.0.iter().find(has)
    }
}

impl Hierarchy {
    fn version(&self) -> Version {
        if self.controllers.is_some() { Version::V1 } else { Version::V2 }
    }
}

/// Controllers are handed down one level at a time.
fn make_v2(root: &Path, path: &Path, controller: &str) -> io::Result<()> {
    let mut dir = root.to_owned();
    for part in path.components() {
        if !lists(&dir.join("cgroup.subtree_control"), controller) {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn set_v1(dir: &Path, controller: &str, limits: &Limits) -> io::Result<()> {
    match controller {
        "memory" => set(dir, "memory.limit_in_bytes", limits.memory_bytes),
        "cpu" => {
            set(dir, "cpu.shares", limits.cpu_shares.map(|shares| shares.clamp(MIN_SHARES, MAX_SHARES)))?;
            set(dir, "cpu.cfs_period_us", limits.cpu_millis.map(|_| CPU_PERIOD))?;
            set(dir, "cpu.cfs_quota_us", limits.cpu_millis.map(quota))
        }
        _ => set(dir, "pids.max", limits.pids),
    }
}

fn set_v2(dir: &Path, controller: &str, limits: &Limits) -> io::Result<()> {
    match controller {
        "memory" => set(dir, "memory.max", limits.memory_bytes),
        "cpu" => {
            set(dir, "cpu.weight", limits.cpu_shares.map(weight_of))?;
            match limits.cpu_millis {
                Some(millis) => fs::write(dir.join("cpu.max"), format!("{} {CPU_PERIOD}", quota(millis))),
                None => Ok(()),
            }
        }
        _ => set(dir, "pids.max", limits.pids),
    }
}

fn set(dir: &Path, file: &str, value: Option<u64>) -> io::Result<()> {
    value.map_or(Ok(()), |value| fs::write(dir.join(file), value.to_string()))
}

/// Microseconds per period, at least the millisecond that the kernel asks for.
fn quota(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD) / 1_000).max(1_000)
}

/// The weight that goes with a request.
pub(crate) fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1_024) / 1_000).clamp(MIN_SHARES, MAX_SHARES)
}

/// A weight of version 1 as one of version 2, and the other way round.
pub(crate) fn weight_of(shares: u64) -> u64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * (MAX_WEIGHT - 1) / (MAX_SHARES - MIN_SHARES)
}

fn shares_of(weight: u64) -> u64 {
    let (weight, span) = (weight.clamp(1, MAX_WEIGHT), MAX_WEIGHT - 1);
    MIN_SHARES + ((weight - 1) * (MAX_SHARES - MIN_SHARES)).div_ceil(span)
}

/// How many processes and threads whoever runs a foreign program may have: far more than honest ones need, and so few that
/// the device still has some when they are started without end.
pub(crate) fn most_processes() -> u64 {
    const MOST: u64 = 4096;
    let all = fs::read_to_string("/proc/sys/kernel/threads-max").ok().and_then(|text| text.trim().parse().ok());
    all.map_or(MOST, |all: u64| (all / 4).clamp(64, MOST))
}

/// Whether a file of words holds this one.
fn lists(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_ascii_whitespace().any(|one| one == word))
}

fn absent(controller: &str) -> String {
    // The kernels of Raspberry Pis come with this one switched off.
    let fix = match controller {
        "memory" => "put cgroup_enable=memory on the kernel's command line",
        _ => "take a kernel that has it, and mount the cgroups",
    };
    format!("the kernel offers no cgroup controller `{controller}`; {fix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_both_versions() {
        let mounts = "proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = Hierarchies::of(mounts);
        let roots = ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];
        assert_eq!(found.roots().collect::<Vec<_>>(), roots.map(Path::new));
        let with = |controller: &str| found.with(controller).map(|found| (found.root.as_path(), found.version()));
        assert_eq!(with("cpu"), Some((Path::new("/sys/fs/cgroup/cpu,cpuacct"), Version::V1)));
        assert_eq!(with("no-such-controller"), None);
    }

    #[test]
    fn huge_pages_are_limited_in_both_versions_and_nowhere_without_the_controller() {
        let of = BTreeMap::from([(2 << 20, 6 << 20)]);
        for (kind, suffix) in [("cgroup rw,hugetlb", "limit_in_bytes"), ("cgroup2 rw", "max")] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("cgroup.controllers"), "cpu hugetlb\n").unwrap();
            let pod = dir.path().join("sea/pod");
            fs::create_dir_all(&pod).unwrap();
            let file = |size: &str| pod.join(format!("hugetlb.{size}.{suffix}"));
            for size in ["2MB", "2MB.rsvd", "1GB"] {
                fs::write(file(size), "max").unwrap();
            }
            fs::write(pod.join("hugetlb.2MB.usage"), "0").unwrap();
            let mounts = format!("cgroup {} {kind} 0 0\n", dir.path().display());
            Hierarchies::of(&mounts).limit_huge_pages(Path::new("sea/pod"), &of).unwrap();
            let read = |size: &str| fs::read_to_string(file(size)).unwrap();
            assert_eq!(["2MB", "2MB.rsvd", "1GB"].map(read), ["6291456", "6291456", "0"], "{kind}");
        }
        Hierarchies::default().limit_huge_pages(Path::new("sea/pod"), &of).unwrap();
    }

    #[test]
    fn swap_is_limited_where_the_kernel_has_a_file_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let of = |kind: &str| Hierarchies::of(&format!("cgroup {} {kind} 0 0\n", dir.path().display())).limit_swap();
        fs::create_dir(dir.path().join("hawser")).unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!((of("cgroup rw,memory"), of("cgroup2 rw"), of("cgroup rw,cpu")), (None, None, None));
        fs::write(dir.path().join("memory.memsw.limit_in_bytes"), "1").unwrap();
        assert_eq!((of("cgroup rw,memory"), of("cgroup2 rw")), (Some(Version::V1), None));
        fs::write(dir.path().join("hawser/memory.swap.max"), "max").unwrap();
        assert_eq!(of("cgroup2 rw"), Some(Version::V2));
    }

    #[test]
    fn small_cpu_limits_are_rounded_up_to_what_the_kernel_takes() {
        assert_eq!((quota(1), quota(500), quota(4_000)), (1_000, 50_000, 400_000));
    }

    #[test]
    fn weights_follow_requests_in_both_versions() {
        assert_eq!([0, 1, 250, 1_000, u64::MAX].map(shares), [2, 2, 256, 1_024, 262_144]);
        assert_eq!([0, 2, 1_024, 262_144].map(weight_of), [1, 1, 39, 10_000]);
        for weight in [1, 2, 39, 100, 9_999, 10_000] {
            assert_eq!(weight_of(shares_of(weight)), weight);
        }
    }
}
