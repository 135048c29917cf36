//! Where workloads keep what must survive: one record per pod, and the blobs of their files.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use hawser_wire::{ContentHash, PodUid};

/// Durable storage, as the workloads need it. The ledger is one; [`MemoryStore`] is another.
///
/// # What a store guarantees
///
/// - When [`save`](Self::save) has returned `Ok`, the record survives a power cut and comes back, whole, as one of
///   `recovered` at the next start. A record replaces the one before; a torn write leaves the one before.
/// - A record is opaque. It is at most a few KiB.
///
/// # What a store may assume
///
/// - Calls for one pod come one after another. Calls for different pods overlap.
/// - A failure is nothing special: the workloads go on from memory and save again later.
pub trait WorkloadStore: Send + Sync + 'static {
    /// Makes the record durable.
    fn save(&self, uid: &PodUid, record: Vec<u8>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets the record. Forgetting what is not there is no error.
    fn forget(&self, uid: &PodUid) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The content with this hash. Everything that an edge deployment of a [`DesiredSet`](crate::desired::DesiredSet)
    /// names is there.
    fn blob(&self, hash: ContentHash) -> impl Future<Output = Result<Arc<[u8]>, StoreError>> + Send;
}

/// A store that could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct StoreError {
    /// What was tried, with its object.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// Operation and cause in one line, for reports.
    pub fn line(&self) -> String {
        format!("{}: {}", self.operation, self.source)
    }
}

/// A store that forgets everything when it is dropped. For tests and simulations, which also make it fail.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    records: BTreeMap<PodUid, Vec<u8>>,
    blobs: BTreeMap<ContentHash, Arc<[u8]>>,
    broken: Option<String>,
    saves: usize,
}

impl MemoryStore {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a blob and returns its name.
    pub fn put_blob(&self, bytes: &[u8]) -> ContentHash {
        let hash = ContentHash::of(bytes);
        self.memory().blobs.insert(hash, bytes.into());
        hash
    }

    /// All records, as a start finds them.
    pub fn recovered(&self) -> Vec<(PodUid, Vec<u8>)> {
        self.memory().records.iter().map(|(uid, record)| (uid.clone(), record.clone())).collect()
    }

    /// From now on every write fails with this cause, or none does.
    pub fn set_broken(&self, cause: Option<&str>) {
        self.memory().broken = cause.map(str::to_owned);
    }

    /// How often a record was saved.
    pub fn saves(&self) -> usize {
        self.memory().saves
    }

    fn write(&self, operation: impl FnOnce() -> String, change: impl FnOnce(&mut Memory)) -> Result<(), StoreError> {
        let mut memory = self.memory();
        if let Some(cause) = &memory.broken {
            return Err(StoreError { operation: operation(), source: cause.clone().into() });
        }
        change(&mut memory);
        Ok(())
    }
}

impl WorkloadStore for MemoryStore {
    async fn save(&self, uid: &PodUid, record: Vec<u8>) -> Result<(), StoreError> {
        self.write(
            || format!("save the record of {uid}"),
            |memory| {
                memory.saves += 1;
                memory.records.insert(uid.clone(), record);
            },
        )
    }

    async fn forget(&self, uid: &PodUid) -> Result<(), StoreError> {
        self.write(
            || format!("forget the record of {uid}"),
            |memory| {
                memory.records.remove(uid);
            },
        )
    }

    async fn blob(&self, hash: ContentHash) -> Result<Arc<[u8]>, StoreError> {
        self.memory().blobs.get(&hash).cloned().ok_or_else(|| StoreError {
            operation: format!("read the blob {hash}"),
            source: "it is not in the store".into(),
        })
    }
}
