//! Answers that hold for a while.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

/// Keeps a bounded number of answers, each until its time. When it is full of answers that still hold it begins anew:
/// asking again is always right, and a flood of strangers must not grow it.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: HashMap<K, (V, Instant)>,
    capacity: usize,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity }
    }

    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.entries.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V, until: Instant, now: Instant) {
        if self.entries.len() >= self.capacity {
            self.entries.retain(|_, (_, until)| *until > now);
            if self.entries.len() >= self.capacity {
                self.entries.clear();
            }
        }
        self.entries.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn answers_hold_for_their_time_and_the_number_of_them_is_bounded() {
        let now = crate::clock::instant();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut cache = Cache::new(2);
        cache.put("a", 1, later(10), now);
        assert_eq!((cache.get(&"a", later(9)), cache.get(&"a", later(10))), (Some(1), None));
        cache.put("b", 2, later(30), now);
        cache.put("c", 3, later(30), later(20));
        assert_eq!((cache.get(&"b", later(20)), cache.entries.len()), (Some(2), 2), "only what is over went");
        cache.put("d", 4, later(30), later(20));
        assert_eq!((cache.get(&"d", later(20)), cache.entries.len()), (Some(4), 1));
    }
}
