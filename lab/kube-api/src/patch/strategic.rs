//! Strategic merge patch: lists merge by key where the type says so, and directives steer the rest.

use serde_json::{Map, Value};

use crate::refusal::Refusal;
use crate::schema::Place;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `target`, whose type is at `place`.
pub(crate) fn apply(target: &mut Value, patch: &Value, place: Place<'_>) -> Result<(), Refusal> {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_map(target, patch, place),
        _ => Err(Refusal::bad_request("a strategic merge patch is an object")),
    }
}

fn bad(message: String) -> Refusal {
    Refusal::bad_request(message)
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, place: Place<'_>) -> Result<(), Refusal> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or("")) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = stripped(patch);
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(bad(format!("unknown patch type: {other}"))),
    }
    if let Some(Value::Array(keys)) = patch.get(RETAIN_KEYS) {
        target.retain(|key, _| keys.iter().any(|kept| kept == key));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(field), value) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            merge_field(target, key, value, place.field(key))?;
        }
    }
    for (key, order) in patch {
        if let (Some(field), Value::Array(order)) = (key.strip_prefix(ELEMENT_ORDER), order)
            && let Some(Value::Array(items)) = target.get_mut(field)
        {
            reorder(items, order, place.field(field).patch_merge_key());
        }
    }
    Ok(())
}

fn merge_field(target: &mut Map<String, Value>, key: &str, value: &Value, place: Place<'_>) -> Result<(), Refusal> {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Object(patch) => {
            let deletes = patch.get(DIRECTIVE).is_some_and(|directive| directive == "delete");
            if deletes {
                target.remove(key);
                return Ok(());
            }
            let here = target.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !here.is_object() {
                *here = Value::Object(Map::new());
            }
            if let Value::Object(here) = here {
                merge_map(here, patch, place)?;
            }
        }
        Value::Array(patch) if place.merges_list() => {
            let here = target.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            if !here.is_array() {
                *here = Value::Array(Vec::new());
            }
            if let Value::Array(here) = here {
                merge_list(here, patch, place, key)?;
            }
        }
        other => {
            let mut value = other.clone();
            strip_directives(&mut value);
            target.insert(key.to_owned(), value);
        }
    }
    Ok(())
}

fn merge_list(target: &mut Vec<Value>, patch: &[Value], place: Place<'_>, field: &str) -> Result<(), Refusal> {
    let Some(merge_key) = place.patch_merge_key() else {
        for item in patch {
            if !target.contains(item) {
                target.push(item.clone());
            }
        }
        return Ok(());
    };
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).unwrap_or("").to_owned();
    if patch.iter().any(|item| directive(item) == "replace") {
        target.clear();
        target.extend(patch.iter().filter(|item| directive(item) != "replace").filter_map(|item| {
            let mut item = item.clone();
            strip_directives(&mut item);
            Some(item).filter(|item| item.as_object().is_some_and(|map| !map.is_empty()))
        }));
        return Ok(());
    }
    for item in patch {
        let Value::Object(item_map) = item else {
            return Err(bad(format!("the list {field} holds objects, the patch brings {item}")));
        };
        let Some(identity) = item_map.get(merge_key) else {
            return Err(bad(format!("map: {item} does not contain declared merge key: {merge_key}")));
        };
        if directive(item) == "delete" {
            target.retain(|other| other.get(merge_key) != Some(identity));
            continue;
        }
        match target.iter_mut().find(|other| other.get(merge_key) == Some(identity)) {
            Some(Value::Object(existing)) => merge_map(existing, item_map, place.items())?,
            _ => {
                let mut new = Map::new();
                merge_map(&mut new, item_map, place.items())?;
                target.push(Value::Object(new));
            }
        }
    }
    Ok(())
}

/// Puts the named items into the named order; items the patch does not know keep their place relative to those it does.
fn reorder(items: &mut Vec<Value>, order: &[Value], merge_key: Option<&str>) {
    let identity = |item: &Value| match merge_key {
        Some(key) => item.get(key).cloned().unwrap_or(Value::Null),
        None => item.clone(),
    };
    let rank = |item: &Value| order.iter().position(|other| identity(other) == identity(item));
    let before: Vec<Value> = std::mem::take(items);
    let mut named: Vec<(usize, usize, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (index, item) in before.into_iter().enumerate() {
        match rank(&item) {
            Some(rank) => named.push((rank, index, item)),
            None => others.push((index, item)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    let mut others = others.into_iter().peekable();
    for (_, index, item) in named {
        while let Some((_, other)) = others.next_if(|(other, _)| *other < index) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others.map(|(_, item)| item));
}

fn stripped(patch: &Map<String, Value>) -> Map<String, Value> {
    let mut value = Value::Object(patch.clone());
    strip_directives(&mut value);
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn strip_directives(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                !value.is_null()
                    && key != DIRECTIVE
                    && key != RETAIN_KEYS
                    && !key.starts_with(DELETE_FROM_LIST)
                    && !key.starts_with(ELEMENT_ORDER)
            });
            map.values_mut().for_each(strip_directives);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_directives),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::definitions;

    fn patched(mut target: Value, patch: &Value) -> Result<Value, Refusal> {
        apply(&mut target, patch, Place::new(&definitions()["io.k8s.api.core.v1.Pod"]))?;
        Ok(target)
    }

    #[test]
    fn lists_merge_as_their_type_says() {
        let containers = |list: Value| json!({"spec": {"containers": list}});
        let cases = [
            // containers by name
            (
                containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
                containers(json!([{"name": "b", "image": "2"}, {"name": "c"}])),
                containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}])),
            ),
            // one is deleted
            (
                containers(json!([{"name": "a"}, {"name": "b"}])),
                containers(json!([{"name": "a", "$patch": "delete"}])),
                containers(json!([{"name": "b"}])),
            ),
            // the list is replaced
            (
                containers(json!([{"name": "a"}, {"name": "b"}])),
                containers(json!([{"name": "c"}, {"$patch": "replace"}])),
                containers(json!([{"name": "c"}])),
            ),
            // env and mounts by their own keys, args as one value
            (
                containers(json!([{"name": "a", "args": ["x", "y"], "env": [{"name": "E", "value": "1"}],
                    "volumeMounts": [{"mountPath": "/m", "name": "v"}]}])),
                containers(json!([{"name": "a", "args": ["z"], "env": [{"name": "F", "value": "2"}],
                    "volumeMounts": [{"mountPath": "/m", "readOnly": true}]}])),
                containers(json!([{"name": "a", "args": ["z"],
                    "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}],
                    "volumeMounts": [{"mountPath": "/m", "name": "v", "readOnly": true}]}])),
            ),
            // tolerations are one value
            (
                json!({"spec": {"tolerations": [{"key": "a"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
            ),
            // finalizers are a set
            (
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
            ),
            // conditions by type
            (
                json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}]}}),
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}]}}),
            ),
            // order
            (
                containers(json!([{"name": "a"}, {"name": "s"}, {"name": "b"}])),
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
                    "containers": [{"name": "c"}]}}),
                containers(json!([{"name": "s"}, {"name": "b"}, {"name": "a"}, {"name": "c"}])),
            ),
            // maps
            (
                json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
                json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
                json!({"metadata": {"labels": {"c": "3"}}}),
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
            ),
        ];
        for (target, patch, expected) in cases {
            assert_eq!(patched(target, &patch), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn a_patch_that_makes_no_sense_is_refused() {
        for patch in [
            json!([]),
            json!({"$patch": "frob"}),
            json!({"spec": {"containers": [{"image": "x"}]}}),
            json!({"spec": {"containers": ["x"]}}),
        ] {
            assert_eq!(patched(json!({"spec": {}}), &patch).err().map(|refusal| refusal.code), Some(400), "{patch}");
        }
    }
}
