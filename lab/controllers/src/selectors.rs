//! Label selectors, as every controller and the scheduler read them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Whether `selector` chooses an object with these labels. An empty selector chooses everything; an operator that is
/// not known chooses nothing, because acting on objects that were not asked for is the worse mistake.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = get(&requirement.key);
            let listed = |value: &String| requirement.values.iter().flatten().any(|one| one == value);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether the selector would choose everything; a workload with such a selector is refused.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn requirement(operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "tier".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).into()).collect()),
            }]),
        }
    }

    #[test]
    fn operators() {
        let edge: Labels = [("tier".to_owned(), "edge".to_owned())].into();
        let none = Labels::new();
        for (operator, values, on_edge, on_none) in [
            ("In", &["edge", "core"][..], true, false),
            ("In", &["core"][..], false, false),
            ("NotIn", &["edge"][..], false, true),
            ("NotIn", &["core"][..], true, true),
            ("Exists", &[][..], true, false),
            ("DoesNotExist", &[][..], false, true),
            ("Near", &["edge"][..], false, false),
        ] {
            let selector = requirement(operator, values);
            assert_eq!(matches(&selector, Some(&edge)), on_edge, "{operator} {values:?} on tier=edge");
            assert_eq!(matches(&selector, Some(&none)), on_none, "{operator} {values:?} without labels");
            assert_eq!(matches(&selector, None), on_none, "{operator} {values:?} without a map");
        }
    }

    #[test]
    fn empty_selects_everything_and_is_known_to() {
        let empty = LabelSelector::default();
        assert!(matches(&empty, None) && is_empty(&empty));
        assert!(!is_empty(&requirement("Exists", &[])));
    }
}
