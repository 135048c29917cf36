//! The built-in resources, as a table.

use std::sync::{Arc, OnceLock};

use super::{Nature, Resource, ScalePaths, Storage, Subresource, TypeOf};

const POD: &[Subresource] = &[
    Subresource { name: "binding", kind: "Binding", group: "", version: "v1", verbs: &["create"] },
    Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1", verbs: &["create"] },
    Subresource {
        name: "ephemeralcontainers",
        kind: "Pod",
        group: "",
        version: "v1",
        verbs: &["get", "patch", "update"],
    },
    Subresource { name: "resize", kind: "Pod", group: "", version: "v1", verbs: &["get", "patch", "update"] },
    Subresource { name: "log", kind: "Pod", group: "", version: "v1", verbs: &["get"] },
    Subresource { name: "exec", kind: "PodExecOptions", group: "", version: "v1", verbs: &["create", "get"] },
    Subresource { name: "attach", kind: "PodAttachOptions", group: "", version: "v1", verbs: &["create", "get"] },
    Subresource {
        name: "portforward",
        kind: "PodPortForwardOptions",
        group: "",
        version: "v1",
        verbs: &["create", "get"],
    },
];
const ACCOUNT: &[Subresource] = &[Subresource {
    name: "token",
    kind: "TokenRequest",
    group: "authentication.k8s.io",
    version: "v1",
    verbs: &["create"],
}];
const NAMESPACE: &[Subresource] =
    &[Subresource { name: "finalize", kind: "Namespace", group: "", version: "v1", verbs: &["update"] }];
const CSR: &[Subresource] = &[Subresource {
    name: "approval",
    kind: "CertificateSigningRequest",
    group: "certificates.k8s.io",
    version: "v1",
    verbs: &["get", "patch", "update"],
}];
const NODE: &[Subresource] = &[Subresource {
    name: "proxy",
    kind: "NodeProxyOptions",
    group: "",
    version: "v1",
    verbs: &["create", "delete", "get", "patch", "update"],
}];
const NONE: &[Subresource] = &[];

const CLUSTER: bool = false;
const NAMESPACED: bool = true;
const STATUS: bool = true;
const PLAIN: bool = false;

/// group, version, kind, plural, scope, has status, short names, subresources, package of the type definition.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
    bool,
    &'static [&'static str],
    &'static [Subresource],
    &'static str,
);

const CORE: &str = "io.k8s.api.core.v1";
const APPS: &str = "io.k8s.api.apps.v1";
const BATCH: &str = "io.k8s.api.batch.v1";
const RBAC: &str = "io.k8s.api.rbac.v1";
const STORAGE: &str = "io.k8s.api.storage.v1";
const AUTHN: &str = "io.k8s.api.authentication.v1";
const AUTHZ: &str = "io.k8s.api.authorization.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

#[rustfmt::skip]
const STORED: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", CLUSTER, STATUS, &["ns"], NAMESPACE, CORE),
    ("", "v1", "Node", "nodes", CLUSTER, STATUS, &["no"], NODE, CORE),
    ("", "v1", "Pod", "pods", NAMESPACED, STATUS, &["po"], POD, CORE),
    ("", "v1", "ConfigMap", "configmaps", NAMESPACED, PLAIN, &["cm"], NONE, CORE),
    ("", "v1", "Secret", "secrets", NAMESPACED, PLAIN, &[], NONE, CORE),
    ("", "v1", "Event", "events", NAMESPACED, PLAIN, &["ev"], NONE, CORE),
    ("", "v1", "ServiceAccount", "serviceaccounts", NAMESPACED, PLAIN, &["sa"], ACCOUNT, CORE),
    ("", "v1", "Service", "services", NAMESPACED, STATUS, &["svc"], NONE, CORE),
    ("", "v1", "Endpoints", "endpoints", NAMESPACED, PLAIN, &["ep"], NONE, CORE),
    ("", "v1", "PersistentVolume", "persistentvolumes", CLUSTER, STATUS, &["pv"], NONE, CORE),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", NAMESPACED, STATUS, &["pvc"], NONE, CORE),
    ("", "v1", "LimitRange", "limitranges", NAMESPACED, PLAIN, &["limits"], NONE, CORE),
    ("", "v1", "ResourceQuota", "resourcequotas", NAMESPACED, STATUS, &["quota"], NONE, CORE),
    ("", "v1", "ReplicationController", "replicationcontrollers", NAMESPACED, STATUS, &["rc"], NONE, CORE),
    ("", "v1", "PodTemplate", "podtemplates", NAMESPACED, PLAIN, &[], NONE, CORE),
    ("apps", "v1", "Deployment", "deployments", NAMESPACED, STATUS, &["deploy"], NONE, APPS),
    ("apps", "v1", "ReplicaSet", "replicasets", NAMESPACED, STATUS, &["rs"], NONE, APPS),
    ("apps", "v1", "DaemonSet", "daemonsets", NAMESPACED, STATUS, &["ds"], NONE, APPS),
    ("apps", "v1", "StatefulSet", "statefulsets", NAMESPACED, STATUS, &["sts"], NONE, APPS),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", NAMESPACED, PLAIN, &[], NONE, APPS),
    ("batch", "v1", "Job", "jobs", NAMESPACED, STATUS, &[], NONE, BATCH),
    ("batch", "v1", "CronJob", "cronjobs", NAMESPACED, STATUS, &["cj"], NONE, BATCH),
    ("coordination.k8s.io", "v1", "Lease", "leases", NAMESPACED, PLAIN, &[], NONE, "io.k8s.api.coordination.v1"),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", NAMESPACED, PLAIN, &[], NONE, "io.k8s.api.discovery.v1"),
    ("events.k8s.io", "v1", "Event", "events", NAMESPACED, PLAIN, &["ev"], NONE, "io.k8s.api.events.v1"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", NAMESPACED, PLAIN, &[], NONE, RBAC),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", NAMESPACED, PLAIN, &[], NONE, RBAC),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", CLUSTER, PLAIN, &[], NONE, RBAC),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", CLUSTER, PLAIN, &[], NONE, RBAC),
    ("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", CLUSTER, STATUS, &["csr"], CSR, "io.k8s.api.certificates.v1"),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", CLUSTER, PLAIN, &["pc"], NONE, "io.k8s.api.scheduling.v1"),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", CLUSTER, PLAIN, &["sc"], NONE, STORAGE),
    ("storage.k8s.io", "v1", "CSINode", "csinodes", CLUSTER, PLAIN, &[], NONE, STORAGE),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", CLUSTER, PLAIN, &[], NONE, STORAGE),
    ("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", CLUSTER, STATUS, &[], NONE, STORAGE),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", NAMESPACED, STATUS, &["pdb"], NONE, "io.k8s.api.policy.v1"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", NAMESPACED, PLAIN, &["netpol"], NONE, "io.k8s.api.networking.v1"),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", NAMESPACED, STATUS, &["ing"], NONE, "io.k8s.api.networking.v1"),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", CLUSTER, PLAIN, &[], NONE, "io.k8s.api.node.v1"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", CLUSTER, STATUS, &["crd", "crds"], NONE, EXTENSIONS),
];

#[rustfmt::skip]
const QUESTIONS: &[Row] = &[
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", CLUSTER, PLAIN, &[], NONE, AUTHN),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", CLUSTER, PLAIN, &[], NONE, AUTHN),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", CLUSTER, PLAIN, &[], NONE, AUTHZ),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", NAMESPACED, PLAIN, &[], NONE, AUTHZ),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", CLUSTER, PLAIN, &[], NONE, AUTHZ),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", CLUSTER, PLAIN, &[], NONE, AUTHZ),
];

/// Kinds that `kubectl get all` lists.
const IN_ALL: &[&str] =
    &["pods", "services", "deployments", "replicasets", "daemonsets", "statefulsets", "jobs", "cronjobs"];

fn resource(row: &Row, nature: Nature) -> Resource {
    let (group, version, kind, plural, namespaced, has_status, short_names, subresources, package) = *row;
    // Events are one thing under two groups.
    let storage_group = if plural == "events" { "" } else { group };
    let scalable = matches!(plural, "deployments" | "replicasets" | "statefulsets" | "replicationcontrollers");
    let scale = scalable.then(|| ScalePaths {
        spec_replicas: ".spec.replicas".to_owned(),
        status_replicas: ".status.replicas".to_owned(),
        selector: None,
    });
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        namespaced,
        short_names: short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: if IN_ALL.contains(&plural) { vec!["all".to_owned()] } else { Vec::new() },
        storage: Storage::new(storage_group, plural),
        nature,
        has_status,
        scale,
        subresources,
        schema: TypeOf::Builtin(format!("{package}.{kind}")),
        columns: Vec::new(),
        custom: false,
    }
}

/// All built-in resources.
pub(crate) fn resources() -> &'static [Arc<Resource>] {
    static TABLE: OnceLock<Vec<Arc<Resource>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let stored = STORED.iter().map(|row| Arc::new(resource(row, Nature::Stored)));
        let questions = QUESTIONS.iter().map(|row| Arc::new(resource(row, Nature::Question)));
        stored.chain(questions).collect()
    })
}

/// The built-in resource that other code is written for.
pub(crate) fn known(group: &str, plural: &str) -> Arc<Resource> {
    match resources().iter().find(|resource| resource.is(group, plural)) {
        Some(resource) => resource.clone(),
        None => unreachable!("{group}/{plural} is not in the table of built-in resources"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_resource_has_its_type() {
        for resource in resources() {
            let TypeOf::Builtin(name) = &resource.schema else { panic!("{} is not built in", resource.plural) };
            assert!(schema::definitions().contains_key(name), "no type definition {name}");
        }
    }
}
