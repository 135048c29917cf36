//! Create.

use serde_json::{Value, json};

use super::{Answer, Ask, admit, lifecycle, view};
use crate::clock::rfc3339;
use crate::defaults;
use crate::object::{self, as_map};
use crate::patch::managers::{self, Manager, Writer};
use crate::random;
use crate::refusal::Refusal;
use crate::registry::{Resource, custom};
use crate::schema::Place;
use crate::store::{Object, Store, Transaction};
use crate::validation;

/// How often a generated name may collide before the request is refused.
const NAME_ATTEMPTS: usize = 8;

/// Creates an object from a body.
pub(crate) fn create(store: &Store, ask: &Ask, mut body: Value, ca: &str) -> Result<Answer, Refusal> {
    let warnings = admit::take_in(&mut body, ask)?;
    let created = store.transact(|tx| insert(tx, ask, body, None, ca))?;
    Ok(Answer::created(view::outward(&created, &ask.resource).into_owned()).warning(warnings))
}

fn place_in_namespace(object: &mut Value, ask: &Ask) -> Result<(), Refusal> {
    let own = object::namespace(object).to_owned();
    if !ask.resource.namespaced {
        object::metadata(object).remove("namespace");
        return Ok(());
    }
    if !own.is_empty() && own != ask.space() {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    object::metadata(object).insert("namespace".to_owned(), ask.space().into());
    Ok(())
}

fn name_it(tx: &Transaction<'_>, object: &mut Value, ask: &Ask) -> Result<(), Refusal> {
    if !object::name(object).is_empty() {
        return Ok(());
    }
    let prefix = object::text(object, &["metadata", "generateName"]).to_owned();
    if prefix.is_empty() {
        return Ok(());
    }
    for _ in 0..NAME_ATTEMPTS {
        // 63 characters, of which the suffix takes five.
        let kept: String = prefix.chars().take(58).collect();
        let name = format!("{kept}{}", random::suffix());
        if tx.get(&ask.resource.storage, object::namespace(object), &name).is_none() {
            object::metadata(object).insert("name".to_owned(), name.into());
            return Ok(());
        }
    }
    Err(Refusal::already_exists(&ask.resource.group, &ask.resource.plural, &prefix))
}

/// What a kind's own rules do to a new object.
fn prepare(object: &mut Value, resource: &Resource, now: &str) {
    if resource.has_status {
        as_map(object).remove("status");
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            let status = defaults::pods::initial_status(object);
            as_map(object).insert("status".to_owned(), status);
        }
        ("", "namespaces") => {
            as_map(object).insert("status".to_owned(), json!({"phase": "Active"}));
        }
        ("", "services") => {
            as_map(object).insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
        ("", "persistentvolumes" | "persistentvolumeclaims") => {
            as_map(object).insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        ("apps" | "batch", _) if resource.has_status => {
            as_map(object).insert("status".to_owned(), json!({}));
        }
        ("apiextensions.k8s.io", _) => custom::establish(object, now),
        _ => {}
    }
}

/// Writes a new object. `applied` are the managers when it comes from a server-side apply.
pub(crate) fn insert(
    tx: &mut Transaction<'_>,
    ask: &Ask,
    mut object: Value,
    applied: Option<Vec<Manager>>,
    ca: &str,
) -> Result<Object, Refusal> {
    let resource = &admit::kept_as(ask);
    let now = rfc3339(ask.now);
    if !object::resource_version(&object).is_empty() {
        return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
    }
    place_in_namespace(&mut object, ask)?;
    lifecycle::require_namespace(tx, &object, resource)?;
    name_it(tx, &mut object, ask)?;
    let name = object::name(&object).to_owned();
    if tx.get(&resource.storage, object::namespace(&object), &name).is_some() {
        return Err(Refusal::already_exists(&ask.resource.group, &ask.resource.plural, &name));
    }
    object::metadata(&mut object).remove("managedFields");
    lifecycle::stamp(&mut object, ask.now);
    if lifecycle::counts_generations(resource) {
        object::metadata(&mut object).insert("generation".to_owned(), json!(1));
    }
    defaults::fill(&mut object, resource);
    if resource.is("batch", "jobs") {
        defaults::workloads::job_selector(&mut object);
    }
    admit::admit_new(tx, &mut object, resource)?;
    if resource.is("certificates.k8s.io", "certificatesigningrequests") {
        requester(&mut object, ask);
    }
    prepare(&mut object, resource, &now);
    let errors = validation::on_create(&object, resource);
    if !errors.is_empty() {
        return Err(Refusal::invalid(&ask.resource.group, &ask.resource.kind, &name, &errors));
    }
    let manager = ask.manager();
    let writer = Writer { name: &manager, api_version: &ask.resource.api_version(), subresource: "", now: &now };
    let place = Place::of(&resource.schema);
    let owners = match applied {
        Some(owners) => owners,
        None => managers::after_update(Vec::new(), None, &object, place, &writer, resource.has_status),
    };
    managers::write(&mut object, &owners);
    if ask.params.dry_run {
        return Ok(object.into());
    }
    let created = tx.put(&resource.storage, object);
    if resource.is("", "namespaces") {
        lifecycle::furnish(tx, &name, ca, ask.now);
    }
    Ok(created)
}

/// A signing request says who asks, whatever its body says.
fn requester(object: &mut Value, ask: &Ask) {
    let spec = object::map_at(object, &["spec"]);
    spec.insert("username".to_owned(), ask.user.name.clone().into());
    spec.insert("groups".to_owned(), json!(ask.user.groups));
    if !ask.user.uid.is_empty() {
        spec.insert("uid".to_owned(), ask.user.uid.clone().into());
    }
}
