//! Custom resources: pruning, defaulting and validation by the structural schema of their CustomResourceDefinition.

use serde_json::Value;

use crate::refusal::FieldError;

/// Removes what the schema does not name; returns the paths.
pub(crate) fn prune(object: &mut Value, schema: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    // The envelope is not the schema's business.
    let Some(map) = object.as_object_mut() else { return unknown };
    let properties = schema.get("properties").and_then(Value::as_object);
    if preserves(schema) {
        return unknown;
    }
    map.retain(|key, value| {
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            return true;
        }
        match properties.and_then(|properties| properties.get(key)) {
            Some(schema) => {
                prune_value(value, schema, key, &mut unknown);
                true
            }
            None => {
                unknown.push(key.clone());
                false
            }
        }
    });
    unknown
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn preserves(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-preserve-unknown-fields")
}

fn prune_value(value: &mut Value, schema: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if flag(schema, "x-kubernetes-embedded-resource") {
                return;
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let values = schema.get("additionalProperties");
            let open = preserves(schema) || values == Some(&Value::Bool(true));
            map.retain(|key, value| {
                let below = format!("{path}.{key}");
                let known = properties.and_then(|properties| properties.get(key));
                match known.or(values.filter(|values| values.is_object())) {
                    Some(schema) => prune_value(value, schema, &below, unknown),
                    None if open => {}
                    None => {
                        unknown.push(below);
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    prune_value(item, schema, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults; a null where null is not allowed takes the default too.
pub(crate) fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            for (key, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if let Some(default) = schema.get("default") {
                    let missing = match map.get(key) {
                        None => true,
                        Some(Value::Null) => !flag(schema, "nullable"),
                        Some(_) => false,
                    };
                    if missing {
                        map.insert(key.clone(), default.clone());
                    }
                }
                if let Some(value) = map.get_mut(key) {
                    self::default(value, schema);
                }
            }
            if let Some(schema) = schema.get("additionalProperties").filter(|schema| schema.is_object()) {
                map.values_mut().for_each(|value| self::default(value, schema));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| self::default(item, schema));
            }
        }
        _ => {}
    }
}

/// What the schema finds wrong.
pub(crate) fn validate(object: &Value, schema: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_value(object, schema, "", &mut errors);
    errors
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn validate_value(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && flag(schema, "nullable") {
        return;
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        if !matches!(kind_of(value), "integer" | "string") {
            let detail = format!("{path} in body must be of type integer,string: {:?}", kind_of(value));
            errors.push(FieldError::invalid(path, &Value::from(kind_of(value)), &detail));
        }
        return;
    }
    if let Some(expected) = schema.get("type").and_then(Value::as_str) {
        let found = kind_of(value);
        if expected != found && !(expected == "number" && found == "integer") {
            let detail = format!("{path} in body must be of type {expected}: {found:?}");
            errors.push(FieldError::invalid(path, &Value::from(found), &detail));
            return;
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        errors.push(FieldError::unsupported(path, value, &allowed));
    }
    validate_bounds(value, schema, path, errors);
    match value {
        Value::Object(map) => {
            for key in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                if !map.contains_key(key) {
                    errors.push(FieldError::required(join(path, key), ""));
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let values = schema.get("additionalProperties").filter(|values| values.is_object());
            for (key, value) in map {
                if path.is_empty() && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                if let Some(schema) = properties.and_then(|properties| properties.get(key)).or(values) {
                    validate_value(value, schema, &join(path, key), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    validate_value(item, schema, &format!("{path}[{index}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn validate_bounds(value: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path, value, &detail));
    if let Some(number) = value.as_f64() {
        if let Some(minimum) = bound("minimum").filter(|minimum| number < *minimum) {
            wrong(format!("{path} in body should be greater than or equal to {minimum}"));
        }
        if let Some(maximum) = bound("maximum").filter(|maximum| number > *maximum) {
            wrong(format!("{path} in body should be less than or equal to {maximum}"));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52: the body is bounded to 3 MiB")]
    let length = match value {
        Value::String(text) => Some((text.chars().count() as f64, "Length", "chars long")),
        Value::Array(items) => Some((items.len() as f64, "Items", "items")),
        Value::Object(map) => Some((map.len() as f64, "Properties", "properties")),
        _ => None,
    };
    if let Some((length, what, unit)) = length {
        if let Some(minimum) = bound(&format!("min{what}")).filter(|minimum| length < *minimum) {
            wrong(format!("{path} in body should be at least {minimum} {unit}"));
        }
        if let Some(maximum) = bound(&format!("max{what}")).filter(|maximum| length > *maximum) {
            wrong(format!("{path} in body should have at most {maximum} {unit}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object", "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "maybe": {"type": "string", "nullable": true},
            },
        }}})
    }

    #[test]
    fn what_the_schema_does_not_name_is_pruned() {
        let mut object =
            json!({"kind": "X", "metadata": {"name": "a"}, "spec": {"size": 1, "x": 1, "free": {"y": 1}}, "z": 1});
        assert_eq!(prune(&mut object, &schema()), ["spec.x", "z"]);
        assert_eq!(object, json!({"kind": "X", "metadata": {"name": "a"}, "spec": {"size": 1, "free": {"y": 1}}}));
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut object = json!({"spec": {"size": 1}});
        default(&mut object, &schema());
        assert_eq!(object["spec"]["mode"], "A");
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (json!({}), "spec", "Required value"),
            (json!({"spec": {}}), "spec.size", "Required value"),
            (json!({"spec": {"size": "1"}}), "spec.size", "must be of type integer"),
            (json!({"spec": {"size": 0}}), "spec.size", "greater than or equal to 1"),
            (json!({"spec": {"size": 1, "mode": "C"}}), "spec.mode", "supported values: \"A\", \"B\""),
        ];
        for (object, field, words) in cases {
            let errors = validate(&object, &schema());
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].field, field);
            assert!(errors[0].body.contains(words), "{errors:?}");
        }
        assert_eq!(validate(&json!({"spec": {"size": 1, "maybe": null}}), &schema()), []);
    }
}
