//! The types of the objects: which fields there are and how their lists and maps merge.
//!
//! The built-in types come from k8s-openapi's JSON schemas, completed by the merge rules of [`merge_rules`], which
//! those schemas lack. A CustomResourceDefinition's schema has the same form, so one walker serves both.

pub(crate) mod check;
mod merge_rules;
pub(crate) mod structural;

use std::sync::OnceLock;

use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates, coordination, core,
    discovery, events, networking, node, policy, rbac, scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

use crate::registry::TypeOf;

/// How the items of a list are told apart when two writers meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// The list is one value.
    Atomic,
    /// The items are their own identity.
    Set,
    /// The items are known by these fields.
    Map(Vec<String>),
}

/// A place in a type; `None` inside means that nothing is known about what stands there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a>(Option<&'a Value>);

impl<'a> Place<'a> {
    pub(crate) fn new(schema: &'a Value) -> Self {
        Self(Some(schema))
    }

    /// The type of a resource's objects.
    pub(crate) fn of(schema: &'a TypeOf) -> Self {
        match schema {
            TypeOf::Builtin(name) => Self(definitions().get(name)),
            TypeOf::Custom(schema) => Self(Some(schema)),
        }
    }

    /// What the keyword says here or in the definition this place refers to.
    fn keyword(self, key: &str) -> Option<&'a Value> {
        let schema = self.0?;
        schema.get(key).or_else(|| resolve(schema).get(key))
    }

    fn keyword_text(self, key: &str) -> &'a str {
        self.keyword(key).and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn is_known(self) -> bool {
        self.0.is_some()
    }

    /// The place of a named field or of a map's value.
    pub(crate) fn field(self, name: &str) -> Place<'a> {
        let Some(schema) = self.0.map(resolve) else { return Place(None) };
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        Place(property.or_else(|| schema.get("additionalProperties").filter(|value| value.is_object())))
    }

    /// Whether the type names this field (as opposed to a key of a free map).
    pub(crate) fn names_field(self, name: &str) -> bool {
        self.0.map(resolve).and_then(|schema| schema.get("properties")).is_some_and(|all| all.get(name).is_some())
    }

    /// The place of a list's items.
    pub(crate) fn items(self) -> Place<'a> {
        Place(self.keyword("items"))
    }

    /// Whether a map here is one value.
    pub(crate) fn is_atomic_map(self) -> bool {
        self.keyword_text("x-kubernetes-map-type") == "atomic"
    }

    pub(crate) fn list_kind(self) -> ListKind {
        match self.keyword_text("x-kubernetes-list-type") {
            "set" => ListKind::Set,
            "map" => {
                let keys = self.keyword("x-kubernetes-list-map-keys").and_then(Value::as_array);
                ListKind::Map(keys.into_iter().flatten().filter_map(|key| Some(key.as_str()?.to_owned())).collect())
            }
            _ => ListKind::Atomic,
        }
    }

    /// The default that a list item's key takes when the item does not name it.
    pub(crate) fn key_default(self, key: &str) -> Option<Value> {
        self.field(key).keyword("default").cloned()
    }

    pub(crate) fn patch_merge_key(self) -> Option<&'a str> {
        Some(self.keyword_text("x-kubernetes-patch-merge-key")).filter(|key| !key.is_empty())
    }

    pub(crate) fn merges_list(self) -> bool {
        self.keyword_text("x-kubernetes-patch-strategy").split(',').any(|strategy| strategy == "merge")
    }
}

/// Follows a reference to its definition.
pub(crate) fn resolve(schema: &Value) -> &Value {
    let reference = schema
        .get("$ref")
        .or_else(|| schema.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("$ref")))
        .and_then(Value::as_str);
    match reference.and_then(|path| path.strip_prefix("#/components/schemas/")) {
        Some(name) => definitions().get(name).unwrap_or(schema),
        None => schema,
    }
}

macro_rules! collect {
    ($generator:ident, $($type:ty),+ $(,)?) => { $( let _ = $generator.subschema_for::<$type>(); )+ };
}

/// The definitions of all built-in types, by full name.
pub(crate) fn definitions() -> &'static Map<String, Value> {
    static DEFINITIONS: OnceLock<Map<String, Value>> = OnceLock::new();
    DEFINITIONS.get_or_init(|| {
        let mut generator = SchemaGenerator::new(SchemaSettings::openapi3());
        #[rustfmt::skip]
        collect!(
            generator,
            core::v1::Namespace, core::v1::Node, core::v1::Pod, core::v1::ConfigMap, core::v1::Secret,
            core::v1::Event, core::v1::ServiceAccount, core::v1::Service, core::v1::Endpoints,
            core::v1::PersistentVolume, core::v1::PersistentVolumeClaim, core::v1::LimitRange,
            core::v1::ResourceQuota, core::v1::ReplicationController, core::v1::PodTemplate, core::v1::Binding,
            apps::v1::Deployment, apps::v1::ReplicaSet, apps::v1::DaemonSet, apps::v1::StatefulSet,
            apps::v1::ControllerRevision, batch::v1::Job, batch::v1::CronJob, coordination::v1::Lease,
            discovery::v1::EndpointSlice, events::v1::Event, rbac::v1::Role, rbac::v1::RoleBinding,
            rbac::v1::ClusterRole, rbac::v1::ClusterRoleBinding, certificates::v1::CertificateSigningRequest,
            scheduling::v1::PriorityClass, storage::v1::StorageClass, storage::v1::CSINode, storage::v1::CSIDriver,
            storage::v1::VolumeAttachment, policy::v1::PodDisruptionBudget, policy::v1::Eviction,
            networking::v1::NetworkPolicy, networking::v1::Ingress, node::v1::RuntimeClass,
            authentication::v1::TokenReview, authentication::v1::SelfSubjectReview, authentication::v1::TokenRequest,
            authorization::v1::SubjectAccessReview, authorization::v1::LocalSubjectAccessReview,
            authorization::v1::SelfSubjectAccessReview, authorization::v1::SelfSubjectRulesReview,
            autoscaling::v1::Scale, apiextensions::v1::CustomResourceDefinition,
            admissionregistration::v1::ValidatingAdmissionPolicy, meta::v1::Status, meta::v1::DeleteOptions,
        );
        let mut definitions = generator.take_definitions(true);
        merge_rules::annotate(&mut definitions);
        definitions
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Place<'static> {
        Place(definitions().get("io.k8s.api.core.v1.Pod"))
    }

    #[test]
    fn the_merge_rules_reach_the_types() {
        let spec = pod().field("spec");
        assert_eq!(spec.field("containers").list_kind(), ListKind::Map(vec!["name".to_owned()]));
        let container = spec.field("containers").items();
        assert_eq!(container.field("ports").patch_merge_key(), Some("containerPort"));
        assert_eq!(container.field("args").list_kind(), ListKind::Atomic);
        assert_eq!(spec.field("tolerations").list_kind(), ListKind::Atomic);
        assert!(spec.field("nodeSelector").is_atomic_map());
        assert!(!pod().field("metadata").field("labels").is_atomic_map());
        assert_eq!(pod().field("metadata").field("finalizers").list_kind(), ListKind::Set);
        assert_eq!(container.field("ports").items().key_default("protocol"), Some("TCP".into()));
    }

    #[test]
    fn an_unknown_field_is_an_unknown_place() {
        assert!(!pod().field("spec").field("nonsense").is_known());
        assert!(pod().field("metadata").field("labels").field("any").is_known());
    }
}
