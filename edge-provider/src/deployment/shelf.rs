//! What was read lately, bounded by weight. Pure: the clock is the caller's.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

/// Values that are kept until a moment each, and together weigh no more than a bound.
pub(crate) struct Shelf<K, V> {
    kept: HashMap<K, Kept<V>>,
    weight: usize,
    most: usize,
}

struct Kept<V> {
    value: V,
    weight: usize,
    until: Instant,
}

impl<K: Eq + Hash + Clone, V: Clone> Shelf<K, V> {
    /// An empty shelf that carries at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { kept: HashMap::new(), weight: 0, most }
    }

    /// The value, unless its time is over.
    pub(crate) fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.kept.get(key).filter(|kept| now < kept.until).map(|kept| kept.value.clone())
    }

    /// Keeps a value. What is too heavy for the shelf is not kept at all; to make room, what is over goes first and
    /// then a half of the rest, the one that ends first before the others, so that making room is rare.
    pub(crate) fn put(&mut self, key: K, value: V, weight: usize, until: Instant, now: Instant) {
        self.remove(&key);
        if weight > self.most {
            return;
        }
        if self.weight + weight > self.most {
            self.make_room(weight, now);
        }
        self.weight += weight;
        self.kept.insert(key, Kept { value, weight, until });
    }

    fn make_room(&mut self, weight: usize, now: Instant) {
        let mut by_end: Vec<_> = self.kept.iter().map(|(key, kept)| (kept.until, key.clone())).collect();
        by_end.sort_by_key(|(until, _)| *until);
        let enough = (self.most / 2).min(self.most - weight);
        for (until, key) in by_end {
            if until > now && self.weight <= enough {
                break;
            }
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(kept) = self.kept.remove(key) {
            self.weight -= kept.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[expect(clippy::disallowed_methods, reason = "a test needs some moment to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_value_is_kept_until_its_end() {
        let now = start();
        let mut shelf = Shelf::new(10);
        shelf.put("a", 1, 1, now + SECOND, now);
        assert_eq!(shelf.get(&"a", now), Some(1));
        assert_eq!(shelf.get(&"a", now + SECOND), None);
        assert_eq!(shelf.get(&"b", now), None);
    }

    #[test]
    fn a_newer_value_replaces_the_older_and_its_weight() {
        let now = start();
        let mut shelf = Shelf::new(10);
        for value in 0..100 {
            shelf.put("a", value, 6, now + SECOND, now);
        }
        assert_eq!(shelf.get(&"a", now), Some(99));
        assert_eq!(shelf.weight, 6);
    }

    #[test]
    fn weight_is_bounded_and_what_ends_first_goes_first() {
        let now = start();
        let mut shelf = Shelf::new(10);
        for key in 0..10_u32 {
            shelf.put(key, key, 1, now + SECOND * (key + 1), now);
        }
        shelf.put(10, 10, 3, now + SECOND, now);
        assert!(shelf.weight <= 10);
        assert_eq!(shelf.get(&0, now), None);
        assert_eq!(shelf.get(&9, now), Some(9));
        assert_eq!(shelf.get(&10, now), Some(10));
    }

    #[test]
    fn what_is_over_makes_room_before_anything_else() {
        let now = start();
        let mut shelf = Shelf::new(4);
        shelf.put("over", 0, 3, now + SECOND, now);
        shelf.put("good", 1, 1, now + SECOND * 9, now);
        shelf.put("new", 2, 2, now + SECOND * 9, now + SECOND * 2);
        assert_eq!(shelf.get(&"good", now + SECOND * 2), Some(1));
        assert_eq!(shelf.get(&"new", now + SECOND * 2), Some(2));
        assert_eq!(shelf.weight, 3);
    }

    #[test]
    fn what_is_too_heavy_is_not_kept_and_pushes_nothing_out() {
        let now = start();
        let mut shelf = Shelf::new(4);
        shelf.put("good", 1, 4, now + SECOND, now);
        shelf.put("heavy", 2, 5, now + SECOND, now);
        assert_eq!(shelf.get(&"good", now), Some(1));
        assert_eq!(shelf.get(&"heavy", now), None);
    }
}
