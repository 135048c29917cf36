//! What is read by name, under which key it is kept, and what is kept of it.

use std::sync::Arc;

use crate::deployment::node::Here;
use crate::deployment::references::Contents;
use crate::deployment::storage::{self, Claim};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    /// These belong to the cluster: their namespace is empty.
    PersistentVolume,
    Node,
    RuntimeClass,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ObjectKey {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is kept of an object.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Contents(Arc<Contents>),
    Claim(Claim),
    Volume(Box<storage::Volume>),
    Node(Arc<Here>),
    Handler(String),
}

/// The kind in a key says what is kept under it, so each of these finds what it is asked for.
impl Kept {
    pub(super) fn contents(self) -> Option<Arc<Contents>> {
        if let Self::Contents(contents) = self { Some(contents) } else { None }
    }

    pub(super) fn claim(self) -> Option<Claim> {
        if let Self::Claim(claim) = self { Some(claim) } else { None }
    }

    pub(super) fn volume(self) -> Option<storage::Volume> {
        if let Self::Volume(volume) = self { Some(*volume) } else { None }
    }

    pub(super) fn node(self) -> Option<Arc<Here>> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }

    pub(super) fn handler(self) -> Option<String> {
        if let Self::Handler(handler) = self { Some(handler) } else { None }
    }

    /// Whether it is worth keeping for long.
    pub(super) fn is_settled(&self) -> bool {
        if let Self::Claim(claim) = self { claim.is_settled() } else { true }
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Contents(contents) => contents.weight(),
            Self::Node(node) => node.weight(),
            Self::Claim(_) | Self::Volume(_) | Self::Handler(_) => 512,
        }
    }
}

impl ObjectKey {
    pub(super) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(super) fn weight(&self) -> usize {
        self.namespace.len() + self.name.len() + 128
    }
}
