//! Kubernetes quantities as whole numbers, rounded up as Kubernetes rounds them.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// A text that is not a quantity of something that can be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidQuantity(String);

impl fmt::Display for InvalidQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a quantity: expected a number that is not negative with a unit such as m, k, M, Ki, Mi or an exponent",
            self.0
        )
    }
}

impl core::error::Error for InvalidQuantity {}

/// More than this is counted as this, as Kubernetes does.
const MOST: u64 = i64::MAX as u64;
/// No quantity that an API server prints is longer.
const MAX_TEXT: usize = 64;
/// So many significant digits, times the largest unit, fit in 128 bits. The largest quantity has 19.
const MAX_DIGITS: usize = 20;

/// The quantity in whole units.
pub fn units(text: &str) -> Result<u64, InvalidQuantity> {
    scaled(text, 0)
}

/// The quantity in thousandths.
pub fn millis(text: &str) -> Result<u64, InvalidQuantity> {
    scaled(text, 3)
}

fn scaled(text: &str, scale: i32) -> Result<u64, InvalidQuantity> {
    parse(text, scale).ok_or_else(|| InvalidQuantity(text.chars().take(MAX_TEXT).collect()))
}

fn parse(text: &str, scale: i32) -> Option<u64> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if significant.len() > MAX_DIGITS {
        return None;
    }
    let mantissa: u128 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    let (binary, decimal) = unit(suffix)?;
    let value = mantissa << binary;
    let power = decimal + scale - fraction.len() as i32;
    let factor = 10_u128.checked_pow(power.unsigned_abs());
    let value = match factor {
        _ if value == 0 => 0,
        Some(factor) if power < 0 => value.div_ceil(factor),
        Some(factor) => value.saturating_mul(factor),
        None if power < 0 => 1,
        None => u128::MAX,
    };
    Some(u64::try_from(value).unwrap_or(MOST).min(MOST))
}

/// The powers of two and of ten that a suffix stands for.
fn unit(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let plain = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            // Three digits are beyond any number that could be meant, and cannot overflow.
            if plain.is_empty() || plain.len() > 3 || !plain.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (0, digits.parse().ok()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_and_rounded_up() {
        for (text, expected_units, expected_millis) in [
            ("0", 0, 0),
            ("1", 1, 1_000),
            ("+1", 1, 1_000),
            ("007", 7, 7_000),
            ("1.", 1, 1_000),
            (".5", 1, 500),
            ("1.5", 2, 1_500),
            ("1.0000000000000000000000000", 1, 1_000),
            ("0.0000000000000000000000001", 1, 1),
            ("100m", 1, 100),
            ("1500m", 2, 1_500),
            ("1u", 1, 1),
            ("1n", 1, 1),
            ("0n", 0, 0),
            ("5k", 5_000, 5_000_000),
            ("2M", 2_000_000, 2_000_000_000),
            ("1G", 1_000_000_000, 1_000_000_000_000),
            ("1T", 1_000_000_000_000, 1_000_000_000_000_000),
            ("1P", 1_000_000_000_000_000, 1_000_000_000_000_000_000),
            ("1E", 1_000_000_000_000_000_000, MOST),
            ("1Ki", 1024, 1_024_000),
            ("1.5Ki", 1536, 1_536_000),
            ("0.3Ki", 308, 307_200),
            ("128Mi", 128 << 20, (128 << 20) * 1000),
            ("1Gi", 1 << 30, (1 << 30) * 1000),
            ("1Ti", 1 << 40, (1 << 40) * 1000),
            ("1Pi", 1 << 50, (1 << 50) * 1000),
            ("1Ei", 1 << 60, MOST),
            ("1e3", 1_000, 1_000_000),
            ("1E3", 1_000, 1_000_000),
            ("1e+3", 1_000, 1_000_000),
            ("12e-1", 2, 1_200),
            ("1e-999", 1, 1),
            ("1e999", MOST, MOST),
            ("0e999", 0, 0),
            ("99999999999999999999", MOST, MOST),
            ("8Ei", MOST, MOST),
        ] {
            assert_eq!(units(text), Ok(expected_units), "{text}");
            assert_eq!(millis(text), Ok(expected_millis), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        let long = "1".repeat(65);
        let many_digits = "1".repeat(21);
        for bad in [
            "",
            ".",
            "-1",
            "+",
            "+-1",
            "--1",
            "1.2.3",
            "m",
            "Ki",
            "1K",
            "1mi",
            "1 ",
            " 1",
            "1e",
            "1e+",
            "1e1000",
            "1ee1",
            "1e1.5",
            "ä",
            "1ä",
            "0x10",
            &long,
            &many_digits,
        ] {
            assert!(units(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+]?[0-9.]{0,40}(n|u|m|k|E|Ei|e[-+]?[0-9]{0,4})?") {
            let _ = (units(&text), millis(&text));
        }

        #[test]
        fn whole_numbers_are_themselves(number in 0..=MOST) {
            prop_assert_eq!(units(&number.to_string()), Ok(number));
            prop_assert_eq!(millis(&format!("{number}m")), Ok(number));
        }
    }
}
