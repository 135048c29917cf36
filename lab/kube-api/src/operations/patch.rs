//! Patch, in its four kinds.

use serde_json::Value;

use super::{Answer, Ask, admit, create, update, view};
use crate::clock::rfc3339;
use crate::object;
use crate::patch::managers::{self, Writer};
use crate::patch::{apply, json, merge, strategic};
use crate::refusal::Refusal;
use crate::schema::{Place, definitions};
use crate::store::{Object, Store};

/// The kind of a patch, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    /// Reads the content type; `custom` resources have no strategic merge.
    pub(crate) fn of(content_type: &str, custom: bool) -> Result<Self, Refusal> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => {
                let accepted = if custom {
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
                } else {
                    "application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml"
                };
                let message = format!(
                    "the body of the request was in an unknown format - accepted media types include: {accepted}"
                );
                Err(Refusal::new(415, "UnsupportedMediaType", message))
            }
        }
    }
}

/// Patches an object.
pub(crate) fn patch(store: &Store, ask: &Ask, kind: Kind, body: &Value, ca: &str) -> Result<Answer, Refusal> {
    if kind == Kind::Apply {
        return server_side_apply(store, ask, body.clone(), ca);
    }
    if ask.params.force.is_some() {
        return Err(Refusal::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ));
    }
    store.transact(|tx| {
        let old = update::current(tx, ask)?;
        if ask.subresource == "scale" {
            let Some(paths) = &ask.resource.scale else { return Err(Refusal::no_such_path()) };
            let mut scale = update::scale_of(&old, paths);
            change(&mut scale, kind, body, Place::new(scale_type()))?;
            return update::rescale(tx, ask, &old, &scale, ca).map(Answer::ok);
        }
        let mut new = view::outward(&old, &ask.resource).into_owned();
        change(&mut new, kind, body, Place::of(&ask.resource.schema))?;
        let name = object::name(&new);
        if name != ask.name {
            let message = format!("the name of the object ({name}) does not match the name on the URL ({})", ask.name);
            return Err(Refusal::bad_request(message));
        }
        let warnings = admit::take_in(&mut new, ask)?;
        let written = update::replace(tx, ask, &old, new, None, ca)?;
        Ok(Answer::ok(view::outward(&written, &ask.resource).into_owned()).warning(warnings))
    })
}

fn scale_type() -> &'static Value {
    &definitions()["io.k8s.api.autoscaling.v1.Scale"]
}

fn change(object: &mut Value, kind: Kind, patch: &Value, place: Place<'_>) -> Result<(), Refusal> {
    match kind {
        Kind::Json => json::apply(object, patch),
        Kind::Strategic => strategic::apply(object, patch, place),
        Kind::Merge | Kind::Apply if patch.is_object() => {
            merge::apply(object, patch);
            Ok(())
        }
        Kind::Merge | Kind::Apply => Err(Refusal::bad_request("a merge patch is an object")),
    }
}

fn server_side_apply(store: &Store, ask: &Ask, mut body: Value, ca: &str) -> Result<Answer, Refusal> {
    let required = |what: &str| {
        Refusal::new(
            422,
            "Invalid",
            format!("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: {what}"),
        )
    };
    if ask.params.field_manager.is_empty() {
        return Err(required("is required for apply patch"));
    }
    if object::text(&body, &["apiVersion"]).is_empty() || object::text(&body, &["kind"]).is_empty() {
        return Err(Refusal::bad_request("invalid object type: /, Kind="));
    }
    if object::at(&body, &["metadata", "managedFields"])
        .is_some_and(|fields| fields.as_array().is_none_or(|all| !all.is_empty()))
    {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    let name = object::name(&body).to_owned();
    if !name.is_empty() && name != ask.name {
        let message = format!("the name of the object ({name}) does not match the name on the URL ({})", ask.name);
        return Err(Refusal::bad_request(message));
    }
    if ask.subresource == "scale" {
        return store.transact(|tx| {
            let old = update::current(tx, ask)?;
            update::rescale(tx, ask, &old, &body, ca).map(Answer::ok)
        });
    }
    let warnings = admit::take_in(&mut body, ask)?;
    object::metadata(&mut body).insert("name".to_owned(), ask.name.clone().into());
    if ask.resource.namespaced {
        object::metadata(&mut body).insert("namespace".to_owned(), ask.space().into());
    }
    let resource = admit::kept_as(ask);
    let place = Place::of(&resource.schema);
    let now = rfc3339(ask.now);
    let api_version = ask.resource.api_version();
    let writer =
        Writer { name: &ask.params.field_manager, api_version: &api_version, subresource: &ask.subresource, now: &now };
    let force = ask.params.force.unwrap_or(false);
    let status_is_apart = resource.has_status && ask.subresource.is_empty();
    let (written, code): (Object, u16) = store.transact(|tx| {
        let live = tx.get(&resource.storage, ask.space(), &ask.name);
        let managers = live.as_deref().map(managers::read).unwrap_or_default();
        match live {
            None if !ask.subresource.is_empty() => Err(ask.not_found()),
            None => {
                let asked = object::uid(&body);
                if !asked.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {asked}, and no existing object was found"
                    );
                    return Err(Refusal::conflict(&resource.group, &resource.plural, &ask.name, &why));
                }
                let applied = apply::apply(None, managers, &body, place, &writer, status_is_apart, force)?;
                create::insert(tx, ask, applied.object, Some(applied.managers), ca).map(|object| (object, 201))
            }
            Some(live) => {
                let asked = (object::resource_version(&body).to_owned(), object::uid(&body).to_owned());
                if !asked.0.is_empty() && asked.0 != object::resource_version(&live) {
                    return Err(Refusal::modified(&resource.group, &resource.plural, &ask.name));
                }
                let applied = apply::apply(Some(&live), managers, &body, place, &writer, status_is_apart, force)?;
                update::replace(tx, ask, &live, applied.object, Some(applied.managers), ca).map(|object| (object, 200))
            }
        }
    })?;
    let object = view::outward(&written, &ask.resource).into_owned();
    Ok(Answer { code, object, warnings })
}
