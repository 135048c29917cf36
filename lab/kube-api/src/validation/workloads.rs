//! Workloads: selectors, counts and templates.

use serde_json::{Value, json};

use super::{ephemeral, pods};
use crate::object::{at, integer, text};
use crate::refusal::FieldError;

fn non_negative(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let path: Vec<&str> = field.split('.').collect();
    if let Some(number) = integer(object, &path).filter(|number| *number < 0) {
        errors.push(FieldError::invalid(field, &json!(number), "must be greater than or equal to 0"));
    }
}

/// What is wrong with a workload that selects its pods by labels.
pub(crate) fn selecting(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["spec.replicas", "spec.minReadySeconds", "spec.revisionHistoryLimit"] {
        non_negative(object, field, &mut errors);
    }
    let empty = |value: &Value| value.as_object().is_none_or(serde_json::Map::is_empty);
    match at(object, &["spec", "selector"]) {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) if empty(selector) => {
            let detail = "empty selector is invalid for deployment";
            errors.push(FieldError::invalid("spec.selector", selector, detail));
        }
        Some(selector) => {
            let labels = at(object, &["spec", "template", "metadata", "labels"]).cloned().unwrap_or(json!({}));
            let wanted = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
            if wanted.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
                let detail = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid("spec.template.metadata.labels", &labels, detail));
            }
        }
    }
    let policy = text(object, &["spec", "template", "spec", "restartPolicy"]);
    if policy != "Always" {
        let field = "spec.template.spec.restartPolicy";
        errors.push(FieldError::unsupported(field, &json!(policy), &["Always"]));
    }
    errors.extend(pods::spec(&object["spec"]["template"]["spec"], "spec.template.spec"));
    errors.extend(ephemeral::none_in_template(object));
    errors
}

/// What is wrong with a Job.
pub(crate) fn job(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["spec.parallelism", "spec.completions", "spec.backoffLimit", "spec.ttlSecondsAfterFinished"] {
        non_negative(object, field, &mut errors);
    }
    let policy = text(object, &["spec", "template", "spec", "restartPolicy"]);
    if !matches!(policy, "Never" | "OnFailure") {
        let field = "spec.template.spec.restartPolicy";
        errors.push(match policy {
            "Always" => FieldError::required(field, "valid values: \"OnFailure\", \"Never\""),
            other => FieldError::unsupported(field, &json!(other), &["OnFailure", "Never"]),
        });
    }
    errors.extend(pods::spec(&object["spec"]["template"]["spec"], "spec.template.spec"));
    errors.extend(ephemeral::none_in_template(object));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    fn deployment(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "x"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}},
        }});
        change(&mut object);
        defaults::workloads::deployment(&mut object);
        selecting(&object).iter().map(|error| format!("{}: {}", error.field, error.body)).collect()
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        assert!(deployment(|_| ()).is_empty());
        assert_eq!(
            deployment(|object| object["spec"]["replicas"] = json!(-1)),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            deployment(|object| object["spec"]["template"]["metadata"]["labels"] = json!({"a": "c"})),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            deployment(|object| {
                object["spec"].as_object_mut().map(|spec| spec.remove("selector"));
            }),
            ["spec.selector: Required value"]
        );
        assert_eq!(
            deployment(|object| object["spec"]["template"]["spec"]["restartPolicy"] = json!("Never")),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
    }
}
