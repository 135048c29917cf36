//! What the ledger's thread owns: the file, and the changes that are not in it yet.
//!
//! Changes wait in memory, merged by key, until they are due: at once, soon, or with whatever is written next. When the disk
//! refuses, they stay in memory and are tried again; readers see them all the same.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::codec;
use hawser_wire::limits::MAX_PLAINTEXT;
use hawser_wire::report::Numbered;
use hawser_wire::{ContentHash, DeviceTime};
use tokio::time::Instant;

use super::entry::{Accepted, Change, ClockRecord, Key, Op};
use super::floor::Floor;
use super::log::{Found, Log, Salvage};
use super::{Durability, Recovered, Urgency};

/// "Soon": long enough that a report acknowledged at once is never written.
const SOON: Duration = Duration::from_secs(2);
/// "With the next": how long it may wait for another write to come along.
const WITH_NEXT: Duration = Duration::from_secs(60);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

pub(super) struct Store {
    dir: PathBuf,
    secret: [u8; 32],
    log: Option<Log>,
    pending: BTreeMap<Key, Option<Arc<[u8]>>>,
    due: Option<Instant>,
    trouble: Option<Trouble>,
}

/// The disk refuses.
struct Trouble {
    reason: Arc<str>,
    again: Instant,
    wait: Duration,
}

impl Store {
    /// Opens the ledger in `dir`. A disk that refuses makes an empty one in memory, which is better than no agent.
    pub(super) fn open(dir: PathBuf, secret: [u8; 32], now: Instant) -> (Self, Recovered) {
        let mut store = Self { dir, secret, log: None, pending: BTreeMap::new(), due: None, trouble: None };
        let (found, salvage) = match Log::open(&store.dir, &store.secret) {
            Ok((log, found, salvage)) => {
                store.log = Some(log);
                (Some(found), salvage)
            }
            Err(error) => {
                store.trouble_with(&error, now);
                (None, Salvage::default())
            }
        };
        let recovered = store.recovered(found, salvage);
        (store, recovered)
    }

    /// When [`Store::commit`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.due?;
        Some(self.trouble.as_ref().map_or(due, |trouble| due.max(trouble.again)))
    }

    /// Takes changes in.
    pub(super) fn add(&mut self, changes: Vec<Change>, urgency: Urgency, now: Instant) {
        for change in changes {
            let (key, value) = change.into_op();
            self.pending.insert(key, value);
        }
        let wait = match urgency {
            Urgency::Now => Duration::ZERO,
            Urgency::Soon => SOON,
            Urgency::WithNext => WITH_NEXT,
        };
        let due = now + wait;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Writes what waits, if the disk is not known to refuse at the moment.
    pub(super) fn commit(&mut self, now: Instant) -> Durability {
        if self.pending.is_empty() {
            self.due = None;
            return Durability::Durable;
        }
        if let Some(trouble) = &self.trouble
            && now < trouble.again
        {
            return Durability::InMemory { reason: trouble.reason.clone() };
        }
        match self.try_commit() {
            Ok(()) => {
                (self.due, self.trouble) = (None, None);
                Durability::Durable
            }
            Err(error) => self.trouble_with(&error, now),
        }
    }

    /// Writes what waits even if the disk refused a moment ago: for the last write before the end.
    pub(super) fn commit_last(&mut self, now: Instant) -> Durability {
        if let Some(trouble) = &mut self.trouble {
            trouble.again = now;
        }
        self.commit(now)
    }

    fn try_commit(&mut self) -> io::Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            none => {
                let (log, found, _) = Log::open(&self.dir, &self.secret)?;
                tracing::info!(?found, "the ledger could be opened at last");
                none.insert(log)
            }
        };
        let ops: Vec<Op> = self.pending.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(Some(value)) = self.pending.get(&Key::Sequence)
            && let Some(sequence) = number(value)
            && log.changes(&(Key::Sequence, Some(value.clone())))
        {
            // First the floor: it survives the loss of the whole ledger.
            Floor { sequence }.write(&self.dir)?;
        }
        log.write(ops)?;
        self.pending.clear();
        Ok(())
    }

    fn trouble_with(&mut self, error: &io::Error, now: Instant) -> Durability {
        let wait = self.trouble.as_ref().map_or(RETRY_FIRST, |trouble| (trouble.wait * 2).min(RETRY_LAST));
        let reason: Arc<str> = error.to_string().into();
        if self.trouble.is_none() {
            tracing::error!(%error, dir = %self.dir.display(), "the ledger cannot be written: going on from memory; free space or make the directory writable");
        }
        self.trouble = Some(Trouble { reason: reason.clone(), again: now + wait, wait });
        Durability::InMemory { reason }
    }

    /// What the disk says at the moment.
    pub(super) fn health(&self) -> Durability {
        match &self.trouble {
            Some(trouble) => Durability::InMemory { reason: trouble.reason.clone() },
            None => Durability::Durable,
        }
    }

    /// The value of `key`, durable or not.
    pub(super) fn read(&self, key: &Key) -> io::Result<Option<Arc<[u8]>>> {
        match (self.pending.get(key), &self.log) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(log)) => log.read(key),
            (None, None) => Ok(None),
        }
    }

    /// How long the file is and how much was written to it.
    pub(super) fn sizes(&self) -> (u64, u64) {
        self.log.as_ref().map_or((0, 0), |log| (log.len(), log.written))
    }

    fn recovered(&self, found: Option<Found>, salvage: Salvage) -> Recovered {
        let mut recovered = Recovered { found, ..Recovered::default() };
        let keys: Vec<Key> = self.log.iter().flat_map(Log::keys).cloned().collect();
        for key in keys {
            // Objects are large and read one by one, below.
            if let Key::Object(hash) = key {
                recovered.objects.insert(hash);
                continue;
            }
            match self.read(&key) {
                Ok(Some(value)) => recovered.take(key, &value),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, ?key, "a value in the ledger cannot be read"),
            }
        }
        self.recover_deployments(&mut recovered);
        for (key, value) in salvage.ops {
            if let Some(value) = value {
                recovered.take_highest(&key, &value);
            }
        }
        match Floor::read(&self.dir) {
            Ok(floor) => recovered.next_sequence = recovered.next_sequence.max(floor.sequence),
            Err(error) => tracing::warn!(%error, "the sequence floor cannot be read"),
        }
        recovered
    }

    fn recover_deployments(&self, recovered: &mut Recovered) {
        let named: Vec<ContentHash> = recovered.deployment_hashes().collect();
        for hash in named {
            if !recovered.objects.contains(&hash) {
                continue;
            }
            match self.read(&Key::Object(hash)) {
                Ok(Some(bytes)) => {
                    recovered.deployments.insert(hash, bytes);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, %hash, "an edge deployment in the ledger cannot be read; it is fetched again");
                    recovered.objects.remove(&hash);
                }
            }
        }
    }
}

impl Recovered {
    fn take(&mut self, key: Key, value: &[u8]) {
        match key {
            Key::Accepted => self.accepted = decoded::<Accepted>(value),
            Key::Complete(uid) => {
                if let Ok(hash) = value.try_into() {
                    self.complete.insert(uid, ContentHash(hash));
                }
            }
            Key::Workload(uid) => self.workloads.push((uid, value.to_vec())),
            Key::Said(slot) => {
                if let Ok(item) = codec::decode::<Numbered>(value, MAX_PLAINTEXT) {
                    self.said.insert(slot, item.value);
                }
            }
            Key::Sequence | Key::Clock => self.take_highest(&key, value),
            Key::Object(_) => {}
        }
    }

    fn take_highest(&mut self, key: &Key, value: &[u8]) {
        match key {
            Key::Sequence => self.next_sequence = self.next_sequence.max(number(value).unwrap_or(0)),
            Key::Clock => {
                let clock = decoded::<ClockRecord>(value);
                let told = |clock: &Option<ClockRecord>| clock.map_or(DeviceTime(0), |clock| clock.told_up_to);
                if told(&clock) >= told(&self.clock) {
                    self.clock = clock.or(self.clock);
                }
            }
            _ => {}
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

fn decoded<T: for<'b> minicbor::Decode<'b, ()>>(value: &[u8]) -> Option<T> {
    minicbor::decode(value).ok()
}
