//! A container's log: the CRI format, `<time> <stream> <F|P> <line>`, in files that rotate.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A longer line is written in parts.
const MAX_LINE: usize = 8 * 1024;
/// How much of the end of a log may stand in for a termination message.
const TAIL_BYTES: usize = 2048;
const TAIL_LINES: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into lines.
pub(super) struct Lines {
    stream: Stream,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes in `data` and appends the complete lines, and the full parts of long ones, to `out`.
    pub(super) fn push(&mut self, now: Duration, mut data: &[u8], out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let end = data.iter().take(room + 1).position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    self.rest.extend_from_slice(&data[..end]);
                    self.flush(now, b'F', out);
                    data = &data[end + 1..];
                }
                None if data.len() > room => {
                    self.rest.extend_from_slice(&data[..room]);
                    self.flush(now, b'P', out);
                    data = &data[room..];
                }
                None => {
                    self.rest.extend_from_slice(data);
                    data = &[];
                }
            }
        }
    }

    /// The stream has ended: what is left is a line.
    pub(super) fn finish(&mut self, now: Duration, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.flush(now, b'F', out);
        }
    }

    fn flush(&mut self, now: Duration, tag: u8, out: &mut Vec<u8>) {
        record(now, self.stream, tag, &self.rest, out);
        self.rest.clear();
    }
}

fn record(now: Duration, stream: Stream, tag: u8, line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(rfc3339(now).as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.word().as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// The files of one attempt.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    /// How many bytes could not be written.
    lost: u64,
}

impl LogFile {
    /// Opens the log; a failure to do so now is a failure to start.
    pub(super) fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Self> {
        let mut log =
            Self { path: path.to_owned(), file: None, size: 0, max_bytes: max_bytes.max(1), max_files, lost: 0 };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes whole records. What cannot be written (a full disk) is dropped and counted, so that the container never
    /// waits for its log; the gap is named when there is room again.
    pub(super) fn write(&mut self, now: Duration, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        let mut text = Vec::new();
        if self.lost > 0 {
            let gap = format!("[{} bytes of the log were lost: it could not be written]", self.lost);
            record(now, Stream::Stderr, b'F', gap.as_bytes(), &mut text);
        }
        text.extend_from_slice(records);
        match self.append(&text) {
            Ok(()) => self.lost = 0,
            Err(_) => self.lost += records.len() as u64,
        }
    }

    /// Files end between records, and no later than they may unless a single record is longer.
    fn append(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            let room = usize::try_from(self.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let fits = if text.len() <= room { text.len() } else { end_of_record(&text[..room]) };
            if fits == 0 && self.size > 0 {
                self.rotate()?;
                continue;
            }
            let part = if fits > 0 { fits } else { first_record(text) };
            self.append_part(&text[..part])?;
            text = &text[part..];
        }
        Ok(())
    }

    fn append_part(&mut self, text: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        match file.write_all(text) {
            Ok(()) => {
                self.size += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a record would spoil the next one.
                let _ = file.set_len(self.size);
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let older = self.max_files.saturating_sub(1);
        if older == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for number in (1..older).rev() {
                match fs::rename(numbered(number), numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, numbered(1))?;
        }
        self.size = 0;
        self.reopen()
    }

    /// The end of the log as a termination message.
    pub(super) fn tail(&self) -> io::Result<String> {
        tail(&self.path)
    }
}

/// The end of a log in the CRI format as a termination message.
pub(crate) fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Each line carries some forty bytes of its own besides the text.
    let wanted = (TAIL_BYTES + TAIL_LINES * 64) as u64;
    file.seek(SeekFrom::Start(length.saturating_sub(wanted)))?;
    let mut text = Vec::new();
    file.take(wanted).read_to_end(&mut text)?;
    Ok(tail_of(&text, length > wanted))
}

/// How many bytes there are up to the end of the last whole record.
fn end_of_record(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

fn first_record(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1)
}

/// The last lines of records, without what the log adds. `cut`: the first record may be half of one.
fn tail_of(records: &[u8], cut: bool) -> String {
    let lines = records.split_inclusive(|byte| *byte == b'\n').skip(usize::from(cut));
    let mut text = Vec::new();
    for line in lines {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        if let (Some(tag), Some(content)) = (fields.nth(2), fields.next()) {
            let content = if tag == b"P" { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
            text.extend_from_slice(content);
        }
    }
    let start = text.len().saturating_sub(TAIL_BYTES);
    let text = String::from_utf8_lossy(&text[start..]);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].concat()
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "log lines carry the wall clock's time; the shim is the IO edge")]
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2026-11-21T04:19:16.000000001Z`.
fn rfc3339(since_1970: Duration) -> String {
    let (days, second) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    // Counted in years that begin in March, so that the leap day is the last one.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since_1970.subsec_nanos()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> String {
        let (mut lines, mut out) = (Lines::new(Stream::Stdout), Vec::new());
        for chunk in chunks {
            lines.push(Duration::ZERO, chunk, &mut out);
        }
        lines.finish(Duration::ZERO, &mut out);
        String::from_utf8(out).unwrap().replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_are_cut_at_their_ends_wherever_the_chunks_are() {
        assert_eq!(cut(&[b"a\nb\n"]), "F a\nF b\n");
        assert_eq!(cut(&[b"a", b"b\n\n", b"c"]), "F ab\nF \nF c\n");
        assert_eq!(cut(&[]), "");
    }

    #[test]
    fn long_lines_come_in_parts() {
        let long = vec![b'x'; MAX_LINE];
        let full = String::from_utf8(long.clone()).unwrap();
        assert_eq!(cut(&[&long, b"\n"]), format!("F {full}\n"));
        assert_eq!(cut(&[&long, b"y\nz\n"]), format!("P {full}\nF y\nF z\n"));
        assert_eq!(cut(&[&[long.clone(), b"y\n".to_vec()].concat()]), format!("P {full}\nF y\n"));
    }

    #[test]
    fn times_are_as_in_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000000007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000007Z"),
            (1_795_234_756, "2026-11-21T04:19:16.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, 7)), text);
        }
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 100, 3).unwrap();
        for number in 0..10 {
            log.write(Duration::ZERO, format!("{number}{}\n", "x".repeat(58)).as_bytes());
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).map(|text| text.chars().next().unwrap());
        assert_eq!([read("0.log").unwrap(), read("0.log.1").unwrap(), read("0.log.2").unwrap()], ['9', '8', '7']);
        assert!(read("0.log.3").is_err());
    }

    #[test]
    fn one_big_write_is_spread_over_files_between_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 100, 4).unwrap();
        log.write(Duration::ZERO, &b"0123456789 12345678\n".repeat(13));
        log.write(Duration::ZERO, &[vec![b'x'; 150], b"\n".to_vec()].concat());
        let sizes =
            ["0.log", "0.log.1", "0.log.2", "0.log.3"].map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
        assert_eq!(sizes, [151, 60, 100, 100]);
    }

    #[test]
    fn a_tail_is_the_last_lines_without_the_logs_own_words() {
        let record = |tag: &str, line: &str| format!("1970-01-01T00:00:00.000000000Z stdout {tag} {line}\n");
        let text = record("P", "half ") + &record("F", "whole") + &record("F", "last one");
        assert_eq!(tail_of(text.as_bytes(), false), "half whole\nlast one\n");
        assert_eq!(tail_of(text.as_bytes(), true), "whole\nlast one\n");
        let many: String = (0..200).map(|number| record("F", &number.to_string())).collect();
        assert_eq!(tail_of(many.as_bytes(), false).lines().count(), TAIL_LINES);
        let long = record("F", &"x".repeat(5_000));
        assert_eq!(tail_of(long.as_bytes(), false).len(), TAIL_BYTES);
    }
}
