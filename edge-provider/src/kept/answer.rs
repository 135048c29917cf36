//! What `kubectl logs` gets of a log that is kept: as much as the device would give of it, and a last line that says what it
//! is. Pure.
//!
//! That line is part of the text, because nothing else of an answer reaches the person at the terminal: API servers pass on
//! neither headers nor trailers of a log.

use jiff::{SignedDuration, Timestamp};
use virtual_node::provider::streams::LogOptions;

use super::shelf::View;

/// What begins each line is its time, which ends with a space.
fn time_of(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((time, &line[space + 1..]))
}

/// The answer. `why`: why the device itself does not give it.
pub(crate) fn text(view: &View, options: &LogOptions, why: &str) -> Vec<u8> {
    // The lines carry the device's time.
    let ahead = SignedDuration::from_millis(view.ahead);
    let since = options.since.map(|since| since.checked_add(ahead).unwrap_or(since));
    let lines: Vec<&[u8]> = view.bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let newest = lines.iter().rev().find_map(|line| time_of(line)).map(|(time, _)| time);
    // As on the device, the tail is counted first, and so far back as the time allows.
    let most = options.tail.map_or(usize::MAX, |tail| usize::try_from(tail).unwrap_or(usize::MAX));
    let tail = &lines[lines.len().saturating_sub(most)..];
    let mut text = Vec::new();
    for line in tail {
        let timed = time_of(line);
        if since.is_some_and(|since| timed.is_some_and(|(time, _)| time < since)) {
            continue;
        }
        text.extend_from_slice(if options.timestamps { line } else { timed.map_or(line, |(_, rest)| rest) });
    }
    let limit = options.limit_bytes.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if text.len() >= limit {
        // All that was asked for, and not a byte more.
        text.truncate(limit);
        return text;
    }
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(note(why, newest.map(|newest| newest.checked_sub(ahead).unwrap_or(newest))).as_bytes());
    text
}

fn note(why: &str, newest: Option<Timestamp>) -> String {
    let until = match newest.and_then(|newest| Timestamp::from_second(newest.as_second()).ok()) {
        Some(newest) => format!("the last line that the bridge has kept is of {newest}"),
        None => "nothing was written before that the bridge has kept".to_owned(),
    };
    format!("[hawser: {why}; {until}, what came after it is on the device]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "device pi is offline since 2026-01-01T00:01:00Z (3m)";

    fn shown(bytes: &str, ahead: i64, options: &LogOptions) -> String {
        String::from_utf8(text(&View { bytes: bytes.into(), ahead }, options, WHY)).unwrap()
    }

    #[test]
    fn it_is_what_the_device_would_show_and_says_that_it_is_not() {
        let log = "2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:10.500000000Z two\n2026-01-01T00:00:20Z thr";
        let note = "[hawser: device pi is offline since 2026-01-01T00:01:00Z (3m); the last line that the bridge has kept is \
                    of 2026-01-01T00:00:20Z, what came after it is on the device]\n";
        let all = LogOptions::default();
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        for (options, expected) in [
            (all.clone(), "one\ntwo\nthr\n"),
            (LogOptions { follow: true, tail: Some(2), ..all.clone() }, "two\nthr\n"),
            (LogOptions { tail: Some(0), ..all.clone() }, ""),
            (LogOptions { since: at("2026-01-01T00:00:10Z"), ..all.clone() }, "two\nthr\n"),
            (LogOptions { since: at("2027-01-01T00:00:10Z"), ..all.clone() }, ""),
            (LogOptions { timestamps: true, tail: Some(1), ..all.clone() }, "2026-01-01T00:00:20Z thr\n"),
            (LogOptions { limit_bytes: Some(1000), tail: Some(1), ..all.clone() }, "thr\n"),
        ] {
            assert_eq!(shown(log, 0, &options), format!("{expected}{note}"), "{options:?}");
        }
        let limited = LogOptions { limit_bytes: Some(6), ..all.clone() };
        assert_eq!(shown(log, 0, &limited), "one\ntw", "not a byte more than was asked for");
        assert_eq!(
            shown("", 0, &all),
            format!(
                "[hawser: {WHY}; nothing was written before that the bridge has kept, what came after it is on the device]\n"
            )
        );
    }

    #[test]
    fn since_is_the_clusters_time_and_the_lines_carry_the_devices() {
        let log = "1970-01-01T00:00:05Z one\n1970-01-01T00:00:15Z two\n";
        let boot: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let since = Some(boot + SignedDuration::from_secs(10));
        let options = LogOptions { since, timestamps: true, ..LogOptions::default() };
        let shown = shown(log, -boot.as_millisecond(), &options);
        assert!(shown.starts_with("1970-01-01T00:00:15Z two\n["), "{shown}");
        assert!(shown.contains("is of 2026-01-01T00:00:15Z"), "{shown}");
    }

    #[test]
    fn a_line_without_a_time_is_shown_as_it_is() {
        let options = LogOptions { since: Some(Timestamp::MIN), ..LogOptions::default() };
        assert!(
            shown("[part of the log was rotated away]\n\n", 0, &options)
                .starts_with("[part of the log was rotated away]\n\n[")
        );
    }
}
