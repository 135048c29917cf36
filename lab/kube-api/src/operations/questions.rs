//! Reviews: who is this, and may they? Everybody who is known may do everything; nobody else may do anything.

use serde_json::{Value, json};

use super::{Answer, Ask, admit};
use crate::auth::authority::Authority;
use crate::auth::{self, User, tokens};
use crate::object::{self, as_map, list, text};
use crate::refusal::Refusal;
use crate::registry::builtin;
use crate::store::Store;

/// Answers a review.
pub(crate) fn answer(store: &Store, authority: &Authority, ask: &Ask, mut body: Value) -> Result<Answer, Refusal> {
    let warnings = admit::take_in(&mut body, ask)?;
    let status = match ask.resource.plural.as_str() {
        "tokenreviews" => token_review(store, authority, ask, &body),
        "selfsubjectreviews" => json!({"userInfo": ask.user.to_json()}),
        "selfsubjectrulesreviews" => json!({
            "incomplete": false,
            "resourceRules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
            "nonResourceRules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}],
        }),
        "selfsubjectaccessreviews" => access(&ask.user.name, &ask.user.groups),
        _ => {
            let groups = list(&body, &["spec", "groups"]).iter();
            let groups: Vec<String> = groups.filter_map(|group| Some(group.as_str()?.to_owned())).collect();
            access(text(&body, &["spec", "user"]), &groups)
        }
    };
    let map = as_map(&mut body);
    map.insert("status".to_owned(), status);
    object::metadata(&mut body).insert("creationTimestamp".to_owned(), Value::Null);
    Ok(Answer::created(body).warning(warnings))
}

fn access(user: &str, groups: &[String]) -> Value {
    let known =
        !user.is_empty() && user != "system:anonymous" && !groups.iter().any(|group| group == "system:unauthenticated");
    let known = known || groups.iter().any(|group| group == auth::MASTERS);
    if known {
        json!({"allowed": true, "reason": "the lab allows everything to everybody it knows"})
    } else {
        json!({"allowed": false, "reason": "the lab allows nothing to nobody"})
    }
}

fn token_review(store: &Store, authority: &Authority, ask: &Ask, body: &Value) -> Value {
    let token = text(body, &["spec", "token"]);
    let audiences = list(body, &["spec", "audiences"]).iter();
    let audiences: Vec<String> = audiences.filter_map(|one| Some(one.as_str()?.to_owned())).collect();
    let result = identify(store, authority, token, &audiences, ask.now.as_second());
    match result {
        Ok((user, audiences)) => json!({"authenticated": true, "user": user.to_json(), "audiences": audiences}),
        Err(why) => json!({"authenticated": false, "user": {}, "error": why}),
    }
}

/// Who a token belongs to, and for which of the wanted audiences it holds.
fn identify(
    store: &Store,
    authority: &Authority,
    token: &str,
    wanted: &[String],
    now: i64,
) -> Result<(User, Vec<String>), String> {
    if auth::same_secret(authority.admin_token(), token) {
        let audiences = if wanted.is_empty() { vec![tokens::ISSUER.to_owned()] } else { wanted.to_vec() };
        return Ok((User::named(auth::ADMIN, &[auth::MASTERS]), audiences));
    }
    let claims = tokens::verify(authority, token, now).map_err(|error| error.to_string())?;
    still_bound(store, &claims)?;
    let own = claims.audiences();
    let wanted = if wanted.is_empty() { vec![tokens::ISSUER.to_owned()] } else { wanted.to_vec() };
    let common: Vec<String> = wanted.iter().filter(|audience| own.contains(audience)).cloned().collect();
    if common.is_empty() {
        return Err(format!(
            "[invalid bearer token, token audiences {own:?} is invalid for the target audiences {wanted:?}]"
        ));
    }
    Ok((claims.user(), common))
}

/// A token holds only as long as what it is bound to.
pub(crate) fn still_bound(store: &Store, claims: &tokens::Claims) -> Result<(), String> {
    for (plural, name, uid) in claims.bound() {
        let namespace = if plural == "nodes" { "" } else { claims.namespace() };
        let object = store.transact(|tx| tx.get(&builtin::known("", plural).storage, namespace, name));
        if object.is_none_or(|object| object::uid(&object) != uid) {
            return Err(format!("[invalid bearer token, {plural} {name:?} of the token is gone]"));
        }
    }
    Ok(())
}

/// The user of a bearer token, when it holds here.
pub(crate) fn bearer(store: &Store, authority: &Authority, token: &str, now: i64) -> Option<User> {
    let user = auth::user_of_token(authority, token, now).ok()?;
    if user.name == auth::ADMIN {
        return Some(user);
    }
    let claims = tokens::verify(authority, token, now).ok()?;
    let for_us = claims.audiences().iter().any(|audience| audience == tokens::ISSUER);
    (for_us && still_bound(store, &claims).is_ok()).then_some(user)
}
