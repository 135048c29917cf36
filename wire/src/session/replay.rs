//! Which counters were seen: the newest, and a window behind it for what the hub reordered.

const WORDS: usize = 16;
/// How far behind the newest message one may come.
const WINDOW: u64 = (WORDS as u64) * 64;

/// Accepts each counter once, in any order within the window.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    /// One more than the newest counter accepted.
    end: u64,
    /// Bit `c % WINDOW` tells whether counter `c` within the window was accepted.
    bits: [u64; WORDS],
}

impl ReplayWindow {
    pub(super) fn newest(&self) -> u64 {
        self.end.saturating_sub(1)
    }

    pub(super) fn may_accept(&self, counter: u64) -> bool {
        if counter == u64::MAX {
            return false;
        }
        if counter >= self.end {
            return true;
        }
        self.end - counter <= WINDOW && !self.bit(counter)
    }

    pub(super) fn accept(&mut self, counter: u64) {
        if counter >= self.end {
            let skipped = (counter - self.end).min(WINDOW);
            // Slots between the old end and the new one belong to counters not seen yet.
            for offset in 0..skipped {
                self.set(counter - 1 - offset, false);
            }
            self.end = counter + 1;
        }
        self.set(counter, true);
    }

    fn bit(&self, counter: u64) -> bool {
        let slot = counter % WINDOW;
        self.bits[(slot / 64) as usize] >> (slot % 64) & 1 == 1
    }

    fn set(&mut self, counter: u64, value: bool) {
        let slot = counter % WINDOW;
        let mask = 1 << (slot % 64);
        let word = &mut self.bits[(slot / 64) as usize];
        if value { *word |= mask } else { *word &= !mask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        /// Against the obvious model: a set of everything ever accepted.
        #[test]
        fn nothing_is_accepted_twice_and_nothing_new_is_refused(
            steps in prop::collection::vec(prop_oneof![0u64..3000, (0u64..64).prop_map(|n| n * 997)], 1..400)
        ) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            for counter in steps {
                let newest = seen.last().copied();
                let fresh = !seen.contains(&counter)
                    && newest.is_none_or(|newest: u64| counter > newest || newest - counter < WINDOW);
                prop_assert_eq!(window.may_accept(counter), fresh, "counter {} newest {:?}", counter, newest);
                if fresh {
                    window.accept(counter);
                    seen.insert(counter);
                }
            }
        }
    }

    #[test]
    fn a_huge_jump_forgets_the_past() {
        let mut window = ReplayWindow::default();
        window.accept(5);
        window.accept(u64::MAX - 2);
        assert!(!window.may_accept(5));
        assert!(!window.may_accept(u64::MAX - 2));
        assert!(window.may_accept(u64::MAX - 1));
        assert!(!window.may_accept(u64::MAX));
    }
}
