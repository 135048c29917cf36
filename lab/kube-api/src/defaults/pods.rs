//! Defaults of pods and pod templates, and what admission adds to a pod.

use serde_json::{Map, Value, json};

use crate::object::{as_map, at, list, map_at, set_default, text};

/// Fills in a pod spec.
pub(crate) fn spec(spec: &mut Map<String, Value>) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", json!({}));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".to_owned(), account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        spec.insert("serviceAccountName".to_owned(), account);
    }
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for item in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            container(as_map(item), host_network);
        }
    }
    for item in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        volume(as_map(item));
    }
}

/// What only a pod has, not a template: set at creation.
pub(crate) fn pod_only(pod: &mut Value) {
    let spec = map_at(pod, &["spec"]);
    set_default(spec, "enableServiceLinks", true);
    for key in ["initContainers", "containers"] {
        for item in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(item);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = at(container, &["resources", "limits"]).and_then(Value::as_object).cloned() else { return };
    let requests = map_at(container, &["resources", "requests"]);
    for (resource, amount) in limits {
        set_default(requests, &resource, amount);
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("").to_owned();
    let policy = if is_latest(&image) { "Always" } else { "IfNotPresent" };
    set_default(container, "imagePullPolicy", policy);
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let number = port.get("containerPort").cloned();
        let port = as_map(port);
        set_default(port, "protocol", "TCP");
        if let (true, Some(number)) = (host_network, number) {
            set_default(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            set_default(probe, "timeoutSeconds", 1);
            set_default(probe, "periodSeconds", 10);
            set_default(probe, "successThreshold", 1);
            set_default(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(Value::Object(hook)) = lifecycle.get_mut(hook) {
                handler(hook);
            }
        }
    }
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(field)) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default(field, "apiVersion", "v1");
        }
    }
}

fn handler(map: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = map.get_mut("httpGet") {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
    if let Some(Value::Object(grpc)) = map.get_mut("grpc") {
        set_default(grpc, "service", "");
    }
}

/// Whether an image is pulled every time: no tag, or `latest`, and no digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn volume(volume: &mut Map<String, Value>) {
    for (source, mode) in [("secret", 0o644), ("configMap", 0o644), ("downwardAPI", 0o644), ("projected", 0o644)] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            set_default(source, "defaultMode", mode);
        }
    }
    if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
        set_default(path, "type", "");
    }
    let items = volume.get_mut("downwardAPI").and_then(|source| source.get_mut("items"));
    for item in items.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
            set_default(field, "apiVersion", "v1");
        }
    }
    let sources = volume.get_mut("projected").and_then(|source| source.get_mut("sources"));
    for source in sources.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
            set_default(token, "expirationSeconds", 3600);
        }
        let items = source.pointer_mut("/downwardAPI/items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
                set_default(field, "apiVersion", "v1");
            }
        }
    }
    if !volume.keys().any(|key| key != "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}

/// The status a new pod starts with.
pub(crate) fn initial_status(pod: &Value) -> Value {
    json!({"phase": "Pending", "qosClass": qos(pod)})
}

/// The quality-of-service class.
pub(crate) fn qos(pod: &Value) -> &'static str {
    let containers: Vec<&Value> =
        list(pod, &["spec", "containers"]).iter().chain(list(pod, &["spec", "initContainers"])).collect();
    let amount = |container: &Value, kind: &str, resource: &str| {
        let amount = at(container, &["resources", kind, resource])?;
        let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
        (text != "0").then_some(text)
    };
    let asks = |container: &&Value| {
        ["requests", "limits"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|resource| amount(container, kind, resource).is_some()))
    };
    let guaranteed = |container: &&Value| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = amount(container, "limits", resource);
            limit.is_some() && amount(container, "requests", resource).is_none_or(|request| Some(request) == limit)
        })
    };
    if !containers.iter().any(asks) {
        "BestEffort"
    } else if containers.iter().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What the DefaultTolerationSeconds plugin adds.
pub(crate) fn tolerate_for_a_while(pod: &mut Value) {
    let tolerates = |pod: &Value, key: &str| {
        list(pod, &["spec", "tolerations"]).iter().any(|toleration| {
            let own = text(toleration, &["key"]);
            let effect = text(toleration, &["effect"]);
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        })
    };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerates(pod, key) {
            let spec = map_at(pod, &["spec"]);
            let all = spec.entry("tolerations").or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.push(json!({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300}));
            }
        }
    }
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the ServiceAccount plugin adds: the account, its pull secrets, and its projected token.
pub(crate) fn use_account(pod: &mut Value, account: &Value, suffix: &str) {
    let pull_secrets = list(account, &["imagePullSecrets"]).to_vec();
    let account_mounts = at(account, &["automountServiceAccountToken"]) != Some(&json!(false));
    let spec = map_at(pod, &["spec"]);
    if !pull_secrets.is_empty() {
        set_default(spec, "imagePullSecrets", Value::Array(pull_secrets));
    }
    let mounts = spec.get("automountServiceAccountToken").and_then(Value::as_bool).unwrap_or(account_mounts);
    if !mounts {
        return;
    }
    let volume = format!("kube-api-access-{suffix}");
    let mut used = false;
    for key in ["initContainers", "containers"] {
        for container in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, &["volumeMounts"]).iter().any(|mount| text(mount, &["mountPath"]) == TOKEN_PATH) {
                continue;
            }
            let all = as_map(container).entry("volumeMounts").or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                used = true;
            }
        }
    }
    if used && let Value::Array(volumes) = spec.entry("volumes").or_insert_with(|| json!([])) {
        volumes.push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// The one address of old and the list of today say the same: where they differ, the one counts, since an old kubelet
/// knows only that.
pub(crate) fn addresses(pod: &mut Value) {
    let one = text(pod, &["status", "podIP"]).to_owned();
    let first = list(pod, &["status", "podIPs"]).first().map(|item| text(item, &["ip"]).to_owned());
    match first {
        Some(first) if one.is_empty() && !first.is_empty() => {
            map_at(pod, &["status"]).insert("podIP".to_owned(), first.into());
        }
        first if !one.is_empty() && first.as_ref() != Some(&one) => {
            map_at(pod, &["status"]).insert("podIPs".to_owned(), json!([{ "ip": one }]));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_becomes_what_users_see() {
        let mut pod =
            json!({"spec": {"containers": [{"name": "a", "image": "busybox", "ports": [{"containerPort": 80}]}]}});
        spec(map_at(&mut pod, &["spec"]));
        pod_only(&mut pod);
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
        assert_eq!(pod["spec"]["enableServiceLinks"], true);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    }

    #[test]
    fn the_tag_decides_whether_to_pull_always() {
        for (image, latest) in [
            ("busybox", true),
            ("busybox:latest", true),
            ("busybox:1.36", false),
            ("localhost:5000/busybox", true),
            ("localhost:5000/busybox:1", false),
            ("busybox@sha256:abc", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn the_quality_of_service_follows_the_resources() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"limits": {"nvidia.com/gpu": "1"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        ] {
            assert_eq!(qos(&pod(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn the_token_is_mounted_unless_refused() {
        let account = json!({"imagePullSecrets": [{"name": "pull"}]});
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        use_account(&mut pod, &account, "abcde");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], TOKEN_PATH);
        assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "pull");
        for (pod, account) in [
            (json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "a"}]}}), json!({})),
            (json!({"spec": {"containers": [{"name": "a"}]}}), json!({"automountServiceAccountToken": false})),
        ] {
            let mut changed = pod.clone();
            use_account(&mut changed, &account, "abcde");
            assert_eq!(changed, pod);
        }
    }

    #[test]
    fn own_tolerations_are_respected() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate_for_a_while(&mut pod);
        assert_eq!(list(&pod, &["spec", "tolerations"]).len(), 1);
        let mut pod = json!({"spec": {}});
        tolerate_for_a_while(&mut pod);
        assert_eq!(list(&pod, &["spec", "tolerations"]).len(), 2);
    }

    #[test]
    fn one_address_and_the_list_agree() {
        for (status, expected) in [
            (json!({ "podIP": "10.0.0.9" }), json!({ "podIP": "10.0.0.9", "podIPs": [{ "ip": "10.0.0.9" }] })),
            (
                json!({ "podIPs": [{ "ip": "10.0.0.4" }] }),
                json!({ "podIP": "10.0.0.4", "podIPs": [{ "ip": "10.0.0.4" }] }),
            ),
            (
                json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.2" }, { "ip": "fd00::1" }] }),
                json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }] }),
            ),
            (
                json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] }),
                json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] }),
            ),
            (json!({}), json!({})),
        ] {
            let mut pod = json!({ "status": status });
            addresses(&mut pod);
            assert_eq!(pod["status"], expected);
        }
    }
}
