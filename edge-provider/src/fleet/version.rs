//! Which version an index gets: greater than anything issued or accepted before with other content, and never less.

use hawser_wire::{Digest, Version};

/// What is known about the versions of one device's desired set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// The newest that was issued here.
    issued: Option<Stamp>,
    /// The newest that the device said to have accepted.
    accepted: Option<Stamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    version: Version,
    /// `None`: whoever issued it did not tell us the content.
    digest: Option<Digest>,
}

/// What to do about an index with a certain content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamping {
    /// Give it this version.
    Issue(Version),
    /// The device has accepted something newer than we have seen of the API. Either our view is behind (then it will
    /// catch up), or the API went backwards (then [`Versions::issue`] with `restored` goes on in a new epoch).
    Behind,
    /// The device claims the greatest version there is: nothing can be newer.
    Exhausted,
}

impl Versions {
    /// The device says what it accepted last.
    pub fn accepted(&mut self, version: Version, digest: Option<Digest>) {
        if self.accepted.is_none_or(|stamp| stamp.version <= version) {
            self.accepted = Some(Stamp { version, digest });
        }
    }

    /// The device has what was issued last.
    pub fn confirmed(&mut self, digest: Digest) {
        if let Some(issued) = self.issued.filter(|issued| issued.digest == Some(digest)) {
            self.accepted(issued.version, Some(digest));
        }
    }

    /// The version for content `digest`, seen at `revision`. `restored`: do not wait for our view to catch up.
    pub fn issue(&mut self, digest: Digest, revision: u64, restored: bool) -> Stamping {
        let newest = [self.issued, self.accepted].into_iter().flatten().max_by_key(|stamp| stamp.version);
        let Some(floor) = newest else {
            return self.stamp(Version { epoch: 0, revision, edit: 0 }, digest);
        };
        if self.may_repeat(digest) {
            return Stamping::Issue(floor.version);
        }
        let Version { epoch, revision: reached, edit } = floor.version;
        let ours = self.issued.is_some_and(|issued| issued.version == floor.version);
        let next = if revision > reached {
            Some(Version { epoch, revision, edit: 0 })
        } else if revision == reached || ours {
            // Within one run of the bridge its own revision is the highest it ever saw.
            edit.checked_add(1).map(|edit| Version { epoch, revision: reached, edit })
        } else if restored {
            epoch.checked_add(1).map(|epoch| Version { epoch, revision, edit: 0 })
        } else {
            return Stamping::Behind;
        };
        let next = next.or_else(|| epoch.checked_add(1).map(|epoch| Version { epoch, revision, edit: 0 }));
        next.map_or(Stamping::Exhausted, |version| self.stamp(version, digest))
    }

    /// What was issued last may be sent again as it is, unless the device has accepted something newer or different.
    fn may_repeat(&self, digest: Digest) -> bool {
        let Some(issued) = self.issued else { return false };
        issued.digest == Some(digest)
            && self.accepted.is_none_or(|accepted| {
                accepted.version < issued.version
                    || (accepted.version == issued.version && accepted.digest.is_none_or(|theirs| theirs == digest))
            })
    }

    fn stamp(&mut self, version: Version, digest: Digest) -> Stamping {
        self.issued = Some(Stamp { version, digest: Some(digest) });
        Stamping::Issue(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Digest = Digest([1; 16]);
    const B: Digest = Digest([2; 16]);

    fn version(epoch: u32, revision: u64, edit: u32) -> Version {
        Version { epoch, revision, edit }
    }

    fn issued(versions: &mut Versions, digest: Digest, revision: u64) -> Version {
        match versions.issue(digest, revision, false) {
            Stamping::Issue(version) => version,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_version_is_the_revision_seen() {
        assert_eq!(issued(&mut Versions::default(), A, 7), version(0, 7, 0));
    }

    #[test]
    fn the_same_content_is_sent_again_with_the_same_version() {
        let mut versions = Versions::default();
        assert_eq!(issued(&mut versions, A, 7), version(0, 7, 0));
        assert_eq!(issued(&mut versions, A, 9), version(0, 7, 0));
    }

    #[test]
    fn other_content_at_the_same_revision_is_an_edit() {
        let mut versions = Versions::default();
        issued(&mut versions, A, 7);
        assert_eq!(issued(&mut versions, B, 7), version(0, 7, 1));
        assert_eq!(issued(&mut versions, A, 7), version(0, 7, 2));
        assert_eq!(issued(&mut versions, B, 8), version(0, 8, 0));
    }

    #[test]
    fn after_a_restart_other_content_at_the_revision_that_the_device_has_is_an_edit_beyond_it() {
        let mut versions = Versions::default();
        versions.accepted(version(3, 7, 4), Some(A));
        assert_eq!(issued(&mut versions, B, 7), version(3, 7, 5));
    }

    #[test]
    fn an_api_that_went_backwards_opens_an_epoch_once_that_is_certain() {
        let mut versions = Versions::default();
        versions.accepted(version(3, 700, 4), Some(A));
        assert_eq!(versions.issue(B, 7, false), Stamping::Behind);
        assert_eq!(versions.issue(B, 7, true), Stamping::Issue(version(4, 7, 0)));
        assert_eq!(issued(&mut versions, A, 8), version(4, 8, 0));
    }

    #[test]
    fn a_device_that_took_the_same_version_with_other_content_gets_a_newer_one() {
        let mut versions = Versions::default();
        issued(&mut versions, A, 7);
        versions.accepted(version(0, 7, 0), Some(B));
        assert_eq!(issued(&mut versions, A, 7), version(0, 7, 1));
    }

    #[test]
    fn the_greatest_version_of_all_is_a_dead_end_and_says_so() {
        let mut versions = Versions::default();
        versions.accepted(version(u32::MAX, u64::MAX, u32::MAX), Some(A));
        assert_eq!(versions.issue(B, u64::MAX, true), Stamping::Exhausted);
    }

    proptest! {
        /// Against a device that accepts whatever is newer: what is issued with other content is always newer.
        #[test]
        fn versions_never_go_back(steps in prop::collection::vec((0u8..4, 0u64..40, any::<bool>(), any::<bool>()), 1..80)) {
            let mut versions = Versions::default();
            let mut seen = 0;
            let mut device: Option<(Version, Digest)> = None;
            for (content, revision, restart, restored_api) in steps {
                if restart {
                    versions = Versions::default();
                    seen = if restored_api { revision / 2 } else { seen };
                    if let Some((version, digest)) = device {
                        versions.accepted(version, Some(digest));
                    }
                }
                seen = seen.max(revision);
                let digest = Digest([content; 16]);
                let Stamping::Issue(version) = versions.issue(digest, seen, true) else {
                    return Err(TestCaseError::fail("nothing issued"));
                };
                if let Some((has, what)) = device {
                    prop_assert!(version > has || (version == has && digest == what), "{version} {has}");
                }
                device = Some((version, digest));
            }
        }
    }
}
