//! Subresources with a behaviour of their own: binding, eviction, tokens.

use serde_json::{Value, json};

use super::delete::{self, Options};
use super::{Answer, Ask, admit, lifecycle, update};
use crate::auth::authority::Authority;
use crate::auth::tokens::{self, Claims, Grant};
use crate::clock::rfc3339;
use crate::object::{self, as_map, integer, list, map_at, text};
use crate::random;
use crate::refusal::{FieldError, Refusal};
use crate::registry::builtin;
use crate::store::Store;

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

/// Binds a pod to a node.
pub(crate) fn bind(store: &Store, ask: &Ask, body: &Value) -> Result<Answer, Refusal> {
    let node = text(body, &["target", "name"]).to_owned();
    let kind = text(body, &["target", "kind"]);
    if node.is_empty() || !matches!(kind, "" | "Node") {
        let error = FieldError::required("target.name", "");
        return Err(Refusal::invalid("", "Binding", &ask.name, &[error]));
    }
    store.transact(|tx| {
        let pod = update::current(tx, ask)?;
        let conflict = |why: &str| Refusal::conflict("", "pods/binding", &ask.name, why);
        let asked = object::uid(body);
        if !asked.is_empty() && asked != object::uid(&pod) {
            let why =
                format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {}", object::uid(&pod));
            return Err(conflict(&why));
        }
        if object::is_being_deleted(&pod) {
            return Err(conflict(&format!("pod {} is being deleted, cannot be assigned to a host", ask.name)));
        }
        let bound = text(&pod, &["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(conflict(&format!("pod {} is already assigned to node \"{bound}\"", ask.name)));
        }
        if !list(&pod, &["spec", "schedulingGates"]).is_empty() {
            return Err(conflict(&format!("pod {} has non-empty .spec.schedulingGates", ask.name)));
        }
        let mut pod = (*pod).clone();
        map_at(&mut pod, &["spec"]).insert("nodeName".to_owned(), node.clone().into());
        for (key, value) in
            object::at(body, &["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten()
        {
            map_at(&mut pod, &["metadata", "annotations"]).insert(key.clone(), value.clone());
        }
        let conditions = map_at(&mut pod, &["status"]).entry("conditions").or_insert_with(|| json!([]));
        if let Value::Array(conditions) = conditions {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(json!({
                "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": rfc3339(ask.now),
            }));
        }
        object::drop_nulls(&mut pod);
        if !ask.params.dry_run {
            tx.put(&ask.resource.storage, pod);
        }
        Ok(Answer::created(success()))
    })
}

/// Evicts a pod: there are no disruption controllers in the lab, so it is a graceful deletion.
pub(crate) fn evict(store: &Store, ask: &Ask, body: &Value, ca: &str) -> Result<Answer, Refusal> {
    let options = Options::read(ask, body.get("deleteOptions"))?;
    let pods = builtin::known("", "pods");
    store.transact(|tx| {
        let pod = update::current(tx, ask)?;
        delete::delete_object(tx, &pods, &pod, &options, ca, ask.now)
    })?;
    Ok(Answer::created(success()))
}

/// Shortest and longest life of a token, in seconds.
const TOKEN_LIFE: std::ops::RangeInclusive<i64> = 600..=1 << 32;

/// Issues a token of a service account.
pub(crate) fn token(store: &Store, authority: &Authority, ask: &Ask, mut body: Value) -> Result<Answer, Refusal> {
    let account = store.transact(|tx| update::current(tx, ask))?;
    let seconds = integer(&body, &["spec", "expirationSeconds"]).unwrap_or(3600);
    if !TOKEN_LIFE.contains(&seconds) {
        let detail = if seconds < *TOKEN_LIFE.start() {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let error = FieldError::invalid("spec.expirationSeconds", &json!(seconds), detail);
        return Err(Refusal::invalid("authentication.k8s.io", "TokenRequest", "", &[error]));
    }
    let mut audiences: Vec<String> =
        list(&body, &["spec", "audiences"]).iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect();
    if audiences.is_empty() {
        audiences.push(tokens::ISSUER.to_owned());
    }
    let bound = body.get("spec").and_then(|spec| spec.get("boundObjectRef")).cloned();
    let bound = bound.map(|reference| bound_object(store, ask, &reference)).transpose()?;
    let issued = ask.now.as_second();
    let expires = issued.saturating_add(seconds);
    let grant = Grant {
        namespace: ask.space(),
        account: &ask.name,
        account_uid: object::uid(&account),
        audiences: audiences.clone(),
        bound_to: bound.as_ref().map(|(kind, name, uid)| (kind.as_str(), name.as_str(), uid.as_str())),
        issued,
        expires,
    };
    let token = tokens::sign(authority, &Claims::of(&grant, &random::uid()))
        .map_err(|error| Refusal::internal(format!("cannot sign the token: {error}")))?;
    let expiry = jiff::Timestamp::from_second(expires).map(rfc3339).unwrap_or_default();
    let map = as_map(&mut body);
    map.insert("kind".to_owned(), "TokenRequest".into());
    map.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
    map.insert(
        "metadata".to_owned(),
        json!({"name": ask.name, "namespace": ask.space(), "creationTimestamp": rfc3339(ask.now)}),
    );
    map.insert("status".to_owned(), json!({"token": token, "expirationTimestamp": expiry}));
    let spec = map_at(&mut body, &["spec"]);
    spec.insert("audiences".to_owned(), json!(audiences));
    spec.insert("expirationSeconds".to_owned(), json!(seconds));
    Ok(Answer::created(body))
}

/// The object a token is bound to: kind, name, uid; it must be there and be the one that is meant.
fn bound_object(store: &Store, ask: &Ask, reference: &Value) -> Result<(String, String, String), Refusal> {
    let (kind, name) = (text(reference, &["kind"]), text(reference, &["name"]));
    let (plural, namespace) = match kind {
        "Pod" => ("pods", ask.space()),
        "Secret" => ("secrets", ask.space()),
        "Node" => ("nodes", ""),
        other => {
            return Err(Refusal::bad_request(format!(
                "cannot bind token for serviceaccount to object of kind {other:?}"
            )));
        }
    };
    let resource = builtin::known("", plural);
    let object = store.transact(|tx| tx.get(&resource.storage, namespace, name));
    let object = object.ok_or_else(|| Refusal::not_found("", plural, name))?;
    let asked = text(reference, &["uid"]);
    if !asked.is_empty() && asked != object::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Refusal::conflict("", plural, name, &why));
    }
    if plural == "pods" && text(&object, &["spec", "serviceAccountName"]) != ask.name {
        let message = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            ask.name
        );
        return Err(Refusal::bad_request(message));
    }
    Ok((kind.to_owned(), name.to_owned(), object::uid(&object).to_owned()))
}

/// Ends a namespace's own finalization, as a namespace controller would.
pub(crate) fn finalize(store: &Store, ask: &Ask, body: Value, ca: &str) -> Result<Answer, Refusal> {
    let answer = update::update(store, ask, body, ca)?;
    store.transact(|tx| {
        if let Ok(namespace) = update::current(tx, ask)
            && lifecycle::may_go(&namespace, &admit::kept_as(ask))
            && tx.contents(&ask.name).is_empty()
        {
            tx.remove(&ask.resource.storage, "", &ask.name);
        }
    });
    Ok(answer)
}
