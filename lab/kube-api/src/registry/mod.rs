//! Which resources are served: the built-in table, and what CustomResourceDefinitions add.

pub(crate) mod builtin;
pub(crate) mod custom;

use std::sync::Arc;

use serde_json::Value;

/// Where objects of a resource are kept: `group/plural`, without a version, because versions are views.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Storage(Arc<str>);

impl Storage {
    pub(crate) fn new(group: &str, plural: &str) -> Self {
        Self(format!("{group}/{plural}").into())
    }

    pub(crate) fn group(&self) -> &str {
        self.0.split_once('/').map_or("", |(group, _)| group)
    }

    pub(crate) fn plural(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, plural)| plural)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group() == group && self.plural() == plural
    }
}

/// What may be done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Kept, listed, watched.
    Stored,
    /// A question that is answered and forgotten (reviews).
    Question,
}

/// The type of a resource's objects.
#[derive(Debug, Clone)]
pub(crate) enum TypeOf {
    /// A definition of the built-in types, by its full name.
    Builtin(String),
    /// The structural schema of a CustomResourceDefinition.
    Custom(Arc<Value>),
}

/// Where `/scale` of a custom resource finds its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) selector: Option<String>,
}

/// A column of a custom resource's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) json_path: String,
    pub(crate) priority: i64,
    pub(crate) description: String,
}

/// One served version of one resource.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) namespaced: bool,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) storage: Storage,
    pub(crate) nature: Nature,
    pub(crate) has_status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// Subresources besides `status` and `scale`.
    pub(crate) subresources: &'static [Subresource],
    pub(crate) schema: TypeOf,
    pub(crate) columns: Vec<Column>,
    pub(crate) custom: bool,
}

/// A subresource with a behaviour of its own, and the kind it speaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn is_pod(&self) -> bool {
        self.is("", "pods")
    }

    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        match name {
            "status" => self.has_status,
            "scale" => self.scale.is_some(),
            other => self.subresources.iter().any(|sub| sub.name == other),
        }
    }

    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        match self.nature {
            Nature::Question => &["create"],
            Nature::Stored => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }
    }
}

/// Everything that is served at one instant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    custom: Vec<Arc<Resource>>,
}

impl Registry {
    /// Takes over what the CustomResourceDefinitions say now.
    pub(crate) fn set_custom(&mut self, resources: Vec<Arc<Resource>>) {
        self.custom = resources;
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.all()
            .find(|resource| resource.group == group && resource.version == version && resource.plural == plural)
            .cloned()
    }

    /// Any served version of a kind.
    pub(crate) fn find_storage(&self, storage: &Storage) -> Option<Arc<Resource>> {
        self.all().find(|resource| &resource.storage == storage).cloned()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        builtin::resources().iter().chain(&self.custom)
    }

    /// Group names with their versions, in the order of serving.
    pub(crate) fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in self.all() {
            match groups.iter_mut().find(|(group, _)| *group == resource.group) {
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version.clone()),
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        groups
    }
}
