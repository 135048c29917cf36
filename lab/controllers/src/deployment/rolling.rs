//! The arithmetic of a rolling update: which set may grow or shrink by how much, right now. Pure.
//!
//! Two promises hold at every step, whatever the pods do: the sizes of all sets together never exceed
//! `desired + maxSurge` because of a step, and a step never takes away an available pod that is needed to stay at
//! `desired - maxUnavailable`.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::plan::Resize;
use super::sets::{self, Limits, available, replicas};

fn total(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| replicas(set)).sum()
}

/// The size with which a new set is created.
pub(super) fn first_size(limits: Limits, old: &[Arc<ReplicaSet>]) -> i32 {
    if limits.recreate { limits.desired } else { grown(limits, 0, total(old)) }
}

/// How large the new set may be, given its size and that of all sets together.
fn grown(limits: Limits, new: i32, everything: i32) -> i32 {
    let room = (limits.ceiling() - everything).max(0);
    new + room.min(limits.desired - new)
}

/// The next step: grow the new set if it may, otherwise shrink old ones.
pub(super) fn step(limits: Limits, new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Vec<Resize> {
    let size = replicas(new);
    let wanted = if size > limits.desired { limits.desired } else { grown(limits, size, total(old) + size) };
    if wanted != size {
        return vec![Resize { set: new.clone(), to: wanted }];
    }
    shrink(limits, new, old)
}

fn shrink(limits: Limits, new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Vec<Resize> {
    let everything = total(old) + replicas(new);
    // Pods of the new set that are not available yet are counted as taken: they may never become available.
    let new_unavailable = (replicas(new) - available(new)).max(0);
    let mut may_go = everything - limits.min_available() - new_unavailable;
    if total(old) == 0 || may_go <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = old.iter().map(|set| replicas(set)).collect();
    // Old pods that are not available do nobody any good: they go first.
    for (set, size) in old.iter().zip(&mut sizes) {
        let broken = (*size - available(set)).clamp(0, may_go);
        *size -= broken;
        may_go -= broken;
    }
    let up: i32 = old.iter().map(|set| available(set)).sum::<i32>() + available(new);
    let mut spare = (up - limits.min_available()).max(0);
    for size in &mut sizes {
        let gone = (*size).min(spare);
        *size -= gone;
        spare -= gone;
    }
    let changed = old.iter().zip(sizes).filter(|(set, to)| replicas(set) != *to);
    changed.map(|(set, to)| Resize { set: set.clone(), to }).collect()
}

/// Sizes after the Deployment itself was scaled, or while it is paused: every active set keeps its share.
pub(super) fn proportional(limits: Limits, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> Vec<Resize> {
    let mut active: Vec<_> = old.iter().chain(new).filter(|set| replicas(set) > 0).cloned().collect();
    if active.len() <= 1 {
        let latest = active.pop().or_else(|| new.cloned()).or_else(|| old.last().cloned());
        return latest.map(|set| Resize { set, to: limits.desired }).into_iter().collect();
    }
    if new.is_some_and(|new| is_saturated(new, limits)) {
        return active_old(old).map(|set| Resize { set, to: 0 }).collect();
    }
    if limits.recreate {
        return Vec::new();
    }
    let everything = total(&active);
    let allowed = if limits.desired > 0 { limits.ceiling() } else { 0 };
    let to_add = allowed - everything;
    sort_by_size(&mut active, to_add > 0);
    let mut added = 0;
    let mut resizes: Vec<Resize> = Vec::new();
    for set in active {
        let share = if to_add == 0 { 0 } else { share(&set, limits, to_add, to_add - added) };
        added += share;
        resizes.push(Resize { to: (replicas(&set) + share).max(0), set });
    }
    // What rounding left over goes to the largest.
    if let Some(first) = resizes.first_mut() {
        first.to = (first.to + to_add - added).max(0);
    }
    resizes
}

fn active_old(old: &[Arc<ReplicaSet>]) -> impl Iterator<Item = Arc<ReplicaSet>> {
    old.iter().filter(|set| replicas(set) > 0).cloned()
}

/// The new set has all the pods the Deployment wants, and they are available.
fn is_saturated(new: &ReplicaSet, limits: Limits) -> bool {
    replicas(new) == limits.desired
        && sets::desired_annotation(new) == Some(limits.desired)
        && available(new) == limits.desired
}

/// Largest first; among equals the newest first when growing, the oldest first when shrinking.
fn sort_by_size(sets: &mut [Arc<ReplicaSet>], newest_first: bool) {
    sets::by_age(sets);
    if newest_first {
        sets.reverse();
    }
    sets.sort_by_key(|set| std::cmp::Reverse(replicas(set)));
}

/// The part of `to_add` that falls to a set, by its share of what the Deployment was sized for when the set was last
/// scaled, never past what is `left`.
fn share(set: &ReplicaSet, limits: Limits, to_add: i32, left: i32) -> i32 {
    let size = i64::from(replicas(set));
    let share = if limits.desired == 0 {
        -size
    } else {
        match sets::max_annotation(set).filter(|max| *max > 0) {
            None => 0,
            Some(before) => rounded(size * i64::from(limits.ceiling()), i64::from(before)) - size,
        }
    };
    let share = i32::try_from(share).unwrap_or(0);
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

/// Division of numbers that are not negative, to the nearest.
fn rounded(numerator: i64, denominator: i64) -> i64 {
    (numerator + denominator / 2) / denominator
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::plan::tests::{deployment, set};

    fn sizes(resizes: &[Resize]) -> Vec<(String, i32)> {
        let mut sizes: Vec<_> =
            resizes.iter().map(|resize| (resize.set.metadata.name.clone().unwrap(), resize.to)).collect();
        sizes.sort();
        sizes
    }

    fn named(pairs: &[(&str, i32)]) -> Vec<(String, i32)> {
        pairs.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    #[test]
    fn the_new_set_grows_into_the_surge_then_the_old_shrinks() {
        let limits = Limits::of(&deployment(10, "2", "1"));
        let (new, old) = (set("new", 0, 0, 12), [set("old", 10, 10, 12)]);
        assert_eq!(sizes(&step(limits, &new, &old)), named(&[("new", 2)]));
        // Not available yet: only what maxUnavailable allows may go.
        let new = set("new", 2, 0, 12);
        assert_eq!(sizes(&step(limits, &new, &old)), named(&[("old", 9)]));
        // Available: two more may go.
        let new = set("new", 2, 2, 12);
        assert_eq!(sizes(&step(limits, &new, &old)), named(&[("old", 7)]));
    }

    #[test]
    fn broken_old_pods_go_first() {
        let limits = Limits::of(&deployment(4, "0", "1"));
        let (new, old) = (set("new", 0, 0, 4), [set("a", 2, 2, 4), set("b", 2, 1, 4)]);
        assert_eq!(sizes(&step(limits, &new, &old)), named(&[("b", 1)]));
    }

    #[test]
    fn nothing_goes_while_too_little_is_available() {
        let limits = Limits::of(&deployment(4, "1", "0"));
        let (new, old) = (set("new", 1, 0, 5), [set("old", 4, 4, 5)]);
        assert!(step(limits, &new, &old).is_empty());
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
        // 10 with surge 3: 8 old, 5 new; scaled to 20.
        let limits = Limits::of(&deployment(20, "3", "2"));
        let (new, old) = (set("new", 5, 5, 13), [set("old", 8, 8, 13)]);
        assert_eq!(sizes(&proportional(limits, Some(&new), &old)), named(&[("new", 9), ("old", 14)]));
        let limits = Limits::of(&deployment(5, "3", "2"));
        assert_eq!(sizes(&proportional(limits, Some(&new), &old)), named(&[("new", 3), ("old", 5)]));
        let limits = Limits::of(&deployment(0, "3", "2"));
        assert_eq!(sizes(&proportional(limits, Some(&new), &old)), named(&[("new", 0), ("old", 0)]));
    }

    #[test]
    fn one_active_set_takes_the_whole_size() {
        let limits = Limits::of(&deployment(7, "1", "1"));
        assert_eq!(sizes(&proportional(limits, Some(&set("new", 3, 3, 4)), &[])), named(&[("new", 7)]));
        let old = [set("old", 3, 3, 4)];
        assert_eq!(sizes(&proportional(limits, Some(&set("new", 0, 0, 4)), &old)), named(&[("old", 7)]));
    }
}
