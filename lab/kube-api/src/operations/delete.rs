//! Delete: preconditions, grace, finalizers, propagation, namespaces with all they hold.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Answer, Ask, admit, lifecycle, read, view};
use crate::clock::{parse, rfc3339};
use crate::object::{self, integer, list, map_at, text};
use crate::refusal::{FieldError, Refusal};
use crate::registry::Resource;
use crate::store::{Object, Store, Transaction};

/// What a deletion asks for, from the body or the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    grace: Option<i64>,
    uid: String,
    version: String,
    propagation: Option<Propagation>,
    dry_run: bool,
}

/// What happens to what the object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl Options {
    /// Reads the options; the body says more than the query.
    pub(crate) fn read(ask: &Ask, body: Option<&Value>) -> Result<Self, Refusal> {
        let empty = Value::Null;
        let body = body.unwrap_or(&empty);
        let propagation = match text(body, &["propagationPolicy"]) {
            "" => ask.params.propagation.as_str(),
            policy => policy,
        };
        let orphan = body.get("orphanDependents").and_then(Value::as_bool).or(ask.params.orphan_dependents);
        let propagation = match (propagation, orphan) {
            ("", None) => None,
            ("", Some(true)) | ("Orphan", _) => Some(Propagation::Orphan),
            ("", Some(false)) | ("Background", _) => Some(Propagation::Background),
            ("Foreground", _) => Some(Propagation::Foreground),
            (other, _) => {
                let all = ["Foreground", "Background", "Orphan", "nil"];
                let error = FieldError::unsupported("propagationPolicy", &json!(other), &all);
                return Err(Refusal::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
            }
        };
        Ok(Self {
            grace: integer(body, &["gracePeriodSeconds"]).or(ask.params.grace_seconds),
            uid: text(body, &["preconditions", "uid"]).to_owned(),
            version: text(body, &["preconditions", "resourceVersion"]).to_owned(),
            propagation,
            dry_run: ask.params.dry_run || !list(body, &["dryRun"]).is_empty(),
        })
    }
}

/// What became of an object.
pub(crate) enum Outcome {
    Gone(Object),
    Waiting(Object),
}

/// Deletes one object.
pub(crate) fn delete(store: &Store, ask: &Ask, options: &Options, ca: &str) -> Result<Answer, Refusal> {
    let outcome = store.transact(|tx| {
        let object = tx.get(&ask.resource.storage, ask.space(), &ask.name).ok_or_else(|| ask.not_found())?;
        delete_object(tx, &admit::kept_as(ask), &object, options, ca, ask.now)
    })?;
    Ok(Answer::ok(match outcome {
        Outcome::Waiting(object) => view::outward(&object, &ask.resource).into_owned(),
        Outcome::Gone(object) if ask.resource.is_pod() => view::outward(&object, &ask.resource).into_owned(),
        Outcome::Gone(object) => {
            let mut details = json!({"name": ask.name, "kind": ask.resource.plural, "uid": object::uid(&object)});
            if !ask.resource.group.is_empty() {
                details["group"] = json!(ask.resource.group);
            }
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        }
    }))
}

/// Deletes all objects that are selected; answers with the list.
pub(crate) fn delete_collection(store: &Store, ask: &Ask, options: &Options, ca: &str) -> Result<Vec<Object>, Refusal> {
    let listed = read::list(store, ask)?;
    let resource = admit::kept_as(ask);
    for object in &listed.items {
        let result = store.transact(|tx| {
            // It may be gone or changed since it was listed.
            match tx.get(&resource.storage, object::namespace(object), object::name(object)) {
                Some(object) => delete_object(tx, &resource, &object, options, ca, ask.now).map(|_| ()),
                None => Ok(()),
            }
        });
        match result {
            Err(refusal) if refusal.code != 404 => return Err(refusal),
            _ => {}
        }
    }
    Ok(listed.items)
}

/// How long a pod may take, or none when deletion is not graceful.
fn grace_of(object: &Value, resource: &Resource, options: &Options) -> Option<i64> {
    if !resource.is_pod() {
        return None;
    }
    let asked = options.grace.or_else(|| integer(object, &["spec", "terminationGracePeriodSeconds"])).unwrap_or(30);
    let unbound = text(object, &["spec", "nodeName"]).is_empty();
    let finished = matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
    Some(if unbound || finished {
        0
    } else if asked < 0 {
        1
    } else {
        asked
    })
}

fn propagate(object: &mut Value, resource: &Resource, options: &Options) {
    let default = if resource.is("batch", "jobs") { Some(Propagation::Orphan) } else { None };
    let wanted = match options.propagation.or(default) {
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Background) => None,
        // Nothing asked: what an earlier deletion asked for stands.
        None => return,
    };
    // Nothing can own a pod's dependents here but finalizers still say what was asked for.
    let mut finalizers: Vec<Value> = list(object, &["metadata", "finalizers"]).to_vec();
    finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
    finalizers.extend(wanted.map(Value::from));
    object::metadata(object).insert("finalizers".to_owned(), Value::Array(finalizers));
    admit::tidy_metadata(object);
}

/// Deletes an object in a transaction.
pub(crate) fn delete_object(
    tx: &mut Transaction<'_>,
    resource: &Resource,
    object: &Object,
    options: &Options,
    ca: &str,
    now: Timestamp,
) -> Result<Outcome, Refusal> {
    let name = object::name(object);
    let failed = |what: &str, asked: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}");
        Refusal::conflict(&resource.group, &resource.plural, name, &why)
    };
    if !options.uid.is_empty() && options.uid != object::uid(object) {
        return Err(failed("UID", &options.uid, object::uid(object)));
    }
    if !options.version.is_empty() && options.version != object::resource_version(object) {
        return Err(failed("ResourceVersion", &options.version, object::resource_version(object)));
    }
    if resource.is("", "namespaces") {
        return delete_namespace(tx, resource, object, options, ca, now);
    }
    let mut new = (**object).clone();
    propagate(&mut new, resource, options);
    let held = !object::finalizers(&new).is_empty();
    let grace = grace_of(object, resource, options).unwrap_or(0);
    if options.dry_run {
        return Ok(if held || grace > 0 { Outcome::Waiting(new.into()) } else { Outcome::Gone(new.into()) });
    }
    if grace == 0 && !held {
        let gone = lifecycle::remove(tx, &resource.storage, object, ca, now).unwrap_or_else(|| object.clone());
        return Ok(Outcome::Gone(gone));
    }
    mark(&mut new, resource, grace, now);
    if new == **object {
        return Ok(Outcome::Waiting(object.clone()));
    }
    Ok(Outcome::Waiting(tx.put(&resource.storage, new)))
}

/// Writes that an object is being deleted, or that it is to go sooner than said before.
fn mark(object: &mut Value, resource: &Resource, grace: i64, now: Timestamp) {
    let before = parse(text(object, &["metadata", "deletionTimestamp"]));
    let granted = integer(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let when = |base: i64| Timestamp::from_second(base.saturating_add(grace)).map(rfc3339);
    let deadline = match before {
        // It only ever gets shorter.
        Some(_) if grace >= granted => return,
        Some(deadline) => when(deadline.as_second().saturating_sub(granted)),
        None => when(now.as_second()),
    };
    let first = before.is_none();
    let generation = object::generation(object);
    let metadata = object::metadata(object);
    metadata.insert("deletionTimestamp".to_owned(), deadline.unwrap_or_else(|_| rfc3339(now)).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if first && lifecycle::counts_generations(resource) {
        metadata.insert("generation".to_owned(), json!(generation + 1));
    }
}

/// Namespaces that the lab cannot be without.
const KEPT: &[&str] = &["default", "kube-system", "kube-public"];

fn delete_namespace(
    tx: &mut Transaction<'_>,
    resource: &Resource,
    namespace: &Object,
    options: &Options,
    ca: &str,
    now: Timestamp,
) -> Result<Outcome, Refusal> {
    let name = object::name(namespace).to_owned();
    if KEPT.contains(&name.as_str()) {
        return Err(Refusal::forbidden("", "namespaces", &name, "this namespace may not be deleted"));
    }
    if options.dry_run {
        return Ok(Outcome::Waiting(namespace.clone()));
    }
    let mut new = (**namespace).clone();
    if !object::is_being_deleted(namespace) {
        mark(&mut new, resource, 0, now);
        object::metadata(&mut new).remove("deletionGracePeriodSeconds");
        map_at(&mut new, &["status"]).insert("phase".to_owned(), "Terminating".into());
    }
    let marked = tx.put(&resource.storage, new);
    let registry = tx.registry();
    for (storage, object) in tx.contents(&name) {
        if object::is_being_deleted(&object) {
            continue;
        }
        match registry.find_storage(&storage) {
            Some(resource) => {
                // Each goes by its own rules: bound pods with their grace, others when their finalizers let them.
                let _ = delete_object(tx, &resource, &object, &Options::default(), ca, now);
            }
            // An object whose definition is gone can follow no rules any more.
            None => {
                lifecycle::remove(tx, &storage, &object, ca, now);
            }
        }
    }
    lifecycle::settle_namespace(tx, &name, ca, now);
    Ok(Outcome::Waiting(marked))
}
