//! What is refused, in the words of the real server. All pure.

pub(crate) mod addresses;
mod ephemeral;
pub(crate) mod names;
pub(crate) mod pods;
mod resize;
pub(crate) mod workloads;

use serde_json::{Value, json};

use crate::object::{self, at, list, text};
use crate::refusal::FieldError;
use crate::registry::{Resource, TypeOf, custom};
use crate::schema::structural;

/// What is wrong with a new object.
pub(crate) fn on_create(object: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut errors = metadata(object, resource);
    errors.extend(content(object, resource));
    if resource.is_pod() {
        errors.extend(ephemeral::none_at_first(object));
    }
    errors
}

/// What is wrong with containers that are added to a pod.
pub(crate) fn on_added(old: &Value, new: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut errors = content(new, resource);
    errors.extend(ephemeral::only_more(old, new));
    errors
}

/// What is wrong with other limits and requests of a pod.
pub(crate) fn on_resized(old: &Value, new: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut errors = content(new, resource);
    errors.extend(resize::in_place(old, new));
    errors
}

/// What is wrong with a change.
pub(crate) fn on_update(old: &Value, new: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut errors = metadata(new, resource);
    errors.extend(content(new, resource));
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => errors.extend(pods::immutable(old, new)),
        ("apps", "deployments" | "replicasets" | "daemonsets") => {
            errors.extend(immutable(old, new, &["spec", "selector"]));
        }
        ("batch", "jobs") => {
            errors.extend(immutable(old, new, &["spec", "selector"]));
            errors.extend(immutable(old, new, &["spec", "template"]));
            errors.extend(immutable(old, new, &["spec", "completions"]));
        }
        ("", "secrets") => {
            errors.extend(immutable(old, new, &["type"]));
            errors.extend(frozen(old, new));
        }
        ("", "configmaps") => errors.extend(frozen(old, new)),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            errors.extend(immutable(old, new, &["roleRef"]));
        }
        _ => {}
    }
    errors
}

/// What is wrong with a new status.
pub(crate) fn on_status(new: &Value, resource: &Resource) -> Vec<FieldError> {
    if resource.is_pod() { addresses::of_pod(new) } else { Vec::new() }
}

fn immutable(old: &Value, new: &Value, path: &[&str]) -> Option<FieldError> {
    let (before, after) = (at(old, path), at(new, path));
    let now = after.cloned().unwrap_or(Value::Null);
    (before != after).then(|| FieldError::invalid(path.join("."), &now, "field is immutable"))
}

/// ConfigMaps and Secrets that were declared immutable.
fn frozen(old: &Value, new: &Value) -> Vec<FieldError> {
    if old.get("immutable") != Some(&json!(true)) {
        return Vec::new();
    }
    let detail = "field is immutable when `immutable` is set";
    ["data", "binaryData", "immutable"]
        .iter()
        .filter(|field| old.get(**field) != new.get(**field))
        .map(|field| FieldError::forbidden(*field, detail))
        .collect()
}

fn metadata(object: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = object::name(object);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(detail) = names::rule(resource).broken_by(name) {
        errors.push(FieldError::invalid("metadata.name", &json!(name), &detail));
    }
    for (kind, path) in [("labels", "metadata.labels"), ("annotations", "metadata.annotations")] {
        for (key, value) in at(object, &["metadata", kind]).and_then(Value::as_object).into_iter().flatten() {
            if let Some(detail) = names::qualified_name(key) {
                errors.push(FieldError::invalid(path, &json!(key), &detail));
            }
            if kind == "labels"
                && let Some(detail) = names::label_value(value.as_str().unwrap_or(""))
            {
                errors.push(FieldError::invalid(path, value, &detail));
            }
        }
    }
    for finalizer in object::finalizers(object) {
        if let Some(detail) = names::qualified_name(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", &json!(finalizer), &detail));
        }
    }
    for (index, owner) in list(object, &["metadata", "ownerReferences"]).iter().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[key]).is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{key}");
                errors.push(FieldError::invalid(field, &json!(""), &format!("{key} must not be empty")));
            }
        }
    }
    errors
}

fn content(object: &Value, resource: &Resource) -> Vec<FieldError> {
    if let TypeOf::Custom(schema) = &resource.schema {
        return structural::validate(object, schema);
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pods::spec(&object["spec"], "spec"),
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => workloads::selecting(object),
        ("batch", "jobs") => workloads::job(object),
        ("apiextensions.k8s.io", _) => custom::validate(object),
        ("", "configmaps" | "secrets") => keys(object),
        ("", "events") => event(object),
        ("", "services") => service(object),
        _ => Vec::new(),
    }
}

fn keys(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for part in ["data", "binaryData"] {
        for key in object.get(part).and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
            if let Some(detail) = names::config_key(key) {
                errors.push(FieldError::invalid(format!("{part}[{key}]"), &json!(key), &detail));
            }
        }
    }
    errors
}

fn event(object: &Value) -> Vec<FieldError> {
    let about = text(object, &["involvedObject", "namespace"]);
    let own = object::namespace(object);
    let fits = about == own || (about.is_empty() && matches!(own, "default" | "kube-system"));
    if fits {
        return Vec::new();
    }
    vec![FieldError::invalid("involvedObject.namespace", &json!(about), "does not match event.namespace")]
}

fn service(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let ports = list(object, &["spec", "ports"]);
    let kind = text(object, &["spec", "type"]);
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
        let all = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        errors.push(FieldError::unsupported("spec.type", &json!(kind), &all));
    }
    for (index, port) in ports.iter().enumerate() {
        let number = object::integer(port, &["port"]).unwrap_or(0);
        if !(1..=65535).contains(&number) {
            let detail = "must be between 1 and 65535, inclusive";
            errors.push(FieldError::invalid(format!("spec.ports[{index}].port"), &json!(number), detail));
        }
    }
    errors
}
