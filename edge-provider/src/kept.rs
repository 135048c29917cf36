//! The last part of the logs of devices, for when they are away. Off unless asked for.
//!
//! [`task`] knows which containers there are, one [`follow`]er each reads the container's log over an ordinary stream while
//! the device is there, [`shelf`] holds the last [`lines`] within bounds, and [`answer`] is what `kubectl logs` gets of them.
//! [`bell`] is how the fleet, which waits for nobody, says that something has changed.
//!
//! It is kept in memory alone: a bridge that starts anew knows nothing of devices that are away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_wire::{DeviceId, PodUid};
use virtual_node::provider::streams::{LogOptions, StreamError};

use crate::metrics::Metrics;

pub(crate) mod answer;
pub(crate) mod bell;
mod budget;
mod follow;
mod lines;
mod shelf;
pub(crate) mod task;

use shelf::{NoPrevious, Shelf};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepLogs {
    /// Of each run of a container at most so many bytes, [`KeepLogs::LEAST`] to [`KeepLogs::MOST`]. It is also what keeping
    /// a container's log may cost of its device's uplink: so many bytes a minute, and twice as many at once.
    pub per_container: usize,
    /// Of all together.
    pub total: usize,
}

impl KeepLogs {
    /// Less than this is not worth a stream.
    pub const LEAST: usize = 1024;
    /// More than this is what a place for logs is for.
    pub const MOST: usize = 1024 * 1024;
    /// So many containers of one device, the first by name of the first pods.
    pub const CONTAINERS: usize = 32;
}

/// Whose log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) device: DeviceId,
    pub(crate) pod: PodUid,
    pub(crate) container: String,
}

/// What is kept. Clones are the same. It is locked for as long as it takes to copy a log, never across an await.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    shelf: Arc<Mutex<Shelf>>,
    metrics: Metrics,
}

impl Kept {
    pub(crate) fn new(keep: KeepLogs, metrics: Metrics) -> Self {
        Self { shelf: Arc::new(Mutex::new(Shelf::new(keep))), metrics }
    }

    /// What `kubectl logs` gets instead of `why`, if something is kept.
    pub(crate) fn answer(
        &self,
        key: &Key,
        options: &LogOptions,
        why: &StreamError,
    ) -> Option<Result<Vec<u8>, StreamError>> {
        let view = self.shelf().view(key, options.previous)?;
        Some(match view {
            Ok(view) => Ok(answer::text(&view, options, &why.to_string())),
            Err(NoPrevious) => Err(StreamError::Unreachable(format!(
                "{why}; of the previous run of container {:?} the bridge has kept nothing",
                key.container
            ))),
        })
    }

    /// Changes something, and counts what is kept.
    fn with<T>(&self, act: impl FnOnce(&mut Shelf) -> T) -> T {
        let mut shelf = self.shelf();
        let result = act(&mut shelf);
        self.metrics.on_kept(shelf.len(), shelf.used());
        result
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic under the lock is a mistake of ours in pure code; what is kept stays readable.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
