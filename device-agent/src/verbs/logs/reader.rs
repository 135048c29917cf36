//! Reads a log from where a client wants it, piece by piece, through its files.
//!
//! Blocks on the disk only. What it does next follows from the files alone, so waiting for more is somebody else's: see
//! [`follow`](super::follow).

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use hawser_wire::stream::LogMark;
use tokio::sync::watch;

use super::Rotation;
use super::parts::{Part, is_still, snapshot};
use super::position::Position;
use super::select::{Select, Wanted};
use super::tail::{self, Part as _, Place, Reach};

/// How much is read at a time. A mark is at most so far ahead of what was delivered.
const BLOCK: usize = 32 * 1024;
/// How much is read at a time when looking for the beginning of a tail.
const TAIL_BLOCK: usize = 64 * 1024;
/// Shown in place of lines that a slow client did not get before their file was dropped.
const GAP: &[u8] = b"[part of the log was rotated away before it could be read]\n";

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    /// With the oldest line that is kept.
    Oldest,
    /// With the last so many lines.
    Tail(u64),
    /// Where an earlier reading was.
    At(Position),
}

/// What a step of reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more at once.
    More,
    /// All that is written was read.
    CaughtUp,
    /// All was read of a file to which a little may still be written, although its time is over: after a moment,
    /// [`Reader::settle`].
    Unsettled,
    /// There is nothing more to come.
    End,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The part of the log that begins there is no longer kept.
    #[error("the log is no longer kept from there on")]
    Gone,
    /// The disk says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one log.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    attempt: u32,
    /// `None`: it is not followed.
    follow: Option<Rotation>,
    /// What is to be read, the part that is being read first.
    parts: VecDeque<Part>,
    offset: u64,
    /// The part that is being read was renamed: what is in it now is all that will ever be.
    closed: bool,
    /// Nobody writes to the log any more.
    ended: bool,
    /// Nothing came of the part that is being read although somebody waited for it.
    settled: bool,
    select: Select,
    block: Vec<u8>,
    marks: watch::Sender<LogMark>,
}

impl Reader {
    /// Opens the log of one attempt.
    pub(super) fn open(
        path: PathBuf,
        attempt: u32,
        start: &Start,
        newest: Option<u64>,
        wanted: Wanted,
        follow: Option<Rotation>,
    ) -> Result<Self, OpenError> {
        let parts = snapshot(&path)?;
        let place = place(&parts, start, newest)?;
        let mut select = Select::new(wanted);
        select.begin_at(place.offset);
        let mut parts = VecDeque::from(parts);
        parts.drain(..place.part.min(parts.len()));
        let position = Position::of(attempt, parts.front(), place.offset)?;
        let (marks, _) = watch::channel(LogMark { bytes: 0, position: position.encode() });
        Ok(Self {
            path,
            attempt,
            follow,
            parts,
            offset: place.offset,
            closed: false,
            ended: false,
            settled: false,
            select,
            block: vec![0; BLOCK],
            marks,
        })
    }

    /// From where it can go on, whatever happens.
    pub(super) fn marks(&self) -> watch::Receiver<LogMark> {
        self.marks.subscribe()
    }

    /// Nobody writes to the log from now on.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// A moment has passed since [`Step::Unsettled`].
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Reads a little, and appends what a client is to see of it to `out`.
    pub(super) fn step(&mut self, out: &mut Vec<u8>) -> io::Result<Step> {
        if self.select.is_full() {
            return Ok(Step::End);
        }
        let Some(part) = self.parts.front() else { return self.look_for_parts(out) };
        // Without following, a log ends where it ended when it was opened.
        let bound = if self.follow.is_some() { u64::MAX } else { part.length() };
        let room = usize::try_from(bound.saturating_sub(self.offset)).unwrap_or(BLOCK).min(BLOCK);
        let read = part.read_at(&mut self.block[..room], self.offset)?;
        if read > 0 {
            self.offset += read as u64;
            self.settled = false;
            self.select.push(&self.block[..read], out);
            self.mark()?;
            return Ok(Step::More);
        }
        self.end_of_part(out)
    }

    fn end_of_part(&mut self, out: &mut Vec<u8>) -> io::Result<Step> {
        let Some(part) = self.parts.front() else { return Ok(Step::End) };
        if let Some(next) = self.parts.get(1) {
            if self.follow == Some(Rotation::ByAnother) && !self.settled && !part.was_quiet_before(next) {
                return Ok(Step::Unsettled);
            }
            self.leave_part(out);
            return Ok(Step::More);
        }
        if self.follow.is_none() || (!self.closed && is_still(&self.path, part.key)) {
            return Ok(self.at_the_end(out));
        }
        if !self.closed {
            // The writer has let go of it, but may have written to it since we read: once more.
            self.closed = true;
            return Ok(Step::More);
        }
        // It is held open until its successor is, so that no other file can be taken for it.
        let key = part.key;
        let mut parts = VecDeque::from(snapshot(&self.path)?);
        let missed = match parts.iter().position(|part| part.key == key) {
            Some(at) => {
                parts.drain(..=at);
                false
            }
            None => !parts.is_empty(),
        };
        if parts.is_empty() {
            return Ok(self.at_the_end(out));
        }
        self.parts.append(&mut parts);
        if missed {
            self.leave_part(out);
            self.select.insert(GAP, out);
        }
        Ok(Step::More)
    }

    fn leave_part(&mut self, out: &mut Vec<u8>) {
        self.parts.pop_front();
        (self.offset, self.closed, self.settled) = (0, false, false);
        self.select.begin_part(out);
    }

    /// There is no file yet, or was none.
    fn look_for_parts(&mut self, out: &mut Vec<u8>) -> io::Result<Step> {
        if self.follow.is_some() {
            self.parts = snapshot(&self.path)?.into();
        }
        if self.parts.is_empty() { Ok(self.at_the_end(out)) } else { Ok(Step::More) }
    }

    fn at_the_end(&mut self, out: &mut Vec<u8>) -> Step {
        if self.follow.is_some() && !self.ended {
            return Step::CaughtUp;
        }
        if self.follow == Some(Rotation::ByAnother) && !self.settled {
            return Step::Unsettled;
        }
        self.select.finish(out);
        Step::End
    }

    /// Tells from where it could go on.
    fn mark(&mut self) -> io::Result<()> {
        let (whole, Some(part)) = (self.select.whole(), self.parts.front()) else { return Ok(()) };
        let position = Position::of(self.attempt, Some(part), whole.taken)?;
        self.marks.send_replace(LogMark { bytes: whole.given, position: position.encode() });
        Ok(())
    }
}

/// Where reading begins, no further than `newest` bytes from the end.
fn place(parts: &[Part], start: &Start, newest: Option<u64>) -> Result<Place, OpenError> {
    let tail = |lines, bytes| tail::start_of_tail(parts, Reach { lines, bytes }, TAIL_BLOCK);
    let place = match (start, newest) {
        (Start::Oldest, None) => Place { part: 0, offset: 0 },
        (Start::Oldest, bytes) => tail(None, bytes)?,
        (Start::Tail(lines), bytes) => tail(Some(*lines), bytes)?,
        (Start::At(position), None) => position.find(parts)?.ok_or(OpenError::Gone)?,
        (Start::At(position), bytes) => {
            let newest = tail(None, bytes)?;
            position.find(parts)?.map_or(newest, |place| place.max(newest))
        }
    };
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::Path;

    const FOLLOW: Option<Rotation> = Some(Rotation::ByTheWriter);

    /// A log as its writer sees it.
    struct Writer {
        path: PathBuf,
        file: File,
    }

    impl Writer {
        fn new(dir: &Path) -> Self {
            let path = dir.join("0.log");
            Self { file: File::create(&path).unwrap(), path }
        }

        fn write(&mut self, tag: char, text: &str) {
            writeln!(self.file, "2026-11-21T04:19:16.000000007Z stdout {tag} {text}").unwrap();
        }

        fn rotate(&mut self, keep: u32) {
            let name = |number: u32| self.path.with_file_name(format!("0.log.{number}"));
            for number in (1..keep).rev() {
                let _ = fs::rename(name(number), name(number + 1));
            }
            fs::rename(&self.path, name(1)).unwrap();
            self.file = File::create(&self.path).unwrap();
        }

        fn open(&self, start: Start, follow: bool) -> Reader {
            self.open_by(Rotation::ByTheWriter, start, follow)
        }

        fn open_by(&self, rotation: Rotation, start: Start, follow: bool) -> Reader {
            Reader::open(self.path.clone(), 3, &start, None, Wanted::default(), follow.then_some(rotation)).unwrap()
        }
    }

    fn read(reader: &mut Reader) -> (String, Step) {
        let mut out = Vec::new();
        loop {
            match reader.step(&mut out).unwrap() {
                Step::More => {}
                step => return (String::from_utf8(out).unwrap(), step),
            }
        }
    }

    #[test]
    fn a_log_is_read_as_it_was_when_it_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        for number in 0..3 {
            writer.write('F', &number.to_string());
            writer.rotate(8);
        }
        writer.write('F', "3");
        let (mut all, mut tail) = (writer.open(Start::Oldest, false), writer.open(Start::Tail(2), false));
        writer.write('F', "later");
        writer.rotate(1);
        assert_eq!(read(&mut all), ("0\n1\n2\n3\n".into(), Step::End));
        assert_eq!(read(&mut tail), ("2\n3\n".into(), Step::End));
    }

    #[test]
    fn following_goes_through_rotations_without_losing_or_repeating() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        writer.write('F', "0");
        let mut reader = writer.open(Start::Oldest, true);
        assert_eq!(read(&mut reader), ("0\n".into(), Step::CaughtUp));
        writer.write('P', "1");
        assert_eq!(read(&mut reader), ("1".into(), Step::CaughtUp));
        writer.write('F', "2");
        writer.rotate(3);
        writer.write('F', "3");
        writer.rotate(3);
        assert_eq!(read(&mut reader), ("2\n3\n".into(), Step::CaughtUp));
        writer.write('F', "4");
        assert_eq!(read(&mut reader), ("4\n".into(), Step::CaughtUp));
        // In the middle of a rotation there is no file of that name.
        fs::rename(&writer.path, dir.path().join("0.log.1")).unwrap();
        writer.write('F', "5");
        assert_eq!(read(&mut reader), ("5\n".into(), Step::CaughtUp));
        writer.file = File::create(&writer.path).unwrap();
        writer.write('F', "6");
        reader.end();
        assert_eq!(read(&mut reader), ("6\n".into(), Step::End));
    }

    #[test]
    fn what_an_engine_has_in_hand_when_its_log_is_rotated_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        writer.write('F', "0");
        let mut reader = writer.open_by(Rotation::ByAnother, Start::Oldest, true);
        assert_eq!(read(&mut reader), ("0\n".into(), Step::CaughtUp));
        // Moved away, and the engine has not heard of it.
        fs::rename(&writer.path, dir.path().join("0.log.1")).unwrap();
        writer.write('F', "1");
        assert_eq!(read(&mut reader), ("1\n".into(), Step::CaughtUp));
        let mut new = Writer { file: File::create(&writer.path).unwrap(), path: writer.path.clone() };
        new.write('F', "3");
        assert_eq!(read(&mut reader), (String::new(), Step::Unsettled));
        // Half a line: the rest of it is in the new file.
        writer.write('P', "2");
        reader.settle();
        assert_eq!(read(&mut reader), ("2".into(), Step::Unsettled));
        reader.settle();
        assert_eq!(read(&mut reader), ("3\n".into(), Step::CaughtUp));
        reader.end();
        assert_eq!(read(&mut reader), (String::new(), Step::Unsettled));
        new.write('F', "4");
        reader.settle();
        assert_eq!(read(&mut reader), ("4\n".into(), Step::Unsettled));
        reader.settle();
        assert_eq!(read(&mut reader), (String::new(), Step::End));
        // What was rotated long ago needs no waiting.
        let old = File::options().write(true).open(dir.path().join("0.log.1")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
        let mut reader = writer.open_by(Rotation::ByAnother, Start::Oldest, true);
        assert_eq!(read(&mut reader), ("0\n1\n23\n4\n".into(), Step::CaughtUp));
    }

    #[test]
    fn lines_that_were_dropped_unread_are_owned_up_to() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        writer.write('F', "0");
        let mut reader = writer.open(Start::Oldest, true);
        assert_eq!(read(&mut reader).0, "0\n");
        for number in 1..5 {
            writer.write('F', &number.to_string());
            writer.rotate(2);
        }
        let gap = String::from_utf8(GAP.to_vec()).unwrap();
        assert_eq!(read(&mut reader).0, format!("1\n{gap}3\n4\n"));
    }

    #[test]
    fn the_newest_bytes_are_whole_lines_wherever_reading_would_begin() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        writer.write('F', "0");
        let mut early = writer.open(Start::Oldest, false);
        assert_eq!(read(&mut early).0, "0\n");
        let zero = Position::decode(&early.marks().borrow().position).unwrap();
        writer.write('F', "1");
        writer.rotate(8);
        for text in ["2", "3"] {
            writer.write('F', text);
        }
        let line = "2026-11-21T04:19:16.000000007Z stdout F 0\n".len() as u64;
        let newest = |start: Start, lines: u64| {
            let opened = Reader::open(writer.path.clone(), 3, &start, Some(lines * line), Wanted::default(), None);
            let mut reader = opened.unwrap();
            let began = Position::decode(&reader.marks().borrow().position).unwrap();
            (read(&mut reader).0, began)
        };
        assert_eq!(newest(Start::Oldest, 2).0, "2\n3\n");
        assert_eq!(newest(Start::Tail(1), 2).0, "3\n");
        assert_eq!(newest(Start::Tail(4), 2).0, "2\n3\n");
        // It goes on where it was if that is near enough, and it can be told whether it did.
        assert_eq!(newest(Start::At(zero), 3), ("1\n2\n3\n".into(), zero));
        let (rest, began) = newest(Start::At(zero), 2);
        assert!(rest == "2\n3\n" && began != zero, "{rest}");
        // A place that is no longer kept is as good as one that is too far back.
        fs::remove_file(writer.path.with_file_name("0.log.1")).unwrap();
        assert_eq!(newest(Start::At(zero), 1).0, "3\n");
    }

    #[test]
    fn a_log_that_begins_later_is_followed_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut reader = Reader::open(path.clone(), 0, &Start::Tail(1), None, Wanted::default(), FOLLOW).unwrap();
        assert_eq!(read(&mut reader), (String::new(), Step::CaughtUp));
        let mut writer = Writer::new(dir.path());
        writer.write('F', "first");
        assert_eq!(read(&mut reader), ("first\n".into(), Step::CaughtUp));
        let mut none =
            Reader::open(path.with_extension("none"), 0, &Start::Oldest, None, Wanted::default(), None).unwrap();
        assert_eq!(read(&mut none), (String::new(), Step::End));
    }

    #[test]
    fn it_goes_on_from_a_mark_in_whichever_file_that_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        let mut reader = writer.open(Start::Oldest, true);
        let first = reader.marks().borrow().clone();
        writer.write('F', "1");
        writer.write('P', "2a");
        assert_eq!(read(&mut reader).0, "1\n2a");
        let mark = reader.marks().borrow().clone();
        assert_eq!(mark.bytes, 2, "half a line is no place to go on from");
        writer.write('F', "2b");
        writer.rotate(3);
        writer.write('F', "3");
        let again = |mark: &LogMark| {
            let position = Position::decode(&mark.position).unwrap();
            assert_eq!(position.attempt(), 3);
            read(&mut writer.open(Start::At(position), false)).0
        };
        assert_eq!(again(&first), "1\n2a2b\n3\n");
        assert_eq!(again(&mark), "2a2b\n3\n");
        assert_eq!(read(&mut reader).0, "2b\n3\n");
        let mark = reader.marks().borrow().clone();
        assert_eq!((mark.bytes, again(&mark)), (9, String::new()));
        for _ in 0..3 {
            writer.rotate(2);
        }
        let position = Position::decode(&mark.position).unwrap();
        let error = Reader::open(writer.path, 3, &Start::At(position), None, Wanted::default(), FOLLOW).unwrap_err();
        assert!(matches!(error, OpenError::Gone), "{error:?}");
    }

    #[test]
    fn a_line_of_any_length_takes_little_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path());
        writer.write('F', &"x".repeat(3_000_000));
        let mut reader = writer.open(Start::Oldest, false);
        let (mut out, mut total) = (Vec::new(), 0);
        while reader.step(&mut out).unwrap() == Step::More {
            assert!(out.len() <= BLOCK + 1, "{}", out.len());
            total += out.len();
            out.clear();
        }
        assert_eq!(total + out.len(), 3_000_001);
    }
}
