//! Sets of fields: who owns what, in the encoding of `managedFields` (FieldsV1).
//!
//! A set is a tree whose edges are the encoded path elements themselves (`f:name`, `k:{"name":"a"}`, `v:"x"`), so reading
//! and writing the wire form is direct.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{ListKind, Place};

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// Whether the field this node stands for is itself in the set.
    pub(crate) member: bool,
    pub(crate) children: BTreeMap<String, FieldSet>,
}

/// What tells an item of a keyed list apart, as a path element.
pub(crate) fn item_element(item: &Value, kind: &ListKind, place: Place<'_>) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{item}")),
        ListKind::Map(keys) => {
            let mut identity = Map::new();
            for key in keys {
                if let Some(value) = item.get(key).cloned().or_else(|| place.items().key_default(key)) {
                    identity.insert(key.clone(), value);
                }
            }
            Some(format!("k:{}", Value::Object(identity)))
        }
    }
}

impl FieldSet {
    fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// All fields of a value whose type is at `place`.
    pub(crate) fn of(value: &Value, place: Place<'_>) -> Self {
        match value {
            Value::Object(map) if !place.is_atomic_map() && !map.is_empty() => {
                let mut set = Self::default();
                for (key, value) in map {
                    let mut child = Self::of(value, place.field(key));
                    // An entry of a free map is itself a field.
                    child.member |= !place.names_field(key) && place.is_known();
                    set.children.insert(format!("f:{key}"), child);
                }
                set
            }
            Value::Array(items) => match place.list_kind() {
                ListKind::Atomic => Self::leaf(),
                kind => {
                    let mut set = Self::default();
                    for item in items {
                        if let Some(element) = item_element(item, &kind, place) {
                            let mut child =
                                if kind == ListKind::Set { Self::default() } else { Self::of(item, place.items()) };
                            child.member = true;
                            set.children.insert(element, child);
                        }
                    }
                    set
                }
            },
            _ => Self::leaf(),
        }
    }

    /// The fields of `new` that `old` lacks or has otherwise.
    pub(crate) fn changed(old: Option<&Value>, new: &Value, place: Place<'_>) -> Self {
        let Some(old) = old else { return Self::of(new, place) };
        if old == new {
            return Self::default();
        }
        let mut set = Self::default();
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if !place.is_atomic_map() && !new.is_empty() => {
                for (key, value) in new {
                    let mut child = Self::changed(old.get(key), value, place.field(key));
                    child.member |= !old.contains_key(key) && !place.names_field(key) && place.is_known();
                    set.insert_child(format!("f:{key}"), child);
                }
                set
            }
            (Value::Array(old), Value::Array(new)) => {
                let kind = place.list_kind();
                if kind == ListKind::Atomic {
                    return Self::leaf();
                }
                for item in new {
                    let Some(element) = item_element(item, &kind, place) else { continue };
                    let before =
                        old.iter().find(|old| item_element(old, &kind, place).as_deref() == Some(element.as_str()));
                    let mut child = match (&kind, before) {
                        (ListKind::Set, Some(_)) => continue,
                        (ListKind::Set, None) => Self::default(),
                        _ => Self::changed(before, item, place.items()),
                    };
                    child.member |= before.is_none();
                    set.insert_child(element, child);
                }
                set
            }
            // An emptied map is no change of its own; what left it is in `removed`.
            (Value::Object(_), Value::Object(new)) if new.is_empty() && !place.is_atomic_map() => set,
            _ => Self::of(new, place),
        }
    }

    fn insert_child(&mut self, element: String, child: Self) {
        if !child.is_empty() {
            self.children.insert(element, child);
        }
    }

    pub(crate) fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().union(child);
        }
    }

    /// Takes the members of `other` away.
    pub(crate) fn subtract(&mut self, other: &Self) {
        if other.member {
            self.member = false;
        }
        for (element, child) in &other.children {
            if let Some(own) = self.children.get_mut(element) {
                own.subtract(child);
                if own.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut set = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            if let Some(other) = other.children.get(element) {
                set.insert_child(element.clone(), child.intersection(other));
            }
        }
        set
    }

    /// Keeps only what a value has (something else may have removed the rest).
    pub(crate) fn retain_present(&mut self, present: &Self) {
        self.children.retain(|element, child| match present.children.get(element) {
            Some(present) => {
                if !present.children.is_empty() {
                    child.retain_present(present);
                }
                !child.is_empty()
            }
            None => false,
        });
    }

    /// Leaves out a field of the root.
    pub(crate) fn without(mut self, path: &[&str]) -> Self {
        self.remove(path);
        self
    }

    fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let element = format!("f:{first}");
        if rest.is_empty() {
            self.children.remove(&element);
        } else if let Some(child) = self.children.get_mut(&element) {
            child.remove(rest);
            if child.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// The members as readable paths: `.spec.containers[name="a"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.to_owned());
        }
        for (element, child) in &self.children {
            child.collect(&format!("{prefix}{}", readable(element)), paths);
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            map.insert(element.clone(), child.to_json());
        }
        Value::Object(map)
    }

    /// Reads the wire form.
    pub(crate) fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        let Some(map) = value.as_object() else { return set };
        for (element, child) in map {
            if element != "." {
                let mut read = Self::from_json(child);
                let empty = child.as_object().is_none_or(Map::is_empty);
                read.member = empty || child.get(".").is_some();
                set.children.insert(canonical(element), read);
            }
        }
        set
    }
}

/// Others may write the keys of an item in another order.
fn canonical(element: &str) -> String {
    match element.split_once(':') {
        Some((tag @ ("k" | "v"), body)) => match serde_json::from_str::<Value>(body) {
            Ok(value) => format!("{tag}:{value}"),
            Err(_) => element.to_owned(),
        },
        _ => element.to_owned(),
    }
}

fn readable(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => match serde_json::from_str::<Value>(keys) {
            Ok(Value::Object(keys)) => {
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            _ => format!("[{keys}]"),
        },
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::definitions;

    fn pod() -> Place<'static> {
        Place::new(&definitions()["io.k8s.api.core.v1.Pod"])
    }

    #[test]
    fn the_fields_of_a_pod_are_written_as_the_real_server_writes_them() {
        let value = json!({
            "metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["1"], "ports": [{"containerPort": 80}]}]},
        });
        let set = FieldSet::of(&value, pod());
        assert_eq!(
            set.to_json(),
            json!({
                "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }}},
            })
        );
        assert_eq!(FieldSet::from_json(&set.to_json()), set);
        assert!(set.paths().contains(&".spec.containers[name=\"c\"].image".to_owned()));
    }

    #[test]
    fn only_what_differs_has_changed() {
        let old = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "n"}});
        let new = json!({"spec": {"containers": [{"name": "c", "image": "j"}], "nodeName": "n"}});
        let changed = FieldSet::changed(Some(&old), &new, pod());
        assert_eq!(changed.paths(), [".spec.containers[name=\"c\"].image"]);
    }

    #[test]
    fn union_and_subtraction_undo_each_other() {
        let a = FieldSet::of(&json!({"spec": {"nodeName": "n"}}), pod());
        let b = FieldSet::of(&json!({"spec": {"hostname": "h"}, "metadata": {"labels": {"x": "y"}}}), pod());
        let mut both = a.clone();
        both.union(&b);
        assert_eq!(both.intersection(&a), a);
        both.subtract(&b);
        assert_eq!(both, a);
    }
}
