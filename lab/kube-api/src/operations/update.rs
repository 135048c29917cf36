//! Update: of the object, of its status, of its scale. Patches end here too.

use serde_json::{Value, json};

use super::{Answer, Ask, admit, lifecycle, view};
use crate::clock::rfc3339;
use crate::defaults;
use crate::object::{self, as_map, at, map_at, text};
use crate::patch::managers::{self, Manager, Writer};
use crate::refusal::{FieldError, Refusal};
use crate::registry::{Resource, ScalePaths, custom};
use crate::schema::Place;
use crate::store::{Object, Store, Transaction};
use crate::validation;

/// Replaces an object (or its status, or its scale) by a body.
pub(crate) fn update(store: &Store, ask: &Ask, mut body: Value, ca: &str) -> Result<Answer, Refusal> {
    if ask.subresource == "scale" {
        let scaled = store.transact(|tx| {
            let old = current(tx, ask)?;
            rescale(tx, ask, &old, &body, ca)
        })?;
        return Ok(Answer::ok(scaled));
    }
    let warnings = admit::take_in(&mut body, ask)?;
    let name = object::name(&body).to_owned();
    if !name.is_empty() && name != ask.name {
        let message = format!("the name of the object ({name}) does not match the name on the URL ({})", ask.name);
        return Err(Refusal::bad_request(message));
    }
    if ask.resource.namespaced && !object::namespace(&body).is_empty() && object::namespace(&body) != ask.space() {
        let message = format!(
            "the namespace of the object ({}) does not match the namespace on the URL ({})",
            object::namespace(&body),
            ask.space()
        );
        return Err(Refusal::bad_request(message));
    }
    let updated = store.transact(|tx| {
        let old = current(tx, ask)?;
        replace(tx, ask, &old, body, None, ca)
    })?;
    Ok(Answer::ok(view::outward(&updated, &ask.resource).into_owned()).warning(warnings))
}

/// The object that the request is about.
pub(crate) fn current(tx: &Transaction<'_>, ask: &Ask) -> Result<Object, Refusal> {
    tx.get(&ask.resource.storage, ask.space(), &ask.name).ok_or_else(|| ask.not_found())
}

/// Refuses a body that names another version or another object than the one that is there.
fn check_preconditions(old: &Value, new: &Value, ask: &Ask) -> Result<(), Refusal> {
    let Ask { resource, name, .. } = ask;
    let (asked, found) = (object::uid(new), object::uid(old));
    if !asked.is_empty() && asked != found {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
        return Err(Refusal::conflict(&resource.group, &resource.plural, name, &why));
    }
    let version = object::resource_version(new);
    if !version.is_empty() && version != object::resource_version(old) {
        return Err(Refusal::modified(&resource.group, &resource.plural, name));
    }
    let unconditional = !resource.custom && !resource.is("coordination.k8s.io", "leases");
    if version.is_empty() && !unconditional {
        let error = FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Refusal::invalid(&resource.group, &resource.kind, name, &[error]));
    }
    Ok(())
}

/// What a client may not change stays as it was.
fn keep_system_metadata(old: &Value, new: &mut Value) {
    let metadata = object::metadata(new);
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ] {
        match at(old, &["metadata", field]) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// Leaves only the part that the subresource may write.
fn restrict(old: &Value, new: Value, resource: &Resource, subresource: &str) -> Value {
    let take = |target: &mut Value, source: &Value, path: &[&str]| {
        let Some((last, parents)) = path.split_last() else { return };
        match at(source, path).cloned() {
            Some(value) => map_at(target, parents).insert((*last).to_owned(), value),
            None => map_at(target, parents).remove(*last),
        };
    };
    match subresource {
        "status" | "approval" => {
            let mut kept = old.clone();
            take(&mut kept, &new, &["status"]);
            take(&mut kept, &new, &["metadata", "managedFields"]);
            if resource.is_pod() || resource.is("", "nodes") {
                for field in ["labels", "annotations", "finalizers"] {
                    take(&mut kept, &new, &["metadata", field]);
                }
            }
            kept
        }
        "ephemeralcontainers" => {
            let mut kept = old.clone();
            take(&mut kept, &new, &["spec", "ephemeralContainers"]);
            kept
        }
        "resize" => {
            let mut kept = old.clone();
            for list in ["containers", "initContainers"] {
                for (index, item) in object::list(&new, &["spec", list]).iter().enumerate() {
                    if let Some(place) = kept.pointer_mut(&format!("/spec/{list}/{index}")) {
                        take(place, item, &["resources"]);
                        take(place, item, &["resizePolicy"]);
                    }
                }
            }
            if at(&new, &["spec", "resources"]).is_some() {
                take(&mut kept, &new, &["spec", "resources"]);
            }
            kept
        }
        "finalize" => {
            let mut kept = old.clone();
            take(&mut kept, &new, &["spec", "finalizers"]);
            kept
        }
        _ => {
            let mut new = new;
            if resource.has_status {
                take(&mut new, old, &["status"]);
            }
            if resource.is("", "namespaces") {
                take(&mut new, old, &["spec", "finalizers"]);
            }
            new
        }
    }
}

/// What a change of a pod must keep although a client left it out (it never saw it, or sends an older form).
fn keep_assigned(old: &Value, new: &mut Value, resource: &Resource) {
    if resource.is_pod() {
        for field in
            ["serviceAccountName", "serviceAccount", "nodeName", "priority", "preemptionPolicy", "enableServiceLinks"]
        {
            if let Some(value) = at(old, &["spec", field]) {
                object::set_default(map_at(new, &["spec"]), field, value.clone());
            }
        }
    }
    if resource.is("batch", "jobs") {
        for path in [&["spec", "selector"][..], &["spec", "template", "metadata", "labels"]] {
            if let (Some(value), None) = (at(old, path), at(new, path))
                && let Some((last, parents)) = path.split_last()
            {
                map_at(new, parents).insert((*last).to_owned(), value.clone());
            }
        }
    }
    if resource.is("", "services") {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = at(old, &["spec", field]) {
                object::set_default(map_at(new, &["spec"]), field, value.clone());
            }
        }
    }
}

/// Managers as the body wants them: clients may hand back, change or clear them.
fn base_managers(old: &Value, new: &Value) -> Vec<Manager> {
    match at(new, &["metadata", "managedFields"]) {
        Some(Value::Array(_)) => managers::read(new),
        _ => managers::read(old),
    }
}

/// Whether two objects differ in anything but when managers wrote.
fn differ(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        object::metadata(&mut value).remove("resourceVersion");
        for entry in value.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            as_map(entry).remove("time");
        }
        value
    };
    strip(old) != strip(new)
}

/// Writes `new` over `old`. `applied` are the managers when it comes from a server-side apply.
pub(crate) fn replace(
    tx: &mut Transaction<'_>,
    ask: &Ask,
    old: &Object,
    mut new: Value,
    applied: Option<Vec<Manager>>,
    ca: &str,
) -> Result<Object, Refusal> {
    let resource = &admit::kept_as(ask);
    let now = rfc3339(ask.now);
    check_preconditions(old, &new, ask)?;
    keep_system_metadata(old, &mut new);
    let sent_managers = base_managers(old, &new);
    let mut new = restrict(old, new, resource, &ask.subresource);
    keep_assigned(old, &mut new, resource);
    defaults::fill(&mut new, resource);
    if resource.is_pod() && ask.subresource == "status" {
        defaults::pods::addresses(&mut new);
    }
    admit::tidy_metadata(&mut new);
    let spec_changed = at(old, &["spec"]) != at(&new, &["spec"]) || (resource.custom && content_changed(old, &new));
    if spec_changed && lifecycle::counts_generations(resource) {
        object::metadata(&mut new).insert("generation".to_owned(), json!(object::generation(old) + 1));
    }
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions") && spec_changed {
        custom::establish(&mut new, &now);
    }
    // What deletion waits for may shrink but not grow.
    if object::is_being_deleted(old) {
        let before = object::finalizers(old);
        let added: Vec<&str> = object::finalizers(&new).into_iter().filter(|one| !before.contains(one)).collect();
        if !added.is_empty() {
            let detail = "no new finalizers can be added if the object is being deleted, found new finalizers";
            let error = FieldError::forbidden("metadata.finalizers", &format!("{detail} {added:?}"));
            return Err(Refusal::invalid(&ask.resource.group, &ask.resource.kind, &ask.name, &[error]));
        }
    }
    let errors = match ask.subresource.as_str() {
        "" => validation::on_update(old, &new, resource),
        _ if resource.custom => validation::on_update(old, &new, resource),
        "status" => validation::on_status(&new, resource),
        "ephemeralcontainers" => validation::on_added(old, &new, resource),
        "resize" => validation::on_resized(old, &new, resource),
        _ => Vec::new(),
    };
    if !errors.is_empty() {
        return Err(Refusal::invalid(&ask.resource.group, &ask.resource.kind, &ask.name, &errors));
    }
    let owners = match applied {
        Some(owners) => owners,
        None => {
            let manager = ask.manager();
            let api_version = ask.resource.api_version();
            let writer = Writer { name: &manager, api_version: &api_version, subresource: &ask.subresource, now: &now };
            let place = Place::of(&resource.schema);
            let status_is_apart = resource.has_status && ask.subresource.is_empty();
            managers::after_update(sent_managers, Some(old), &new, place, &writer, status_is_apart)
        }
    };
    managers::write(&mut new, &owners);
    if !differ(old, &new) {
        return Ok(old.clone());
    }
    if ask.params.dry_run {
        return Ok(new.into());
    }
    let written = tx.put(&resource.storage, new);
    if lifecycle::may_go(&written, resource) {
        lifecycle::remove(tx, &resource.storage, &written, ca, ask.now);
    } else if ask.subresource == "finalize" {
        lifecycle::settle_namespace(tx, &ask.name, ca, ask.now);
    }
    Ok(written)
}

fn content_changed(old: &Value, new: &Value) -> bool {
    let content = |value: &Value| {
        let mut value = value.clone();
        let map = as_map(&mut value);
        map.remove("metadata");
        map.remove("status");
        value
    };
    content(old) != content(new)
}

fn at_json_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let path: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    at(object, &path)
}

/// The scale of an object.
pub(crate) fn scale_of(object: &Value, paths: &ScalePaths) -> Value {
    let number = |path: &str| at_json_path(object, path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => at_json_path(object, path).and_then(Value::as_str).unwrap_or("").to_owned(),
        None => selector_text(object),
    };
    let mut metadata = json!({
        "name": object::name(object), "uid": object::uid(object),
        "resourceVersion": object::resource_version(object),
        "creationTimestamp": text(object, &["metadata", "creationTimestamp"]),
    });
    if !object::namespace(object).is_empty() {
        metadata["namespace"] = json!(object::namespace(object));
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas), "selector": selector},
    })
}

/// A label selector as text.
fn selector_text(object: &Value) -> String {
    let labels = at(object, &["spec", "selector", "matchLabels"]).and_then(Value::as_object);
    let labels = labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")));
    labels.collect::<Vec<_>>().join(",")
}

/// Writes the number of replicas of a scale into its object.
pub(crate) fn rescale(
    tx: &mut Transaction<'_>,
    ask: &Ask,
    old: &Object,
    scale: &Value,
    ca: &str,
) -> Result<Value, Refusal> {
    let Some(paths) = ask.resource.scale.clone() else { return Err(Refusal::no_such_path()) };
    let replicas = object::integer(scale, &["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(Refusal::invalid("autoscaling", "Scale", &ask.name, &[error]));
    }
    let mut new = (**old).clone();
    let path: Vec<&str> = paths.spec_replicas.split('.').filter(|part| !part.is_empty()).collect();
    if let Some((last, parents)) = path.split_last() {
        map_at(&mut new, parents).insert((*last).to_owned(), json!(replicas));
    }
    let version = object::resource_version(scale);
    if !version.is_empty() {
        object::metadata(&mut new).insert("resourceVersion".to_owned(), version.into());
    }
    let uid = object::uid(scale);
    if !uid.is_empty() {
        object::metadata(&mut new).insert("uid".to_owned(), uid.into());
    }
    let written = replace(tx, ask, old, new, None, ca)?;
    Ok(scale_of(&written, &paths))
}
