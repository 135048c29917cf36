//! Pods as JSON, as people write them; what is missing in what a kubelet says of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_wire::deployment::{Content, DeviceField, EnvValue, EnvVar, File, FileKey, Files, VolumeSource};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::references::{Contents, Fetched, Found, TokenWanted, wanted};
use super::super::services::{Port, Service};
use super::*;

mod asks;
mod care;
mod engine;
mod ephemeral;
mod huge_pages;

/// Big enough to travel as a blob.
const BIG: usize = hawser_wire::deployment::MAX_INLINE + 1;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "0d9f3c1e-55aa-4b7c-9e00-1234567890ab",
            "labels": {"app": "web", "tier": "a\"b"}, "annotations": {"note": "two\nlines"}},
        "spec": spec,
    }))
    .unwrap()
}

/// One container with these fields.
fn with(container: Value) -> Value {
    let mut main = json!({"name": "main", "image": "host"});
    main.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({ "containers": [main] })
}

fn contents(data: &[(&str, &[u8])], binary: &[(&str, &[u8])]) -> Found {
    let keys = |keys: &[(&str, &[u8])]| {
        keys.iter().map(|(key, bytes)| ((*key).to_owned(), Object::new(bytes.to_vec()))).collect()
    };
    Found::Here(Arc::new(Contents { data: keys(data), binary: keys(binary) }))
}

/// A shop: ConfigMap `settings`, Secret `keys`, a token; a ConfigMap and a Secret that may not be read.
fn shop() -> Fetched {
    let big = vec![b'x'; BIG];
    Fetched {
        config_maps: BTreeMap::from([
            ("settings".to_owned(), contents(&[("COLOR", b"red"), ("SIZE", b"$(COLOR)")], &[("logo", &big)])),
            ("gone".to_owned(), Found::Missing),
            ("closed".to_owned(), Found::Denied("configmaps \"closed\" is forbidden".to_owned())),
        ]),
        secrets: BTreeMap::from([
            ("keys".to_owned(), contents(&[("password", b"pw"), ("binary", b"\xff\xfe")], &[])),
            ("texts".to_owned(), contents(&[("password", b"pw")], &[])),
            ("gone".to_owned(), Found::Missing),
        ]),
        tokens: BTreeMap::from([
            (TokenWanted::new(None, None), Ok(Object::new(b"token".to_vec()))),
            (TokenWanted::new(Some("vault"), Some(600)), Ok(Object::new(b"vault token".to_vec()))),
            (TokenWanted::new(Some("no"), None), Err("failed to fetch token: no such audience".to_owned())),
        ]),
        services: Ok(Vec::new()),
        claims: BTreeMap::new(),
        handler: None,
        rotate: None,
    }
}

fn run(spec: Value) -> Result<Translation, NotApplied> {
    translate(&Subject::of(&pod(spec)).unwrap(), &shop())
}

#[track_caller]
fn deployment(spec: Value) -> EdgeDeployment {
    run(spec).unwrap().deployment
}

#[test]
fn how_a_container_is_resized_travels_only_if_it_is_not_the_usual_way() {
    let policy = |list: Value| deployment(with(json!({"resizePolicy": list}))).containers.remove(0).restart_to_resize;
    let row = |name: &str, policy: &str| json!({"resourceName": name, "restartPolicy": policy});
    assert_eq!(policy(json!([])), None);
    assert_eq!(policy(json!([row("cpu", "NotRequired"), row("memory", "NotRequired")])), None);
    let memory = RestartToResize { cpu: false, memory: true };
    assert_eq!(policy(json!([row("cpu", "NotRequired"), row("memory", "RestartContainer")])), Some(memory));
}

#[test]
fn the_generation_travels_once_the_pod_was_changed() {
    for (generation, expected) in [(None, None), (Some(1), None), (Some(2), Some(2)), (Some(-1), None)] {
        let mut pod = pod(with(json!({})));
        pod.metadata.generation = generation;
        let translation = translate(&Subject::of(&pod).unwrap(), &shop()).unwrap();
        assert_eq!(translation.deployment.generation, expected, "{generation:?}");
    }
}

#[track_caller]
fn main_container(container: Value) -> Container {
    deployment(with(container)).containers.remove(0)
}

#[track_caller]
fn waits(spec: Value) -> Waiting {
    match run(spec) {
        Err(NotApplied::Waiting(waiting)) => waiting,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refusal(spec: Value) -> String {
    match run(spec) {
        Err(NotApplied::Refused { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

/// A pod whose one container mounts this one volume.
fn mounting(volume: Value) -> Value {
    let mut named = json!({"name": "v"});
    named.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
    let mut spec = with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([named]);
    spec
}

#[track_caller]
fn files(volume: Value) -> Files {
    match deployment(mounting(volume)).volumes.remove(0).source {
        VolumeSource::Files(files) => files,
        other => panic!("{other:?}"),
    }
}

fn inline(path: &str, mode: u32, bytes: &[u8]) -> File {
    File { path: path.to_owned(), mode, content: Content::Inline(bytes.to_vec()), owner: None }
}

#[test]
fn a_plain_pod_gets_the_defaults() {
    let deployment = deployment(with(json!({})));
    assert_eq!(deployment.restart_policy, RestartPolicy::Always);
    assert_eq!((deployment.grace_seconds, deployment.active_deadline_seconds), (30, None));
    assert_eq!((deployment.hostname.as_deref(), deployment.host_network), (Some("web-0"), false));
    let main = &deployment.containers[0];
    assert_eq!((main.pull_policy, main.sidecar), (PullPolicy::IfNotPresent, false));
    assert_eq!(main.termination_message_path, "/dev/termination-log");
    assert!(!main.termination_message_from_logs);
    assert_eq!((main.resources, main.user), (Resources::default(), User::default()));
}

#[test]
fn a_pod_that_talks_says_how() {
    for (fields, expected) in [
        (json!({}), None),
        (json!({"stdin": false, "stdinOnce": true, "tty": false}), None),
        (json!({"stdin": true}), Some(Interactive { stdin: true, once: false, tty: false })),
        (
            json!({"stdin": true, "stdinOnce": true, "tty": true}),
            Some(Interactive { stdin: true, once: true, tty: true }),
        ),
        (json!({"stdinOnce": true, "tty": true}), Some(Interactive { stdin: false, once: false, tty: true })),
    ] {
        assert_eq!(deployment(with(fields.clone())).containers[0].interactive, expected, "{fields}");
    }
}

#[test]
fn what_is_set_is_carried_over() {
    let mut spec = with(json!({
        "command": ["sh", "-c"], "args": ["echo $(X)"], "workingDir": "/w", "imagePullPolicy": "Always",
        "terminationMessagePath": "/t", "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "e", "mountPath": "/e", "readOnly": true, "subPath": "a"},
            {"name": "e", "mountPath": "/f", "subPathExpr": "$(X)"}],
    }));
    let more = json!({
        "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 5, "activeDeadlineSeconds": 60,
        "volumes": [{"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        "initContainers": [{"name": "once", "image": "host"}, {"name": "side", "image": "host", "restartPolicy": "Always"}],
        "hostNetwork": true,
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let deployment = deployment(spec);
    assert_eq!(deployment.restart_policy, RestartPolicy::OnFailure);
    assert_eq!((deployment.grace_seconds, deployment.active_deadline_seconds), (5, Some(60)));
    assert_eq!((deployment.hostname, deployment.host_network), (None, true));
    let kinds: Vec<_> = deployment.init_containers.iter().map(|c| (c.name.as_str(), c.sidecar)).collect();
    assert_eq!(kinds, [("once", false), ("side", true)]);
    let empty = hawser_wire::deployment::EmptyDir { memory: true, size_limit: Some(1 << 20) };
    assert_eq!(deployment.volumes[0].source, VolumeSource::EmptyDir(empty));
    let main = &deployment.containers[0];
    assert_eq!((main.command.len(), main.args[0].as_str(), main.working_dir.as_deref()), (2, "echo $(X)", Some("/w")));
    assert_eq!((main.pull_policy, main.termination_message_path.as_str()), (PullPolicy::Always, "/t"));
    assert!(main.termination_message_from_logs);
    let mounts: Vec<_> =
        main.mounts.iter().map(|m| (m.path.as_str(), m.read_only, m.sub_path.as_deref(), m.sub_path_expr)).collect();
    assert_eq!(mounts, [("/e", true, Some("a"), false), ("/f", false, Some("$(X)"), true)]);
}

#[test]
fn host_names_are_cut_as_a_kubelet_cuts_them() {
    for (hostname, expected) in [
        ("short".to_owned(), "short".to_owned()),
        ("x".repeat(63), "x".repeat(63)),
        ("x".repeat(70), "x".repeat(63)),
        (format!("{}-.-y", "x".repeat(61)), "x".repeat(61)),
    ] {
        let mut spec = with(json!({}));
        spec["hostname"] = json!(hostname);
        assert_eq!(deployment(spec).hostname, Some(expected));
    }
}

#[test]
fn variables_come_in_order_from_where_they_say() {
    let env = main_container(json!({
        "envFrom": [{"prefix": "S_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "texts"}},
            {"configMapRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "A", "value": "$(S_COLOR)"},
            {"name": "EMPTY"},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "SIZE"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no", "optional": true}}},
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "no", "optional": true}}},
            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "G", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "out/env", "key": "TOKEN", "optional": true}}},
            {"name": "A", "value": "again"}],
    }))
    .env;
    let literal = |text: &str| EnvValue::Literal(text.to_owned());
    let template = |text: &str| EnvValue::Template(text.to_owned());
    let file = FileKey { volume: "v".into(), path: "out/env".into(), key: "TOKEN".into(), optional: true };
    let expected = [
        ("S_COLOR", literal("red")),
        // What comes from a ConfigMap is not expanded.
        ("S_SIZE", literal("$(COLOR)")),
        ("password", literal("pw")),
        ("A", template("$(S_COLOR)")),
        ("EMPTY", template("")),
        ("B", literal("$(COLOR)")),
        ("C", literal("pw")),
        ("F", EnvValue::Device(DeviceField::PodIp)),
        ("G", EnvValue::File(file)),
        ("A", template("again")),
    ];
    let env: Vec<_> = env.into_iter().map(|variable| (variable.name, variable.value)).collect();
    assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn the_downward_api_tells_what_a_kubelet_tells() {
    for (field, expected) in [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "0d9f3c1e-55aa-4b7c-9e00-1234567890ab"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "two\nlines"),
        ("spec.nodeName", "pi"),
        ("spec.serviceAccountName", "robot"),
    ] {
        let mut spec = with(json!({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": field}}}]}));
        spec["nodeName"] = json!("pi");
        spec["serviceAccountName"] = json!("robot");
        assert_eq!(deployment(spec).containers[0].env[0].value, EnvValue::Literal(expected.to_owned()), "{field}");
    }
    for (field, expected) in [
        ("status.podIP", DeviceField::PodIp),
        ("status.podIPs", DeviceField::PodIps),
        ("status.hostIP", DeviceField::HostIp),
        ("status.hostIPs", DeviceField::HostIps),
    ] {
        let main = main_container(json!({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": field}}}]}));
        assert_eq!(main.env[0].value, EnvValue::Device(expected), "{field}");
    }
    for field in ["metadata.labels", "metadata.generation", "status.phase", "spec", ""] {
        let spec = with(json!({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": field}}}]}));
        let expected = format!(
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: a device does not know the field `{field}`"
        );
        assert_eq!(refusal(spec), expected);
    }
}

#[test]
fn resources_are_divided_rounding_up() {
    let text = |text: &str| EnvValue::Literal(text.to_owned());
    let allocatable = |name: &str, divisor| EnvValue::Device(DeviceField::Allocatable(name.to_owned(), divisor));
    for (resource, divisor, expected) in [
        ("limits.cpu", None, text("2")),
        ("limits.cpu", Some("1m"), text("1500")),
        ("limits.cpu", Some("0"), text("2")),
        ("requests.cpu", Some("1m"), text("250")),
        ("requests.memory", None, text("67108864")),
        ("requests.memory", Some("1Mi"), text("64")),
        ("requests.memory", Some("1M"), text("68")),
        ("requests.ephemeral-storage", None, text("0")),
        ("limits.memory", None, allocatable("memory", 1)),
        ("limits.memory", Some("1Mi"), allocatable("memory", 1 << 20)),
        ("limits.ephemeral-storage", None, allocatable("ephemeral-storage", 1)),
        ("limits.hugepages-2Mi", None, text("0")),
    ] {
        let mut selector = json!({"resource": resource});
        if let Some(divisor) = divisor {
            selector["divisor"] = json!(divisor);
        }
        let main = main_container(json!({
            "resources": {"limits": {"cpu": "1500m"}, "requests": {"cpu": "250m", "memory": "64Mi"}},
            "env": [{"name": "X", "valueFrom": {"resourceFieldRef": selector}}],
        }));
        assert_eq!(main.env[0].value, expected, "{resource} {divisor:?}");
    }
    let without_limit =
        main_container(json!({"env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}));
    assert_eq!(without_limit.env[0].value, allocatable("cpu", 1000));
    for (selector, expected) in [
        (json!({"resource": "limits.gpu"}), "resource: a device does not know the resource `limits.gpu`"),
        (json!({"resource": "cpu"}), "resource: a device does not know the resource `cpu`"),
        (json!({"resource": "limits.cpu", "containerName": "other"}), "containerName: there is no container `other`"),
        (json!({"resource": "limits.cpu", "divisor": "x"}), "divisor: `x` is not a quantity"),
    ] {
        let spec = with(json!({"env": [{"name": "X", "valueFrom": {"resourceFieldRef": selector}}]}));
        assert!(refusal(spec).contains(expected));
    }
}

#[test]
fn limits_and_requests_are_numbers() {
    let resources = |resources: Value| main_container(json!({ "resources": resources })).resources;
    let both = resources(
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.1", "memory": "1k", "example.com/x": "1"}}),
    );
    assert_eq!((both.cpu_request_millis, both.cpu_limit_millis), (Some(100), Some(1000)));
    assert_eq!((both.memory_request_bytes, both.memory_limit_bytes), (Some(1000), Some(1 << 30)));
    // A limit without a request is the request too, as an API server fills it in.
    let limit = resources(json!({"limits": {"cpu": "1"}}));
    assert_eq!((limit.cpu_request_millis, limit.memory_request_bytes), (Some(1000), None));
    let message = refusal(with(json!({"resources": {"limits": {"cpu": "-1"}}})));
    assert!(message.starts_with("spec.containers[0].resources.limits.cpu: `-1` is not a quantity"), "{message}");
}

#[test]
fn what_decides_who_goes_first_on_a_full_device_is_taken_over() {
    let resources =
        json!({"resources": {"limits": {"ephemeral-storage": "2Mi"}, "requests": {"ephemeral-storage": "1Mi"}}});
    let mut spec = with(resources);
    spec["priority"] = json!(-5);
    let described = deployment(spec);
    assert_eq!(described.priority, Some(-5));
    let storage = described.containers[0].resources;
    assert_eq!((storage.storage_request_bytes, storage.storage_limit_bytes), (Some(1 << 20), Some(2 << 20)));
    let mut usual = with(json!({"resources": {"limits": {"ephemeral-storage": "2Mi"}}}));
    usual["priority"] = json!(0);
    let usual = deployment(usual);
    assert_eq!((usual.priority, usual.containers[0].resources.storage_request_bytes), (None, Some(2 << 20)));
}

#[test]
fn a_container_overrides_the_pod_in_who_it_is() {
    for (shared, own, expected) in [
        (json!({}), json!({}), User::default()),
        (json!({"runAsUser": 1, "runAsGroup": 2}), json!({}), User { uid: Some(1), gid: Some(2), non_root: false }),
        (
            json!({"runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true}),
            json!({"runAsUser": 3, "runAsNonRoot": false}),
            User { uid: Some(3), gid: Some(2), non_root: false },
        ),
        (json!({"runAsNonRoot": true}), json!({}), User { uid: None, gid: None, non_root: true }),
    ] {
        let mut spec = with(json!({"securityContext": own}));
        spec["securityContext"] = shared;
        assert_eq!(deployment(spec).containers[0].user, expected);
    }
    let mut spec = with(json!({}));
    spec["securityContext"] = json!({"fsGroup": 7, "supplementalGroups": [8, 9]});
    let deployment = deployment(spec);
    assert_eq!((deployment.fs_group, deployment.supplemental_groups), (Some(7), vec![8, 9]));
    for (field, value) in [("fsGroup", json!(-1)), ("supplementalGroups", json!([1_u64 << 40]))] {
        let mut spec = with(json!({}));
        spec["securityContext"] = json!({ field: value });
        assert!(refusal(spec).starts_with(&format!("spec.securityContext.{field}: expected 0 to")));
    }
    let message = refusal(with(json!({"securityContext": {"runAsUser": -5}})));
    assert!(message.starts_with("spec.containers[0].securityContext.runAsUser: expected 0 to"), "{message}");
}

#[test]
fn root_that_must_not_be_root_waits_as_with_a_kubelet() {
    let waiting = waits(with(json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": true}})));
    let expected = "container's runAsUser breaks non-root policy (pod: \"web-0_shop(0d9f3c1e-55aa-4b7c-9e00-1234567890ab)\", container: main)";
    assert_eq!(waiting.containers[0].message, expected);
    assert_eq!(waiting.containers[0].reason, "CreateContainerConfigError");
}

#[test]
fn files_come_from_keys() {
    let all = files(json!({"configMap": {"name": "settings"}}));
    assert!(!all.secret);
    let logo = Object::new(vec![b'x'; BIG]);
    assert_eq!(
        all.entries,
        [
            inline("COLOR", 0o644, b"red"),
            inline("SIZE", 0o644, b"$(COLOR)"),
            File { path: "logo".to_owned(), mode: 0o644, content: Content::Blob(logo.reference), owner: None },
        ]
    );
    let blobs = run(mounting(json!({"configMap": {"name": "settings"}}))).unwrap().blobs;
    assert_eq!(blobs, BTreeMap::from([(logo.reference.hash, logo)]));

    let chosen = files(json!({"secret": {"secretName": "keys", "defaultMode": 0o400, "items": [
        {"key": "password", "path": "a/pw"}, {"key": "binary", "path": "b", "mode": 0o440}]}}));
    assert!(chosen.secret);
    assert_eq!(chosen.entries, [inline("a/pw", 0o400, b"pw"), inline("b", 0o440, b"\xff\xfe")]);

    for optional in [
        json!({"configMap": {"name": "gone", "optional": true}}),
        json!({"secret": {"secretName": "gone", "optional": true}}),
    ] {
        assert_eq!(files(optional).entries, []);
    }
    let some = files(json!({"configMap": {"name": "settings", "optional": true, "items": [
        {"key": "no", "path": "no"}, {"key": "COLOR", "path": "c"}]}}));
    assert_eq!(some.entries, [inline("c", 0o644, b"red")]);
}

#[test]
fn files_come_from_the_pod_itself() {
    let files = files(json!({"downwardAPI": {"defaultMode": 0o444, "items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "notes", "fieldRef": {"fieldPath": "metadata.annotations"}, "mode": 0o400},
        {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}}]}}));
    assert!(!files.secret);
    assert_eq!(
        files.entries,
        [
            File {
                path: "cpu".to_owned(),
                mode: 0o444,
                content: Content::Device(DeviceField::Allocatable("cpu".to_owned(), 1)),
                owner: None,
            },
            inline("labels", 0o444, b"app=\"web\"\ntier=\"a\\\"b\""),
            inline("notes", 0o400, b"note=\"two\\nlines\""),
        ]
    );
    let spec =
        mounting(json!({"downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}]}}));
    assert!(refusal(spec).contains("resourceFieldRef.containerName: there is no container"));
}

#[test]
fn what_is_projected_lies_together_and_the_last_one_wins() {
    let files = files(json!({"projected": {"defaultMode": 0o440, "sources": [
        {"configMap": {"name": "settings", "items": [{"key": "COLOR", "path": "x"}, {"key": "SIZE", "path": "y"}]}},
        {"secret": {"name": "keys", "items": [{"key": "password", "path": "x"}]}},
        {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"serviceAccountToken": {"path": "token"}},
        {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}}]}}));
    assert!(files.secret);
    assert_eq!(
        files.entries,
        [
            inline("ns", 0o440, b"shop"),
            inline("token", 0o440, b"token"),
            inline("vault", 0o440, b"vault token"),
            inline("x", 0o440, b"pw"),
            inline("y", 0o440, b"$(COLOR)"),
        ]
    );
}

#[test]
fn a_token_is_for_its_user_alone() {
    let token = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}});
    for (context, mode, owner) in [
        (json!({}), 0o644, None),
        (json!({"fsGroup": 5}), 0o600, None),
        (json!({"runAsUser": 5}), 0o600, Some(5)),
        (json!({"runAsUser": 5, "fsGroup": 6}), 0o600, Some(5)),
        (json!({"runAsGroup": 5}), 0o644, None),
    ] {
        let mut spec = mounting(token.clone());
        spec["securityContext"] = context.clone();
        let VolumeSource::Files(files) = deployment(spec).volumes.remove(0).source else { panic!() };
        assert_eq!((files.entries[0].mode, files.entries[0].owner), (mode, owner), "{context}");
    }
    // Two users: then neither is the one.
    let mut spec = mounting(token);
    spec["securityContext"] = json!({"runAsUser": 5});
    spec["initContainers"] = json!([{"name": "init", "securityContext": {"runAsUser": 6}}]);
    let VolumeSource::Files(files) = deployment(spec).volumes.remove(0).source else { panic!() };
    assert_eq!(files.entries[0].mode, 0o644);
}

#[test]
fn a_missing_volume_is_told_as_a_kubelet_tells_it() {
    for (volume, expected) in [
        (json!({"configMap": {"name": "gone"}}), "configmap \"gone\" not found"),
        (json!({"secret": {"secretName": "gone"}}), "secret \"gone\" not found"),
        (json!({"configMap": {"name": "closed", "optional": true}}), "configmaps \"closed\" is forbidden"),
        (
            json!({"configMap": {"name": "settings", "items": [{"key": "no", "path": "x"}]}}),
            "configmap references non-existent config key: no",
        ),
        (
            json!({"secret": {"secretName": "keys", "items": [{"key": "no", "path": "x"}]}}),
            "references non-existent secret key: no",
        ),
        (
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "no"}}]}}),
            "failed to fetch token: no such audience",
        ),
        (
            json!({"projected": {"sources": [{"configMap": {"name": "gone"}}, {"secret": {"name": "gone"}}, {"configMap": {"name": "gone"}}]}}),
            "[configmap \"gone\" not found, secret \"gone\" not found]",
        ),
        (
            json!({"configMap": {"name": "settings", "items": [{"key": "COLOR", "path": "a"}, {"key": "SIZE", "path": "a/b"}]}}),
            "the paths `a` and `a/b` cannot both be files",
        ),
    ] {
        let waiting = waits(mounting(volume));
        assert_eq!(waiting.event_reason, "FailedMount");
        assert_eq!(waiting.event_message, format!("MountVolume.SetUp failed for volume \"v\" : {expected}"));
        assert_eq!(waiting.containers, []);
    }
}

#[test]
fn a_missing_variable_is_told_as_a_kubelet_tells_it() {
    let key = |kind: &str, name: &str, key: &str| json!({"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": key}}}]});
    for (container, expected) in [
        (key("configMapKeyRef", "gone", "k"), "configmap \"gone\" not found"),
        (key("secretKeyRef", "gone", "k"), "secret \"gone\" not found"),
        (key("configMapKeyRef", "settings", "k"), "couldn't find key k in ConfigMap shop/settings"),
        (key("secretKeyRef", "keys", "k"), "couldn't find key k in Secret shop/keys"),
        (key("configMapKeyRef", "settings", "logo"), "couldn't find key logo in ConfigMap shop/settings"),
        (key("configMapKeyRef", "closed", "k"), "configmaps \"closed\" is forbidden"),
        (json!({"envFrom": [{"configMapRef": {"name": "gone"}}]}), "configmap \"gone\" not found"),
        (json!({"envFrom": [{"secretRef": {"name": "gone"}}]}), "secret \"gone\" not found"),
        (
            key("secretKeyRef", "keys", "binary"),
            "key binary in Secret shop/keys is not UTF-8 and cannot be an environment variable; mount it as a file",
        ),
    ] {
        let waiting = waits(with(container));
        let shown = ContainerWaiting {
            container: "main".to_owned(),
            reason: "CreateContainerConfigError".to_owned(),
            message: expected.to_owned(),
        };
        assert_eq!((waiting.event_reason.as_str(), waiting.event_message), ("Failed", format!("Error: {expected}")));
        assert_eq!(waiting.containers, [shown]);
    }
}

#[test]
fn only_the_containers_that_lack_something_say_so_and_a_missing_volume_comes_first() {
    let lacking = |name: &str| json!({"name": name, "envFrom": [{"secretRef": {"name": "gone"}}]});
    let spec = json!({"initContainers": [lacking("init")], "containers": [{"name": "fine"}, lacking("main")]});
    let names: Vec<_> = waits(spec).containers.into_iter().map(|waiting| waiting.container).collect();
    assert_eq!(names, ["init", "main"]);

    let mut spec = mounting(json!({"configMap": {"name": "gone"}}));
    spec["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "gone"}}]);
    assert_eq!(waits(spec).event_reason, "FailedMount");
}

#[test]
fn a_volume_that_nobody_mounts_is_nobodys_business() {
    let mut spec = with(json!({}));
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "gone"}}]);
    assert_eq!(deployment(spec).volumes, []);
}

#[test]
fn paths_stay_below_their_volume() {
    for path in ["/etc/passwd", "../x", "a/../x", "a//b", "", ".", "..data", "a/"] {
        let spec = mounting(json!({"configMap": {"name": "settings", "items": [{"key": "COLOR", "path": path}]}}));
        assert!(refusal(spec).contains("must stay below the volume"), "{path}");
    }
    let message = refusal(with(json!({"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]})));
    assert_eq!(message, "spec.containers[0].volumeMounts[0].name: there is no volume `nowhere`");
}

#[test]
fn what_did_not_come_from_an_api_server_is_refused() {
    let mut nameless = pod(with(json!({})));
    nameless.metadata.name = None;
    let mut strange = pod(with(json!({})));
    strange.metadata.uid = Some("../../etc".to_owned());
    let empty = Pod { spec: None, ..pod(with(json!({}))) };
    for pod in [nameless, strange, empty] {
        assert!(matches!(Subject::of(&pod), Err(NotApplied::Refused { reason, .. }) if reason == "InvalidPod"));
    }
}

/// Anything that can stand in a field, by chance of the right type.
fn fragment() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,12}",
        Just("settings".to_owned()),
        Just("gone".to_owned()),
        Just("../../x".to_owned()),
        Just("metadata.labels['app']".to_owned()),
        Just("limits.cpu".to_owned()),
        Just("1Gi".to_owned()),
        Just("\u{301}ä\0".to_owned()),
    ];
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        text.prop_map(Value::from),
        Just(Value::Null),
    ]
}

/// Changes some leaf of the value into something else, or removes it.
fn disturb(value: &mut Value, at: &mut usize, with: &Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| disturb(value, at, with)),
        Value::Array(items) => items.iter_mut().for_each(|value| disturb(value, at, with)),
        leaf => {
            if *at == 0 {
                *leaf = with.clone();
            }
            *at = at.wrapping_sub(1);
        }
    }
}

/// A pod that uses everything there is.
fn everything() -> Value {
    json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 3, "activeDeadlineSeconds": 9, "hostname": "h",
        "hostNetwork": false, "nodeName": "pi", "imagePullSecrets": [{"name": "keys"}], "serviceAccountName": "robot",
        "securityContext": {"runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true, "fsGroup": 3, "supplementalGroups": [4]},
        "initContainers": [{"name": "init", "restartPolicy": "Always"}],
        "containers": [{
            "name": "main", "image": "host", "command": ["c"], "args": ["a"], "workingDir": "/w",
            "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "UDP", "hostIP": "192.0.2.1"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1"}},
            "securityContext": {"runAsUser": 1, "privileged": true, "capabilities": {"add": ["A"], "drop": ["B"]}},
            "envFrom": [{"prefix": "p", "configMapRef": {"name": "settings", "optional": false}},
                {"secretRef": {"name": "texts", "optional": true}}],
            "env": [{"name": "A", "value": "x"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR", "optional": false}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}}}],
            "volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": "s"}, {"name": "b", "mountPath": "/b", "subPathExpr": "s"},
                {"name": "c", "mountPath": "/c"}, {"name": "d", "mountPath": "/d"}, {"name": "e", "mountPath": "/e"}],
        }],
        "volumes": [
            {"name": "a", "configMap": {"name": "settings", "defaultMode": 1, "items": [{"key": "COLOR", "path": "c", "mode": 2}]}},
            {"name": "b", "secret": {"secretName": "keys", "defaultMode": 1, "optional": true}},
            {"name": "c", "downwardAPI": {"items": [{"path": "x", "mode": 1, "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "y", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"}}]}},
            {"name": "d", "projected": {"defaultMode": 4, "sources": [
                {"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 600}},
                {"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}},
                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
            {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    })
}

#[test]
fn the_pod_that_uses_everything_is_translated() {
    let deployment = deployment(everything());
    assert_eq!((deployment.volumes.len(), deployment.containers[0].env.len()), (5, 8));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_pod_panics(changes in prop::collection::vec((0_usize..90, fragment()), 0..6)) {
        let mut spec = everything();
        for (mut at, with) in changes {
            disturb(&mut spec, &mut at, &with);
        }
        let object = json!({"metadata": {"name": "web-0", "namespace": "shop", "uid": "u"}, "spec": spec});
        // What does not even have the form of a pod is not handed over by any client.
        let Ok(pod) = serde_json::from_value::<Pod>(object) else { return Ok(()) };
        let subject = Subject::of(&pod).unwrap();
        let _ = wanted(subject.spec);
        let first = translate(&subject, &shop()).map(|translation| hawser_wire::encode(&translation.deployment));
        let again = translate(&subject, &shop()).map(|translation| hawser_wire::encode(&translation.deployment));
        prop_assert_eq!(&first, &again);
        if let Ok(bytes) = first {
            prop_assert!(hawser_wire::decode::<EdgeDeployment>(&bytes, bytes.len()).is_ok());
        }
    }
}

/// With this service besides.
fn shop_with(services: Result<Vec<Service>, String>) -> Fetched {
    Fetched { services, ..shop() }
}

fn web() -> Service {
    let ports = vec![Port { name: None, number: 80, protocol: "TCP".to_owned() }];
    Service { name: "web".to_owned(), address: "10.0.0.3".to_owned(), ports, since: None }
}

#[test]
fn services_come_first_and_everything_else_replaces_them() {
    let pod = pod(with(json!({"env": [
        {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)"},
        {"name": "WEB_SERVICE_PORT", "value": "8080"}]})));
    let translation = translate(&Subject::of(&pod).unwrap(), &shop_with(Ok(vec![web()]))).unwrap();
    let env = &translation.deployment.containers[0].env;
    assert_eq!(env[0], EnvVar { name: "WEB_SERVICE_HOST".to_owned(), value: EnvValue::Literal("10.0.0.3".to_owned()) });
    let last: Vec<_> = env.iter().rev().take(2).map(|variable| variable.name.as_str()).collect();
    assert_eq!(last, ["WEB_SERVICE_PORT", "URL"]);
    assert_eq!(env.len(), 7 + 2);
}

#[test]
fn without_services_containers_wait_and_say_why() {
    let pod = pod(with(json!({})));
    let denied = shop_with(Err("services have not yet been read at least once: forbidden".to_owned()));
    match translate(&Subject::of(&pod).unwrap(), &denied) {
        Err(NotApplied::Waiting(waiting)) => {
            assert_eq!(waiting.containers[0].reason, "CreateContainerConfigError");
            assert_eq!(waiting.event_message, "Error: services have not yet been read at least once: forbidden");
        }
        other => panic!("{other:?}"),
    }
}
