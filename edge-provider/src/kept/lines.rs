//! The last lines of one log, within a bound. Pure.

use std::collections::VecDeque;

/// What came last, from the beginning of a line on. The last line may not have ended yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: VecDeque<u8>,
    /// The beginning of the line that is coming did not fit: the rest of it is nothing.
    torn: bool,
}

impl Lines {
    /// Takes what comes next, and lets go of what is oldest.
    pub(super) fn push(&mut self, mut piece: &[u8], most: usize) {
        if piece.len() > most {
            self.bytes.clear();
            self.torn = true;
            piece = &piece[piece.len() - most..];
        }
        self.shrink(most - piece.len());
        if self.torn {
            let Some(end) = piece.iter().position(|byte| *byte == b'\n') else { return };
            self.torn = false;
            piece = &piece[end + 1..];
        }
        let wanted = self.bytes.len() + piece.len();
        if wanted > self.bytes.capacity() {
            // Doubled as it grows, and never more than the bound.
            let room = (2 * self.bytes.capacity()).max(wanted).min(most);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend(piece);
    }

    /// Lets go of the oldest lines until there are no more than so many bytes.
    pub(super) fn shrink(&mut self, most: usize) {
        let Some(over) = self.bytes.len().checked_sub(most).filter(|over| *over > 0) else { return };
        // The byte before the first that may stay: if a line ends there, the next one is whole.
        let end = self.bytes.iter().skip(over - 1).position(|byte| *byte == b'\n');
        match end {
            Some(end) => drop(self.bytes.drain(..over + end)),
            None => {
                self.bytes.clear();
                self.torn = true;
            }
        }
    }

    /// Gives memory back that a smaller bound does not need.
    pub(super) fn fit(&mut self, most: usize) {
        self.shrink(most);
        self.bytes.shrink_to(most);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether one of the lines begins like this.
    pub(super) fn has_line(&self, beginning: &[u8]) -> bool {
        let starts = |from: usize| self.bytes.iter().skip(from).take(beginning.len()).eq(beginning);
        let after = self.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        !self.bytes.is_empty() && std::iter::once(0).chain(after).any(starts)
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(pieces: &[&str], most: usize) -> String {
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece.as_bytes(), most);
        }
        String::from_utf8(lines.to_vec()).unwrap()
    }

    #[test]
    fn the_oldest_lines_go_first_and_whole() {
        assert_eq!(kept(&["one\n", "two\n", "thr"], 100), "one\ntwo\nthr");
        assert_eq!(kept(&["one\n", "two\n", "three\n"], 10), "two\nthree\n");
        assert_eq!(kept(&["one\n", "two\n", "three\n"], 9), "three\n");
        assert_eq!(kept(&["one\ntwo\nthree\n"], 9), "three\n");
        assert_eq!(kept(&["one\n", "a line that is too long\n", "t"], 9), "t");
        assert_eq!(kept(&["a line that ", "is too long", "\nshort\n"], 9), "short\n");
        assert_eq!(kept(&["12345678\n"], 9), "12345678\n");
    }

    #[test]
    fn a_line_is_known_by_its_beginning() {
        let mut lines = Lines::default();
        assert!(!lines.has_line(b""));
        lines.push(b"10 a\n20 b\n", 100);
        assert!(lines.has_line(b"10") && lines.has_line(b"20 b") && !lines.has_line(b"0 a") && !lines.has_line(b"30"));
    }

    proptest! {
        #[test]
        fn it_is_the_end_of_what_came_and_begins_with_a_line(
            pieces in proptest::collection::vec("[a\n]{0,30}", 0..20),
            most in 0_usize..40,
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (all, kept) = (pieces.concat(), kept(&pieces, most));
            prop_assert!(kept.len() <= most && all.ends_with(&kept));
            let before = &all[..all.len() - kept.len()];
            prop_assert!(kept.is_empty() || before.is_empty() || before.ends_with('\n'));
        }
    }
}
