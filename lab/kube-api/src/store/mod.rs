//! The objects, their one version counter, the bounded history of changes, and who watches.
//!
//! One `Mutex` owns the state. It is held only for pure in-memory work, never across an await: every request takes it
//! once, so the order of versions is the order of changes, a watcher can be registered with no gap between what it was
//! shown and what it will be told, and there is no task to hop to. Change events go to watchers through bounded queues
//! while the lock is held; a watcher whose queue is full is dropped (its stream ends and the client starts over), because
//! the alternative is memory without bound or a write that waits for a slow reader.

pub(crate) mod watchers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use self::watchers::{Watchers, Window};
use crate::object;
use crate::refusal::Refusal;
use crate::registry::{Registry, Storage, custom};

/// An object as it is kept; shared with the history and with watchers.
pub(crate) type Object = Arc<Value>;

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) storage: Storage,
    /// What was there before.
    pub(crate) before: Option<Object>,
    /// What is there now; for a deletion, what was there, under the version of the deletion.
    pub(crate) object: Object,
    pub(crate) deleted: bool,
}

/// What a watcher is given at its start.
pub(crate) struct Subscription {
    /// Changes that happened since the version asked for.
    pub(crate) missed: Vec<Arc<Change>>,
    /// The objects at the start, when they were asked for.
    pub(crate) initial: Vec<Object>,
    /// The version at the start.
    pub(crate) version: u64,
    pub(crate) changes: mpsc::Receiver<Arc<Change>>,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// All objects first, then what changes.
    Initial,
    /// Only what changes from now on.
    Now,
    /// Everything after this version.
    After(u64),
}

type Collection = BTreeMap<(String, String), Object>;

struct State {
    version: u64,
    collections: BTreeMap<Storage, Collection>,
    registry: Arc<Registry>,
    history: VecDeque<Arc<Change>>,
    /// Changes up to this version have been forgotten.
    forgotten: u64,
    history_limit: usize,
    watchers: Watchers,
    /// Changes not yet handed to the journal; only kept when there is one. Bounded by the requests in flight, because
    /// each waits until its changes are durable.
    unsaved: Vec<Arc<Change>>,
    journalled: bool,
}

/// The store; see the module.
pub(crate) struct Store {
    state: Mutex<State>,
    /// The newest version; what the journal waits for.
    newest: watch::Sender<u64>,
}

impl Store {
    /// A store that starts with these objects at this version.
    pub(crate) fn new(objects: Vec<(Storage, Value)>, version: u64, limits: Limits, journalled: bool) -> Self {
        let mut collections: BTreeMap<Storage, Collection> = BTreeMap::new();
        for (storage, object) in objects {
            let key = (object::namespace(&object).to_owned(), object::name(&object).to_owned());
            collections.entry(storage).or_default().insert(key, Arc::new(object));
        }
        let mut state = State {
            version,
            collections,
            registry: Arc::new(Registry::default()),
            history: VecDeque::new(),
            forgotten: version,
            history_limit: limits.history,
            watchers: Watchers::new(limits.watchers, limits.watch_queue),
            unsaved: Vec::new(),
            journalled,
        };
        state.refresh_registry();
        Self { state: Mutex::new(state), newest: watch::Sender::new(version) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside a transaction is a bug in the lab; the state it leaves is whole objects, so go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a piece of pure work on the state.
    pub(crate) fn transact<T>(&self, work: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let mut state = self.lock();
        let result = work(&mut Transaction { state: &mut state });
        let version = state.version;
        drop(state);
        self.newest.send_if_modified(|newest| std::mem::replace(newest, version) != version);
        result
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.lock().registry.clone()
    }

    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Begins a watch.
    pub(crate) fn subscribe(&self, window: Window, start: Start) -> Result<Subscription, Refusal> {
        let mut state = self.lock();
        let version = state.version;
        let missed = match start {
            Start::After(after) if after > version => return Err(Refusal::too_large_version(after, version)),
            Start::After(after) if after < state.forgotten => {
                return Err(Refusal::expired(format!("too old resource version: {after} ({})", state.forgotten)));
            }
            Start::After(after) => {
                let first = state.history.partition_point(|change| change.version <= after);
                state.history.range(first..).filter(|change| window.covers(change)).cloned().collect()
            }
            Start::Initial | Start::Now => Vec::new(),
        };
        let initial = match start {
            Start::Initial => Transaction { state: &mut state }.list(&window.storage, window.namespace.as_deref()),
            Start::Now | Start::After(_) => Vec::new(),
        };
        let changes = state.watchers.add(window)?;
        Ok(Subscription { missed, initial, version, changes })
    }

    /// Forgets the history, so that every watch from an earlier version is answered with 410 Gone.
    pub(crate) fn compact(&self) {
        let mut state = self.lock();
        state.history.clear();
        state.forgotten = state.version;
    }

    /// Ends all running watches.
    pub(crate) fn cut_watches(&self) {
        self.lock().watchers.cut();
    }

    /// Takes the changes that the journal has not seen.
    pub(crate) fn take_unsaved(&self) -> Vec<Arc<Change>> {
        std::mem::take(&mut self.lock().unsaved)
    }

    /// All objects with the version they were seen at; for the journal's snapshot.
    pub(crate) fn all(&self) -> (u64, Vec<(Storage, Object)>) {
        let state = self.lock();
        let objects = state.collections.iter();
        let objects =
            objects.flat_map(|(storage, all)| all.values().map(move |object| (storage.clone(), object.clone())));
        (state.version, objects.collect())
    }

    /// Follows the newest version.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// The bounds of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) history: usize,
    pub(crate) watchers: usize,
    pub(crate) watch_queue: usize,
}

impl State {
    fn refresh_registry(&mut self) {
        let definitions = Storage::new("apiextensions.k8s.io", "customresourcedefinitions");
        let all = self.collections.get(&definitions).into_iter().flat_map(BTreeMap::values);
        let mut registry = Registry::default();
        registry.set_custom(all.flat_map(|definition| custom::resources(definition)).collect());
        self.registry = Arc::new(registry);
    }

    fn record(&mut self, change: Change) {
        let change = Arc::new(change);
        if change.storage.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.refresh_registry();
        }
        self.history.push_back(change.clone());
        while self.history.len() > self.history_limit {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.version;
            }
        }
        self.watchers.tell(&change);
        if self.journalled {
            self.unsaved.push(change);
        }
    }
}

/// The state, while it is held.
pub(crate) struct Transaction<'a> {
    state: &'a mut State,
}

impl Transaction<'_> {
    pub(crate) fn version(&self) -> u64 {
        self.state.version
    }

    /// The oldest version that a list or watch may still continue from.
    pub(crate) fn forgotten(&self) -> u64 {
        self.state.forgotten
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.state.registry.clone()
    }

    pub(crate) fn get(&self, storage: &Storage, namespace: &str, name: &str) -> Option<Object> {
        self.state.collections.get(storage)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a storage, of one namespace or of all, in the order of their names.
    pub(crate) fn list(&self, storage: &Storage, namespace: Option<&str>) -> Vec<Object> {
        let Some(all) = self.state.collections.get(storage) else { return Vec::new() };
        match namespace {
            None => all.values().cloned().collect(),
            Some(namespace) => {
                let from = (namespace.to_owned(), String::new());
                all.range(from..)
                    .take_while(|((other, _), _)| other == namespace)
                    .map(|(_, object)| object.clone())
                    .collect()
            }
        }
    }

    /// What a namespace holds.
    pub(crate) fn contents(&self, namespace: &str) -> Vec<(Storage, Object)> {
        let mut found = Vec::new();
        for storage in self.state.collections.keys() {
            found.extend(self.list(storage, Some(namespace)).into_iter().map(|object| (storage.clone(), object)));
        }
        found
    }

    /// Writes an object under a new version.
    pub(crate) fn put(&mut self, storage: &Storage, mut object: Value) -> Object {
        self.state.version += 1;
        let version = self.state.version;
        object::metadata(&mut object).insert("resourceVersion".to_owned(), version.to_string().into());
        let key = (object::namespace(&object).to_owned(), object::name(&object).to_owned());
        let object = Arc::new(object);
        let before = self.state.collections.entry(storage.clone()).or_default().insert(key, object.clone());
        self.state.record(Change { version, storage: storage.clone(), before, object: object.clone(), deleted: false });
        object
    }

    /// Removes an object; returns its last state under the version of the removal.
    pub(crate) fn remove(&mut self, storage: &Storage, namespace: &str, name: &str) -> Option<Object> {
        let collection = self.state.collections.get_mut(storage)?;
        let before = collection.remove(&(namespace.to_owned(), name.to_owned()))?;
        if collection.is_empty() {
            self.state.collections.remove(storage);
        }
        self.state.version += 1;
        let version = self.state.version;
        let mut last = (*before).clone();
        object::metadata(&mut last).insert("resourceVersion".to_owned(), version.to_string().into());
        let object = Arc::new(last);
        self.state.record(Change {
            version,
            storage: storage.clone(),
            before: Some(before),
            object: object.clone(),
            deleted: true,
        });
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits { history: 4, watchers: 2, watch_queue: 2 };

    fn store() -> Store {
        Store::new(Vec::new(), 10, LIMITS, false)
    }

    fn put(store: &Store, namespace: &str, name: &str) -> u64 {
        let object = json!({"metadata": {"namespace": namespace, "name": name}});
        store.transact(|tx| {
            tx.put(&Storage::new("", "pods"), object);
            tx.version()
        })
    }

    fn pods(namespace: Option<&str>) -> Window {
        Window { storage: Storage::new("", "pods"), namespace: namespace.map(str::to_owned) }
    }

    #[test]
    fn a_watch_misses_nothing_between_its_version_and_now() {
        let store = store();
        let first = put(&store, "a", "x");
        put(&store, "b", "y");
        put(&store, "a", "z");
        let mut watch = store.subscribe(pods(Some("a")), Start::After(first)).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(watch.missed.iter().map(|change| object::name(&change.object)).collect::<Vec<_>>(), ["z"]);
        put(&store, "a", "w");
        put(&store, "b", "v");
        assert_eq!(object::name(&watch.changes.try_recv().unwrap_or_else(|e| panic!("{e}")).object), "w");
        assert!(watch.changes.try_recv().is_err());
    }

    #[test]
    fn a_version_that_is_forgotten_or_not_yet_there_is_refused() {
        let store = store();
        for index in 0..6 {
            put(&store, "a", &index.to_string());
        }
        let code = |start| store.subscribe(pods(None), start).map(|_| ()).map_err(|refusal| refusal.code);
        assert_eq!(code(Start::After(11)), Err(410));
        assert_eq!(code(Start::After(99)), Err(504));
        assert_eq!(code(Start::After(14)), Ok(()));
        store.compact();
        assert_eq!(code(Start::After(14)), Err(410));
        assert_eq!(code(Start::After(16)), Ok(()));
    }

    #[test]
    fn a_slow_watcher_is_dropped_and_the_number_of_watchers_is_bounded() {
        let store = store();
        let mut slow = store.subscribe(pods(None), Start::Now).unwrap_or_else(|e| panic!("{e:?}"));
        for index in 0..3 {
            put(&store, "a", &index.to_string());
        }
        assert!(slow.changes.try_recv().is_ok());
        assert!(slow.changes.try_recv().is_ok());
        assert_eq!(slow.changes.try_recv().err(), Some(mpsc::error::TryRecvError::Disconnected));
        let _two = [store.subscribe(pods(None), Start::Now), store.subscribe(pods(None), Start::Now)];
        assert_eq!(store.subscribe(pods(None), Start::Now).err().map(|refusal| refusal.code), Some(429));
    }

    #[test]
    fn a_removal_carries_the_last_state_under_its_own_version() {
        let store = store();
        let version = put(&store, "a", "x");
        let removed = store.transact(|tx| tx.remove(&Storage::new("", "pods"), "a", "x"));
        assert_eq!(removed.map(|object| object::resource_version(&object).to_owned()), Some((version + 1).to_string()));
        assert!(store.transact(|tx| tx.list(&Storage::new("", "pods"), None)).is_empty());
    }
}
