//! What follows from a write: namespaces and what they always hold, objects that leave when their last finalizer does.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::object::{self, list, text};
use crate::random;
use crate::refusal::Refusal;
use crate::registry::{Resource, Storage, builtin};
use crate::store::{Object, Transaction};

/// The metadata that the server gives a new object.
pub(crate) fn stamp(object: &mut Value, now: Timestamp) {
    let metadata = object::metadata(object);
    metadata.insert("uid".to_owned(), random::uid().into());
    metadata.insert("creationTimestamp".to_owned(), rfc3339(now).into());
    for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(field);
    }
}

/// Whether objects of a resource count the changes of their spec.
pub(crate) fn counts_generations(resource: &Resource) -> bool {
    resource.custom
        || resource.is_pod()
        || matches!(resource.group.as_str(), "apps" | "batch" | "policy" | "networking.k8s.io" | "apiextensions.k8s.io")
}

/// Refuses a new object in a namespace that is not there or going away.
pub(crate) fn require_namespace(tx: &Transaction<'_>, object: &Value, resource: &Resource) -> Result<(), Refusal> {
    if !resource.namespaced {
        return Ok(());
    }
    let name = object::namespace(object);
    let Some(namespace) = tx.get(&builtin::known("", "namespaces").storage, "", name) else {
        return Err(Refusal::not_found("", "namespaces", name));
    };
    if text(&namespace, &["status", "phase"]) == "Terminating" {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut refusal = Refusal::forbidden(&resource.group, &resource.plural, object::name(object), &why);
        if let Some(details) = refusal.details.as_mut() {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating", "message": format!("namespace {name} is being terminated"), "field": "metadata.namespace",
            }]);
        }
        return Err(refusal);
    }
    Ok(())
}

/// Whether an object that is being deleted may go now.
pub(crate) fn may_go(object: &Value, resource: &Resource) -> bool {
    if !object::is_being_deleted(object) || !object::finalizers(object).is_empty() {
        return false;
    }
    let waits = object::integer(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) > 0;
    if resource.is("", "namespaces") {
        return list(object, &["spec", "finalizers"]).is_empty();
    }
    !waits
}

/// Removes an object and does what follows.
pub(crate) fn remove(
    tx: &mut Transaction<'_>,
    storage: &Storage,
    object: &Value,
    ca: &str,
    now: Timestamp,
) -> Option<Object> {
    let (namespace, name) = (object::namespace(object).to_owned(), object::name(object).to_owned());
    let removed = tx.remove(storage, &namespace, &name)?;
    if storage.is("apiextensions.k8s.io", "customresourcedefinitions") {
        // The custom resources of a definition go with it.
        let defined = Storage::new(text(object, &["spec", "group"]), text(object, &["spec", "names", "plural"]));
        for instance in tx.list(&defined, None) {
            remove(tx, &defined, &instance, ca, now);
        }
    }
    if !namespace.is_empty() {
        settle_namespace(tx, &namespace, ca, now);
    }
    Some(removed)
}

/// Lets a terminating namespace go when it is empty, and gives a living one back what it always holds.
pub(crate) fn settle_namespace(tx: &mut Transaction<'_>, name: &str, ca: &str, now: Timestamp) {
    let namespaces = &builtin::known("", "namespaces").storage;
    let Some(namespace) = tx.get(namespaces, "", name) else { return };
    if !object::is_being_deleted(&namespace) {
        furnish(tx, name, ca, now);
        return;
    }
    if !tx.contents(name).is_empty() {
        return;
    }
    let mut last = (*namespace).clone();
    object::map_at(&mut last, &["spec"]).remove("finalizers");
    if object::finalizers(&last).is_empty() {
        tx.remove(namespaces, "", name);
    } else {
        tx.put(namespaces, last);
    }
}

/// Creates what every namespace holds: the default account and the authority's certificate.
pub(crate) fn furnish(tx: &mut Transaction<'_>, namespace: &str, ca: &str, now: Timestamp) {
    let accounts = builtin::known("", "serviceaccounts");
    if tx.get(&accounts.storage, namespace, "default").is_none() {
        put_new(tx, &accounts, json!({"metadata": {"name": "default", "namespace": namespace}}), now);
    }
    let maps = builtin::known("", "configmaps");
    if tx.get(&maps.storage, namespace, "kube-root-ca.crt").is_none() {
        let map = json!({
            "metadata": {"name": "kube-root-ca.crt", "namespace": namespace, "annotations": {
                "kubernetes.io/description": "Contains a CA bundle that can be used to verify the lab's API server.",
            }},
            "data": {"ca.crt": ca},
        });
        put_new(tx, &maps, map, now);
    }
}

/// Writes an object that the server itself brings.
pub(crate) fn put_new(tx: &mut Transaction<'_>, resource: &Resource, mut object: Value, now: Timestamp) -> Object {
    let map = object::as_map(&mut object);
    map.insert("apiVersion".to_owned(), resource.api_version().into());
    map.insert("kind".to_owned(), resource.kind.clone().into());
    stamp(&mut object, now);
    tx.put(&resource.storage, object)
}

/// What a fresh lab holds.
pub(crate) fn bootstrap(tx: &mut Transaction<'_>, ca: &str, now: Timestamp) {
    let namespaces = builtin::known("", "namespaces");
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        if tx.get(&namespaces.storage, "", name).is_none() {
            let namespace = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            });
            put_new(tx, &namespaces, namespace, now);
        }
        furnish(tx, name, ca, now);
    }
    tell_client_authority(tx, ca, now);
    let classes = builtin::known("scheduling.k8s.io", "priorityclasses");
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)] {
        if tx.get(&classes.storage, "", name).is_none() {
            let class = json!({
                "metadata": {"name": name}, "value": value, "preemptionPolicy": "PreemptLowerPriority",
                "description": "Used for critical pods that must not be moved.",
            });
            put_new(tx, &classes, class, now);
        }
    }
}

/// Tells kubelets and other servers by which authority they know the API server and its users.
fn tell_client_authority(tx: &mut Transaction<'_>, ca: &str, now: Timestamp) {
    let maps = builtin::known("", "configmaps");
    let (namespace, name) = ("kube-system", "extension-apiserver-authentication");
    if tx.get(&maps.storage, namespace, name).is_none() {
        let map = json!({"metadata": {"name": name, "namespace": namespace}, "data": {"client-ca-file": ca}});
        put_new(tx, &maps, map, now);
    }
}
