//! "25%" or 3: how rollouts are limited. Pure.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a fraction of a pod goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number of `total` that the value stands for. A text that is no percentage counts as zero; the API server
/// refuses it before it gets here.
pub(crate) fn resolve(value: &IntOrString, total: i32, round: Round) -> i32 {
    let resolved = match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok()).unwrap_or(0).into();
            let scaled = percent * i64::from(total);
            let number = match round {
                Round::Up => (scaled + 99).div_euclid(100),
                Round::Down => scaled.div_euclid(100),
            };
            i32::try_from(number).unwrap_or(i32::MAX)
        }
    };
    resolved.max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        for (value, total, up, down) in [
            (percent("25%"), 10, 3, 2),
            (percent("25%"), 4, 1, 1),
            (percent("25%"), 1, 1, 0),
            (percent("100%"), 7, 7, 7),
            (percent("0%"), 7, 0, 0),
            (IntOrString::Int(3), 7, 3, 3),
            (IntOrString::Int(-3), 7, 0, 0),
            (percent("many"), 7, 0, 0),
            (percent("-5%"), 7, 0, 0),
            (percent("4294967295%"), i32::MAX, i32::MAX, i32::MAX),
        ] {
            assert_eq!(resolve(&value, total, Round::Up), up, "{value:?} of {total}, up");
            assert_eq!(resolve(&value, total, Round::Down), down, "{value:?} of {total}, down");
        }
    }
}
