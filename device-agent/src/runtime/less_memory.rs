//! Memory that is in use is not taken away, and that is said in the words of a kubelet. Pure.

use std::collections::BTreeMap;

/// Why memory cannot be limited as it is to be; `None`: it can. `whole` is what the pod uses and may use, `limit` what it is to
/// have; `less` are the containers that are to have less than they have, and how much; `used` is what containers use.
pub(super) fn refusal(
    whole: Option<(u64, u64)>,
    limit: Option<u64>,
    less: &[(String, u64)],
    used: &BTreeMap<String, u64>,
) -> Option<String> {
    let mut wrong = Vec::new();
    if let (Some((used, had)), Some(limit)) = (whole, limit)
        && limit < had
        && used >= limit
    {
        wrong.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
    }
    for (name, limit) in less {
        match used.get(name) {
            None => wrong.push(format!("missing container \"{name}\" memory usage")),
            Some(used) if used >= limit => wrong.push(format!(
                "attempting to set container \"{name}\" memory limit ({limit}) below current usage ({used})"
            )),
            Some(_) => {}
        }
    }
    // As Go writes several errors.
    let words = match wrong.as_slice() {
        [] => return None,
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_not_taken_away() {
        let used = BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 70)]);
        let less =
            |list: &[(&str, u64)]| list.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect::<Vec<_>>();
        for (whole, limit, less, expected) in [
            (None, None, less(&[]), None),
            (Some((100, 200)), Some(150), less(&[("a", 60)]), None),
            // What grows is not looked at.
            (Some((100, 80)), Some(90), less(&[]), None),
            (
                Some((100, 200)),
                Some(100),
                less(&[]),
                Some(
                    "cannot decrease memory limits: attempting to set pod memory limit (100) below current usage (100)",
                ),
            ),
            (
                None,
                Some(60),
                less(&[("a", 50), ("b", 90)]),
                Some(
                    "cannot decrease memory limits: attempting to set container \"a\" memory limit (50) below current usage (50)",
                ),
            ),
            (
                Some((100, 200)),
                Some(90),
                less(&[("c", 90)]),
                Some(
                    "cannot decrease memory limits: [attempting to set pod memory limit (90) below current usage (100), \
                     missing container \"c\" memory usage]",
                ),
            ),
        ] {
            assert_eq!(refusal(whole, limit, &less, &used).as_deref(), expected);
        }
    }
}
