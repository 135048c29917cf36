//! A container's cgroup: its limits, where the kernel and our rights allow them.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::CgroupSpec;
use crate::cgroup::{CONTROLLERS, Hierarchies, Limits, Version};

/// A container's directories in the cgroup hierarchies.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    dirs: Vec<PathBuf>,
    memory: Option<(Version, PathBuf)>,
    not_enforced: Vec<String>,
}

impl Cgroup {
    /// Makes what can be made, and remembers what was asked for and cannot be had.
    pub(super) fn make(spec: &CgroupSpec) -> Self {
        Self::make_on(&Hierarchies::here(), spec)
    }

    fn make_on(hierarchies: &Hierarchies, spec: &CgroupSpec) -> Self {
        let limits =
            Limits { cpu_shares: None, cpu_millis: spec.cpu_millis, memory_bytes: spec.memory_bytes, pids: spec.pids };
        let mut cgroup = Self::default();
        // One controller that cannot be used is no reason to do without the others.
        for controller in CONTROLLERS {
            let asked = match controller {
                "cpu" => spec.cpu_millis.is_some(),
                "memory" => spec.memory_bytes.is_some(),
                // Nobody's wish but ours.
                _ => false,
            };
            match hierarchies.limit(controller, Path::new(&spec.path), &limits) {
                Ok((version, dir)) => {
                    if controller == "memory" {
                        cgroup.memory = Some((version, dir.clone()));
                    }
                    cgroup.remember(dir);
                }
                Err(failed) => {
                    failed.made.into_iter().for_each(|made| cgroup.remember(made));
                    if asked {
                        let why = failed.why;
                        cgroup.not_enforced.push(format!("resources.limits.{controller} is not enforced: {why}"));
                    }
                }
            }
        }
        cgroup
    }

    fn remember(&mut self, dir: PathBuf) {
        if !self.dirs.contains(&dir) {
            self.dirs.push(dir);
        }
    }

    /// The limits that were asked for and do not hold: field, cause, fix.
    pub(super) fn not_enforced(&self) -> &[String] {
        &self.not_enforced
    }

    /// The container's own directories.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Where a process writes its pid to join.
    pub(super) fn procs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Whether the kernel killed something for using too much memory.
    pub(super) fn out_of_memory(&self) -> bool {
        let text = match &self.memory {
            Some((Version::V1, dir)) => fs::read_to_string(dir.join("memory.oom_control")),
            Some((Version::V2, dir)) => fs::read_to_string(dir.join("memory.events")),
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

/// The `oom_kill` count in `memory.events` or `memory.oom_control`.
fn kills(text: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CgroupSpec {
        CgroupSpec {
            path: "hawser/p-main-0".into(),
            cpu_millis: Some(1_500),
            memory_bytes: Some(64 << 20),
            pids: Some(100),
        }
    }

    /// A stand-in for a mounted hierarchy: files where the kernel has some. What the kernel itself does with them is not
    /// tested here.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn version_2_gets_its_limits_and_hands_controllers_down_level_by_level() {
        let dir = tree(&[
            ("cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("cgroup.subtree_control", "cpu memory\n"),
            ("hawser/cgroup.subtree_control", ""),
        ]);
        let mounts = format!("cgroup2 {} cgroup2 rw 0 0\n", dir.path().display());
        let cgroup = Cgroup::make_on(&Hierarchies::of(&mounts), &spec());
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        for (path, content) in [
            // Only what is not on yet is switched on. (A real file would hold all of them.)
            ("cgroup.subtree_control", "+pids"),
            ("hawser/cgroup.subtree_control", "+pids"),
            ("hawser/p-main-0/memory.max", "67108864"),
            ("hawser/p-main-0/cpu.max", "150000 100000"),
            ("hawser/p-main-0/pids.max", "100"),
        ] {
            assert_eq!(read(path), content, "{path}");
        }
        assert_eq!(cgroup.dirs(), [dir.path().join("hawser/p-main-0")]);
        assert_eq!(cgroup.procs(), [dir.path().join("hawser/p-main-0/cgroup.procs")]);
        assert_eq!(cgroup.not_enforced(), [""; 0]);
        fs::write(dir.path().join("hawser/p-main-0/memory.events"), "oom 1\noom_kill 2\n").unwrap();
        assert!(cgroup.out_of_memory());
    }

    #[test]
    fn version_1_gets_its_limits_in_each_hierarchy() {
        let (cpu, memory) = (tree(&[]), tree(&[]));
        let mounts = format!(
            "cgroup {} cgroup rw,cpu,cpuacct 0 0\ncgroup {} cgroup rw,memory 0 0\n",
            cpu.path().display(),
            memory.path().display()
        );
        let cgroup = Cgroup::make_on(&Hierarchies::of(&mounts), &spec());
        let read = |dir: &tempfile::TempDir, file: &str| {
            fs::read_to_string(dir.path().join("hawser/p-main-0").join(file)).unwrap()
        };
        assert_eq!(
            [read(&cpu, "cpu.cfs_period_us"), read(&cpu, "cpu.cfs_quota_us"), read(&memory, "memory.limit_in_bytes")],
            ["100000", "150000", "67108864"]
        );
        // Nobody asked for a limit of processes.
        assert_eq!(cgroup.not_enforced(), [""; 0]);
    }

    #[test]
    fn a_limit_that_cannot_be_had_is_named_with_cause_and_fix_and_the_others_hold() {
        let v2 = tree(&[
            ("cgroup.controllers", "cpu pids\n"),
            ("cgroup.subtree_control", "cpu pids"),
            ("hawser/cgroup.subtree_control", "cpu pids"),
        ]);
        let mounts = format!("cgroup2 {} cgroup2 rw 0 0\n", v2.path().display());
        let cgroup = Cgroup::make_on(&Hierarchies::of(&mounts), &spec());
        let [told] = cgroup.not_enforced() else { panic!("{cgroup:?}") };
        assert!(told.starts_with("resources.limits.memory is not enforced: the kernel offers no cgroup controller"));
        assert!(told.ends_with("put cgroup_enable=memory on the kernel's command line"));
        assert_eq!(cgroup.procs().len(), 1);
        // Something is in the way.
        fs::remove_dir_all(v2.path().join("hawser")).unwrap();
        fs::write(v2.path().join("hawser"), "").unwrap();
        let told = Cgroup::make_on(&Hierarchies::of(&mounts), &spec());
        assert_eq!((told.not_enforced().len(), told.procs().len()), (2, 0));
        // And nothing is told to those who asked for nothing.
        let modest = CgroupSpec { cpu_millis: None, memory_bytes: None, ..spec() };
        assert_eq!(Cgroup::make_on(&Hierarchies::default(), &modest).not_enforced(), [""; 0]);
        assert_eq!(Cgroup::make_on(&Hierarchies::default(), &spec()).not_enforced().len(), 2);
    }

    #[test]
    fn kills_are_counted_in_both_formats() {
        assert_eq!(kills("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"), 1);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }
}
