//! The cgroups of pods where systemd has them: nested slices, `<root>.slice/<root>-<device>.slice/…`, with the limits that the
//! agent tells systemd, as a kubelet does. What the files of a cgroup say that systemd keeps, it may change back at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hawser_wire::PodUid;
use hawser_wire::deployment::EdgeDeployment;

use super::whole::Whole;
use super::{BEST_EFFORT, BURSTABLE, PLACES, class_place, own_name, remove_tree, remove_with_strays, wider, within};
use crate::cgroup::{Hierarchies, Limits, MIN_SHARES};
use crate::runtime::cri::qos;
use crate::systemd::{Failed, Systemd};

/// Slices within slices.
#[derive(Debug)]
pub(in crate::runtime::cri) struct Slices {
    /// The parts of the tree's name.
    top: Vec<String>,
    hierarchies: Hierarchies,
    /// `None`: it does not do what we ask for, so slices are what the engine makes of their names, without limits.
    systemd: Option<Systemd>,
    pids: Option<u64>,
    whole: Whole,
    /// What each burstable pod weighs, by the name of its slice. A new slice is not in the kernel as soon as it is asked for.
    weights: Mutex<BTreeMap<String, u64>>,
}

impl Slices {
    pub(super) fn set_up(
        systemd: Systemd,
        hierarchies: Hierarchies,
        top: impl Iterator<Item = String>,
        pids: Option<u64>,
        whole: Whole,
    ) -> Self {
        let weights = Mutex::default();
        let mut slices = Self { top: top.collect(), hierarchies, systemd: None, pids, whole, weights };
        let least = Limits { cpu_shares: Some(MIN_SHARES), ..Limits::default() };
        // Pods that an earlier agent made are in there, and weigh something.
        let burstable = slices.of_a_place(BURSTABLE);
        let mut weights = BTreeMap::new();
        for (_, name) in slices.pods_in(BURSTABLE) {
            let shares = slices.hierarchies.shares(&path(&burstable).join(&name)).unwrap_or(0);
            weights.insert(name, shares);
        }
        let all = Limits { cpu_shares: Some(sum(&weights)), ..Limits::default() };
        let made = slices.weigh_above(&systemd).and_then(|()| {
            [(BEST_EFFORT, least), (BURSTABLE, all)].iter().try_for_each(|(place, limits)| {
                systemd.keep_slice(&slices.of_a_place(place), "pods of one class", limits)
            })
        });
        slices.weights = Mutex::new(weights);
        match made {
            Ok(()) => {
                slices.systemd = Some(systemd);
                slices.enforce();
            }
            Err(error) => tracing::warn!(
                %error,
                "the engine leaves cgroups to systemd, which does not take limits from the agent, so pods get slices without \
                 limits of their own; those of their containers hold (run the agent as root, where it reaches the bus of the \
                 system, or set SystemdCgroup = false in the engine's configuration)"
            ),
        }
        slices
    }

    /// The slices above that of the device weigh what its pods do, unless somebody has said what they weigh.
    fn weigh_above(&self, systemd: &Systemd) -> Result<(), Failed> {
        for many in 1..self.top.len() {
            let name = slice(self.top.iter().take(many).map(String::as_str));
            let made = systemd.make_slice(&name, "pods of devices", &self.whole.weight())?;
            if !made && self.hierarchies.weighs_as_made(&path(&name)) {
                systemd.change_slice(&name, &self.whole.weight())?;
            }
        }
        Ok(())
    }

    /// All pods together get what the device has for them.
    pub(super) fn enforce(&self) {
        let Some(systemd) = &self.systemd else { return };
        let name = slice(self.top.iter().map(String::as_str));
        let used = self.hierarchies.memory(&path(&name)).map(|(used, _)| used);
        let set = |limits: &Limits| systemd.keep_slice(&name, "all pods", limits).map_err(|error| error.to_string());
        self.whole.enforce(used, set);
    }

    /// The slice of a pod.
    pub(super) fn of(&self, pod: &EdgeDeployment) -> String {
        self.named(class_place(pod), &own_name(&pod.uid))
    }

    pub(super) fn make(&self, pod: &EdgeDeployment, limits: Limits) -> Result<(), Failed> {
        let Some(systemd) = &self.systemd else { return Ok(()) };
        let limits = Limits { pids: self.pids, ..limits };
        let name = self.of(pod);
        systemd.keep_slice(&name, &format!("pod {}/{}", pod.namespace, pod.name), &limits)?;
        if class_place(pod) == BURSTABLE {
            self.weigh(systemd, |weights| {
                weights.insert(name, limits.cpu_shares.unwrap_or(0));
            });
        }
        Ok(())
    }

    /// How much memory a pod as a whole uses, and may use.
    pub(super) fn memory(&self, pod: &EdgeDeployment) -> Option<(u64, u64)> {
        self.hierarchies.memory(&path(&self.of(pod)))
    }

    /// Gives a pod as a whole at least what it is to have, and what it had.
    pub(super) fn widen(&self, pod: &EdgeDeployment) -> Result<(), Failed> {
        let Some(systemd) = &self.systemd else { return Ok(()) };
        let name = self.of(pod);
        systemd.change_slice(&name, &wider(&self.hierarchies, &path(&name), qos::limits(pod)))
    }

    /// Ends a pod's slice with whatever is left in it. The engine has removed everything that it knows of.
    pub(super) fn remove(&self, pod: &PodUid) -> io::Result<()> {
        let Some(systemd) = &self.systemd else { return Ok(()) };
        let mut removed = Ok(());
        for place in PLACES {
            let name = self.named(place, &own_name(pod));
            removed = removed.and(self.end(systemd, &name, remove_with_strays));
        }
        removed
    }

    /// Ends the slices of pods that are not among these, unless something runs in them.
    pub(super) fn sweep(&self, kept: &BTreeSet<PodUid>) {
        let Some(systemd) = &self.systemd else { return };
        for place in PLACES {
            let kept: BTreeSet<String> = kept.iter().map(|uid| self.named(place, &own_name(uid))).collect();
            let left: BTreeSet<_> =
                self.pods_in(place).map(|(_, name)| name).filter(|name| !kept.contains(name)).collect();
            for name in left {
                match self.end(systemd, &name, remove_tree) {
                    Ok(()) => tracing::debug!(slice = name, "removed a slice that was left over"),
                    Err(error) => tracing::warn!(slice = name, %error, "what is left over stays"),
                }
            }
        }
    }

    /// Its cgroups go first, which the kernel refuses where something runs; then systemd may forget the name.
    fn end(&self, systemd: &Systemd, name: &str, remove: fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let path = path(name);
        for dir in self.hierarchies.roots().map(|root| root.join(&path)).filter(|dir| dir.is_dir()) {
            remove(&dir)?;
        }
        systemd.end_slice(name).map_err(io::Error::other)?;
        self.weigh(systemd, |weights| {
            weights.remove(name);
        });
        Ok(())
    }

    /// Burstable pods together weigh what each of them does, beside those that were promised everything.
    fn weigh(&self, systemd: &Systemd, change: impl FnOnce(&mut BTreeMap<String, u64>)) {
        // No code that holds this lock can panic half way.
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sum(&weights);
        change(&mut weights);
        let limits = Limits { cpu_shares: Some(sum(&weights)), ..Limits::default() };
        if sum(&weights) != before
            && let Err(error) = systemd.change_slice(&self.of_a_place(BURSTABLE), &limits)
        {
            tracing::warn!(%error, "burstable pods together do not weigh what they should");
        }
    }

    fn of_a_place(&self, place: &str) -> String {
        slice(self.top.iter().map(String::as_str).chain([place]))
    }

    fn named(&self, place: &str, own: &str) -> String {
        slice(self.top.iter().map(String::as_str).chain([place, own]))
    }

    /// The slices of pods in a place, and where they are.
    fn pods_in(&self, place: &str) -> impl Iterator<Item = (PathBuf, String)> {
        let prefix = self.named(place, "pod");
        let path = path(&self.of_a_place(place));
        let dirs = self.hierarchies.roots().flat_map(move |root| within(&root.join(&path)));
        dirs.filter_map(move |dir| {
            let name = dir.file_name()?.to_str()?.to_owned();
            let ours = name.ends_with(SUFFIX) && name.starts_with(prefix.trim_end_matches(SUFFIX));
            ours.then_some((dir, name))
        })
    }
}

const SUFFIX: &str = ".slice";

fn sum(weights: &BTreeMap<String, u64>) -> u64 {
    weights.values().fold(0_u64, |sum, one| sum.saturating_add(*one))
}

/// A slice within slices, as systemd writes it: dashes stand for levels.
fn slice<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).map(|part| part.replace('-', "_")).collect();
    format!("{}{SUFFIX}", parts.join("-"))
}

/// Where a slice is, below the root of each hierarchy: in all those that its name names.
fn path(name: &str) -> PathBuf {
    let parts: Vec<_> = name.trim_end_matches(SUFFIX).split('-').collect();
    (1..=parts.len()).map(|many| format!("{}{SUFFIX}", parts[..many].join("-"))).collect()
}

#[cfg(test)]
mod tests {
    use hawser_wire::deployment::{Container, Resources};

    use super::*;
    use crate::reserved::Capacity;
    use crate::runtime::cri::samples;
    use crate::systemd::played::{Says, names, number, play};

    fn pod(uid: &str, cpu: u64, limit: Option<u64>) -> EdgeDeployment {
        let resources = Resources {
            cpu_request_millis: Some(cpu),
            cpu_limit_millis: limit,
            memory_request_bytes: limit,
            memory_limit_bytes: limit,
            ..Resources::default()
        };
        let containers = vec![Container { resources, ..samples::container() }];
        EdgeDeployment { uid: PodUid::new(uid).unwrap(), containers, ..samples::pod() }
    }

    fn make(slices: &Slices, pod: &EdgeDeployment) {
        slices.make(pod, qos::limits(pod)).unwrap();
    }

    fn whole() -> Whole {
        let (memory_bytes, processes) = (Some(2_000), Some(500));
        Whole::new(&Capacity { cpu_millis: 1_000, memory_bytes, processes, ..Capacity::default() })
    }

    fn parts() -> impl Iterator<Item = String> {
        ["boats", "sea-1"].map(str::to_owned).into_iter()
    }

    #[test]
    fn systemd_is_told_what_pods_and_their_classes_may_use() {
        let (_dir, systemd, player) = play(vec![Says::Done; 8]);
        let slices = Slices::set_up(systemd, Hierarchies::default(), parts(), Some(77), whole());
        make(&slices, &pod("a-1", 105, Some(105)));
        make(&slices, &pod("b", 500, None));
        make(&slices, &pod("b", 500, None));
        let asked = player.join().unwrap();
        for (request, method, name, weight) in [
            (0, "StartTransientUnit", "boats.slice", Some(39)),
            (1, "StartTransientUnit", "boats-sea_1-besteffort.slice", Some(1)),
            (2, "StartTransientUnit", "boats-sea_1-burstable.slice", Some(1)),
            (3, "StartTransientUnit", "boats-sea_1.slice", Some(39)),
            (4, "StartTransientUnit", "boats-sea_1-poda_1.slice", Some(5)),
            (5, "StartTransientUnit", "boats-sea_1-burstable-podb.slice", Some(20)),
            (6, "SetUnitProperties", "boats-sea_1-burstable.slice", Some(20)),
            // Nothing follows from a pod that is there already.
            (7, "StartTransientUnit", "boats-sea_1-burstable-podb.slice", Some(20)),
        ] {
            let asked = &asked[request];
            assert!(names(asked, method) && names(asked, name), "{request}: {}", String::from_utf8_lossy(asked));
            assert_eq!(number(asked, "CPUWeight"), weight, "{request}");
        }
        let told = |request: usize| {
            ["CPUQuotaPerSecUSec", "MemoryMax", "TasksMax"].map(|property| number(&asked[request], property))
        };
        assert_eq!(told(0), [None; 3], "what is above is not only ours");
        assert_eq!(told(3), [None, Some(2_000), Some(500)]);
        assert_eq!(told(4), [Some(110_000), Some(105), Some(77)], "quotas are rounded up");
        assert_eq!(told(5), [None, None, Some(77)]);
    }

    #[test]
    fn a_slice_that_is_there_is_changed_and_one_that_ends_weighs_nothing() {
        let says = [&[Says::Exists], [Says::Done; 3].as_slice(), &[Says::Exists], &[Says::Done; 6]].concat();
        let (_dir, systemd, player) = play(says);
        let slices = Slices::set_up(systemd, Hierarchies::default(), parts(), Some(77), whole());
        make(&slices, &pod("b", 500, None));
        slices.remove(&PodUid::new("b").unwrap()).unwrap();
        let asked = player.join().unwrap();
        // Somebody has made the first, and says what it weighs.
        assert!(names(&asked[0], "boats.slice") && names(&asked[1], "boats-sea_1-besteffort.slice"));
        assert!(names(&asked[5], "SetUnitProperties") && names(&asked[5], "boats-sea_1-burstable-podb.slice"));
        assert_eq!((number(&asked[5], "CPUWeight"), number(&asked[5], "TasksMax")), (Some(20), Some(77)));
        let stopped = asked.iter().filter(|request| names(request, "StopUnit")).count();
        assert_eq!(stopped, PLACES.len(), "whatever its class was");
        let last = &asked[9];
        assert!(names(last, "boats-sea_1-burstable.slice"));
        assert_eq!(number(last, "CPUWeight"), Some(1));
    }

    #[test]
    fn without_an_answer_pods_have_slices_all_the_same() {
        let slices = Slices::set_up(Systemd::at("/nowhere".into()), Hierarchies::default(), parts(), Some(77), whole());
        let pod = pod("b", 500, None);
        make(&slices, &pod);
        assert_eq!(slices.of(&pod), "boats-sea_1-burstable-podb.slice");
        slices.remove(&pod.uid).unwrap();
    }

    #[test]
    fn slices_that_are_left_over_go_by_their_names() {
        let hierarchy = tempfile::tempdir().unwrap();
        let at = |path: &str| hierarchy.path().join("boats.slice/boats-sea_1.slice").join(path);
        let left = at("boats-sea_1-besteffort.slice/boats-sea_1-besteffort-podgone.slice");
        let kept = [at("boats-sea_1-podkept_1.slice"), at("boats-sea_1-else.slice")];
        for dir in kept.iter().chain([&left]) {
            std::fs::create_dir_all(dir.join("scope")).unwrap();
        }
        let mounts = format!("cgroup {} cgroup rw,pids 0 0\n", hierarchy.path().display());
        let (_dir, systemd, player) = play(vec![Says::Done; 5]);
        let slices = Slices::set_up(systemd, Hierarchies::of(&mounts), parts(), None, whole());
        slices.sweep(&BTreeSet::from([PodUid::new("kept-1").unwrap()]));
        let asked = player.join().unwrap();
        assert!(names(&asked[4], "StopUnit") && names(&asked[4], "boats-sea_1-besteffort-podgone.slice"));
        assert!(!left.exists() && kept.iter().all(|dir| dir.is_dir()));
    }
}
