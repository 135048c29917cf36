//! Limits, where the kernel and our rights allow them: cgroup v2, or the v1 hierarchies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::CgroupSpec;

/// A container's directories in the cgroup hierarchies.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    dirs: Vec<PathBuf>,
    memory: Option<Memory>,
}

#[derive(Debug)]
enum Memory {
    V1(PathBuf),
    V2(PathBuf),
}

/// Where a hierarchy is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    V1 { controller: &'static str, root: PathBuf },
    V2 { root: PathBuf },
}

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Cgroup {
    /// Makes what can be made. Without the rights there is no cgroup and no limit: the runtime says so in its docs.
    pub(super) fn make(spec: &CgroupSpec) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut cgroup = Self::default();
        for hierarchy in hierarchies(&mounts) {
            // One hierarchy that cannot be used is no reason to do without the others.
            let _ = cgroup.add(&hierarchy, spec);
        }
        cgroup
    }

    fn add(&mut self, hierarchy: &Hierarchy, spec: &CgroupSpec) -> io::Result<()> {
        match hierarchy {
            Hierarchy::V1 { controller, root } => {
                let dir = root.join(&spec.path);
                fs::create_dir_all(&dir)?;
                self.dirs.push(dir.clone());
                match *controller {
                    "memory" => {
                        self.memory = Some(Memory::V1(dir.clone()));
                        limit(&dir, "memory.limit_in_bytes", spec.memory_bytes)
                    }
                    "cpu" => {
                        limit(&dir, "cpu.cfs_period_us", spec.cpu_millis.map(|_| CPU_PERIOD))?;
                        limit(&dir, "cpu.cfs_quota_us", spec.cpu_millis.map(quota))
                    }
                    _ => limit(&dir, "pids.max", spec.pids),
                }
            }
            Hierarchy::V2 { root } => {
                let available = fs::read_to_string(root.join("cgroup.controllers"))?;
                let wanted: Vec<&str> =
                    CONTROLLERS.into_iter().filter(|c| available.split(' ').any(|a| a.trim() == *c)).collect();
                if wanted.is_empty() {
                    return Ok(());
                }
                let dir = root.join(&spec.path);
                fs::create_dir_all(&dir)?;
                let enable: String = wanted.iter().map(|controller| format!("+{controller} ")).collect();
                // Controllers are handed down one level at a time.
                let mut parent = root.clone();
                for part in Path::new(&spec.path).components() {
                    fs::write(parent.join("cgroup.subtree_control"), enable.trim())?;
                    parent.push(part);
                }
                self.dirs.push(dir.clone());
                self.memory = Some(Memory::V2(dir.clone()));
                limit(&dir, "memory.max", spec.memory_bytes)?;
                limit(&dir, "pids.max", spec.pids)?;
                match spec.cpu_millis {
                    Some(millis) => fs::write(dir.join("cpu.max"), format!("{} {CPU_PERIOD}", quota(millis))),
                    None => Ok(()),
                }
            }
        }
    }

    /// Where a process writes its pid to join.
    pub(super) fn procs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Whether the kernel killed something for using too much memory.
    pub(super) fn out_of_memory(&self) -> bool {
        let text = match &self.memory {
            Some(Memory::V1(dir)) => fs::read_to_string(dir.join("memory.oom_control")),
            Some(Memory::V2(dir)) => fs::read_to_string(dir.join("memory.events")),
            None => return false,
        };
        text.is_ok_and(|text| kills(&text) > 0)
    }

    /// Removes the directories. Empty ones only, so this comes after the sweep.
    pub(super) fn remove(&self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

const CPU_PERIOD: u64 = 100_000;

/// Microseconds per period, at least the millisecond that the kernel asks for.
fn quota(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD) / 1_000).max(1_000)
}

fn limit(dir: &Path, file: &str, value: Option<u64>) -> io::Result<()> {
    value.map_or(Ok(()), |value| fs::write(dir.join(file), value.to_string()))
}

/// The `oom_kill` count in `memory.events` or `memory.oom_control`.
fn kills(text: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// The hierarchies that have controllers of interest, from `/proc/self/mounts`.
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[_, root, kind, options, ..] = fields.as_slice() else { continue };
        let root = PathBuf::from(root);
        match kind {
            "cgroup2" => found.push(Hierarchy::V2 { root }),
            "cgroup" => {
                for controller in CONTROLLERS {
                    if options.split(',').any(|option| option == controller) {
                        found.push(Hierarchy::V1 { controller, root: root.clone() });
                    }
                }
            }
            _ => {}
        }
    }
    found
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
        assert_eq!(
            hierarchies(mounts),
            [
                Hierarchy::V1 { controller: "cpu", root: "/sys/fs/cgroup/cpu,cpuacct".into() },
                Hierarchy::V2 { root: "/sys/fs/cgroup/unified".into() },
            ]
        );
    }

    #[test]
    fn kills_are_counted_in_both_formats() {
        assert_eq!(kills("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"), 1);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }

    #[test]
    fn small_cpu_limits_are_rounded_up_to_what_the_kernel_takes() {
        assert_eq!((quota(1), quota(500), quota(4_000)), (1_000, 50_000, 400_000));
    }
}
