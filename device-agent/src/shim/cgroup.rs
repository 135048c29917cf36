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
    not_enforced: Vec<String>,
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
    /// Makes what can be made, and remembers what was asked for and cannot be had.
    pub(super) fn make(spec: &CgroupSpec) -> Self {
        Self::make_on(&fs::read_to_string("/proc/self/mounts").unwrap_or_default(), spec)
    }

    fn make_on(mounts: &str, spec: &CgroupSpec) -> Self {
        let hierarchies = hierarchies(mounts);
        let mut cgroup = Self::default();
        // One controller that cannot be used is no reason to do without the others.
        for controller in CONTROLLERS {
            let done = cgroup.add(&hierarchies, controller, spec);
            let asked = match controller {
                "cpu" => spec.cpu_millis.is_some(),
                "memory" => spec.memory_bytes.is_some(),
                // Nobody's wish but ours.
                _ => false,
            };
            if let (Err(why), true) = (done, asked) {
                cgroup.not_enforced.push(format!("resources.limits.{controller} is not enforced: {why}"));
            }
        }
        cgroup
    }

    fn add(&mut self, hierarchies: &[Hierarchy], controller: &str, spec: &CgroupSpec) -> Result<(), String> {
        let has = |hierarchy: &&Hierarchy| match hierarchy {
            Hierarchy::V1 { controller: own, .. } => *own == controller,
            Hierarchy::V2 { root } => lists(&root.join("cgroup.controllers"), controller),
        };
        match hierarchies.iter().find(has) {
            Some(Hierarchy::V1 { root, .. }) => self.add_v1(root, controller, spec).map_err(|error| error.to_string()),
            Some(Hierarchy::V2 { root }) => self.add_v2(root, controller, spec).map_err(|error| error.to_string()),
            None => Err(absent(controller)),
        }
    }

    fn add_v1(&mut self, root: &Path, controller: &str, spec: &CgroupSpec) -> io::Result<()> {
        let dir = root.join(&spec.path);
        fs::create_dir_all(&dir)?;
        self.remember(&dir);
        match controller {
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

    fn add_v2(&mut self, root: &Path, controller: &str, spec: &CgroupSpec) -> io::Result<()> {
        // Controllers are handed down one level at a time.
        let mut dir = root.to_owned();
        for part in Path::new(&spec.path).components() {
            if !lists(&dir.join("cgroup.subtree_control"), controller) {
                fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
            }
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.remember(&dir);
        match controller {
            "memory" => {
                self.memory = Some(Memory::V2(dir.clone()));
                limit(&dir, "memory.max", spec.memory_bytes)
            }
            "cpu" => match spec.cpu_millis {
                Some(millis) => fs::write(dir.join("cpu.max"), format!("{} {CPU_PERIOD}", quota(millis))),
                None => Ok(()),
            },
            _ => limit(&dir, "pids.max", spec.pids),
        }
    }

    fn remember(&mut self, dir: &Path) {
        if !self.dirs.iter().any(|known| known == dir) {
            self.dirs.push(dir.to_owned());
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
        let cgroup = Cgroup::make_on(&mounts, &spec());
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
        let cgroup = Cgroup::make_on(&mounts, &spec());
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
        let cgroup = Cgroup::make_on(&mounts, &spec());
        let [told] = cgroup.not_enforced() else { panic!("{cgroup:?}") };
        assert!(told.starts_with("resources.limits.memory is not enforced: the kernel offers no cgroup controller"));
        assert!(told.ends_with("put cgroup_enable=memory on the kernel's command line"));
        assert_eq!(cgroup.procs().len(), 1);
        // Something is in the way.
        fs::remove_dir_all(v2.path().join("hawser")).unwrap();
        fs::write(v2.path().join("hawser"), "").unwrap();
        let told = Cgroup::make_on(&mounts, &spec());
        assert_eq!((told.not_enforced().len(), told.procs().len()), (2, 0));
        // And nothing is told to those who asked for nothing.
        let modest = CgroupSpec { cpu_millis: None, memory_bytes: None, ..spec() };
        assert_eq!(Cgroup::make_on("", &modest).not_enforced(), [""; 0]);
        assert_eq!(Cgroup::make_on("", &spec()).not_enforced().len(), 2);
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
