//! Watch: what was missed, what is there, then what changes, each as the watcher's selectors see it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Ask, read, view};
use crate::http::negotiate::Form;
use crate::refusal::Refusal;
use crate::registry::Resource;
use crate::selectors::Selection;
use crate::store::watchers::Window;
use crate::store::{Change, Start, Store, Subscription};
use crate::table;

/// A watch that has begun.
pub(crate) struct Watch {
    pub(crate) subscription: Subscription,
    pub(crate) viewer: Viewer,
    /// Whether the list at the start ends with a bookmark that says so.
    pub(crate) marks_initial_end: bool,
    pub(crate) bookmarks: bool,
}

/// How a watcher sees changes.
pub(crate) struct Viewer {
    resource: Arc<Resource>,
    selection: Selection,
    form: Form,
    include_object: String,
    /// Tables send their columns once.
    headed: bool,
}

/// Begins a watch.
pub(crate) fn begin(store: &Store, ask: &Ask, form: Form) -> Result<Watch, Refusal> {
    let params = &ask.params;
    let selection = read::selection(ask)?;
    let forbidden = |field: &str, why: &str| {
        Refusal::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {why}"))
    };
    let start = match params.send_initial {
        Some(_) if params.version_match != "NotOlderThan" => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(forbidden("resourceVersionMatch", why));
        }
        None if !params.version_match.is_empty() => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        Some(true) => {
            let current = store.version();
            if let Some(asked) = params.resource_version.filter(|asked| *asked > current) {
                return Err(Refusal::too_large_version(asked, current));
            }
            Start::Initial
        }
        Some(false) | None => match params.resource_version {
            None | Some(0) if params.send_initial.is_none() => Start::Initial,
            None | Some(0) => Start::Now,
            Some(version) => Start::After(version),
        },
    };
    let window = Window { storage: ask.resource.storage.clone(), namespace: ask.namespace.clone() };
    let subscription = store.subscribe(window, start)?;
    let viewer = Viewer {
        resource: ask.resource.clone(),
        selection,
        form,
        include_object: params.include_object.clone(),
        headed: false,
    };
    let marks_initial_end = params.send_initial == Some(true) && params.bookmarks;
    Ok(Watch { subscription, viewer, marks_initial_end, bookmarks: params.bookmarks })
}

impl Viewer {
    /// An object that was there at the start.
    pub(crate) fn initial(&mut self, object: &Value) -> Option<Value> {
        self.selection.matches(object).then(|| self.event("ADDED", object))
    }

    /// A change as this watcher sees it: one that leaves the selection is a deletion, one that enters it an addition.
    pub(crate) fn change(&mut self, change: &Change) -> Option<Value> {
        let was = change.before.as_deref().is_some_and(|before| self.selection.matches(before));
        let is = !change.deleted && self.selection.matches(&change.object);
        match (was, is) {
            (false, false) => None,
            (false, true) => Some(self.event("ADDED", &change.object)),
            (true, true) => Some(self.event("MODIFIED", &change.object)),
            (true, false) => Some(match &change.before {
                // What left the selection is shown as it was, under the version of the change.
                Some(before) if !change.deleted => {
                    let mut last = (**before).clone();
                    let metadata = crate::object::metadata(&mut last);
                    metadata.insert("resourceVersion".to_owned(), change.version.to_string().into());
                    self.event("DELETED", &last)
                }
                _ => self.event("DELETED", &change.object),
            }),
        }
    }

    /// A bookmark: everything up to this version has been told.
    pub(crate) fn bookmark(&self, version: u64, end_of_initial: bool) -> Value {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, api_version) = match self.form {
            Form::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            _ => (self.resource.kind.clone(), self.resource.api_version()),
        };
        json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": api_version, "metadata": metadata}})
    }

    fn event(&mut self, kind: &str, object: &Value) -> Value {
        let object = view::outward(object, &self.resource);
        let shown = match self.form {
            Form::Table => {
                let mut table = table::of(&[&*object], &self.resource, &self.include_object, json!({}));
                if std::mem::replace(&mut self.headed, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
            Form::Metadata => view::metadata_only(&object),
            Form::Object | Form::Discovery => object.into_owned(),
        };
        json!({"type": kind, "object": shown})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;
    use crate::selectors::Labels;

    fn viewer() -> Viewer {
        let labels = Labels::parse("app=a").unwrap_or_else(|e| panic!("{e:?}"));
        Viewer {
            resource: builtin::known("", "pods"),
            selection: Selection { labels, ..Selection::default() },
            form: Form::Object,
            include_object: String::new(),
            headed: false,
        }
    }

    fn change(before: Option<&str>, after: Option<&str>) -> Change {
        let object = |app: &str| Arc::new(json!({"apiVersion": "v1", "metadata": {"labels": {"app": app}}}));
        Change {
            version: 7,
            storage: builtin::known("", "pods").storage.clone(),
            before: before.map(object),
            object: object(after.or(before).unwrap_or("")),
            deleted: after.is_none(),
        }
    }

    #[test]
    fn a_selection_turns_changes_into_comings_and_goings() {
        for (before, after, expected) in [
            (None, Some("a"), Some("ADDED")),
            (None, Some("b"), None),
            (Some("a"), Some("a"), Some("MODIFIED")),
            (Some("a"), Some("b"), Some("DELETED")),
            (Some("b"), Some("a"), Some("ADDED")),
            (Some("b"), Some("b"), None),
            (Some("a"), None, Some("DELETED")),
            (Some("b"), None, None),
        ] {
            let event = viewer().change(&change(before, after));
            let kind = event.as_ref().and_then(|event| event["type"].as_str());
            assert_eq!(kind, expected, "{before:?} -> {after:?}");
        }
    }
}
