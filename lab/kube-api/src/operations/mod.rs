//! What can be done with resources. Each operation takes a request that has been read and checked, works in one
//! transaction of the store, and returns an answer or a refusal.

pub(crate) mod admit;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod lifecycle;
pub(crate) mod patch;
pub(crate) mod questions;
pub(crate) mod read;
pub(crate) mod special;
pub(crate) mod update;
pub(crate) mod view;
pub(crate) mod watch;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::auth::User;
use crate::http::query::Params;
use crate::refusal::Refusal;
use crate::registry::Resource;

/// A request for a resource.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) resource: Arc<Resource>,
    /// None for cluster-scoped resources and for all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    pub(crate) params: Params,
    pub(crate) user: User,
    pub(crate) agent: String,
    pub(crate) now: Timestamp,
}

/// What an operation answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    pub(crate) fn ok(object: Value) -> Self {
        Self { code: 200, object, warnings: Vec::new() }
    }

    pub(crate) fn created(object: Value) -> Self {
        Self { code: 201, object, warnings: Vec::new() }
    }

    pub(crate) fn warning(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }
}

impl Ask {
    pub(crate) fn space(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }

    /// The manager that the fields written by this request belong to.
    pub(crate) fn manager(&self) -> String {
        if !self.params.field_manager.is_empty() {
            return self.params.field_manager.clone();
        }
        let program = self.agent.split('/').next().unwrap_or("");
        let program: String = program.chars().filter(|c| !c.is_control()).take(128).collect();
        if program.is_empty() { "unknown".to_owned() } else { program }
    }

    pub(crate) fn not_found(&self) -> Refusal {
        Refusal::not_found(&self.resource.group, &self.resource.plural, &self.name)
    }
}
