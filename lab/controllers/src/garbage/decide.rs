//! What to do about one object. Pure.

use std::collections::BTreeSet;

use super::graph::{FOREGROUND, Graph, Item, ORPHAN, Uid};

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is there.
    Solid,
    /// It goes as soon as its dependents are gone.
    Waiting,
    /// There is no such object any more.
    Absent,
}

/// How an object is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Nothing,
    /// Some owners are gone, others are not: only the references to the former go.
    DropReferences(BTreeSet<Uid>),
    /// No owner is left. `unblock` says to stop blocking the owners first, because they wait for each other in a circle.
    Delete {
        policy: Policy,
        unblock: bool,
    },
    /// It waited for its dependents, and they are gone.
    FinishForeground,
    /// It waits; these dependents should be looked at.
    Wait(Vec<Uid>),
    /// Its dependents lose their reference to it, then it goes.
    Orphan(Vec<Uid>),
}

/// Decides. `owners` has one entry for each owner reference of the item.
pub(super) fn decide(uid: &str, item: &Item, owners: &[Owner], graph: &Graph) -> Decision {
    if item.lets_dependents_go() {
        return Decision::Orphan(graph.dependents(uid).map(|(uid, _)| uid.clone()).collect());
    }
    if item.waits_for_dependents() {
        let blocking = graph.blocking(uid);
        if blocking.is_empty() {
            return Decision::FinishForeground;
        }
        return Decision::Wait(blocking);
    }
    if item.deleting || item.owners.is_empty() {
        return Decision::Nothing;
    }
    let is = |state: Owner| owners.contains(&state);
    if is(Owner::Solid) {
        let lost: BTreeSet<_> = item
            .owners
            .iter()
            .zip(owners)
            .filter(|(_, state)| **state != Owner::Solid)
            .map(|(owner, _)| owner.uid.clone())
            .collect();
        return if lost.is_empty() { Decision::Nothing } else { Decision::DropReferences(lost) };
    }
    if is(Owner::Waiting) && graph.dependents(uid).next().is_some() {
        let circle = graph.dependents(uid).any(|(_, dependent)| dependent.waits_for_dependents());
        return Decision::Delete { policy: Policy::Foreground, unblock: circle };
    }
    // Who deletes the object may have said before what is to become of its dependents.
    let policy = if item.has(ORPHAN) {
        Policy::Orphan
    } else if item.has(FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    };
    Decision::Delete { policy, unblock: false }
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::{item, owner};
    use super::*;

    fn graph(items: &[(&str, &Item)]) -> Graph {
        let mut graph = Graph::default();
        for (uid, item) in items {
            graph.observe(uid, (*item).clone());
        }
        graph
    }

    #[test]
    fn the_state_of_the_owners_decides() {
        let child = item(&[owner("a", true), owner("b", true)], false, &[]);
        let graph = graph(&[("child", &child)]);
        let background = Decision::Delete { policy: Policy::Background, unblock: false };
        let drop = |uid: &str| Decision::DropReferences([uid.to_owned()].into());
        for (owners, expected) in [
            ([Owner::Solid, Owner::Solid], Decision::Nothing),
            ([Owner::Solid, Owner::Absent], drop("b")),
            ([Owner::Waiting, Owner::Solid], drop("a")),
            ([Owner::Absent, Owner::Absent], background.clone()),
            ([Owner::Waiting, Owner::Absent], background.clone()),
        ] {
            assert_eq!(decide("child", &child, &owners, &graph), expected, "{owners:?}");
        }
    }

    #[test]
    fn what_nobody_owns_or_what_goes_already_is_left_alone() {
        let free = item(&[], false, &[]);
        assert_eq!(decide("x", &free, &[], &graph(&[])), Decision::Nothing);
        let going = item(&[owner("a", true)], true, &[]);
        assert_eq!(decide("x", &going, &[Owner::Absent], &graph(&[])), Decision::Nothing);
    }

    #[test]
    fn foreground_waits_for_those_who_block_only() {
        let parent = item(&[], true, &[FOREGROUND]);
        let blocking = item(&[owner("parent", true)], false, &[]);
        let loose = item(&[owner("parent", false)], false, &[]);
        let both = graph(&[("parent", &parent), ("blocking", &blocking), ("loose", &loose)]);
        assert_eq!(decide("parent", &parent, &[], &both), Decision::Wait(vec!["blocking".into()]));
        let one = graph(&[("parent", &parent), ("loose", &loose)]);
        assert_eq!(decide("parent", &parent, &[], &one), Decision::FinishForeground);
    }

    #[test]
    fn a_dependent_with_dependents_goes_in_the_foreground_too() {
        let middle = item(&[owner("top", true)], false, &[]);
        let leaf = item(&[owner("middle", true)], false, &[]);
        let foreground = |unblock| Decision::Delete { policy: Policy::Foreground, unblock };
        let plain = graph(&[("middle", &middle), ("leaf", &leaf)]);
        assert_eq!(decide("middle", &middle, &[Owner::Waiting], &plain), foreground(false));
        let waiting_leaf = item(&[owner("middle", true)], true, &[FOREGROUND]);
        let circle = graph(&[("middle", &middle), ("leaf", &waiting_leaf)]);
        assert_eq!(decide("middle", &middle, &[Owner::Waiting], &circle), foreground(true));
    }

    #[test]
    fn orphans_are_named_and_the_wish_of_the_deleter_kept() {
        let parent = item(&[], true, &[ORPHAN]);
        let child = item(&[owner("parent", true)], false, &[]);
        let graph = graph(&[("parent", &parent), ("child", &child)]);
        assert_eq!(decide("parent", &parent, &[], &graph), Decision::Orphan(vec!["child".into()]));
        let keeps = item(&[owner("gone", true)], false, &[ORPHAN]);
        let orphan = Decision::Delete { policy: Policy::Orphan, unblock: false };
        assert_eq!(decide("keeps", &keeps, &[Owner::Absent], &graph), orphan);
    }
}
