//! Reading and writing Kubernetes objects as JSON values.
//!
//! The server keeps objects as JSON, because it serves kinds it has never heard of. These functions are the only place
//! that knows where a name or a finalizer lives; a missing or ill-typed field reads as empty.

use serde_json::{Map, Value};

/// The value at a path of keys.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The text at a path of keys; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or("")
}

/// The list at a path of keys; empty when there is none.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The integer at a path of keys.
pub(crate) fn integer(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The value as an object, made one if it is anything else.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it has just been made an object"),
    }
}

/// The object at a path of keys, created on the way.
pub(crate) fn map_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = value;
    for key in path {
        here = as_map(here).entry((*key).to_owned()).or_insert_with(|| Value::Object(Map::new()));
    }
    as_map(here)
}

/// Sets a default: writes only when the field is absent or null.
pub(crate) fn set_default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// `metadata`, created when missing.
pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    map_at(value, &["metadata"])
}

pub(crate) fn name(value: &Value) -> &str {
    text(value, &["metadata", "name"])
}

pub(crate) fn namespace(value: &Value) -> &str {
    text(value, &["metadata", "namespace"])
}

pub(crate) fn uid(value: &Value) -> &str {
    text(value, &["metadata", "uid"])
}

pub(crate) fn resource_version(value: &Value) -> &str {
    text(value, &["metadata", "resourceVersion"])
}

pub(crate) fn is_being_deleted(value: &Value) -> bool {
    !text(value, &["metadata", "deletionTimestamp"]).is_empty()
}

pub(crate) fn finalizers(value: &Value) -> Vec<&str> {
    list(value, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect()
}

pub(crate) fn generation(value: &Value) -> i64 {
    integer(value, &["metadata", "generation"]).unwrap_or(0)
}

/// Removes nulls from maps, as decoding into a typed object would.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// How deep a value is nested; stops counting at `limit`.
pub(crate) fn deeper_than(value: &Value, limit: usize) -> bool {
    match value {
        _ if limit == 0 => true,
        Value::Object(map) => map.values().any(|value| deeper_than(value, limit - 1)),
        Value::Array(items) => items.iter().any(|value| deeper_than(value, limit - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_and_ill_typed_fields_read_as_empty() {
        let object = json!({"metadata": {"name": 3, "finalizers": "x"}});
        assert_eq!(name(&object), "");
        assert!(finalizers(&object).is_empty());
        assert_eq!(generation(&object), 0);
    }

    #[test]
    fn nulls_are_dropped_from_maps_at_every_depth() {
        let mut object = json!({"a": null, "b": {"c": null, "d": [{"e": null}]}});
        drop_nulls(&mut object);
        assert_eq!(object, json!({"b": {"d": [{}]}}));
    }

    #[test]
    fn depth_is_measured_up_to_the_limit() {
        assert!(!deeper_than(&json!({"a": [1]}), 3));
        assert!(deeper_than(&json!({"a": [[1]]}), 3));
    }
}
