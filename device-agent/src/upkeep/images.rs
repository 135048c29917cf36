//! Which images go when the disk that holds them fills up. Pure.
//!
//! A kubelet's rules: above one share of the disk, images that nothing uses go until another share is reached, the one that
//! was used the longest ago first, and none that has only just come. What a pod of this device wants is in use although no
//! container of it may exist yet: without its registry the device could not get it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::runtime::{ImageStore, StoredImage};

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// From this share of the disk on (percent); 100: never.
    pub high: u8,
    /// Until this share is reached.
    pub low: u8,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { high: 85, low: 80 }
    }
}

/// An image that has come since then stays: whoever had it fetched is about to use it.
const YOUNG_MILLIS: u64 = 2 * 60 * 1_000;

/// Remembers when images were used.
#[derive(Debug)]
pub(super) struct ImageKeeper {
    limits: ImageLimits,
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: u64,
    used: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// How many bytes are to be had.
    pub(super) wanted: u64,
    /// What may go for it, in this order.
    pub(super) may_go: Vec<StoredImage>,
}

impl ImageKeeper {
    pub(super) fn new(limits: ImageLimits) -> Self {
        Self { limits, seen: BTreeMap::new() }
    }

    /// Takes in what is there now (milliseconds).
    pub(super) fn plan(&mut self, now: u64, store: &ImageStore) -> Plan {
        let present: BTreeSet<&str> = store.images.iter().map(|image| image.id.as_str()).collect();
        self.seen.retain(|id, _| present.contains(id.as_str()));
        for image in &store.images {
            // What is found at the start may have been there for years.
            let seen = self.seen.entry(image.id.clone()).or_insert(Seen { first: now, used: 0 });
            if image.in_use {
                seen.used = now;
            }
        }
        let wanted = self.wanted(store);
        if wanted == 0 {
            return Plan::default();
        }
        let age = |image: &StoredImage| self.seen[&image.id];
        let mut may_go: Vec<StoredImage> = store
            .images
            .iter()
            .filter(|image| !image.in_use && !image.kept && now.saturating_sub(age(image).first) >= YOUNG_MILLIS)
            .cloned()
            .collect();
        may_go.sort_by_key(|image| (age(image).used, age(image).first, std::cmp::Reverse(image.bytes)));
        Plan { wanted, may_go }
    }

    /// How many bytes are to be had, given how full the disk is.
    fn wanted(&self, store: &ImageStore) -> u64 {
        let share = |percent: u8| store.total / 100 * u64::from(percent);
        let used = store.total.saturating_sub(store.available);
        if self.limits.high >= 100 || used < share(self.limits.high) {
            0
        } else {
            used.saturating_sub(share(self.limits.low))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn image(id: &str, bytes: u64) -> StoredImage {
        StoredImage { id: id.to_owned(), name: format!("{id}:1"), bytes, in_use: false, kept: false }
    }

    fn used(id: &str) -> StoredImage {
        StoredImage { in_use: true, ..image(id, 10) }
    }

    fn store(full: u64, images: Vec<StoredImage>) -> ImageStore {
        ImageStore { total: 1_000, available: 1_000 - full * 10, images }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.may_go.iter().map(|image| image.id.as_str()).collect()
    }

    #[test]
    fn nothing_goes_while_there_is_room() {
        let mut keeper = ImageKeeper::new(ImageLimits::default());
        assert_eq!(keeper.plan(0, &store(84, vec![image("a", 10)])), Plan::default());
        assert_eq!(keeper.plan(9 * MINUTE, &store(84, vec![image("a", 10)])), Plan::default());
        let plan = keeper.plan(10 * MINUTE, &store(85, vec![image("a", 10)]));
        assert_eq!((plan.wanted, names(&plan)), (50, vec!["a"]), "down to 80 %");
    }

    #[test]
    fn the_one_used_the_longest_ago_goes_first_and_the_one_in_use_never() {
        let mut keeper = ImageKeeper::new(ImageLimits::default());
        keeper.plan(MINUTE, &store(10, vec![used("late"), used("early"), image("never", 1), used("now")]));
        keeper.plan(2 * MINUTE, &store(10, vec![used("late"), image("early", 10), image("never", 1), used("now")]));
        let all = vec![image("late", 10), image("early", 10), image("never", 1), used("now"), image("new", 10)];
        let plan = keeper.plan(9 * MINUTE, &store(99, all));
        assert_eq!(names(&plan), ["never", "early", "late"], "one that has only just come stays");
    }

    #[test]
    fn what_the_runtime_needs_stays() {
        let mut keeper = ImageKeeper::new(ImageLimits::default());
        let pause = StoredImage { kept: true, ..image("pause", 1) };
        let all = || vec![pause.clone(), used("now"), image("old", 1)];
        keeper.plan(0, &store(10, all()));
        let plan = keeper.plan(3 * MINUTE, &store(99, all()));
        assert_eq!(names(&plan), ["old"]);
    }

    #[test]
    fn whoever_does_not_want_it_is_left_alone() {
        let mut keeper = ImageKeeper::new(ImageLimits { high: 100, low: 80 });
        keeper.plan(0, &store(100, vec![image("a", 10)]));
        assert_eq!(keeper.plan(9 * MINUTE, &store(100, vec![image("a", 10)])), Plan::default());
    }
}
