//! One copy of equal bytes: the same ConfigMap on a thousand devices is held once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use hawser_wire::ContentHash;

use crate::deployment::Object;

/// Knows every object that somebody still holds.
#[derive(Debug, Default)]
pub(crate) struct ObjectPool {
    held: HashMap<ContentHash, Weak<[u8]>>,
    /// How many there may be before the dead ones are looked for.
    sweep_at: usize,
}

impl ObjectPool {
    pub(crate) fn intern(&mut self, object: Object) -> Object {
        if let Some(bytes) = self.held.get(&object.reference.hash).and_then(Weak::upgrade) {
            return Object { reference: object.reference, bytes };
        }
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, bytes| bytes.strong_count() > 0);
            self.sweep_at = (self.held.len() * 2).max(64);
        }
        self.held.insert(object.reference.hash, Arc::downgrade(&object.bytes));
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_held_once_and_not_longer_than_needed() {
        let mut pool = ObjectPool::default();
        let first = pool.intern(Object::new(vec![1; 100]));
        let second = pool.intern(Object::new(vec![1; 100]));
        assert!(Arc::ptr_eq(&first.bytes, &second.bytes));
        drop((first, second));
        for byte in 0..200u8 {
            pool.intern(Object::new(vec![byte; 9]));
        }
        assert!(pool.held.len() <= 65, "{}", pool.held.len());
    }
}
