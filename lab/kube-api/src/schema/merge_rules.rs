//! How the lists and maps of the built-in types merge: the facts of Kubernetes' published OpenAPI document (1.36) that
//! the generated schemas do not carry.

use serde_json::{Map, Value, json};

const CORE: &str = "io.k8s.api.core.v1";
const APPS: &str = "io.k8s.api.apps.v1";
const BATCH: &str = "io.k8s.api.batch.v1";
const CERTIFICATES: &str = "io.k8s.api.certificates.v1";
const DISCOVERY: &str = "io.k8s.api.discovery.v1";
const POLICY: &str = "io.k8s.api.policy.v1";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
const RBAC: &str = "io.k8s.api.rbac.v1";
const STORAGE: &str = "io.k8s.api.storage.v1";
const NETWORKING: &str = "io.k8s.api.networking.v1";

/// package, type, field, list type, list map keys, patch merge key, patch strategy.
type Rule =
    (&'static str, &'static str, &'static str, &'static str, &'static [&'static str], &'static str, &'static str);

#[rustfmt::skip]
const RULES: &[Rule] = &[
    (APPS, "DaemonSetStatus", "conditions", "map", &["type"], "type", "merge"),
    (APPS, "DeploymentSpec", "strategy", "", &[], "", "retainKeys"),
    (APPS, "DeploymentStatus", "conditions", "map", &["type"], "type", "merge"),
    (APPS, "ReplicaSetStatus", "conditions", "map", &["type"], "type", "merge"),
    (APPS, "StatefulSetStatus", "conditions", "map", &["type"], "type", "merge"),
    (BATCH, "JobStatus", "conditions", "atomic", &[], "type", "merge"),
    (BATCH, "PodFailurePolicyOnExitCodesRequirement", "values", "set", &[], "", ""),
    (BATCH, "UncountedTerminatedPods", "failed", "set", &[], "", ""),
    (BATCH, "UncountedTerminatedPods", "succeeded", "set", &[], "", ""),
    (CERTIFICATES, "CertificateSigningRequestStatus", "conditions", "map", &["type"], "", ""),
    (CORE, "ComponentStatus", "conditions", "map", &["type"], "type", "merge"),
    (CORE, "Container", "env", "map", &["name"], "name", "merge"),
    (CORE, "Container", "ports", "map", &["containerPort", "protocol"], "containerPort", "merge"),
    (CORE, "Container", "volumeDevices", "map", &["devicePath"], "devicePath", "merge"),
    (CORE, "Container", "volumeMounts", "map", &["mountPath"], "mountPath", "merge"),
    (CORE, "ContainerRestartRuleOnExitCodes", "values", "set", &[], "", ""),
    (CORE, "ContainerStatus", "allocatedResourcesStatus", "map", &["name"], "name", "merge"),
    (CORE, "ContainerStatus", "volumeMounts", "map", &["mountPath"], "mountPath", "merge"),
    (CORE, "EphemeralContainer", "env", "map", &["name"], "name", "merge"),
    (CORE, "EphemeralContainer", "ports", "map", &["containerPort", "protocol"], "containerPort", "merge"),
    (CORE, "EphemeralContainer", "volumeDevices", "map", &["devicePath"], "devicePath", "merge"),
    (CORE, "EphemeralContainer", "volumeMounts", "map", &["mountPath"], "mountPath", "merge"),
    (CORE, "NamespaceStatus", "conditions", "map", &["type"], "type", "merge"),
    (CORE, "NodeAllocatableResourceClaimStatus", "containers", "set", &[], "", ""),
    (CORE, "NodeSpec", "podCIDRs", "set", &[], "", "merge"),
    (CORE, "NodeStatus", "addresses", "map", &["type"], "type", "merge"),
    (CORE, "NodeStatus", "conditions", "map", &["type"], "type", "merge"),
    (CORE, "PersistentVolumeClaimStatus", "conditions", "map", &["type"], "type", "merge"),
    (CORE, "PodSpec", "containers", "map", &["name"], "name", "merge"),
    (CORE, "PodSpec", "ephemeralContainers", "map", &["name"], "name", "merge"),
    (CORE, "PodSpec", "hostAliases", "map", &["ip"], "ip", "merge"),
    (CORE, "PodSpec", "imagePullSecrets", "map", &["name"], "name", "merge"),
    (CORE, "PodSpec", "initContainers", "map", &["name"], "name", "merge"),
    (CORE, "PodSpec", "resourceClaims", "map", &["name"], "name", "merge,retainKeys"),
    (CORE, "PodSpec", "schedulingGates", "map", &["name"], "name", "merge"),
    (CORE, "PodSpec", "topologySpreadConstraints", "map", &["topologyKey", "whenUnsatisfiable"], "topologyKey", "merge"),
    (CORE, "PodSpec", "volumes", "map", &["name"], "name", "merge,retainKeys"),
    (CORE, "PodStatus", "conditions", "map", &["type"], "type", "merge"),
    (CORE, "PodStatus", "hostIPs", "atomic", &[], "ip", "merge"),
    (CORE, "PodStatus", "podIPs", "map", &["ip"], "ip", "merge"),
    (CORE, "PodStatus", "resourceClaimStatuses", "map", &["name"], "name", "merge,retainKeys"),
    (CORE, "ReplicationControllerStatus", "conditions", "map", &["type"], "type", "merge"),
    (CORE, "ResourceRequirements", "claims", "map", &["name"], "", ""),
    (CORE, "ResourceStatus", "resources", "map", &["resourceID"], "", ""),
    (CORE, "ServiceAccount", "secrets", "map", &["name"], "name", "merge"),
    (CORE, "ServiceSpec", "ports", "map", &["port", "protocol"], "port", "merge"),
    (CORE, "ServiceStatus", "conditions", "map", &["type"], "type", "merge"),
    (DISCOVERY, "Endpoint", "addresses", "set", &[], "", ""),
    (NETWORKING, "ServiceCIDRStatus", "conditions", "map", &["type"], "type", "merge"),
    (POLICY, "PodDisruptionBudgetSpec", "selector", "", &[], "", "replace"),
    (POLICY, "PodDisruptionBudgetStatus", "conditions", "map", &["type"], "type", "merge"),
    (STORAGE, "CSIDriverSpec", "volumeLifecycleModes", "set", &[], "", ""),
    (STORAGE, "CSINodeSpec", "drivers", "map", &["name"], "name", "merge"),
    (EXTENSIONS, "CustomResourceDefinitionStatus", "conditions", "map", &["type"], "", ""),
    (EXTENSIONS, "JSONSchemaProps", "x-kubernetes-validations", "map", &["rule"], "rule", "merge"),
    (META, "ObjectMeta", "finalizers", "set", &[], "", "merge"),
    (META, "ObjectMeta", "ownerReferences", "map", &["uid"], "uid", "merge"),
];

/// Types whose values are replaced as a whole.
#[rustfmt::skip]
const ATOMIC_TYPES: &[(&str, &str)] = &[
    (CORE, "ConfigMapKeySelector"),
    (CORE, "EndpointAddress"),
    (CORE, "EndpointPort"),
    (CORE, "FileKeySelector"),
    (CORE, "LocalObjectReference"),
    (CORE, "NodeSelector"),
    (CORE, "NodeSelectorTerm"),
    (CORE, "ObjectFieldSelector"),
    (CORE, "ObjectReference"),
    (CORE, "ResourceFieldSelector"),
    (CORE, "ScopeSelector"),
    (CORE, "SecretKeySelector"),
    (CORE, "SecretReference"),
    (CORE, "TopologySelectorTerm"),
    (CORE, "TypedLocalObjectReference"),
    (DISCOVERY, "EndpointPort"),
    (NETWORKING, "ServiceBackendPort"),
    (RBAC, "RoleRef"),
    (RBAC, "Subject"),
    (META, "LabelSelector"),
    (META, "OwnerReference"),
];

/// Maps that are replaced as a whole.
#[rustfmt::skip]
const ATOMIC_FIELDS: &[(&str, &str, &str)] = &[
    (CORE, "PodSpec", "nodeSelector"),
    (CORE, "ReplicationControllerSpec", "selector"),
    (CORE, "ServiceSpec", "selector"),
];

/// Types that hold any value, or one of several, though the schemas say object.
const FREE_TYPES: &[&str] =
    &["JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"];

/// Keys of list items that may be left out, and what they then are.
const KEY_DEFAULTS: &[(&str, &str, &str, &str)] =
    &[(CORE, "ContainerPort", "protocol", "TCP"), (CORE, "ServicePort", "protocol", "TCP")];

fn property<'a>(
    definitions: &'a mut Map<String, Value>,
    package: &str,
    kind: &str,
    field: &str,
) -> Option<&'a mut Map<String, Value>> {
    definitions.get_mut(&format!("{package}.{kind}"))?.get_mut("properties")?.get_mut(field)?.as_object_mut()
}

/// Writes the rules into the definitions, in the words of the OpenAPI extensions.
pub(super) fn annotate(definitions: &mut Map<String, Value>) {
    for (package, kind, field, list_type, keys, merge_key, strategy) in RULES {
        let Some(property) = property(definitions, package, kind, field) else { continue };
        if !list_type.is_empty() {
            property.insert("x-kubernetes-list-type".to_owned(), json!(list_type));
        }
        if !keys.is_empty() {
            property.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
        }
        if !merge_key.is_empty() {
            property.insert("x-kubernetes-patch-merge-key".to_owned(), json!(merge_key));
        }
        if !strategy.is_empty() {
            property.insert("x-kubernetes-patch-strategy".to_owned(), json!(strategy));
        }
    }
    for kind in FREE_TYPES {
        if let Some(Value::Object(definition)) = definitions.get_mut(&format!("{EXTENSIONS}.{kind}")) {
            definition.remove("type");
        }
    }
    for (package, kind) in ATOMIC_TYPES {
        if let Some(Value::Object(definition)) = definitions.get_mut(&format!("{package}.{kind}")) {
            definition.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
    }
    for (package, kind, field) in ATOMIC_FIELDS {
        if let Some(property) = property(definitions, package, kind, field) {
            property.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
    }
    for (package, kind, field, default) in KEY_DEFAULTS {
        if let Some(property) = property(definitions, package, kind, field) {
            property.insert("default".to_owned(), json!(default));
        }
    }
}
