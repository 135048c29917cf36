//! Get and list.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Ask;
use crate::object;
use crate::refusal::Refusal;
use crate::selectors::{Fields, Labels, Selection};
use crate::store::{Object, Store, Transaction};

/// A list as it was found.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) version: u64,
    pub(crate) items: Vec<Object>,
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<usize>,
}

/// One object.
pub(crate) fn get(store: &Store, ask: &Ask) -> Result<Object, Refusal> {
    store.transact(|tx| {
        fresh_enough(ask, tx.version())?;
        tx.get(&ask.resource.storage, ask.space(), &ask.name).ok_or_else(|| ask.not_found())
    })
}

fn fresh_enough(ask: &Ask, current: u64) -> Result<(), Refusal> {
    match ask.params.resource_version {
        Some(asked) if asked > current => Err(Refusal::too_large_version(asked, current)),
        _ => Ok(()),
    }
}

/// The selectors of a request.
pub(crate) fn selection(ask: &Ask) -> Result<Selection, Refusal> {
    Ok(Selection {
        labels: Labels::parse(&ask.params.label_selector)?,
        fields: Fields::parse(&ask.params.field_selector, &ask.resource)?,
        name: Some(ask.name.clone()).filter(|name| !name.is_empty()),
    })
}

/// Where a continued list goes on: the version of its first page and the last key of the previous one.
#[derive(Debug, PartialEq, Eq)]
struct Continuation {
    version: u64,
    namespace: String,
    name: String,
}

impl Continuation {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"v": self.version, "ns": self.namespace, "n": self.name}).to_string())
    }

    fn decode(token: &str) -> Option<Self> {
        let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        Some(Self {
            version: value.get("v")?.as_u64()?,
            namespace: value.get("ns")?.as_str()?.to_owned(),
            name: value.get("n")?.as_str()?.to_owned(),
        })
    }
}

/// All objects that are asked for.
pub(crate) fn list(store: &Store, ask: &Ask) -> Result<Listed, Refusal> {
    let params = &ask.params;
    if !params.version_match.is_empty() {
        if !params.continue_token.is_empty() {
            return Err(Refusal::bad_request("resourceVersionMatch is forbidden when continue is provided"));
        }
        if params.resource_version.is_none() {
            return Err(Refusal::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
    }
    let selection = selection(ask)?;
    store.transact(|tx| page(tx, ask, &selection))
}

fn page(tx: &Transaction<'_>, ask: &Ask, selection: &Selection) -> Result<Listed, Refusal> {
    let params = &ask.params;
    let current = tx.version();
    fresh_enough(ask, current)?;
    if params.version_match == "Exact" && params.resource_version.is_some_and(|asked| asked != current) {
        let message = "The provided resource version is not the current one, and the lab keeps no other; list again";
        return Err(Refusal::expired(message));
    }
    let from = match params.continue_token.as_str() {
        "" => None,
        token => {
            let from = Continuation::decode(token)
                .ok_or_else(|| Refusal::bad_request("continue key is not valid: the token is malformed"))?;
            if from.version < tx.forgotten() {
                let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";
                return Err(Refusal::expired(message));
            }
            Some(from)
        }
    };
    // A continued list shows what is there now under the version of its first page: a watch from that version repeats
    // what changed in between, so nothing is missed.
    let version = from.as_ref().map_or(current, |from| from.version);
    let mut items = tx.list(&ask.resource.storage, ask.namespace.as_deref());
    items.retain(|item| {
        let after = from.as_ref().is_none_or(|from| {
            (object::namespace(item), object::name(item)) > (from.namespace.as_str(), from.name.as_str())
        });
        after && selection.matches(item)
    });
    let limit = params.limit.unwrap_or(usize::MAX);
    let rest = items.len().saturating_sub(limit);
    items.truncate(limit);
    let continue_token = match items.last() {
        Some(last) if rest > 0 => {
            Continuation { version, namespace: object::namespace(last).to_owned(), name: object::name(last).to_owned() }
                .encode()
        }
        _ => String::new(),
    };
    let remaining = (rest > 0 && selection.is_everything()).then_some(rest);
    Ok(Listed { version, items, continue_token, remaining })
}

impl Listed {
    /// The metadata of the list.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if !self.continue_token.is_empty() {
            metadata["continue"] = json!(self.continue_token);
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        metadata
    }
}
