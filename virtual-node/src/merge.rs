//! The difference between two forms of an object, as a JSON merge patch. Pure.

use serde::Serialize;
use serde_json::{Map, Value};

/// What must be merged into `old` to make it `new`. `None` if they say the same: the API server drops empty strings and
/// shows `{}` where nothing was written, so absent and empty are alike.
pub(crate) fn difference<T: Serialize>(old: &T, new: &T) -> Option<Value> {
    // What cannot be encoded cannot be written either; the types written here always can.
    let (old, new) = (serde_json::to_value(old).ok()?, serde_json::to_value(new).ok()?);
    of_values(&old, &new)
}

fn of_values(old: &Value, new: &Value) -> Option<Value> {
    if pruned(old) == pruned(new) {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for (key, new) in new {
        if let Some(change) = of_values(old.get(key).unwrap_or(&Value::Null), new) {
            patch.insert(key.clone(), change);
        }
    }
    for (key, old) in old {
        if !new.contains_key(key) && pruned(old).is_some() {
            patch.insert(key.clone(), Value::Null);
        }
    }
    Some(Value::Object(patch))
}

fn pruned(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(Value::Array(items.iter().map(|item| pruned(item).unwrap_or_default()).collect())),
        Value::Object(fields) => {
            let fields: Map<String, Value> =
                fields.iter().filter_map(|(key, value)| Some((key.clone(), pruned(value)?))).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn differences() {
        for (name, old, new, patch) in [
            ("same", json!({"a": 1}), json!({"a": 1}), None),
            ("empty is absent", json!({"a": "", "b": {}, "c": []}), json!({}), None),
            ("changed", json!({"a": 1, "b": 2}), json!({"a": 3, "b": 2}), Some(json!({"a": 3}))),
            ("removed", json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (
                "nested",
                json!({"m": {"x": 1, "y": 2}}),
                json!({"m": {"x": 1, "z": 3}}),
                Some(json!({"m": {"y": null, "z": 3}})),
            ),
            ("lists whole", json!({"l": [1, 2]}), json!({"l": [1]}), Some(json!({"l": [1]}))),
            ("false is something", json!({"a": true}), json!({"a": false}), Some(json!({"a": false}))),
        ] {
            assert_eq!(difference(&old, &new), patch, "{name}");
        }
    }

    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                merge(target.as_object_mut().unwrap().entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..3).prop_map(Value::from),
            "[a-b]{0,1}".prop_map(Value::from)
        ];
        let value = leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map)),
            ]
        });
        prop::collection::btree_map("[a-c]", value, 0..4).prop_map(|map| json!(map))
    }

    proptest! {
        #[test]
        fn merging_the_difference_makes_the_new_form(old in object(), new in object()) {
            let mut merged = old.clone();
            if let Some(patch) = difference(&old, &new) {
                merge(&mut merged, &patch);
            }
            prop_assert_eq!(pruned(&merged), pruned(&new));
        }
    }
}
