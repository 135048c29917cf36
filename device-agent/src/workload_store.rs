//! The ledger as the workloads' store.

use std::sync::Arc;

use hawser_wire::{ContentHash, PodUid};

use crate::ledger::{Ledger, LedgerError};
use crate::workloads::{StoreError, WorkloadStore};

impl WorkloadStore for Ledger {
    async fn save(&self, uid: &PodUid, record: Vec<u8>) -> Result<(), StoreError> {
        self.save_workload(uid, record).await.map_err(|error| failed(format!("save the record of {uid}"), error))
    }

    async fn forget(&self, uid: &PodUid) -> Result<(), StoreError> {
        self.forget_workload(uid).await.map_err(|error| failed(format!("forget the record of {uid}"), error))
    }

    async fn blob(&self, hash: ContentHash) -> Result<Arc<[u8]>, StoreError> {
        Self::blob(self, hash).await.map_err(|error| failed(format!("read the blob {hash}"), error))
    }
}

fn failed(operation: String, source: LedgerError) -> StoreError {
    StoreError { operation, source: source.into() }
}
