//! What is printed is parsed again, and held against what the code needs.

use super::*;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn documents(text: &str) -> Vec<Value> {
    text.split("---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn one<T: DeserializeOwned>(documents: &[Value], kind: &str, namespace: Option<&str>) -> T {
    let found: Vec<_> = documents
        .iter()
        .filter(|document| document["kind"] == kind && document["metadata"]["namespace"].as_str() == namespace)
        .collect();
    assert_eq!(found.len(), 1, "{kind} in {namespace:?}");
    serde_json::from_value(found[0].clone()).unwrap()
}

fn allows(rules: &[PolicyRule], group: &str, resource: &str, verb: &str) -> bool {
    let has = |list: &[String], word: &str| list.iter().any(|item| item == word || item == "*");
    rules.iter().any(|rule| {
        has(rule.api_groups.as_deref().unwrap_or_default(), group)
            && has(rule.resources.as_deref().unwrap_or_default(), resource)
            && has(&rule.verbs, verb)
    })
}

fn grants(rules: &[PolicyRule], needed: &[PolicyRule]) {
    for need in needed {
        for (group, resource) in need.api_groups.iter().flatten().zip(need.resources.iter().flatten()) {
            for verb in &need.verbs {
                assert!(allows(rules, group, resource, verb), "{verb} {resource} is needed and not granted");
            }
        }
    }
}

#[test]
fn the_library_of_nodes_may_do_what_it_must() {
    let documents = documents(&rbac(DEFAULT_NAMESPACE));
    let cluster: ClusterRole = one(&documents, "ClusterRole", None);
    let rules = cluster.rules.unwrap();
    grants(&rules, &virtual_node::rbac::cluster_rules());
    grants(&rules, &virtual_node::rbac::kubelet_rules());
    let clients: RoleBinding = one(&documents, "RoleBinding", Some("kube-system"));
    assert_eq!(clients.role_ref.name, virtual_node::rbac::KUBELET_CLIENT_CA_ROLE);
    let leases: Role = one(&documents, "Role", Some("kube-node-lease"));
    grants(&leases.rules.unwrap(), &virtual_node::rbac::lease_rules());
}

#[test]
fn services_may_be_watched_and_nothing_else_of_them() {
    let documents = documents(&rbac(DEFAULT_NAMESPACE));
    let rules = one::<ClusterRole>(&documents, "ClusterRole", None).rules.unwrap();
    let granted: Vec<_> = ["get", "list", "watch", "create", "update", "patch", "delete"]
        .into_iter()
        .filter(|verb| allows(&rules, "", "services", verb))
        .collect();
    assert_eq!(granted, ["list", "watch"]);
}

#[test]
fn nobody_may_list_secrets_or_do_anything() {
    let documents = documents(&rbac(DEFAULT_NAMESPACE));
    let cluster: ClusterRole = one(&documents, "ClusterRole", None);
    let own: Role = one(&documents, "Role", Some(DEFAULT_NAMESPACE));
    let rules = [cluster.rules.unwrap(), own.rules.unwrap()].concat();
    for resource in ["secrets", "configmaps"] {
        for verb in ["list", "watch", "deletecollection"] {
            assert!(!allows(&rules, "", resource, verb), "{verb} {resource}");
        }
    }
    for word in rules.iter().flat_map(|rule| {
        rule.verbs.iter().chain(rule.resources.iter().flatten()).chain(rule.api_groups.iter().flatten())
    }) {
        assert_ne!(word, "*");
    }
}

#[test]
fn another_namespace_is_used_throughout() {
    let text = rbac("edge");
    assert!(!text.contains(DEFAULT_NAMESPACE));
    let documents = documents(&text);
    let namespace: Namespace = one(&documents, "Namespace", None);
    assert_eq!(namespace.metadata.name.as_deref(), Some("edge"));
    let _: ServiceAccount = one(&documents, "ServiceAccount", Some("edge"));
    let _: Role = one(&documents, "Role", Some("edge"));
    let subjects = [
        one::<ClusterRoleBinding>(&documents, "ClusterRoleBinding", None).subjects,
        one::<RoleBinding>(&documents, "RoleBinding", Some("edge")).subjects,
        one::<RoleBinding>(&documents, "RoleBinding", Some("kube-node-lease")).subjects,
        one::<RoleBinding>(&documents, "RoleBinding", Some("kube-system")).subjects,
    ];
    for subject in subjects.into_iter().flatten().flatten() {
        assert_eq!((subject.name.as_str(), subject.namespace.as_deref()), ("hawser-bridge", Some("edge")));
    }
}

#[test]
fn the_definition_of_devices_is_the_same_after_printing_and_has_its_columns() {
    let printed: CustomResourceDefinition = serde_saphyr::from_str(&crd().unwrap()).unwrap();
    assert_eq!(printed, Device::crd());
    let version = &printed.spec.versions[0];
    let columns: Vec<_> = version
        .additional_printer_columns
        .iter()
        .flatten()
        .map(|column| (column.name.as_str(), column.type_.as_str(), column.json_path.as_str()))
        .collect();
    assert_eq!(
        columns,
        [
            ("Ready", "string", r#".status.conditions[?(@.type=="Ready")].status"#),
            ("Agent", "string", ".status.agentVersion"),
            ("Arch", "string", ".status.architecture"),
            ("Last seen", "date", ".status.lastSeen"),
            ("Age", "date", ".metadata.creationTimestamp"),
        ]
    );
    assert_eq!(printed.spec.scope, "Cluster");
    assert!(version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()));
}

#[test]
fn all_is_both() {
    let all = ManifestsCommand::All(Place { namespace: "edge".to_owned() }).text().unwrap();
    let documents = documents(&all);
    let _: CustomResourceDefinition = one(&documents, "CustomResourceDefinition", None);
    let _: ServiceAccount = one(&documents, "ServiceAccount", Some("edge"));
}

#[test]
fn namespaces_are_checked() {
    assert!(parse_namespace("edge-1").is_ok());
    for bad in ["", "a.b", "A", "-a", &"x".repeat(64)] {
        assert!(parse_namespace(bad).is_err(), "{bad}");
    }
}
