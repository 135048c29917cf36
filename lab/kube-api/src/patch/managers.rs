//! `metadata.managedFields`: which manager owns which fields.

use serde_json::{Value, json};

use super::field_set::FieldSet;
use crate::object::{list, text};
use crate::schema::Place;

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: String,
    pub(crate) fields: FieldSet,
}

/// Who writes now.
#[derive(Debug, Clone)]
pub(crate) struct Writer<'a> {
    pub(crate) name: &'a str,
    pub(crate) api_version: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) now: &'a str,
}

impl Manager {
    pub(crate) fn is(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.name == writer.name && self.operation == operation && self.subresource == writer.subresource
    }

    /// The manager as a conflict message names it.
    pub(crate) fn describe(&self) -> String {
        let subresource = match self.subresource.as_str() {
            "" => String::new(),
            name => format!(" with subresource {name:?}"),
        };
        match self.operation {
            Operation::Apply => format!("{:?}{subresource}", self.name),
            Operation::Update if self.time.is_empty() => {
                format!("{:?}{subresource} using {}", self.name, self.api_version)
            }
            Operation::Update => {
                format!("{:?}{subresource} using {} at {}", self.name, self.api_version, self.time)
            }
        }
    }
}

/// Reads the managers of an object.
pub(crate) fn read(object: &Value) -> Vec<Manager> {
    let entries = list(object, &["metadata", "managedFields"]).iter();
    let entries = entries.filter(|entry| entry.get("fieldsV1").is_some());
    entries
        .map(|entry| Manager {
            name: text(entry, &["manager"]).to_owned(),
            operation: if text(entry, &["operation"]) == "Apply" { Operation::Apply } else { Operation::Update },
            api_version: text(entry, &["apiVersion"]).to_owned(),
            subresource: text(entry, &["subresource"]).to_owned(),
            time: text(entry, &["time"]).to_owned(),
            fields: FieldSet::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes the managers into an object; those who own nothing are left out.
pub(crate) fn write(object: &mut Value, managers: &[Manager]) {
    let entries: Vec<Value> = managers
        .iter()
        .filter(|manager| !manager.fields.is_empty())
        .map(|manager| {
            let mut entry = json!({
                "manager": manager.name,
                "operation": match manager.operation { Operation::Apply => "Apply", Operation::Update => "Update" },
                "apiVersion": manager.api_version,
                "time": manager.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": manager.fields.to_json(),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = json!(manager.subresource);
            }
            entry
        })
        .collect();
    let metadata = crate::object::metadata(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

/// Leaves out what nobody owns: the envelope and what the system writes.
pub(crate) fn ownable(set: FieldSet, subresource: &str, has_status: bool) -> FieldSet {
    const SYSTEM: &[&str] = &[
        "name",
        "namespace",
        "generateName",
        "uid",
        "creationTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let mut set = set.without(&["apiVersion"]).without(&["kind"]);
    for field in SYSTEM {
        set = set.without(&["metadata", field]);
    }
    match subresource {
        "status" => set.without(&["spec"]),
        _ if has_status => set.without(&["status"]),
        _ => set,
    }
}

/// The managers after `writer` has written `new` over `old` by update or patch.
pub(crate) fn after_update(
    mut managers: Vec<Manager>,
    old: Option<&Value>,
    new: &Value,
    place: Place<'_>,
    writer: &Writer<'_>,
    has_status: bool,
) -> Vec<Manager> {
    let changed = ownable(FieldSet::changed(old, new, place), writer.subresource, has_status);
    let present = FieldSet::of(new, place);
    let touched = !changed.is_empty();
    for manager in &mut managers {
        if !manager.is(writer, Operation::Update) {
            manager.fields.subtract(&changed);
        }
        manager.fields.retain_present(&present);
    }
    if touched {
        match managers.iter_mut().find(|manager| manager.is(writer, Operation::Update)) {
            Some(own) => {
                own.fields.union(&changed);
                own.time = writer.now.to_owned();
                own.api_version = writer.api_version.to_owned();
            }
            None => managers.push(Manager {
                name: writer.name.to_owned(),
                operation: Operation::Update,
                api_version: writer.api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time: writer.now.to_owned(),
                fields: changed,
            }),
        }
    }
    managers.retain(|manager| !manager.fields.is_empty());
    managers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::definitions;

    fn writer<'a>(name: &'a str, subresource: &'a str) -> Writer<'a> {
        Writer { name, api_version: "v1", subresource, now: "2026-01-01T00:00:00Z" }
    }

    #[test]
    fn who_changes_a_field_owns_it() {
        let place = Place::new(&definitions()["io.k8s.api.core.v1.ConfigMap"]);
        let first = json!({"metadata": {"name": "x", "uid": "u"}, "data": {"a": "1", "b": "1"}});
        let managers = after_update(Vec::new(), None, &first, place, &writer("one", ""), false);
        assert_eq!(managers.len(), 1);
        assert_eq!(managers[0].fields.paths(), [".data.a", ".data.b"]);
        let second = json!({"metadata": {"name": "x", "uid": "u"}, "data": {"a": "2"}});
        let managers = after_update(managers, Some(&first), &second, place, &writer("two", ""), false);
        assert_eq!(managers.len(), 1, "{managers:?}");
        assert_eq!((managers[0].name.as_str(), managers[0].fields.paths()), ("two", vec![".data.a".to_owned()]));
    }

    #[test]
    fn writing_and_reading_are_inverse() {
        let place = Place::new(&definitions()["io.k8s.api.core.v1.Pod"]);
        let pod = json!({"metadata": {"name": "x"}, "status": {"phase": "Running"}});
        let managers = after_update(Vec::new(), None, &pod, place, &writer("kubelet", "status"), true);
        let mut object = pod;
        write(&mut object, &managers);
        assert_eq!(read(&object), managers);
        assert_eq!(object["metadata"]["managedFields"][0]["subresource"], "status");
    }
}
