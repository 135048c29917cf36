//! What the server fills in where a user said nothing. All pure.

pub(crate) mod pods;
pub(crate) mod workloads;

use serde_json::{Value, json};

use crate::object::{self, as_map, map_at, set_default, text};
use crate::registry::{Resource, TypeOf, custom};
use crate::schema::structural;

/// Fills in the defaults of an object of any resource.
pub(crate) fn fill(object: &mut Value, resource: &Resource) {
    if let TypeOf::Custom(schema) = &resource.schema {
        structural::default(object, schema);
        return;
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pods::spec(map_at(object, &["spec"])),
        ("", "services") => service(object),
        ("", "secrets") => secret(object),
        ("", "namespaces") => {
            let name = object::name(object).to_owned();
            set_default(map_at(object, &["metadata", "labels"]), "kubernetes.io/metadata.name", name);
            set_default(map_at(object, &["spec"]), "finalizers", json!(["kubernetes"]));
        }
        ("", "persistentvolumeclaims") => set_default(map_at(object, &["spec"]), "volumeMode", "Filesystem"),
        ("apps", "deployments") => workloads::deployment(object),
        ("apps", "replicasets") => workloads::replica_set(object),
        ("apps", "daemonsets") => workloads::daemon_set(object),
        ("apps", "statefulsets") => workloads::stateful_set(object),
        ("batch", "jobs") => workloads::job(object),
        ("batch", "cronjobs") => workloads::cron_job(object),
        ("apiextensions.k8s.io", _) => custom::default(object),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => subjects(object),
        _ => {}
    }
}

fn subjects(object: &mut Value) {
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        let group = if text(subject, &["kind"]) == "ServiceAccount" { "" } else { "rbac.authorization.k8s.io" };
        if !group.is_empty() {
            set_default(as_map(subject), "apiGroup", group);
        }
    }
}

fn secret(object: &mut Value) {
    use base64::Engine;
    let plain = as_map(object).remove("stringData");
    if let Some(Value::Object(plain)) = plain {
        let data = map_at(object, &["data"]);
        for (key, value) in plain {
            let value = value.as_str().unwrap_or("").as_bytes();
            data.insert(key, base64::engine::general_purpose::STANDARD.encode(value).into());
        }
    }
    set_default(as_map(object), "type", "Opaque");
}

fn service(object: &mut Value) {
    let spec = map_at(object, &["spec"]);
    set_default(spec, "type", "ClusterIP");
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "internalTrafficPolicy", "Cluster");
    let external = spec.get("type").is_some_and(|kind| kind == "ExternalName");
    if !external {
        // No address is allocated: the lab routes no service traffic, and says so with a headless service.
        set_default(spec, "clusterIP", "None");
        let address = spec.get("clusterIP").cloned().unwrap_or(Value::Null);
        set_default(spec, "clusterIPs", json!([address]));
        set_default(spec, "ipFamilies", json!(["IPv4"]));
        set_default(spec, "ipFamilyPolicy", "SingleStack");
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let target = port.get("port").cloned().unwrap_or(Value::Null);
        let port = as_map(port);
        set_default(port, "protocol", "TCP");
        set_default(port, "targetPort", target);
    }
    set_default(map_at(object, &["status"]), "loadBalancer", json!({}));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    #[test]
    fn string_data_is_folded_into_data() {
        let mut secret = json!({"data": {"a": "QQ=="}, "stringData": {"b": "B"}});
        fill(&mut secret, &builtin::known("", "secrets"));
        assert_eq!(secret, json!({"data": {"a": "QQ==", "b": "Qg=="}, "type": "Opaque"}));
    }
}
