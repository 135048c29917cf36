//! The cgroups of pods: a tree of the device's own, `<root>/<device>`, as a kubelet has one. Pods that were promised all that
//! they may use stand in it directly, the others below their class, so that what was promised nothing gets what is left.
//!
//! The agent makes a pod's cgroup before the engine puts anything into it, and removes it when the engine has removed all.
//! It never looks outside its tree, and what it finds there at its start is only removed if it is empty.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hawser_cri::CgroupDriver;
use hawser_wire::PodUid;
use hawser_wire::deployment::EdgeDeployment;
use rustix::process::{Pid, PidfdFlags, Signal};

use self::slices::Slices;
pub(super) use self::whole::Whole;
use super::qos::{self, Class};
use crate::cgroup::{CONTROLLERS, Hierarchies, Limits, MIN_SHARES};
use crate::systemd::Systemd;

mod slices;
mod whole;

/// Who makes the cgroups of pods.
#[derive(Debug)]
pub(super) enum PodCgroups {
    /// The agent, with limits.
    Own(Tree),
    /// systemd, with slices whose limits the agent tells it.
    Slices(Slices),
    /// Nobody: all containers are directly below this.
    Nobody(String),
}

/// A tree that the agent keeps.
#[derive(Debug)]
pub(super) struct Tree {
    hierarchies: Hierarchies,
    /// Those that can be used.
    controllers: Vec<&'static str>,
    /// Below the root of each hierarchy.
    top: PathBuf,
    /// How many processes and threads a pod may have.
    pids: Option<u64>,
    whole: Whole,
    /// One at a time reckons what a class weighs.
    weighing: Mutex<()>,
}

const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";
const PLACES: [&str; 3] = ["", BURSTABLE, BEST_EFFORT];

/// How often it is tried to remove a cgroup whose last processes are just ending, and how long it is waited in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

impl PodCgroups {
    /// What is possible here. `root`: a path of names; `pids`: how many processes a pod may have; `whole`: what all may use.
    pub(super) fn set_up(driver: CgroupDriver, root: &str, device: &str, pids: Option<u64>, whole: Whole) -> Self {
        let parts = root.split('/').filter(|part| !part.is_empty()).chain([device]);
        match driver {
            CgroupDriver::Systemd => {
                let parts = parts.map(str::to_owned);
                Self::Slices(Slices::set_up(Systemd::here(), Hierarchies::here(), parts, pids, whole))
            }
            CgroupDriver::Cgroupfs => Self::on(Hierarchies::here(), parts.collect(), pids, whole),
        }
    }

    fn on(hierarchies: Hierarchies, top: PathBuf, pids: Option<u64>, whole: Whole) -> Self {
        let mut tree = Tree { hierarchies, controllers: Vec::new(), top, pids, whole, weighing: Mutex::default() };
        let mut unusable = Vec::new();
        for controller in CONTROLLERS {
            let class = |name: &str| {
                let least = Limits { cpu_shares: Some(MIN_SHARES), ..Limits::default() };
                tree.hierarchies.limit(controller, &tree.top.join(name), &least).map(drop)
            };
            match class(BEST_EFFORT).and_then(|()| class(BURSTABLE)) {
                Ok(()) => tree.controllers.push(controller),
                Err(failed) => unusable.push(format!("{controller}: {}", failed.why)),
            }
        }
        if !unusable.is_empty() {
            tracing::warn!(
                cgroup = %tree.top.display(),
                why = unusable.join("; "),
                "pods are not limited as a whole in this; what their containers are limited to holds (pods have limits of their \
                 own where the agent is root and may write the cgroups)"
            );
        }
        if tree.controllers.is_empty() {
            return Self::Nobody(format!("/{}", tree.top.display()));
        }
        // Pods that an earlier agent made are in there, and weigh something.
        tree.weigh();
        tree.enforce();
        Self::Own(tree)
    }

    /// Below which cgroup the engine puts everything of a pod, in the words of its driver.
    pub(super) fn parent(&self, pod: &EdgeDeployment) -> String {
        match self {
            Self::Own(tree) => format!("/{}", tree.place(pod).display()),
            Self::Slices(slices) => slices.of(pod),
            Self::Nobody(parent) => parent.clone(),
        }
    }

    /// Makes the pod's cgroup, if it is not there yet, and sets its limits. One that uses more memory than it is to have keeps
    /// what it has: whoever starts something in it is not held up by that.
    pub(super) fn make(&self, pod: &EdgeDeployment) -> io::Result<()> {
        self.make_with(pod, |used, limits| Limits {
            memory_bytes: limits.memory_bytes.filter(|limit| used < *limit),
            ..limits
        })
    }

    /// Sets the limits of a pod's cgroup, whatever it uses.
    pub(super) fn set(&self, pod: &EdgeDeployment) -> io::Result<()> {
        self.make_with(pod, |_, limits| limits)
    }

    /// `adapt`: what the limits become, given how much memory the pod uses now.
    fn make_with(&self, pod: &EdgeDeployment, adapt: fn(u64, Limits) -> Limits) -> io::Result<()> {
        let used = self.memory(pod).map_or(0, |(used, _)| used);
        let limits = adapt(used, qos::limits(pod));
        let tree = match self {
            Self::Own(tree) => tree,
            Self::Slices(slices) => {
                slices.enforce();
                return slices.make(pod, limits).map_err(io::Error::other);
            }
            Self::Nobody(_) => return Ok(()),
        };
        tree.enforce();
        tree.set(pod, &Limits { pids: tree.pids, ..limits })?;
        if let Err(error) = tree.hierarchies.limit_huge_pages(&tree.place(pod), &pod.huge_pages()) {
            tracing::warn!(pod = %pod.uid, %error, "the pod is not limited as a whole in huge pages; its containers are");
        }
        if qos::class(pod) == Class::Burstable {
            tree.weigh();
        }
        Ok(())
    }

    /// How much memory a pod as a whole uses, and may use. `None`: nobody but the engine knows.
    pub(super) fn memory(&self, pod: &EdgeDeployment) -> Option<(u64, u64)> {
        match self {
            Self::Own(tree) => tree.hierarchies.memory(&tree.place(pod)),
            Self::Slices(slices) => slices.memory(pod),
            Self::Nobody(_) => None,
        }
    }

    /// Gives a pod as a whole at least what it is to have, and what it had: while its containers change, both hold.
    pub(super) fn widen(&self, pod: &EdgeDeployment) -> io::Result<()> {
        match self {
            Self::Own(tree) => tree.set(pod, &wider(&tree.hierarchies, &tree.place(pod), qos::limits(pod))),
            Self::Slices(slices) => slices.widen(pod).map_err(io::Error::other),
            Self::Nobody(_) => Ok(()),
        }
    }

    /// Removes a pod's cgroup with whatever is left in it. The engine has removed everything that it knows of.
    pub(super) fn remove(&self, pod: &PodUid) -> io::Result<()> {
        let tree = match self {
            Self::Own(tree) => tree,
            Self::Slices(slices) => {
                let removed = slices.remove(pod);
                slices.enforce();
                return removed;
            }
            Self::Nobody(_) => return Ok(()),
        };
        let mut removed = Ok(());
        for dir in tree.all_of(pod) {
            removed = removed.and(remove_with_strays(&dir));
        }
        tree.weigh();
        tree.enforce();
        removed
    }

    /// Removes what is left of pods that are not among these, unless something runs in it.
    pub(super) fn sweep(&self, kept: &BTreeSet<PodUid>) {
        let tree = match self {
            Self::Own(tree) => tree,
            Self::Slices(slices) => return slices.sweep(kept),
            Self::Nobody(_) => return,
        };
        for place in PLACES {
            for root in tree.hierarchies.roots() {
                let all = pods_in(&root.join(&tree.top).join(place));
                for (uid, dir) in all.filter(|(uid, _)| !kept.contains(uid)) {
                    match remove_tree(&dir) {
                        Ok(()) => tracing::debug!(pod = %uid, "removed a cgroup that was left over"),
                        Err(error) => tracing::warn!(cgroup = %dir.display(), %error, "what is left over stays"),
                    }
                }
            }
        }
        tree.weigh();
    }
}

impl Tree {
    /// Below the root of each hierarchy.
    fn place(&self, pod: &EdgeDeployment) -> PathBuf {
        self.top.join(class_place(pod)).join(own_name(&pod.uid))
    }

    fn set(&self, pod: &EdgeDeployment, limits: &Limits) -> io::Result<()> {
        for controller in &self.controllers {
            let made = self.hierarchies.limit(controller, &self.place(pod), limits);
            made.map_err(|failed| io::Error::other(format!("{controller}: {}", failed.why)))?;
        }
        Ok(())
    }

    /// All pods together get what the device has for them, and weigh that much beside the rest of it.
    fn enforce(&self) {
        let used = self.hierarchies.memory(&self.top).map(|(used, _)| used);
        self.whole.enforce(used, |limits| {
            let mut failed = Vec::new();
            for controller in &self.controllers {
                let set = self.hierarchies.limit(controller, &self.top, limits);
                failed.extend(set.err().map(|error| format!("{controller}: {}", error.why)));
            }
            // What is above may be shared with other agents, or be what somebody has set up: it gets no limits, and a weight only
            // where nobody has given it one.
            let above = self.top.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
            for path in above.filter(|path| self.hierarchies.weighs_as_made(path)) {
                let set = self.hierarchies.change("cpu", path, &self.whole.weight());
                failed.extend(set.err().map(|error| format!("cpu: {}: {error}", path.display())));
            }
            if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
        });
    }

    /// Everywhere a pod of this name may be, whatever its class: engines make cgroups in hierarchies that limit nothing.
    fn all_of(&self, pod: &PodUid) -> impl Iterator<Item = PathBuf> {
        let name = own_name(pod);
        let dirs = move |root: &Path| PLACES.map(|place| root.join(&self.top).join(place).join(&name));
        self.hierarchies.roots().flat_map(dirs).filter(|dir| dir.is_dir())
    }

    /// Burstable pods together weigh what each of them does, beside those that were promised everything.
    fn weigh(&self) {
        // What is guarded is on the disk.
        let _one = self.weighing.lock().unwrap_or_else(PoisonError::into_inner);
        let class = self.top.join(BURSTABLE);
        let mut seen = BTreeSet::new();
        let mut sum = 0_u64;
        for (uid, dir) in self.hierarchies.roots().flat_map(|root| pods_in(&root.join(&class))) {
            if let Some(name) = dir.file_name().filter(|_| seen.insert(uid)) {
                sum = sum.saturating_add(self.hierarchies.shares(&class.join(name)).unwrap_or(0));
            }
        }
        let limits = Limits { cpu_shares: Some(sum), ..Limits::default() };
        if self.controllers.contains(&"cpu")
            && let Err(failed) = self.hierarchies.limit("cpu", &class, &limits)
        {
            tracing::warn!(why = failed.why, "burstable pods together do not weigh what they should");
        }
    }
}

/// The larger of what a cgroup has and what is wanted. What is not limited yet is limited once what is in it is.
fn wider(hierarchies: &Hierarchies, place: &Path, wanted: Limits) -> Limits {
    let had_memory = hierarchies.memory(place).map(|(_, limit)| limit);
    let had_cpu = hierarchies.cpu_limit(place);
    Limits {
        cpu_shares: wanted.cpu_shares.max(hierarchies.shares(place)),
        cpu_millis: wanted.cpu_millis.zip(had_cpu).map(|(wanted, had)| wanted.max(had)),
        memory_bytes: wanted.memory_bytes.zip(had_memory).map(|(wanted, had)| wanted.max(had)),
        pids: None,
    }
}

fn own_name(pod: &PodUid) -> String {
    format!("pod{pod}")
}

fn class_place(pod: &EdgeDeployment) -> &'static str {
    match qos::class(pod) {
        Class::Guaranteed => "",
        Class::Burstable => BURSTABLE,
        Class::BestEffort => BEST_EFFORT,
    }
}

/// The cgroups of pods directly in this one.
fn pods_in(dir: &Path) -> impl Iterator<Item = (PodUid, PathBuf)> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let pods = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    pods.filter_map(|entry| {
        let uid = PodUid::new(entry.file_name().to_str()?.strip_prefix("pod")?).ok()?;
        Some((uid, entry.path()))
    })
}

/// The cgroups directly in this one.
fn within(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// Removes a cgroup and those within it. The kernel refuses where something runs.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in within(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The same, ending what runs.
fn remove_with_strays(dir: &Path) -> io::Result<()> {
    let mut tries = 1;
    loop {
        match remove_tree(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < TRIES => {
                kill_all(dir, dir);
                tries += 1;
                // Nothing tells when the kernel has let go of a process.
                std::thread::sleep(PAUSE);
            }
            removed => return removed,
        }
    }
}

fn kill_all(dir: &Path, pod: &Path) {
    let name = pod.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let listed = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The number may be another's by now. While it is held, it is not.
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
        if cgroups.lines().any(|line| line.split('/').any(|part| part == name)) {
            let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        }
    }
    for child in within(dir) {
        kill_all(&child, pod);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reserved::Capacity;
    use crate::runtime::cri::samples;
    use hawser_wire::deployment::{Container, Resources};

    fn pod(uid: &str, cpu: u64, limited: bool) -> EdgeDeployment {
        let amount = |wanted: bool| (cpu > 0 && wanted).then_some(cpu);
        let resources = Resources {
            cpu_request_millis: amount(true),
            cpu_limit_millis: amount(limited),
            memory_request_bytes: amount(limited),
            memory_limit_bytes: amount(limited),
            ..Resources::default()
        };
        let containers = vec![Container { resources, ..samples::container() }];
        EdgeDeployment { uid: PodUid::new(uid).unwrap(), containers, ..samples::pod() }
    }

    fn whole() -> Whole {
        let (memory_bytes, processes) = (Some(1 << 40), Some(900));
        Whole::new(&Capacity { cpu_millis: 1_500, memory_bytes, processes, ..Capacity::default() })
    }

    /// A stand-in for a mounted hierarchy of version 1, which needs no files.
    fn tree(pids: Option<u64>) -> (tempfile::TempDir, PodCgroups) {
        let dir = tempfile::tempdir().unwrap();
        let mounts = format!("cgroup {} cgroup rw,cpu,memory,pids 0 0\n", dir.path().display());
        let cgroups = PodCgroups::on(Hierarchies::of(&mounts), "boats/sea".into(), pids, whole());
        (dir, cgroups)
    }

    #[test]
    fn all_pods_together_get_what_the_device_has_for_them() {
        let version_1 = tempfile::tempdir().unwrap();
        let version_2 = tempfile::tempdir().unwrap();
        for dir in [&version_1, &version_2] {
            fs::create_dir_all(dir.path().join("boats/edge/sea")).unwrap();
        }
        let write = |dir: &tempfile::TempDir, path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
        // The first was left as the kernel made it, the second somebody has weighed.
        write(&version_1, "boats/cpu.shares", "1024\n");
        write(&version_1, "boats/edge/cpu.shares", "512\n");
        write(&version_2, "cgroup.controllers", "cpu memory pids\n");
        write(&version_2, "boats/cpu.weight", "100\n");
        write(&version_2, "boats/edge/cpu.weight", "50\n");
        for (dir, kind, expected) in [
            (
                &version_1,
                "cgroup rw,cpu,memory,pids",
                [
                    ("sea/cpu.shares", "1536"),
                    ("sea/memory.limit_in_bytes", "1099511627776"),
                    ("../cpu.shares", "1536"),
                    ("cpu.shares", "512\n"),
                ],
            ),
            (
                &version_2,
                "cgroup2 rw",
                [
                    ("sea/cpu.weight", "59"),
                    ("sea/memory.max", "1099511627776"),
                    ("../cpu.weight", "59"),
                    ("cpu.weight", "50\n"),
                ],
            ),
        ] {
            let mounts = format!("cgroup {} {kind} 0 0\n", dir.path().display());
            let own = PodCgroups::on(Hierarchies::of(&mounts), "boats/edge/sea".into(), None, whole());
            assert!(matches!(own, PodCgroups::Own(_)), "{kind}");
            let read = |path: &str| fs::read_to_string(dir.path().join("boats/edge").join(path)).unwrap();
            for (path, content) in expected.into_iter().chain([("sea/pids.max", "900")]) {
                assert_eq!(read(path), content, "{kind} {path}");
            }
            assert!(!dir.path().join("boats/edge/pids.max").exists(), "what is above is not only ours");
        }
    }

    #[test]
    fn what_pods_use_already_is_not_taken_from_them() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("boats/sea");
        fs::create_dir_all(&top).unwrap();
        for (file, bytes) in
            [("memory.usage_in_bytes", "1099511627776"), ("memory.limit_in_bytes", "9223372036854771712")]
        {
            fs::write(top.join(file), bytes).unwrap();
        }
        let mounts = format!("cgroup {} cgroup rw,cpu,memory,pids 0 0\n", dir.path().display());
        let own = PodCgroups::on(Hierarchies::of(&mounts), "boats/sea".into(), None, whole());
        let limit = || fs::read_to_string(top.join("memory.limit_in_bytes")).unwrap();
        assert_eq!(limit(), "9223372036854771712");
        fs::write(top.join("memory.usage_in_bytes"), "7").unwrap();
        own.make(&pod("rest", 0, false)).unwrap();
        assert_eq!(limit(), "1099511627776", "once they use less");
    }

    #[test]
    fn pods_stand_below_their_class_in_the_words_of_the_driver() {
        let (_dir, own) = tree(None);
        let nowhere = Systemd::at(PathBuf::new());
        let parts = ["boats", "sea-1"].map(str::to_owned).into_iter();
        let slices = PodCgroups::Slices(Slices::set_up(nowhere, Hierarchies::default(), parts, None, whole()));
        let nobody = PodCgroups::Nobody("/boats/sea".into());
        for (pod, path, slice) in [
            (pod("a-1", 100, true), "/boats/sea/poda-1", "boats-sea_1-poda_1.slice"),
            (pod("a-1", 100, false), "/boats/sea/burstable/poda-1", "boats-sea_1-burstable-poda_1.slice"),
            (pod("a-1", 0, false), "/boats/sea/besteffort/poda-1", "boats-sea_1-besteffort-poda_1.slice"),
        ] {
            assert_eq!((own.parent(&pod), slices.parent(&pod)), (path.to_owned(), slice.to_owned()));
            assert_eq!(nobody.parent(&pod), "/boats/sea");
        }
    }

    #[test]
    fn a_pod_is_limited_as_a_whole_and_a_class_weighs_what_its_pods_do() {
        let (dir, own) = tree(Some(77));
        let read = |path: &str| fs::read_to_string(dir.path().join("boats/sea").join(path)).unwrap();
        assert_eq!((read("besteffort/cpu.shares"), read("burstable/cpu.shares")), ("2".to_owned(), "2".to_owned()));
        own.make(&pod("full", 1_000, true)).unwrap();
        own.make(&pod("b", 500, false)).unwrap();
        own.make(&pod("c", 250, false)).unwrap();
        own.make(&pod("c", 250, false)).unwrap();
        own.make(&pod("rest", 0, false)).unwrap();
        for (file, content) in [
            ("podfull/cpu.shares", "1024"),
            ("podfull/cpu.cfs_quota_us", "100000"),
            ("podfull/memory.limit_in_bytes", "1000"),
            ("podfull/pids.max", "77"),
            ("burstable/podb/cpu.shares", "512"),
            ("burstable/podb/pids.max", "77"),
            ("burstable/cpu.shares", "768"),
            ("besteffort/podrest/cpu.shares", "2"),
            ("besteffort/podrest/pids.max", "77"),
        ] {
            assert_eq!(read(file), content, "{file}");
        }
        assert!(!dir.path().join("boats/sea/burstable/podb/memory.limit_in_bytes").exists());
    }

    #[test]
    fn a_pod_that_uses_more_than_it_is_to_have_can_still_be_started_in() {
        let (dir, own) = tree(None);
        let file = |name: &str| dir.path().join("boats/sea/podfull").join(name);
        own.make(&pod("full", 1_000, true)).unwrap();
        fs::write(file("memory.usage_in_bytes"), "700").unwrap();
        let limits =
            || ["memory.limit_in_bytes", "cpu.cfs_quota_us"].map(|name| fs::read_to_string(file(name)).unwrap());
        own.make(&pod("full", 700, true)).unwrap();
        assert_eq!(limits(), ["1000", "70000"]);
        own.widen(&pod("full", 800, true)).unwrap();
        assert_eq!(limits(), ["1000", "80000"]);
        own.widen(&pod("full", 500, true)).unwrap();
        assert_eq!(limits(), ["1000", "80000"]);
        own.set(&pod("full", 500, true)).unwrap();
        assert_eq!((limits(), own.memory(&pod("full", 500, true))), (["500".into(), "50000".into()], Some((700, 500))));
    }

    #[test]
    fn where_nothing_can_be_made_the_engine_is_given_one_cgroup_for_all() {
        let nobody = PodCgroups::on(Hierarchies::default(), "boats/sea".into(), None, whole());
        assert_eq!(nobody.parent(&pod("a", 1, true)), "/boats/sea");
        nobody.make(&pod("a", 1, true)).unwrap();
        nobody.remove(&PodUid::new("a").unwrap()).unwrap();
    }

    #[test]
    fn what_is_left_over_goes_and_what_is_not_ours_stays() {
        let (dir, own) = tree(None);
        let at = |path: &str| dir.path().join(path);
        for path in [
            "boats/sea/burstable/podgone/more",
            "boats/sea/podkept",
            "boats/sea/else",
            "boats/other/podgone",
            "podgone",
        ] {
            fs::create_dir_all(at(path)).unwrap();
        }
        own.sweep(&BTreeSet::from([PodUid::new("kept").unwrap()]));
        assert!(!at("boats/sea/burstable/podgone").exists());
        for path in ["boats/sea/podkept", "boats/sea/else", "boats/other/podgone", "podgone"] {
            assert!(at(path).is_dir(), "{path}");
        }
        own.remove(&PodUid::new("kept").unwrap()).unwrap();
        assert!(!at("boats/sea/podkept").exists());
    }
}
