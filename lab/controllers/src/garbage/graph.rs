//! Who owns whom. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::kinds::KindId;
use crate::identity;

/// UID of an object.
pub(super) type Uid = String;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What the collector knows of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) kind: KindId,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) finalizers: Vec<String>,
}

impl Item {
    pub(super) fn of(kind: &KindId, meta: &ObjectMeta) -> Self {
        Self {
            kind: kind.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }

    /// It goes after its dependents.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// It goes, but its dependents stay.
    pub(super) fn lets_dependents_go(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|one| one.uid == owner && one.block_owner_deletion == Some(true))
    }
}

/// All objects, and for every owner, known or not, what it owns.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: BTreeMap<Uid, Item>,
    dependents: BTreeMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Uid, &Item)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid, self.items.get(uid)?)))
    }

    /// Dependents that an owner in foreground deletion waits for.
    pub(super) fn blocking(&self, uid: &str) -> Vec<Uid> {
        self.dependents(uid).filter(|(_, item)| item.blocks(uid)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes in an object; returns what to look at because of it.
    pub(super) fn observe(&mut self, uid: &str, item: Item) -> Vec<Uid> {
        let old = self.items.get(uid).cloned();
        if old.as_ref() == Some(&item) {
            return Vec::new();
        }
        let mut dirty = Vec::new();
        if !item.owners.is_empty() || item.deleting {
            dirty.push(uid.to_owned());
        }
        // An owner that waits may wait no longer when a dependent changes its references.
        if let Some(old) = &old {
            dirty.extend(old.owners.iter().map(|owner| owner.uid.clone()));
            self.unlink(uid, old);
        }
        if item.waits_for_dependents() && !old.as_ref().is_some_and(Item::waits_for_dependents) {
            dirty.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        self.items.insert(uid.to_owned(), item);
        dirty
    }

    /// Takes out an object; returns what to look at because of it.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Uid> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        self.unlink(uid, &item);
        let owners = item.owners.into_iter().map(|owner| owner.uid);
        owners.chain(self.dependents.get(uid).into_iter().flatten().cloned()).collect()
    }

    /// Takes out all objects of a kind that a complete list did not show.
    pub(super) fn relisted(&mut self, kind: &KindId, listed: &BTreeSet<Uid>) -> Vec<Uid> {
        let of_kind = self.items.iter().filter(|(uid, item)| item.kind == *kind && !listed.contains(*uid));
        let gone: Vec<_> = of_kind.map(|(uid, _)| uid.clone()).collect();
        gone.iter().flat_map(|uid| self.forget(uid)).collect()
    }

    fn unlink(&mut self, uid: &str, item: &Item) {
        for owner in &item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}

/// The UID of an object of the API.
pub(super) fn uid_of(meta: &ObjectMeta) -> Uid {
    identity::uid(meta).to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::garbage) fn owner(uid: &str, block: bool) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: format!("name-{uid}"),
            uid: uid.into(),
            controller: None,
            block_owner_deletion: Some(block),
        }
    }

    pub(in crate::garbage) fn item(owners: &[OwnerReference], deleting: bool, finalizers: &[&str]) -> Item {
        Item {
            kind: KindId { group: String::new(), plural: "pods".into() },
            namespace: "default".into(),
            name: "p".into(),
            owners: owners.to_vec(),
            deleting,
            finalizers: finalizers.iter().map(|one| (*one).to_owned()).collect(),
        }
    }

    #[test]
    fn dependents_are_found_whichever_comes_first() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe("child", item(&[owner("parent", true)], false, &[])), ["child"]);
        assert!(graph.observe("parent", item(&[], false, &[])).is_empty());
        assert_eq!(graph.blocking("parent"), ["child"]);
        assert_eq!(graph.forget("parent"), ["child"]);
        assert_eq!(graph.forget("child"), ["parent"]);
        assert!(graph.dependents.is_empty() && graph.items.is_empty());
    }

    #[test]
    fn an_owner_that_begins_to_wait_wakes_its_dependents() {
        let mut graph = Graph::default();
        graph.observe("child", item(&[owner("parent", true)], false, &[]));
        graph.observe("parent", item(&[], false, &[]));
        assert_eq!(graph.observe("parent", item(&[], true, &[FOREGROUND])), ["parent", "child"]);
        assert!(graph.observe("parent", item(&[], true, &[FOREGROUND])).is_empty(), "nothing new");
    }

    #[test]
    fn a_changed_reference_moves_the_dependent() {
        let mut graph = Graph::default();
        graph.observe("child", item(&[owner("a", true)], false, &[]));
        assert_eq!(graph.observe("child", item(&[owner("b", false)], false, &[])), ["child", "a"]);
        assert_eq!(graph.dependents("a").count(), 0);
        assert_eq!(graph.dependents("b").count(), 1);
        assert!(graph.blocking("b").is_empty());
    }

    #[test]
    fn a_list_takes_out_what_it_does_not_show() {
        let mut graph = Graph::default();
        graph.observe("stays", item(&[], false, &[]));
        graph.observe("goes", item(&[owner("x", true)], false, &[]));
        let kind = KindId { group: String::new(), plural: "pods".into() };
        assert_eq!(graph.relisted(&kind, &["stays".to_owned()].into()), ["x"]);
        assert!(graph.get("stays").is_some() && graph.get("goes").is_none());
    }
}
