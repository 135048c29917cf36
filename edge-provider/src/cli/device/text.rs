//! Times and tables for people. Pure.

use jiff::Timestamp;

/// How long ago, as kubectl prints ages: two units at most, fewer the longer it is.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    length(now.as_second().saturating_sub(then.as_second()).max(0))
}

/// A length of time in at most two units.
pub(super) fn length(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds.max(0) {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

/// Columns as wide as their widest cell, three spaces between them, nothing after the last.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(header)).chain(body).collect()
}

/// Reads `90s`, `15m`, `24h`, `7d`.
pub(super) fn parse_length(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no length of time: write a number and s, m, h or d, as in 24h");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    digits.parse::<i64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_as_kubectl_prints_them() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
        ] {
            assert_eq!(length(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn a_clock_that_runs_ahead_is_no_negative_age() {
        assert_eq!(age(Timestamp::from_second(10).unwrap(), Timestamp::UNIX_EPOCH), "0s");
    }

    #[test]
    fn tables_align_and_end_without_spaces() {
        let rows = [["a".to_owned(), "1".to_owned()], ["längér".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME     N\na        1\nlängér\n");
    }

    #[test]
    fn lengths_are_parsed_or_explained() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse_length(text), Ok(seconds));
        }
        for bad in ["", "h", "24", "-1h", "1.5h", "1w", "1h30m", "9223372036854775807d", "1 h"] {
            assert!(parse_length(bad).unwrap_err().contains("24h"), "{bad}");
        }
    }
}
