//! How devices are slowed down while a bridge cannot keep up.
//!
//! A bridge whose queue overflows is disconnected, and with it the whole fleet loses its bridge. One device that floods
//! must not bring that about, so the fuller the fullest bridge's queue, the longer each device's next message waits (and
//! meanwhile the device's socket is not read). The wait is bounded: a bridge that has stopped altogether is
//! disconnected after its write timeout, or when its queue is full, and the others go on.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// The longest wait of one message.
const LONGEST: Duration = Duration::from_secs(1);
/// Below this share of its queue, a bridge keeps up.
const RELAXED: f64 = 0.5;

/// The bridges' queues, as seen by devices. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pressure {
    queues: Arc<watch::Sender<Vec<Level>>>,
}

#[derive(Debug, Clone)]
struct Level {
    free: Arc<Semaphore>,
    size: usize,
}

/// A queue that is looked at, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    pressure: Pressure,
    free: Arc<Semaphore>,
}

impl Pressure {
    /// Adds a queue by its free bytes.
    pub(crate) fn watch(&self, free: Arc<Semaphore>, size: usize) -> Watched {
        let level = Level { free: free.clone(), size };
        self.queues.send_modify(|queues| queues.push(level));
        Watched { pressure: self.clone(), free }
    }

    /// How long a device's next message has to wait, if at all.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let fullest = self.queues.borrow().iter().map(Level::fill).fold(0.0, f64::max);
        (fullest > RELAXED).then(|| pause(fullest))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.pressure.queues.send_modify(|queues| queues.retain(|level| !Arc::ptr_eq(&level.free, &self.free)));
    }
}

impl Level {
    fn fill(&self) -> f64 {
        1.0 - self.free.available_permits() as f64 / self.size as f64
    }
}

/// Nothing up to half, then as the square of what is beyond it: gentle first, firm near the end.
fn pause(fill: f64) -> Duration {
    let beyond = ((fill - RELAXED) / (1.0 - RELAXED)).clamp(0.0, 1.0);
    LONGEST.mul_f64(beyond * beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_fullest_queue_of_those_that_exist() {
        let pressure = Pressure::default();
        assert_eq!(pressure.pause(), None);
        let (empty, full) = (Arc::new(Semaphore::new(100)), Arc::new(Semaphore::new(100)));
        let _first = pressure.watch(empty, 100);
        let second = pressure.watch(full.clone(), 100);
        for (taken, expected) in [(50, None), (25, Some(250)), (25, Some(1000))] {
            full.try_acquire_many(taken).expect("free bytes").forget();
            assert_eq!(pressure.pause(), expected.map(Duration::from_millis), "{} are free", full.available_permits());
        }
        drop(second);
        assert_eq!(pressure.pause(), None, "a bridge that has left still slows devices down");
    }
}
