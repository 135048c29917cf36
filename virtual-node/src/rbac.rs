//! What this library must be allowed to do, and nothing more.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// The rules for the whole cluster: nodes, pods, and the Events about them.
pub fn cluster_rules() -> Vec<PolicyRule> {
    vec![
        rule("", "nodes", &["get", "list", "watch", "create", "patch", "delete"]),
        rule("", "nodes/status", &["patch"]),
        rule("", "pods", &["get", "list", "watch", "delete"]),
        rule("", "pods/status", &["patch"]),
        rule("", "events", &["create", "patch"]),
    ]
}

/// The rules within the namespace of the Leases ([`Config::lease_namespace`](crate::Config::lease_namespace)).
pub fn lease_rules() -> Vec<PolicyRule> {
    vec![rule("coordination.k8s.io", "leases", &["create", "patch", "delete"])]
}

/// The rules for the whole cluster that the kubelet API needs besides: it asks who its clients are, and what they may.
pub fn kubelet_rules() -> Vec<PolicyRule> {
    vec![
        rule("authentication.k8s.io", "tokenreviews", &["create"]),
        rule("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ]
}

/// A Role that every cluster has in `kube-system`. To be bound, it lets the kubelet API know whose certificates API
/// servers come with; without it they must be given as a file.
pub const KUBELET_CLIENT_CA_ROLE: &str = "extension-apiserver-authentication-reader";

fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
