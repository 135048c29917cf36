//! Which kinds the API offers, and how a reference finds its kind. Pure but for reading the discovery.

use std::collections::BTreeMap;
use std::fmt;

use kube::api::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};

/// Group and plural name: the same in every version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KindId {
    pub(super) group: String,
    pub(super) plural: String,
}

impl fmt::Display for KindId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.plural) } else { write!(f, "{}.{}", self.plural, self.group) }
    }
}

/// A kind as the API offers it.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
    watched: bool,
}

/// Everything the API offers.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    offered: BTreeMap<KindId, Offered>,
}

/// Events own nothing, are owned by nobody, and are the most numerous of all.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

impl Kinds {
    pub(super) fn of(discovery: &Discovery) -> Self {
        let all = discovery.groups().flat_map(|group| group.recommended_resources());
        let offered = all.filter(|(resource, _)| !resource.plural.contains('/')).map(|(resource, capabilities)| {
            let needed = [verbs::LIST, verbs::WATCH, verbs::DELETE];
            let watched = needed.iter().all(|verb| capabilities.supports_operation(verb));
            let namespaced = capabilities.scope == Scope::Namespaced;
            (resource, namespaced, watched)
        });
        Self::from_parts(offered)
    }

    fn from_parts(offered: impl Iterator<Item = (ApiResource, bool, bool)>) -> Self {
        let offered = offered.map(|(resource, namespaced, watched)| {
            let ignored = IGNORED.contains(&(resource.group.as_str(), resource.plural.as_str()));
            let id = KindId { group: resource.group.clone(), plural: resource.plural.clone() };
            (id, Offered { resource, namespaced, watched: watched && !ignored })
        });
        Self { offered: offered.collect() }
    }

    pub(super) fn get(&self, id: &KindId) -> Option<&Offered> {
        self.offered.get(id)
    }

    pub(super) fn is_watched(&self, id: &KindId) -> bool {
        self.offered.get(id).is_some_and(|offered| offered.watched)
    }

    pub(super) fn watched(&self) -> impl Iterator<Item = (&KindId, &ApiResource)> {
        self.offered.iter().filter(|(_, offered)| offered.watched).map(|(id, offered)| (id, &offered.resource))
    }

    /// The kind an owner reference speaks of, whatever version it names.
    pub(super) fn referred(&self, api_version: &str, kind: &str) -> Option<&Offered> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.offered.values().find(|offered| offered.resource.group == group && offered.resource.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
        ApiResource {
            group: group.into(),
            version: "v1".into(),
            api_version: if group.is_empty() { "v1".into() } else { format!("{group}/v1") },
            kind: kind.into(),
            plural: plural.into(),
        }
    }

    #[test]
    fn references_find_their_kind_in_any_version() {
        let offered = [
            (resource("", "Pod", "pods"), true, true),
            (resource("", "Event", "events"), true, true),
            (resource("apps", "ReplicaSet", "replicasets"), true, true),
            (resource("", "ComponentStatus", "componentstatuses"), false, false),
        ];
        let kinds = Kinds::from_parts(offered.into_iter());
        let plural = |version, kind| kinds.referred(version, kind).map(|offered| offered.resource.plural.as_str());
        assert_eq!(plural("apps/v1beta9", "ReplicaSet"), Some("replicasets"));
        assert_eq!(plural("v1", "Pod"), Some("pods"));
        assert_eq!(plural("v1", "ReplicaSet"), None);
        let watched: Vec<_> = kinds.watched().map(|(id, _)| id.to_string()).collect();
        assert_eq!(watched, ["pods", "replicasets.apps"]);
    }
}
