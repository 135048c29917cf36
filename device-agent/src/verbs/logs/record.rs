//! One record of a log in the CRI format: `<time> <stdout|stderr> <P|F> <text>`.
//!
//! Pure. A record is looked at in two steps, because its text may be longer than anybody wants to hold: [`Header::parse`]
//! needs the first [`MAX_HEADER`] bytes, and what follows the header goes on as it comes.

/// No honest header is longer: the longest time has 35 bytes, and nobody has more than a few tags.
pub(super) const MAX_HEADER: usize = 96;

/// A moment: seconds since 1970, and nanoseconds. May lie before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// What stands before the text of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// The time as it is written.
    pub(super) time: &'a [u8],
    /// The time as it is meant.
    pub(super) at: Stamp,
    /// The line goes on in the next record.
    pub(super) partial: bool,
    /// How long the header is; the text begins there.
    pub(super) length: usize,
}

/// What the beginning of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning<'a> {
    /// A whole header.
    Header(Header<'a>),
    /// Perhaps the beginning of a header.
    Short,
    /// No header: the record is not one of ours and is skipped, as a kubelet does.
    Invalid,
}

impl<'a> Header<'a> {
    /// `bytes` begin where the record does, and hold no newline before the text.
    pub(super) fn parse(bytes: &'a [u8]) -> Beginning<'a> {
        let bytes = &bytes[..bytes.len().min(MAX_HEADER)];
        let short = if bytes.len() < MAX_HEADER { Beginning::Short } else { Beginning::Invalid };
        let word = |from: usize| {
            let end = bytes.get(from..)?.iter().position(|byte| *byte == b' ')?;
            Some((&bytes[from..from + end], from + end + 1))
        };
        let Some((time, stream_at)) = word(0) else { return short };
        let Some((stream, tags_at)) = word(stream_at) else { return short };
        let Some((tags, length)) = word(tags_at) else { return short };
        let Some(at) = parse_time(time) else { return Beginning::Invalid };
        if stream != b"stdout" && stream != b"stderr" {
            return Beginning::Invalid;
        }
        let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
        Beginning::Header(Header { time, at, partial, length })
    }
}

/// RFC 3339 with up to nine digits behind the seconds; more digits are read and cut.
pub(super) fn parse_time(text: &[u8]) -> Option<Stamp> {
    let (date, rest) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|(at, byte)| date[*at] == *byte) {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..10])?);
    let (hour, minute, second) = (number(&date[11..13])?, number(&date[14..16])?, number(&date[17..19])?);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !in_range {
        return None;
    }
    let (nanos, zone) = match rest.split_first() {
        Some((b'.', fraction)) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + if at < digits { digit(fraction[at]) } else { 0 });
            (nanos as u32, &fraction[digits..])
        }
        _ => (0, rest),
    };
    let local = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Stamp { seconds: local - offset(zone)?, nanos })
}

/// Seconds east of Greenwich.
fn offset(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let seconds = number(&[*h1, *h2])? * 3_600 + number(&[*m1, *m2])? * 60;
            Some(if *sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn digit(byte: u8) -> i64 {
    i64::from(byte - b'0')
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + digit(*byte)))
}

/// Counted in years that begin in March, so that the leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Appends a time with exactly nine digits behind the seconds, as a kubelet prints it.
pub(super) fn push_time(time: &[u8], out: &mut Vec<u8>) {
    let (date, rest) = time.split_at(time.len().min(19));
    let fraction = rest.strip_prefix(b".").unwrap_or_default();
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let zone = if rest.starts_with(b".") { &fraction[digits..] } else { rest };
    out.extend_from_slice(date);
    out.push(b'.');
    out.extend_from_slice(&fraction[..digits.min(9)]);
    out.extend_from_slice(&b"000000000"[digits.min(9)..]);
    out.extend_from_slice(zone);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        parse_time(text.as_bytes()).map(|stamp| stamp.seconds)
    }

    #[test]
    fn times_are_read_as_the_calendar_has_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("2000-02-29T00:00:00.5Z", Some(951_782_400)),
            ("2000-03-01T01:00:00+01:00", Some(951_868_800)),
            ("2000-02-29T19:00:00.123456789-05:00", Some(951_868_800)),
            ("2026-11-21T04:19:16.000000007Z", Some(1_795_234_756)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
            ("2026-11-21T04:19:16", None),
            ("2026-11-21 04:19:16Z", None),
            ("2026-13-21T04:19:16Z", None),
            ("2026-11-21T04:19:16.Z", None),
            ("2026-11-21T04:19:16.5+0100", None),
            ("x026-11-21T04:19:16Z", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(parse_time(b"1970-01-01T00:00:00.25Z"), Some(Stamp { seconds: 0, nanos: 250_000_000 }));
        assert_eq!(parse_time(b"1970-01-01T00:00:00.0000000019Z").unwrap().nanos, 1);
    }

    #[test]
    fn headers_are_whole_short_or_none() {
        let time = "2026-11-21T04:19:16.000000007Z";
        let parse = |text: &str| match Header::parse(text.as_bytes()) {
            Beginning::Header(header) => format!("{} {}", header.partial, &text[header.length..]),
            other => format!("{other:?}"),
        };
        for (text, expected) in [
            (format!("{time} stdout F a line"), "false a line"),
            (format!("{time} stderr P  spaces "), "true  spaces "),
            (format!("{time} stdout F "), "false "),
            (format!("{time} stdout P:more:tags x"), "true x"),
            (format!("{time} stdout F"), "Short"),
            (format!("{time} st"), "Short"),
            (time[..10].to_owned(), "Short"),
            (String::new(), "Short"),
            (format!("{time} stdin F x"), "Invalid"),
            ("yesterday stdout F x".to_owned(), "Invalid"),
            ("x".repeat(MAX_HEADER), "Invalid"),
            (format!("{time} stdout {}", "F".repeat(MAX_HEADER)), "Invalid"),
        ] {
            assert_eq!(parse(&text), expected, "{text}");
        }
    }

    #[test]
    fn printed_times_have_nine_digits() {
        for (text, expected) in [
            ("2026-11-21T04:19:16.000000007Z", "2026-11-21T04:19:16.000000007Z"),
            ("2026-11-21T04:19:16.25+01:00", "2026-11-21T04:19:16.250000000+01:00"),
            ("2026-11-21T04:19:16Z", "2026-11-21T04:19:16.000000000Z"),
        ] {
            let mut out = Vec::new();
            push_time(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
