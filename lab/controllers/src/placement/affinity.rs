//! Node selectors and node affinity. Pure.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Whether the pod's `nodeSelector` and required node affinity choose the node.
pub(crate) fn chooses(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// The weights of the preferences that the node meets.
pub(crate) fn preference(spec: &PodSpec, node: &Node) -> i64 {
    let preferred = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let met = preferred.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
    met.map(|term| i64::from(term.weight)).sum()
}

/// All requirements of a term must hold; a term without any chooses nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    labels.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        operator @ ("Gt" | "Lt") => {
            let number = |text: &str| text.parse::<i64>().ok();
            match (value.and_then(number), values) {
                (Some(have), [bound]) => {
                    number(bound).is_some_and(|bound| if operator == "Gt" { have > bound } else { have < bound })
                }
                _ => false,
            }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector, PreferredSchedulingTerm};

    use super::*;
    use crate::samples;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        }
    }

    fn required(terms: Vec<NodeSelectorTerm>) -> PodSpec {
        let affinity = NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: terms }),
            ..NodeAffinity::default()
        };
        PodSpec {
            affinity: Some(Affinity { node_affinity: Some(affinity), ..Affinity::default() }),
            ..PodSpec::default()
        }
    }

    fn labels(requirement: NodeSelectorRequirement) -> NodeSelectorTerm {
        NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None }
    }

    fn node() -> Node {
        let mut node = samples::node("n1");
        node.metadata.labels = Some(samples::labels(&[("zone", "a"), ("cores", "4")]));
        node
    }

    #[test]
    fn every_operator() {
        for (key, operator, values, expected) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "In", &["b"][..], false),
            ("zone", "NotIn", &["b"][..], true),
            ("none", "NotIn", &["b"][..], true),
            ("zone", "Exists", &[][..], true),
            ("none", "DoesNotExist", &[][..], true),
            ("cores", "Gt", &["3"][..], true),
            ("cores", "Gt", &["4"][..], false),
            ("cores", "Lt", &["5"][..], true),
            ("zone", "Lt", &["5"][..], false),
            ("cores", "Gt", &["1", "2"][..], false),
            ("zone", "Near", &["a"][..], false),
        ] {
            let spec = required(vec![labels(requirement(key, operator, values))]);
            assert_eq!(chooses(&spec, &node()), expected, "{key} {operator} {values:?}");
        }
    }

    #[test]
    fn one_term_is_enough_and_an_empty_one_chooses_nothing() {
        let no = labels(requirement("zone", "In", &["b"]));
        let yes = labels(requirement("zone", "In", &["a"]));
        assert!(chooses(&required(vec![no.clone(), yes]), &node()));
        assert!(!chooses(&required(vec![no]), &node()));
        assert!(!chooses(&required(vec![NodeSelectorTerm::default()]), &node()));
        assert!(!chooses(&required(vec![]), &node()));
    }

    #[test]
    fn the_name_is_a_field_not_a_label() {
        let by_name = |name: &str| {
            required(vec![NodeSelectorTerm {
                match_expressions: None,
                match_fields: Some(vec![requirement("metadata.name", "In", &[name])]),
            }])
        };
        assert!(chooses(&by_name("n1"), &node()) && !chooses(&by_name("n2"), &node()));
    }

    #[test]
    fn the_plain_selector_must_hold_too() {
        let mut spec = PodSpec { node_selector: Some(samples::labels(&[("zone", "a")])), ..PodSpec::default() };
        assert!(chooses(&spec, &node()));
        spec.node_selector = Some(samples::labels(&[("zone", "a"), ("disk", "ssd")]));
        assert!(!chooses(&spec, &node()));
    }

    #[test]
    fn preferences_add_up() {
        let preferred =
            |weight, value| PreferredSchedulingTerm { weight, preference: labels(requirement("zone", "In", &[value])) };
        let mut spec = required(vec![]);
        spec.affinity = Some(Affinity {
            node_affinity: Some(NodeAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![
                    preferred(10, "a"),
                    preferred(5, "b"),
                    preferred(1, "a"),
                ]),
                ..NodeAffinity::default()
            }),
            ..Affinity::default()
        });
        assert_eq!(preference(&spec, &node()), 11);
    }
}
