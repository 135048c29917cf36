//! Where the last lines of a log begin: read from the end backwards, never the whole log.

use std::io;

use super::record::{Beginning, Header, MAX_HEADER};

/// One file of a log, of a known length.
pub(super) trait Part {
    /// How long it is, or was when that mattered.
    fn length(&self) -> u64;

    /// Fills `buffer` from `offset` on; what lies behind the end stays as it is. Returns how much was filled.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A place in a log: which part, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) part: usize,
    pub(super) offset: u64,
}

/// How far back to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reach {
    /// No more than so many lines.
    pub(super) lines: Option<u64>,
    /// No more than so many bytes, as they are in the files.
    pub(super) bytes: Option<u64>,
}

/// Where the last lines begin, as far back as may be gone. `parts` are in the order of their age, the oldest first. A line
/// that came in several records is one line; a last line that has not ended is one, too; records that are none count as
/// nothing.
pub(super) fn start_of_tail<P: Part>(parts: &[P], reach: Reach, block: usize) -> io::Result<Place> {
    let Some(last) = parts.len().checked_sub(1) else { return Ok(Place { part: 0, offset: 0 }) };
    let end = Place { part: last, offset: parts[last].length() };
    let mut tail = Tail { reach, lines: 0, newest: true, record: end, line: end };
    // So many bytes lie behind the part that is looked at.
    let mut behind = 0;
    let mut buffer = vec![0; block + MAX_HEADER];
    for (at, part) in parts.iter().enumerate().rev() {
        let enough = backwards(part, block, &mut buffer, |offset, header| {
            tail.is_enough(Place { part: at, offset }, behind + part.length() - offset, header)
        })?;
        if enough {
            return Ok(tail.line);
        }
        behind += part.length();
    }
    Ok(tail.record)
}

struct Tail {
    reach: Reach,
    /// So many lines were seen, the oldest of them perhaps in part.
    lines: u64,
    /// Nothing was seen yet: whatever ends here ends a line.
    newest: bool,
    /// The oldest record that was seen.
    record: Place,
    /// The oldest line whose beginning was seen.
    line: Place,
}

impl Tail {
    /// Whether the record at this place, from which it is so many bytes to the end, is one too many.
    fn is_enough(&mut self, at: Place, bytes: u64, header: &Header<'_>) -> bool {
        if !header.partial || self.newest {
            // A line ends with it, so that the one after it begins where the last record did.
            self.line = self.record;
            if self.reach.lines.is_some_and(|most| self.lines == most) {
                return true;
            }
            self.lines += 1;
        }
        self.newest = false;
        if self.reach.bytes.is_some_and(|most| bytes > most) {
            return true;
        }
        self.record = at;
        false
    }
}

/// Tells `done` where each record of a part begins, the last one first, until it says so; whether it did.
fn backwards(
    part: &impl Part,
    block: usize,
    buffer: &mut [u8],
    mut done: impl FnMut(u64, &Header<'_>) -> bool,
) -> io::Result<bool> {
    let mut high = part.length();
    while high > 0 {
        let low = high - high.min(block as u64);
        let length = (high - low) as usize;
        // A little of the block after this one as well: a header that begins here may end there.
        let wanted = usize::try_from(part.length() - low).unwrap_or(usize::MAX).min(length + MAX_HEADER);
        let read = part.read_at(&mut buffer[..wanted], low)?;
        let bytes = &buffer[..read];
        let mut record = |at: usize| {
            let head = &bytes[at..bytes.len().min(at + MAX_HEADER)];
            let head = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
            matches!(Header::parse(head), Beginning::Header(header) if done(low + at as u64, &header))
        };
        for at in (0..length.min(read)).rev() {
            if bytes[at] == b'\n' && record(at + 1) {
                return Ok(true);
            }
        }
        if low == 0 && record(0) {
            return Ok(true);
        }
        high = low;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Part for Vec<u8> {
        fn length(&self) -> u64 {
            self.len() as u64
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = &self[offset as usize..];
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        }
    }

    fn record(tag: char, text: &str) -> String {
        format!("2026-11-21T04:19:16.000000007Z stdout {tag} {text}\n")
    }

    /// What is behind the start of the tail, as lines would be shown.
    fn tail(parts: &[String], lines: u64, block: usize) -> String {
        let bytes: Vec<Vec<u8>> = parts.iter().map(|part| part.clone().into_bytes()).collect();
        let start = start_of_tail(&bytes, Reach { lines: Some(lines), bytes: None }, block).unwrap();
        let mut rest = parts[start.part][start.offset as usize..].to_owned();
        rest.extend(parts[start.part + 1..].iter().map(String::as_str));
        rest
    }

    #[test]
    fn the_last_lines_are_found_through_parts_of_lines_and_of_logs() {
        let parts = [record('F', "1") + &record('P', "2a"), record('F', "2b") + "rubbish\n" + &record('F', "3")];
        for (lines, expected) in [
            (0, String::new()),
            (1, record('F', "3")),
            (2, record('P', "2a") + &parts[1]),
            (3, parts.concat()),
            (u64::MAX, parts.concat()),
        ] {
            for block in [1, 8, 50, 4_096] {
                assert_eq!(tail(&parts, lines, block), expected, "{lines} lines in blocks of {block}");
            }
        }
    }

    #[test]
    fn what_has_not_ended_is_a_line() {
        let open = record('F', "1") + &record('P', "2");
        assert_eq!(tail(std::slice::from_ref(&open), 1, 16), record('P', "2"));
        let torn = record('F', "1") + record('F', "2").trim_end();
        assert_eq!(tail(&[torn], 1, 16), record('F', "2").trim_end());
        assert_eq!(tail(&[String::new()], 3, 16), "");
    }

    #[test]
    fn only_whole_lines_are_in_so_many_bytes() {
        let parts = [record('F', "1") + &record('P', "2a"), record('F', "2b") + &record('F', "3")];
        let one = record('F', "3").len() as u64;
        let three = 3 * one + 2;
        let from = |lines: Option<u64>, bytes: u64| {
            let bytes_of: Vec<Vec<u8>> = parts.iter().map(|part| part.clone().into_bytes()).collect();
            let start = start_of_tail(&bytes_of, Reach { lines, bytes: Some(bytes) }, 50).unwrap();
            let mut rest = parts[start.part][start.offset as usize..].to_owned();
            rest.extend(parts[start.part + 1..].iter().map(String::as_str));
            rest
        };
        for (bytes, expected) in [
            (0, String::new()),
            (one - 1, String::new()),
            (one, record('F', "3")),
            // Half of a line is nothing.
            (2 * one + 1, record('F', "3")),
            (three, record('P', "2a") + &parts[1]),
            (1_000_000, parts.concat()),
        ] {
            assert_eq!(from(None, bytes), expected, "{bytes}");
        }
        assert_eq!(from(Some(1), three), record('F', "3"));
    }

    proptest! {
        #[test]
        fn it_is_what_counting_from_the_front_finds(
            records in proptest::collection::vec(("[FP]", "[a-z]{0,40}"), 0..30),
            cut in any::<proptest::sample::Index>(),
            lines in 0_u64..12,
            block in 1_usize..200,
        ) {
            let records: Vec<String> =
                records.iter().map(|(tag, text)| record(tag.chars().next().unwrap(), text)).collect();
            let cut = cut.index(records.len() + 1);
            let parts = [records[..cut].concat(), records[cut..].concat()];
            // The first record of each line.
            let mut firsts = vec![];
            let mut begins = true;
            for (at, record) in records.iter().enumerate() {
                if begins {
                    firsts.push(at);
                }
                begins = record.contains("stdout F");
            }
            let first = match firsts.len().checked_sub(lines as usize) {
                _ if lines == 0 => records.len(),
                Some(at) => firsts.get(at).copied().unwrap_or(0),
                None => 0,
            };
            prop_assert_eq!(tail(&parts, lines, block), records[first..].concat());
        }
    }
}
