//! Quantities as Kubernetes writes them: `100m`, `1.5Gi`, `2e3`. Pure.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An amount in billionths of its unit, so that every suffix down to `n` is exact.
pub(crate) type Nano = i128;

const UNIT: Nano = 1_000_000_000;

/// Reads a quantity, rounding what is finer than a billionth up, as Kubernetes does. `None` for text that is none.
pub(crate) fn parse(quantity: &Quantity) -> Option<Nano> {
    let text = quantity.0.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = text.find(|one: char| !one.is_ascii_digit() && one != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (multiplier, ten_power) = scale(suffix)?;
    // value = mantissa × multiplier × 10^(ten_power - fraction digits), in billionths: + 9.
    let exponent = ten_power + 9 - i32::try_from(fraction.len()).ok()?;
    let amount = mantissa.checked_mul(multiplier)?;
    let amount = if exponent >= 0 {
        amount.checked_mul(10_i128.checked_pow(exponent.unsigned_abs())?)?
    } else {
        let divisor = 10_i128.checked_pow(exponent.unsigned_abs())?;
        amount / divisor + i128::from(amount % divisor != 0)
    };
    Some(if negative { -amount } else { amount })
}

/// The multiplier and the power of ten of a suffix.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            // More than this is no amount of anything, and would overflow.
            (-18..=18).contains(&exponent).then_some((1, exponent))?
        }
    })
}

/// What a node offers; text that is no quantity offers nothing.
pub(crate) fn offered(quantity: &Quantity) -> Nano {
    parse(quantity).unwrap_or(0)
}

/// What a container asks for; text that is no quantity asks for more than anybody has.
pub(crate) fn asked(quantity: &Quantity) -> Nano {
    parse(quantity).unwrap_or(Nano::MAX / 1_000_000)
}

/// One whole unit: a pod, a byte, a CPU.
pub(crate) fn whole(units: i128) -> Nano {
    units.saturating_mul(UNIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<Nano> {
        parse(&Quantity(text.to_owned()))
    }

    #[test]
    fn every_form_is_read() {
        for (text, expected) in [
            ("0", 0),
            ("1", UNIT),
            ("100m", UNIT / 10),
            ("0.1", UNIT / 10),
            (".5", UNIT / 2),
            ("1.", UNIT),
            ("1k", whole(1000)),
            ("1.5Gi", whole(3 << 29)),
            ("1Ei", whole(1 << 60)),
            ("2e3", whole(2000)),
            ("2E-3", UNIT / 500),
            ("3E", whole(3_000_000_000_000_000_000)),
            ("1n", 1),
            ("0.1n", 1),
            ("-1.5", -3 * UNIT / 2),
            ("+2", whole(2)),
        ] {
            assert_eq!(of(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_and_never_fits() {
        for text in ["", "m", "1.2.3", "1 Gi", "one", "1Zi", "--1", "1e", "1e99", "1e9999999999", &"9".repeat(40)] {
            assert_eq!(of(text), None, "{text}");
            assert_eq!(offered(&Quantity(text.to_owned())), 0);
            assert!(asked(&Quantity(text.to_owned())) > whole(1 << 60));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = of(&text);
        }

        #[test]
        fn whole_numbers_are_exact(number in 0_u64..) {
            prop_assert_eq!(of(&number.to_string()), Some(whole(i128::from(number))));
        }
    }
}
