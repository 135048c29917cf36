//! What the bridge reads of a node, and for whom the node is. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// What is kept of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Here {
    name: String,
    labels: BTreeMap<String, String>,
    /// Those that end pods which do not tolerate them.
    taints: Vec<Taint>,
}

impl From<Node> for Here {
    fn from(node: Node) -> Self {
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Self {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect(),
        }
    }
}

impl Here {
    /// How many bytes it takes to keep it, roughly.
    pub(crate) fn weight(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        labels + self.taints.len() * 256 + 128
    }

    /// Whether a pod chooses this node, by its `nodeSelector` and what it requires of nodes.
    pub(crate) fn is_chosen_by(&self, spec: &PodSpec) -> bool {
        let selected = spec
            .node_selector
            .iter()
            .flatten()
            .all(|(key, value)| self.labels.get(key).is_some_and(|has| has == value));
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
        selected && required.is_none_or(|required| self.is_selected(required))
    }

    /// Whether it is selected: by one term at least, with all that it requires.
    pub(crate) fn is_selected(&self, selector: &NodeSelector) -> bool {
        selector.node_selector_terms.iter().any(|term| self.fits(term))
    }

    /// An empty term chooses nothing.
    fn fits(&self, term: &NodeSelectorTerm) -> bool {
        let labels = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        let field = |key: &str| (key == "metadata.name").then_some(self.name.as_str());
        !(labels.is_empty() && fields.is_empty())
            && labels.iter().all(|required| holds(required, label(&required.key)))
            && fields.iter().all(|required| holds(required, field(&required.key)))
    }

    /// Whether a pod may stay on it.
    pub(crate) fn is_tolerated_by(&self, spec: &PodSpec) -> bool {
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        self.taints.iter().all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

fn holds(required: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = required.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compared = |holds: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|text| text.parse().ok());
        value.and_then(|text| text.parse().ok()).zip(bound).is_some_and(|(value, bound)| holds(value, bound))
    };
    match required.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        _ => false,
    }
}

/// No key with `Exists` is every key, no effect is every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let value_fits = match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        operator => operator == "Exists",
    };
    value_fits && (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn node(name: &str, labels: Value, taints: Value) -> Here {
        let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        Here::from(serde_json::from_value::<Node>(node).unwrap())
    }

    fn spec(more: Value) -> PodSpec {
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn requiring(term: Value) -> PodSpec {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
        spec(json!({"affinity": {"nodeAffinity": required}}))
    }

    #[test]
    fn a_pod_chooses_its_node_by_labels_expressions_and_name() {
        let node = node("gw-1", json!({"site": "7", "arch": "arm64"}), json!([]));
        for (pod, chosen) in [
            (spec(json!({})), true),
            (spec(json!({"nodeSelector": {"site": "7"}})), true),
            (spec(json!({"nodeSelector": {"site": "7", "arch": "amd64"}})), false),
            (spec(json!({"nodeSelector": {"missing": ""}})), false),
            (requiring(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gw-1"]}]})), true),
            (requiring(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]})), false),
            (requiring(json!({"matchExpressions": [{"key": "site", "operator": "Gt", "values": ["6"]}]})), true),
            (requiring(json!({"matchExpressions": [{"key": "site", "operator": "Lt", "values": ["7"]}]})), false),
            (requiring(json!({"matchExpressions": [{"key": "site", "operator": "DoesNotExist"}]})), false),
            (requiring(json!({})), false),
        ] {
            assert_eq!(node.is_chosen_by(&pod), chosen, "{pod:?}");
        }
        let preferred =
            json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}]);
        let pod = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}});
        assert!(node.is_chosen_by(&spec(pod)), "a preference is none of a kubelet's business");
    }

    #[test]
    fn only_taints_that_end_pods_have_to_be_tolerated() {
        let taints = json!([{"key": "a", "value": "1", "effect": "NoExecute"}, {"key": "b", "effect": "NoSchedule"}]);
        let node = node("gw-1", json!({}), taints);
        for (toleration, tolerated) in [
            (json!({}), false),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "a", "value": "1", "effect": "NoExecute"}), true),
            (json!({"key": "a", "value": "2"}), false),
            (json!({"key": "b", "operator": "Exists"}), false),
            (json!({"value": "1"}), false),
        ] {
            let pod = spec(json!({"tolerations": [toleration]}));
            assert_eq!(node.is_tolerated_by(&pod), tolerated, "{toleration}");
        }
        assert!(!node.is_tolerated_by(&spec(json!({}))));
    }
}
