//! Users and groups of a pod's own: those of its containers begin with 0 and are others for the device.
//!
//! Each pod that asks for that has a range that no other pod of the device has. It is written down in the pod's directory
//! before the engine is told of it, as a kubelet does it, so that an agent that comes back finds it, and gives it to nobody
//! else for as long as the pod has a place. What is on the disk keeps the numbers that containers see: the engine mounts it so.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use hawser_cri::{IdMapping, Mount, NamespaceMode, PodSandboxStatus, RuntimeHandler, UserNamespace};
use hawser_wire::PodUid;
use hawser_wire::deployment::{Ask, EdgeDeployment};

use super::admission::handler;
use super::security::asks;
use super::{Cri, failure};
use crate::runtime::PrepareError;
use crate::runtime::volumes::beneath::Beneath;
use crate::runtime::volumes::place::{Naming, Places};

/// How many users and groups a pod has, as with a kubelet.
const LENGTH: u32 = 1 << 16;
/// The numbers of the first range and of the last: what distributions leave to containers. The device's own users are below, the
/// groups of pods' directories above.
const FIRST: u32 = 0x0008_0000 / LENGTH;
const LAST: u32 = 0x6fff_0000 / LENGTH;
/// Where a pod's range is written down, in its directory.
const FILE: &str = "users";
/// Far more than any number takes.
const MAX_FILE: u64 = 32;
/// Who was given ranges of users and of groups by the device's owner.
const SUBORDINATE: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// A device with more lines than that has other worries.
const MAX_SUBORDINATE: u64 = 1024 * 1024;

/// A pod's range of users and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Users {
    /// The number of the range: it begins with this many times its length.
    range: u32,
}

impl Users {
    /// The range that begins with this user, if it is one that a pod may have.
    fn beginning(first: u32) -> Option<Self> {
        let range = first / LENGTH;
        (first.is_multiple_of(LENGTH) && (FIRST..=LAST).contains(&range)).then_some(Self { range })
    }

    fn first(self) -> u32 {
        self.range * LENGTH
    }

    fn mapping(self) -> Vec<IdMapping> {
        vec![IdMapping { host_id: self.first(), container_id: 0, length: LENGTH }]
    }

    /// In the words of an engine.
    pub(super) fn namespace(self) -> UserNamespace {
        UserNamespace { mode: NamespaceMode::Pod.into(), uids: self.mapping(), gids: self.mapping() }
    }

    /// What a container mounts, with the users that it sees on the disk.
    pub(super) fn of_mount(self, mount: Mount) -> Mount {
        Mount { uid_mappings: self.mapping(), gid_mappings: self.mapping(), ..mount }
    }

    /// Whether the engine has understood that the sandbox is to have these users. One that is older than what it was asked for runs
    /// the pod as any other, and says nothing.
    pub(super) fn check(self, sandbox: &PodSandboxStatus) -> Result<(), String> {
        let namespaces = sandbox.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
        let has = namespaces.and_then(|namespaces| namespaces.options.as_ref()?.users.as_ref());
        if has == Some(&self.namespace()) {
            return Ok(());
        }
        Err(format!(
            "the pod's sandbox does not have the users and groups from {} on that the pod was given: was the engine replaced? \
             Delete the pod",
            self.first()
        ))
    }
}

/// Whether the engine, which has these ways to run pods, can give this one users of its own; a kubelet's words if not.
fn check(pod: &EdgeDeployment, ways: &[RuntimeHandler]) -> Result<(), String> {
    let handler = handler(pod);
    let way = ways.iter().find(|way| way.name == handler);
    if way.and_then(|way| way.features).is_some_and(|features| features.user_namespaces) {
        return Ok(());
    }
    let who = match handler {
        "" => "runtime".to_owned(),
        handler => format!("RuntimeClass handler \"{handler}\""),
    };
    let words = format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces");
    // An engine that names no ways is older than the question.
    Err(match way {
        None if !ways.is_empty() => format!("{words}: the handler {handler:?} is not known"),
        _ => words,
    })
}

/// Whether the pod asks for users of its own.
pub(super) fn wanted(pod: &EdgeDeployment) -> bool {
    asks(pod).any(|ask| *ask == Ask::OwnUsers)
}

/// Numbers of ranges, from one to another, that are somebody else's.
type Others = (u32, u32);

/// The first range at or after `lot`, and then from the beginning on, that nobody has.
fn free(taken: &BTreeSet<Users>, others: &[Others], lot: u32) -> Option<Users> {
    let count = LAST - FIRST + 1;
    let is_free =
        |users: &Users| !taken.contains(users) && !others.iter().any(|(from, to)| (*from..=*to).contains(&users.range));
    (0..count).map(|step| Users { range: FIRST + (lot % count + step) % count }).find(is_free)
}

/// The ranges that a list of subordinate users or groups touches: lines of name, first and count.
fn subordinate(text: &str) -> Vec<Others> {
    let range = |line: &str| {
        let mut parts = line.trim().split(':').skip(1).map(|part| part.parse::<u32>().ok());
        let (first, count) = (parts.next()??, parts.next()??);
        let last = first.checked_add(count.checked_sub(1)?)?;
        Some((first / LENGTH, last / LENGTH))
    };
    text.lines().filter_map(range).collect()
}

fn parse(text: &str) -> Option<Users> {
    Users::beginning(text.trim_end().parse().ok()?)
}

/// The range that is written down in a pod's directory.
///
/// Nothing that can be read there is no range: after a power cut the file may be empty, but then nothing of the pod runs.
fn of(place: &Path) -> Option<Users> {
    let mut text = String::new();
    Beneath::open(place).ok()?.read_file(FILE).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    parse(&text)
}

/// The pod's range: its own, or one that no other pod below `root` has. Nobody else may claim one meanwhile.
///
/// A free one is drawn by lot, not counted up: what a pod has left somewhere with its numbers must not belong to the next one.
fn claim(places: &Places, uid: &PodUid) -> io::Result<Users> {
    let place = places.pod(uid);
    if let Some(users) = of(&place) {
        return Ok(users);
    }
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(&places.root)? {
        taken.extend(of(&entry?.path()));
    }
    let mut lot = [0; 4];
    getrandom::fill(&mut lot).map_err(io::Error::other)?;
    let users = free(&taken, &others(), u32::from_ne_bytes(lot));
    let users = users.ok_or_else(|| io::Error::other("all of them are taken"))?;
    Beneath::open(&place)?.write_file(FILE, 0o600)?.write_all(format!("{}\n", users.first()).as_bytes())?;
    Ok(users)
}

/// What the device's owner has given to others.
fn others() -> Vec<Others> {
    let mut all = Vec::new();
    for path in SUBORDINATE {
        let mut text = String::new();
        let read = fs::File::open(path).and_then(|file| file.take(MAX_SUBORDINATE).read_to_string(&mut text));
        // Most devices have given nobody anything.
        all.extend(read.map_or_else(|_| Vec::new(), |_| subordinate(&text)));
    }
    all
}

impl Cri {
    /// The users that the pod has of its own; `None`: it has the device's.
    ///
    /// The engine is asked each time whether it can: it is replaced without the agent being started again.
    pub(super) async fn users(&self, pod: &EdgeDeployment) -> Result<Option<Users>, PrepareError> {
        if !wanted(pod) {
            return Ok(None);
        }
        let told = self.0.client.status(false).await;
        let told = told.map_err(|error| PrepareError::Sandbox(failure("ask the engine", error)))?;
        check(pod, &told.runtime_handlers).map_err(PrepareError::Impossible)?;
        let (runtime, uid) = (self.clone(), pod.uid.clone());
        let claimed = self.blocking(move || {
            let _alone = runtime.claiming();
            claim(&runtime.0.places, &uid)
        });
        let claimed = claimed.await.naming(|| "give the pod users of its own".to_owned());
        claimed.map(Some).map_err(PrepareError::Sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cri::samples::pod;
    use hawser_cri::{LinuxPodSandboxStatus, Namespace, NamespaceOption, RuntimeHandlerFeatures};
    use hawser_wire::deployment::Engine;

    fn asking(asks: Vec<Ask>) -> EdgeDeployment {
        EdgeDeployment { engine: Some(Engine { asks, ..Engine::default() }), ..pod() }
    }

    #[test]
    fn a_range_is_whole_and_none_of_the_devices() {
        for bad in [0, 1, 65_536, 0x0007_0000, 0x0008_0001, 0x7000_0000, 0x7ffe_0000, u32::MAX] {
            assert_eq!(Users::beginning(bad), None, "{bad}");
        }
        for (first, last) in [(0x0008_0000, 0x0008_ffff_u32), (0x6fff_0000, 0x6fff_ffff)] {
            let users = Users::beginning(first).unwrap();
            assert_eq!(users.mapping(), [IdMapping { host_id: first, container_id: 0, length: last - first + 1 }]);
        }
    }

    #[test]
    fn no_range_is_given_twice_and_all_of_them_are_given() {
        let count = LAST - FIRST + 1;
        let all: BTreeSet<_> = (FIRST..=LAST).map(|range| Users { range }).collect();
        assert_eq!(free(&all, &[], 7), None);
        for gap in [0, 1, count / 2, count - 1] {
            let mut taken = all.clone();
            taken.remove(&Users { range: FIRST + gap });
            for lot in [0, gap, gap.wrapping_add(1), u32::MAX] {
                assert_eq!(free(&taken, &[], lot), Some(Users { range: FIRST + gap }), "{gap} {lot}");
            }
        }
        let mut taken = BTreeSet::new();
        for lot in (0..64).map(|turn| turn % 3) {
            let users = free(&taken, &[(FIRST + 1, FIRST + 2)], lot).unwrap();
            assert!(taken.insert(users) && !(FIRST + 1..=FIRST + 2).contains(&users.range), "{users:?}");
        }
    }

    #[test]
    fn what_others_were_given_counts_with_all_ranges_that_it_touches() {
        let text =
            "rick:100000:65536\n# none\nmorty:524288:1\n\nbad\nx:a:b\nnone:7:0\nover:4294967295:2\nend:4294967295:1";
        assert_eq!(subordinate(text), [(1, 2), (8, 8), (65_535, 65_535)]);
    }

    #[test]
    fn what_is_written_down_is_read_again_and_rubbish_is_not() {
        assert_eq!(parse("524288\n"), Users::beginning(524_288));
        for bad in ["", "\n", "65536\n", "524289\n", "-1\n", "99999999999\n", "524288\n131072\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_pod_keeps_its_range_and_another_one_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { root: dir.path().to_owned(), secrets: dir.path().to_owned(), mounts: false };
        let uids = ["a", "b"].map(|name| PodUid::new(name).unwrap());
        for uid in &uids {
            fs::create_dir(places.pod(uid)).unwrap();
        }
        let [a, b] = uids.each_ref().map(|uid| claim(&places, uid).unwrap());
        assert_ne!(a, b);
        assert_eq!(uids.each_ref().map(|uid| claim(&places, uid).unwrap()), [a, b], "as after a restart");
        fs::write(places.pod(&uids[0]).join(FILE), "").unwrap();
        let anew = claim(&places, &uids[0]).unwrap();
        assert_ne!(anew, b);
        assert_eq!(of(&places.pod(&uids[0])), Some(anew));
    }

    #[test]
    fn an_engine_that_cannot_is_told_of_in_a_kubelets_words() {
        let handler = |name: &str, can| RuntimeHandler {
            name: name.into(),
            features: Some(RuntimeHandlerFeatures { user_namespaces: can, ..RuntimeHandlerFeatures::default() }),
        };
        let usual = asking(vec![Ask::OwnUsers]);
        let named = asking(vec![Ask::Handler("old".into()), Ask::OwnUsers]);
        let words = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        assert_eq!(check(&usual, &[]), Err(words.to_owned()), "it is too old to say anything");
        let words = "can't set `spec.hostUsers: false`, RuntimeClass handler \"old\" does not support user namespaces";
        assert_eq!(check(&named, &[]), Err(words.to_owned()));
        let ways = [handler("", true), handler("old", false)];
        assert_eq!(check(&usual, &ways), Ok(()));
        assert_eq!(check(&named, &ways), Err(words.to_owned()));
        assert_eq!(check(&named, &ways[..1]), Err(format!("{words}: the handler \"old\" is not known")));
    }

    #[test]
    fn a_sandbox_without_the_users_is_seen() {
        let users = Users::beginning(0x0008_0000).unwrap();
        let with = |users| PodSandboxStatus {
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace { options: Some(NamespaceOption { users, ..NamespaceOption::default() }) }),
            }),
            ..PodSandboxStatus::default()
        };
        assert_eq!(users.check(&with(Some(users.namespace()))), Ok(()));
        let other = Users::beginning(0x0009_0000).unwrap();
        for wrong in [with(None), with(Some(other.namespace())), PodSandboxStatus::default()] {
            assert!(users.check(&wrong).unwrap_err().contains("from 524288 on"));
        }
    }
}
