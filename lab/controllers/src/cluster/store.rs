//! The shared cache of one kind: what the watch said, and what this process itself has written since.
//!
//! A controller that decides on a cache older than its own last write creates the same pod twice. Instead of counting
//! expectations, the answer of every write goes into the cache, marked *unconfirmed*, until the watch has caught up:
//!
//! - an event older than what is cached is ignored (resource versions of one kind are ordered numbers);
//! - a list that lacks an unconfirmed object does not remove it;
//! - an object this process saw deleted leaves its UID behind, so that a late event cannot bring it back.
//!
//! Unconfirmed objects and UIDs of the gone expire, so an event that was lost altogether heals.
//! Only [`Store`] writes here: the watch task through `watched`, the writers of `Cluster` through `wrote` and `removed`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::identity::{self, ObjectKey};

/// How long the watch may take to show a write of ours before the cache stops believing in it.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(30);

/// What happened to one object of the cache.
#[derive(Debug)]
pub(crate) struct Change<K> {
    pub(crate) old: Option<Arc<K>>,
    pub(crate) new: Option<Arc<K>>,
}

impl<K: Resource> Change<K> {
    /// The newest known form of the object.
    pub(crate) fn latest(&self) -> Option<&K> {
        self.new.as_deref().or(self.old.as_deref())
    }
}

/// A cache that readers share; see the module for who writes.
#[derive(Debug)]
pub(crate) struct Store<K> {
    inner: RwLock<Inner<K>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner<K> {
    objects: BTreeMap<ObjectKey, Entry<K>>,
    by_controller: BTreeMap<String, BTreeSet<ObjectKey>>,
    gone: BTreeMap<String, Instant>,
    relist: BTreeMap<ObjectKey, K>,
}

#[derive(Debug)]
struct Entry<K> {
    object: Arc<K>,
    unconfirmed_since: Option<Instant>,
}

impl<K: Resource + Clone> Default for Store<K> {
    fn default() -> Self {
        Self { inner: RwLock::new(Inner::default()), ready: watch::Sender::new(false) }
    }
}

impl<K> Default for Inner<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            by_controller: BTreeMap::new(),
            gone: BTreeMap::new(),
            relist: BTreeMap::new(),
        }
    }
}

impl<K: Resource + Clone> Store<K> {
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).map(|entry| entry.object.clone())
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().map(|entry| entry.object.clone()).collect()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        let read = self.read();
        let range = read.objects.range(from..).take_while(|(key, _)| key.namespace == namespace);
        range.map(|(_, entry)| entry.object.clone()).collect()
    }

    /// The objects whose managing owner has this UID.
    pub(crate) fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let read = self.read();
        let keys = read.by_controller.get(uid).into_iter().flatten();
        keys.filter_map(|key| read.objects.get(key)).map(|entry| entry.object.clone()).collect()
    }

    /// Resolves when the first complete list has arrived.
    pub(crate) async fn ready(&self) {
        // The sender lives as long as the store, so waiting can only end with the value.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Takes what the watch said.
    pub(crate) fn watched(&self, event: Event<K>) -> Vec<Change<K>> {
        let mut inner = self.write();
        match event {
            Event::Apply(object) => inner.admit(object, None).into_iter().collect(),
            Event::Delete(object) => inner.deleted(&object).into_iter().collect(),
            Event::Init => {
                inner.relist.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                inner.relist.insert(ObjectKey::of(object.meta()), object);
                Vec::new()
            }
            Event::InitDone => {
                let changes = inner.relisted();
                drop(inner);
                self.ready.send_replace(true);
                changes
            }
        }
    }

    /// Takes the API server's answer to a write of ours.
    pub(crate) fn wrote(&self, object: K, now: Instant) -> Option<Change<K>> {
        self.write().admit(object, Some(now))
    }

    /// Changes the cached object without a new version: the API server accepted something whose result it did not
    /// return (a binding). The next event with a newer version replaces it.
    pub(crate) fn assumed(&self, object: K) -> Option<Change<K>> {
        let mut inner = self.write();
        let key = ObjectKey::of(object.meta());
        let current = inner.objects.get(&key)?;
        if identity::uid(current.object.meta()) != identity::uid(object.meta()) {
            return None;
        }
        let unconfirmed_since = current.unconfirmed_since;
        inner.put(key, object, unconfirmed_since)
    }

    /// Takes note that the API server has removed the object for good.
    pub(crate) fn removed(&self, key: &ObjectKey, uid: &str, now: Instant) -> Option<Change<K>> {
        let mut inner = self.write();
        inner.gone.insert(uid.to_owned(), now);
        if inner.objects.get(key).is_some_and(|entry| identity::uid(entry.object.meta()) == uid) {
            return inner.remove(key);
        }
        None
    }

    /// Forgets what the watch should have confirmed long ago.
    pub(crate) fn expire(&self, now: Instant) -> Vec<Change<K>> {
        let mut inner = self.write();
        let old = |since: Instant| now.duration_since(since) >= UNCONFIRMED_FOR;
        inner.gone.retain(|_, since| !old(*since));
        let late: Vec<_> = inner
            .objects
            .iter()
            .filter(|(_, entry)| entry.unconfirmed_since.is_some_and(old))
            .map(|(key, _)| key.clone())
            .collect();
        late.iter().filter_map(|key| inner.remove(key)).collect()
    }

    // A panic while the lock is held cannot leave the maps half changed in a way that later reads could not bear.
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource + Clone> Inner<K> {
    /// Puts in an object unless something newer is known. `wrote_at` marks it as ours and unconfirmed.
    fn admit(&mut self, object: K, wrote_at: Option<Instant>) -> Option<Change<K>> {
        if self.gone.contains_key(identity::uid(object.meta())) {
            return None;
        }
        let key = ObjectKey::of(object.meta());
        if let Some(entry) = self.objects.get_mut(&key) {
            match (version(entry.object.meta()), version(object.meta())) {
                (Some(current), Some(new)) if new < current => return None,
                (Some(current), Some(new)) if new == current => {
                    // Known already: the watch confirms it, a write that changed nothing leaves it as it was.
                    if wrote_at.is_none() {
                        entry.unconfirmed_since = None;
                    }
                    return None;
                }
                // Newer, or versions that are no numbers: then the order of arrival is all there is.
                _ => {}
            }
        }
        self.put(key, object, wrote_at)
    }

    fn deleted(&mut self, object: &K) -> Option<Change<K>> {
        self.gone.remove(identity::uid(object.meta()));
        let key = ObjectKey::of(object.meta());
        let current = self.objects.get(&key)?.object.meta();
        let same = identity::uid(current) == identity::uid(object.meta());
        let older = version(current) < version(object.meta());
        if same || older { self.remove(&key) } else { None }
    }

    fn relisted(&mut self) -> Vec<Change<K>> {
        let listed = std::mem::take(&mut self.relist);
        let missing: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, entry)| entry.unconfirmed_since.is_none() && !listed.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        let mut changes: Vec<_> = missing.iter().filter_map(|key| self.remove(key)).collect();
        changes.extend(listed.into_values().filter_map(|object| self.admit(object, None)));
        changes
    }

    fn put(&mut self, key: ObjectKey, object: K, unconfirmed_since: Option<Instant>) -> Option<Change<K>> {
        let old = self.remove(&key).and_then(|change| change.old);
        let object = Arc::new(object);
        if let Some(owner) = identity::controller_of(object.meta()) {
            self.by_controller.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        self.objects.insert(key, Entry { object: object.clone(), unconfirmed_since });
        Some(Change { old, new: Some(object) })
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Change<K>> {
        let entry = self.objects.remove(key)?;
        if let Some(owner) = identity::controller_of(entry.object.meta())
            && let Some(keys) = self.by_controller.get_mut(&owner.uid)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_controller.remove(&owner.uid);
            }
        }
        Some(Change { old: Some(entry.object), new: None })
    }
}

fn version(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::clock::Clock;
    use crate::samples;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        let mut pod = samples::pod(name);
        pod.metadata.uid = Some(uid.into());
        pod.metadata.resource_version = Some(version.to_string());
        pod
    }

    fn names(store: &Store<Pod>) -> Vec<(String, String)> {
        let text = |pod: &Pod| (pod.metadata.uid.clone().unwrap(), pod.metadata.resource_version.clone().unwrap());
        store.all().iter().map(|pod| text(pod)).collect()
    }

    fn list(store: &Store<Pod>, pods: &[Pod]) {
        store.watched(Event::Init);
        for pod in pods {
            store.watched(Event::InitApply(pod.clone()));
        }
        store.watched(Event::InitDone);
    }

    fn at(names: &[(&str, &str)]) -> Vec<(String, String)> {
        names.iter().map(|(uid, version)| ((*uid).into(), (*version).into())).collect()
    }

    #[test]
    fn a_write_is_visible_before_the_watch_shows_it() {
        let (store, now) = (Store::default(), Clock::Wall.instant());
        list(&store, &[]);
        assert!(store.wrote(pod("a", "u1", 7), now).is_some());
        assert_eq!(names(&store), at(&[("u1", "7")]));
        // A list from before the write does not take it away, and the event that confirms it changes nothing.
        list(&store, &[]);
        assert_eq!(names(&store), at(&[("u1", "7")]));
        assert!(store.watched(Event::Apply(pod("a", "u1", 7))).is_empty());
        // Confirmed now: a list without it does.
        list(&store, &[]);
        assert!(names(&store).is_empty());
    }

    #[test]
    fn an_older_event_does_not_undo_a_write() {
        let (store, now) = (Store::default(), Clock::Wall.instant());
        store.watched(Event::Apply(pod("a", "u1", 3)));
        store.wrote(pod("a", "u1", 9), now);
        assert!(store.watched(Event::Apply(pod("a", "u1", 5))).is_empty());
        assert_eq!(names(&store), at(&[("u1", "9")]));
        assert_eq!(store.watched(Event::Apply(pod("a", "u1", 12))).len(), 1);
    }

    #[test]
    fn a_late_event_does_not_bring_back_the_dead() {
        let (store, now) = (Store::default(), Clock::Wall.instant());
        let key = ObjectKey::new("default", "a");
        store.watched(Event::Apply(pod("a", "u1", 3)));
        assert!(store.removed(&key, "u1", now).is_some());
        assert!(store.watched(Event::Apply(pod("a", "u1", 4))).is_empty());
        // A new object of the same name is another matter.
        assert_eq!(store.watched(Event::Apply(pod("a", "u2", 6))).len(), 1);
        // And the late deletion of the first one does not touch it.
        assert!(store.watched(Event::Delete(pod("a", "u1", 5))).is_empty());
        assert_eq!(names(&store), at(&[("u2", "6")]));
    }

    #[test]
    fn what_the_watch_never_confirms_expires() {
        let (store, now) = (Store::default(), Clock::Wall.instant());
        store.wrote(pod("a", "u1", 7), now);
        assert!(store.expire(now + Duration::from_secs(29)).is_empty());
        assert_eq!(store.expire(now + Duration::from_secs(30)).len(), 1);
        assert!(names(&store).is_empty());
    }

    #[test]
    fn namespaces_and_owners_are_found() {
        let store = Store::default();
        let mut owned = pod("a", "u1", 1);
        owned.metadata.owner_references =
            Some(vec![identity::controller_reference("apps/v1", "ReplicaSet", &samples::meta("rs"))]);
        let mut foreign = pod("b", "u2", 2);
        foreign.metadata.namespace = Some("default-2".into());
        store.watched(Event::Apply(owned.clone()));
        store.watched(Event::Apply(foreign));
        assert_eq!(store.in_namespace("default").len(), 1);
        assert_eq!(store.controlled_by("uid-rs").len(), 1);
        owned.metadata.owner_references = None;
        owned.metadata.resource_version = Some("3".into());
        store.watched(Event::Apply(owned));
        assert!(store.controlled_by("uid-rs").is_empty());
    }
}
