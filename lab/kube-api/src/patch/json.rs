//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::refusal::Refusal;

/// More operations than this are refused, as the real server does.
const MAX_OPERATIONS: usize = 10_000;

fn refuse(message: impl std::fmt::Display) -> Refusal {
    Refusal::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {message}"))
}

/// Applies all operations or none.
pub(crate) fn apply(target: &mut Value, patch: &Value) -> Result<(), Refusal> {
    let Some(operations) = patch.as_array() else {
        return Err(Refusal::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch",
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        let message =
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(Refusal::new(413, "RequestEntityTooLarge", message));
    }
    let mut changed = target.clone();
    for operation in operations {
        step(&mut changed, operation).map_err(refuse)?;
    }
    *target = changed;
    Ok(())
}

fn step(target: &mut Value, operation: &Value) -> Result<(), String> {
    let field =
        |name: &str| operation.get(name).and_then(Value::as_str).ok_or_else(|| format!("operation has no {name}"));
    let value = || operation.get("value").cloned().ok_or_else(|| "operation has no value".to_owned());
    let path = field("path")?;
    match field("op")? {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(|_| ()),
        "replace" => {
            let place = target.pointer_mut(path).ok_or_else(|| missing("replace", path))?;
            *place = value()?;
            Ok(())
        }
        "move" => {
            let from = field("from")?;
            if path.starts_with(&format!("{from}/")) {
                return Err(format!("cannot move {from:?} into itself"));
            }
            let value = remove(target, from)?;
            add(target, path, value)
        }
        "copy" => {
            let from = field("from")?;
            let value = target.pointer(from).cloned().ok_or_else(|| missing("copy", from))?;
            add(target, path, value)
        }
        "test" => match target.pointer(path) {
            Some(found) if *found == value()? => Ok(()),
            None if operation.get("value").is_some_and(Value::is_null) => Ok(()),
            _ => Err(format!("testing value {path} failed")),
        },
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn missing(operation: &str, path: &str) -> String {
    format!("{operation} operation does not apply: doc is missing path: {path}: missing value")
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn index(token: &str, length: usize) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    token.parse::<usize>().ok().filter(|index| canonical && *index <= length)
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path).ok_or_else(|| missing("add", path))?;
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(last, value);
        }
        Some(Value::Array(items)) if last == "-" => items.push(value),
        Some(Value::Array(items)) => {
            let at = index(&last, items.len()).ok_or_else(|| missing("add", path))?;
            items.insert(at, value);
        }
        _ => return Err(missing("add", path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split(path).ok_or_else(|| missing("remove", path))?;
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&last).ok_or_else(|| missing("remove", path)),
        Some(Value::Array(items)) => match index(&last, items.len()) {
            Some(at) if at < items.len() => Ok(items.remove(at)),
            _ => Err(missing("remove", path)),
        },
        _ => Err(missing("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_do_what_the_standard_says() {
        let cases = [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), Some(json!({"a": 1, "b": 2}))),
            (json!({"a": [1, 3]}), json!([{"op": "add", "path": "/a/1", "value": 2}]), Some(json!({"a": [1, 2, 3]}))),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), Some(json!({"a": [1, 2]}))),
            (json!({"a/b": 1}), json!([{"op": "remove", "path": "/a~1b"}]), Some(json!({}))),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": 2}]), Some(json!({"a": 2}))),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), Some(json!({"b": 1}))),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), Some(json!({"a": 1, "b": 1}))),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Some(json!({"a": 1}))),
            // refused, and nothing of it done
            (json!({"a": 1}), json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b", "value": 1}]), None),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 2}]), None),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/5", "value": 2}]), None),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/01", "value": 2}]), None),
            (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), None),
            (json!({"a": 1}), json!([{"op": "frob", "path": "/a"}]), None),
        ];
        for (before, patch, after) in cases {
            let mut target = before.clone();
            let result = apply(&mut target, &patch);
            assert_eq!(result.is_ok(), after.is_some(), "{patch}: {result:?}");
            assert_eq!(target, after.unwrap_or(before), "{patch}");
        }
    }
}
