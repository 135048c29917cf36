//! Sets of completion indexes, written as the API does: `1,3-5`. Pure.

use std::collections::BTreeSet;

/// More indexes than this are not read from a status: the API server allows no more completions.
const MOST: u32 = 100_000;

/// Reads a list of indexes; what is not a number or out of bounds is left out.
pub(super) fn parse(text: &str, completions: u32) -> BTreeSet<u32> {
    let bound = completions.min(MOST);
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else { continue };
        indexes.extend((first..=last.min(bound.saturating_sub(1))).filter(|index| *index < bound));
    }
    indexes
}

/// Writes a list of indexes; three and more in a row become a range.
pub(super) fn format(indexes: &BTreeSet<u32>) -> Option<String> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let parts = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    let text = parts.collect::<Vec<_>>().join(",");
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn read_and_written_as_the_api_does() {
        for (text, expected) in [("1,3-5", vec![1, 3, 4, 5]), ("0", vec![0]), ("2,3", vec![2, 3]), ("", vec![])] {
            assert_eq!(parse(text, 10), expected.iter().copied().collect::<BTreeSet<u32>>(), "{text}");
            assert_eq!(format(&expected.into_iter().collect()).unwrap_or_default(), text);
        }
    }

    #[test]
    fn nonsense_and_huge_ranges_are_harmless() {
        assert_eq!(parse("x,-,5-2,1-4294967295", 4), [1, 2, 3].into());
        assert!(parse("0-4294967295", 0).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(indexes in prop::collection::btree_set(0_u32..200, 0..60)) {
            prop_assert_eq!(parse(&format(&indexes).unwrap_or_default(), 200), indexes);
        }
    }
}
