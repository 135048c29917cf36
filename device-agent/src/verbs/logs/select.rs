//! Which bytes of a log a client sees: records in, lines out.
//!
//! Pure, and it holds no line: what comes in goes out, however long a line is and wherever it is cut.

use super::record::{Beginning, Header, MAX_HEADER, Stamp, push_time};

/// What a client wants of the records that it is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Records that are not older.
    pub(super) since: Option<Stamp>,
    /// Each line with its time.
    pub(super) timestamps: bool,
    /// So many bytes at most.
    pub(super) limit: Option<u64>,
}

/// Turns records into lines.
#[derive(Debug)]
pub(super) struct Select {
    wanted: Wanted,
    place: Place,
    /// The beginning of a record whose header is not whole yet.
    head: Vec<u8>,
    /// The next text begins a line.
    line_start: bool,
    /// How many bytes have come in and gone out.
    taken: u64,
    given: u64,
    whole: Whole,
}

/// Up to here everything is whole lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Whole {
    /// So many bytes had come in since the last [`Select::begin_part`].
    pub(super) taken: u64,
    /// So many bytes had gone out in all.
    pub(super) given: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the text of a record.
    Head,
    /// In the text of a record that is shown or not.
    Text { shown: bool, partial: bool },
    /// In a record that is none.
    Invalid,
}

impl Select {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            place: Place::Head,
            head: Vec::new(),
            line_start: true,
            taken: 0,
            given: 0,
            whole: Whole::default(),
        }
    }

    /// Whether the client has got as many bytes as it wanted.
    pub(super) fn is_full(&self) -> bool {
        self.wanted.limit.is_some_and(|limit| self.given >= limit)
    }

    /// Up to where everything is whole lines.
    pub(super) fn whole(&self) -> Whole {
        self.whole
    }

    /// What comes now is the beginning of a file. Files end between records; a torn one ends here. A line may go on.
    pub(super) fn begin_part(&mut self, out: &mut Vec<u8>) {
        self.finish(out);
        if self.place != Place::Head {
            if matches!(self.place, Place::Text { shown: true, .. }) {
                self.give(b"\n", out);
            }
            self.line_start = true;
        }
        (self.place, self.taken) = (Place::Head, 0);
        self.whole = Whole { taken: 0, given: self.given };
    }

    /// What comes now is not at the beginning of the file, but at this offset.
    pub(super) fn begin_at(&mut self, offset: u64) {
        self.taken = offset;
        self.whole.taken = offset;
    }

    /// Takes in records, cut anywhere, and appends what is shown of them to `out`.
    pub(super) fn push(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        while !data.is_empty() && !self.is_full() {
            let end = data.iter().position(|byte| *byte == b'\n');
            let (piece, ended) = (&data[..end.unwrap_or(data.len())], end.is_some());
            let step = piece.len() + usize::from(ended);
            self.taken += step as u64;
            self.piece(piece, ended, out);
            data = &data[step..];
        }
    }

    /// Shows bytes that are in no record, between lines.
    pub(super) fn insert(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.give(bytes, out);
        self.whole.given = self.given;
    }

    /// Nothing more comes: the beginning of a record that was never ended is shown as far as it is one.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let head = std::mem::take(&mut self.head);
        if let Beginning::Header(header) = Header::parse(&head) {
            self.open(&header, out);
            self.text(&head[header.length..], out);
        }
    }

    /// A part of one record, up to its end if `ended`.
    fn piece(&mut self, piece: &[u8], ended: bool, out: &mut Vec<u8>) {
        match self.place {
            Place::Head if self.head.is_empty() => self.begin(piece, out),
            Place::Head => {
                let room = MAX_HEADER.saturating_sub(self.head.len()).min(piece.len());
                let mut head = std::mem::take(&mut self.head);
                head.extend_from_slice(&piece[..room]);
                self.begin(&head, out);
                self.text(&piece[room..], out);
            }
            Place::Text { .. } | Place::Invalid => self.text(piece, out),
        }
        if ended {
            self.end(out);
        }
    }

    fn begin(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match Header::parse(bytes) {
            Beginning::Header(header) => {
                self.open(&header, out);
                self.text(&bytes[header.length..], out);
            }
            Beginning::Short => self.head = bytes.to_vec(),
            Beginning::Invalid => self.place = Place::Invalid,
        }
    }

    fn open(&mut self, header: &Header<'_>, out: &mut Vec<u8>) {
        let shown = self.wanted.since.is_none_or(|since| header.at >= since);
        self.place = Place::Text { shown, partial: header.partial };
        if shown && self.wanted.timestamps && self.line_start {
            let from = out.len();
            push_time(header.time, out);
            out.push(b' ');
            self.count(from, out);
        }
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if matches!(self.place, Place::Text { shown: true, .. }) {
            self.give(text, out);
        }
    }

    /// The end of a record.
    fn end(&mut self, out: &mut Vec<u8>) {
        self.head.clear();
        if let Place::Text { shown, partial } = self.place {
            if shown && !partial {
                self.give(b"\n", out);
            }
            self.line_start = !partial;
        }
        self.place = Place::Head;
        if self.line_start {
            self.whole = Whole { taken: self.taken, given: self.given };
        }
    }

    fn give(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(bytes);
        self.count(from, out);
    }

    /// Counts what was appended since `from`, and cuts it to what is still wanted.
    fn count(&mut self, from: usize, out: &mut Vec<u8>) {
        let left = self.wanted.limit.map_or(u64::MAX, |limit| limit - self.given.min(limit));
        let keep = usize::try_from(left).unwrap_or(usize::MAX).min(out.len() - from);
        out.truncate(from + keep);
        self.given += keep as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::parse_time;
    use super::*;
    use proptest::prelude::*;

    const ALL: Wanted = Wanted { since: None, timestamps: false, limit: None };

    fn shown(wanted: Wanted, records: &[u8], chunk: usize) -> String {
        let (mut select, mut out) = (Select::new(wanted), Vec::new());
        for chunk in records.chunks(chunk.max(1)) {
            select.push(chunk, &mut out);
        }
        select.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn at(second: u32) -> String {
        format!("2026-11-21T04:19:{second:02}.000000000Z")
    }

    fn log() -> String {
        [format!("{} stdout F one\n", at(1)), format!("{} stdout P two, ", at(2)), format!("{} stderr F x\n", at(2))]
            .concat()
            + "rubbish\n"
            + &format!("{} stdout P th\n{} stdout P re\n{} stdout F e\n", at(3), at(4), at(5))
            + "\n"
            + &format!("{} stderr F \n{} stdout F four", at(6), at(7))
    }

    #[test]
    fn records_become_lines() {
        let all = "one\ntwo, 2026-11-21T04:19:02.000000000Z stderr F xthree\n\nfour";
        let timed = [
            format!("{} one\n{} two, {} stderr F xthree\n", at(1), at(2), at(2)),
            format!("{} \n{} four", at(6), at(7)),
        ]
        .concat();
        let since = |second: u32| parse_time(at(second).as_bytes());
        for (wanted, expected) in [
            (ALL, all),
            (Wanted { timestamps: true, ..ALL }, &timed),
            (Wanted { since: since(4), ..ALL }, "ree\n\nfour"),
            (Wanted { since: since(8), ..ALL }, ""),
            (Wanted { limit: Some(0), ..ALL }, ""),
            (Wanted { limit: Some(5), ..ALL }, "one\nt"),
            (Wanted { limit: Some(10), timestamps: true, ..ALL }, "2026-11-21"),
        ] {
            for chunk in [1, 7, 40, 1_000] {
                assert_eq!(shown(wanted, log().as_bytes(), chunk), expected, "{wanted:?} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn what_is_whole_is_lines_with_nothing_open() {
        let (mut select, mut out) = (Select::new(ALL), Vec::new());
        let records = format!("{} stdout F one\n{} stdout P two\n", at(1), at(2));
        select.push(records.as_bytes(), &mut out);
        assert_eq!(select.whole(), Whole { taken: 44, given: 4 });
        let end = format!("{} stdout F !\n", at(3));
        select.push(end.as_bytes(), &mut out);
        assert_eq!(select.whole(), Whole { taken: (records.len() + end.len()) as u64, given: 9 });
        select.begin_part(&mut out);
        assert_eq!(select.whole(), Whole { taken: 0, given: 9 });
    }

    #[test]
    fn a_torn_record_ends_with_its_file() {
        let (mut select, mut out) = (Select::new(ALL), Vec::new());
        select.push(format!("{} stdout F to", at(1)).as_bytes(), &mut out);
        select.begin_part(&mut out);
        select.push(format!("{} stdout F whole\n", at(1)).as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "to\nwhole\n");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_give_the_same(
            records in proptest::collection::vec(prop_oneof![
                any::<Vec<u8>>(),
                "[a-z ]{0,120}".prop_map(|text| format!("2026-11-21T04:19:16.5Z stdout F {text}\n").into_bytes()),
                "[a-z ]{0,120}".prop_map(|text| format!("2026-11-21T04:19:16.5Z stderr P {text}\n").into_bytes()),
            ], 0..20),
            chunk in 1_usize..200,
            limit in proptest::option::of(0_u64..400),
            timestamps in any::<bool>(),
        ) {
            let records = records.concat();
            let wanted = Wanted { since: None, timestamps, limit };
            let whole = shown(wanted, &records, usize::MAX);
            prop_assert_eq!(&shown(wanted, &records, chunk), &whole);
        }
    }
}
