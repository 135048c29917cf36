//! A group for each pod, so that only the pod's own processes may enter its directories.
//!
//! Users do not tell pods apart: two pods may run as the same one, and one pod as several. So, where the agent is root,
//! each pod gets a group that nobody else is in. The pod's directory belongs to it, which is also where it is written
//! down.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Neither distributions, nor systemd, nor user namespaces hand these out, and they fit into 31 bits, beyond which some
/// programs are at a loss.
const GROUPS: RangeInclusive<u32> = 0x7000_0000..=0x7ffd_ffff;

/// The group of the pod whose directory this is, if it has one.
pub(super) fn of(place: &Path) -> Option<u32> {
    fs::symlink_metadata(place).ok().map(|place| place.gid()).filter(|group| GROUPS.contains(group))
}

/// A group for the pod whose directory this is: its own, or one that no other pod below `root` has.
///
/// A free one is drawn by lot, not counted up: a file with the set-group-ID bit that a pod has left somewhere must not
/// open the place of a later one.
pub(super) fn claim(root: &Path, place: &Path) -> io::Result<u32> {
    if let Some(group) = of(place) {
        return Ok(group);
    }
    let mut taken = Vec::new();
    for entry in fs::read_dir(root)? {
        taken.extend(of(&entry?.path()));
    }
    loop {
        let mut lot = [0; 4];
        getrandom::fill(&mut lot).map_err(io::Error::other)?;
        let group = u32::from_ne_bytes(lot) & 0x7fff_ffff;
        if GROUPS.contains(&group) && !taken.contains(&group) {
            return Ok(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_keeps_its_group_and_another_one_gets_another() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: changing groups takes root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let place = root.path().join(name);
            fs::create_dir(&place).unwrap();
            place
        };
        let (a, b) = (place("a"), place("b"));
        assert_eq!(of(&a), None);
        let group = claim(root.path(), &a).unwrap();
        std::os::unix::fs::chown(&a, None, Some(group)).unwrap();
        assert_eq!((of(&a), claim(root.path(), &a).unwrap()), (Some(group), group));
        assert_ne!(claim(root.path(), &b).unwrap(), group);
    }
}
