//! Who watches what, each with a bounded queue.

use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::Change;
use crate::object;
use crate::refusal::Refusal;
use crate::registry::Storage;

/// What a watcher sees: one storage, in one namespace or in all.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) storage: Storage,
    pub(crate) namespace: Option<String>,
}

impl Window {
    pub(crate) fn covers(&self, change: &Change) -> bool {
        self.storage == change.storage
            && self.namespace.as_deref().is_none_or(|namespace| namespace == object::namespace(&change.object))
    }
}

struct Watcher {
    window: Window,
    // The queue is bounded: a client that does not read loses its watch, not the server its memory.
    changes: mpsc::Sender<Arc<Change>>,
}

/// All running watches.
pub(super) struct Watchers {
    all: Vec<Watcher>,
    limit: usize,
    queue: usize,
}

impl Watchers {
    pub(super) fn new(limit: usize, queue: usize) -> Self {
        Self { all: Vec::new(), limit, queue }
    }

    pub(super) fn add(&mut self, window: Window) -> Result<mpsc::Receiver<Arc<Change>>, Refusal> {
        self.all.retain(|watcher| !watcher.changes.is_closed());
        if self.all.len() >= self.limit {
            return Err(Refusal::too_many(format!("the lab serves at most {} watches at once", self.limit), 1));
        }
        let (sender, receiver) = mpsc::channel(self.queue);
        self.all.push(Watcher { window, changes: sender });
        Ok(receiver)
    }

    /// Hands a change to everybody it concerns; drops those who are gone or too slow.
    pub(super) fn tell(&mut self, change: &Arc<Change>) {
        self.all.retain(|watcher| {
            if !watcher.window.covers(change) {
                return true;
            }
            match watcher.changes.try_send(change.clone()) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    tracing::warn!(storage = watcher.window.storage.as_str(), "dropped a watch that does not keep up");
                    false
                }
            }
        });
    }

    pub(super) fn cut(&mut self) {
        self.all.clear();
    }
}
