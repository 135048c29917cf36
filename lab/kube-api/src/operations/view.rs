//! How a kept object looks in the version that is asked for.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::object::{as_map, at};
use crate::registry::Resource;

/// Fields of an Event whose names differ between `v1` and `events.k8s.io/v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(object: &mut Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    let map = as_map(object);
    for (from, to) in pairs {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn is_new_event(resource: &Resource) -> bool {
    resource.is("events.k8s.io", "events")
}

/// From what is kept to what is served.
pub(crate) fn outward<'a>(object: &'a Value, resource: &Resource) -> Cow<'a, Value> {
    let api_version = resource.api_version();
    if object.get("apiVersion").and_then(Value::as_str) == Some(api_version.as_str()) {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    as_map(&mut object).insert("apiVersion".to_owned(), api_version.into());
    if is_new_event(resource) {
        rename(&mut object, EVENT_FIELDS.iter().copied());
    }
    Cow::Owned(object)
}

/// From what was sent to what is kept.
pub(crate) fn inward(object: &mut Value, resource: &Resource) {
    if is_new_event(resource) {
        rename(object, EVENT_FIELDS.iter().map(|(old, new)| (*new, *old)));
        as_map(object).insert("apiVersion".to_owned(), json!("v1"));
    }
}

/// Only the metadata.
pub(crate) fn metadata_only(object: &Value) -> Value {
    let metadata = at(object, &["metadata"]).cloned().unwrap_or_else(|| Value::Object(Map::new()));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    #[test]
    fn an_event_is_one_thing_under_two_groups() {
        let new = builtin::known("events.k8s.io", "events");
        let mut event =
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "p"}});
        let sent = event.clone();
        inward(&mut event, &new);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n", "involvedObject": {"name": "p"}})
        );
        assert_eq!(*outward(&event, &new), sent);
        assert_eq!(*outward(&event, &builtin::known("", "events")), event);
    }
}
