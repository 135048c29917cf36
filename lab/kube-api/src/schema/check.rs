//! Holding an object of a built-in type against its type: unknown fields are found and removed, and a value of the wrong
//! type refuses the object, as decoding in the real server would.

use serde_json::Value;

use super::resolve;

/// What was found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Fields the type does not have, by path; they have been removed.
    pub(crate) unknown: Vec<String>,
    /// The first value of the wrong type.
    pub(crate) mistyped: Option<String>,
}

/// Checks and prunes `value` against `schema`.
pub(crate) fn check(value: &mut Value, schema: &Value) -> Findings {
    let mut findings = Findings::default();
    walk(value, schema, "", &mut findings);
    findings
}

fn walk(value: &mut Value, schema: &Value, path: &str, findings: &mut Findings) {
    let schema = resolve(schema);
    if value.is_null() || schema.get("x-kubernetes-int-or-string").is_some() {
        return;
    }
    let Some(kind) = schema.get("type").and_then(Value::as_str) else { return };
    match (kind, &mut *value) {
        ("object", Value::Object(map)) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let values = schema.get("additionalProperties").filter(|values| values.is_object());
            if properties.is_none() && values.is_none() {
                return;
            }
            map.retain(|key, value| {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match properties.and_then(|properties| properties.get(key)).or(values) {
                    Some(schema) => {
                        walk(value, schema, &below, findings);
                        true
                    }
                    None => {
                        findings.unknown.push(below);
                        false
                    }
                }
            });
        }
        ("array", Value::Array(items)) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    walk(item, schema, &format!("{path}[{index}]"), findings);
                }
            }
        }
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => {}
        ("number", Value::Number(_)) => {}
        ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        (expected, found) => {
            if findings.mistyped.is_none() {
                findings.mistyped = Some(mistyped(expected, found, path, schema));
            }
        }
    }
}

fn mistyped(expected: &str, found: &Value, path: &str, schema: &Value) -> String {
    let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
    let wanted = match expected {
        "string" => "string",
        "boolean" => "bool",
        "integer" if format == "int32" => "int32",
        "integer" => "int64",
        "number" => "float64",
        "array" => "list",
        _ => "object",
    };
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {found} into Go struct field {path} of type {wanted}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::definitions;

    fn check_pod(mut pod: Value) -> (Value, Findings) {
        let findings = check(&mut pod, &definitions()["io.k8s.api.core.v1.Pod"]);
        (pod, findings)
    }

    #[test]
    fn unknown_fields_are_named_and_removed() {
        let (pod, findings) =
            check_pod(json!({"spec": {"containers": [{"name": "a", "imagee": "b"}], "foo": 1}, "metadata": {}}));
        assert_eq!(pod, json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {}}));
        assert_eq!(findings.unknown, ["spec.containers[0].imagee", "spec.foo"]);
        assert_eq!(findings.mistyped, None);
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let cases = [
            (json!({"spec": {"containers": {}}}), "object", "spec.containers"),
            (json!({"spec": {"hostNetwork": "yes"}}), "string", "spec.hostNetwork"),
            (json!({"spec": {"terminationGracePeriodSeconds": 1.5}}), "number", "spec.terminationGracePeriodSeconds"),
            (json!({"metadata": {"labels": {"a": 1}}}), "number", "metadata.labels.a"),
        ];
        for (pod, found, path) in cases {
            let (_, findings) = check_pod(pod);
            let message = findings.mistyped.unwrap_or_default();
            assert!(message.contains(found) && message.contains(path), "{message}");
        }
    }

    #[test]
    fn free_values_pass() {
        let (_, findings) = check_pod(json!({
            "metadata": {"annotations": {"x": "y"}, "managedFields": [{"fieldsV1": {"f:a": {"f:b": {}}}}]},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "web"}}}]},
        }));
        assert_eq!(findings, Findings::default());
    }
}
