//! The subcommands against a few canned answers: what they ask of the API server, and what they print.

use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    command: DeviceCommand,
}

/// What was asked: method, path with query, body.
type Asked = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A client whose requests are answered by the first answer whose method and path fit. What fits none is not there.
fn client(answers: Vec<(&'static str, &'static str, u16, Value)>) -> (Client, Asked) {
    let asked = Asked::default();
    let log = asked.clone();
    let answers = Arc::new(answers);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (log, answers) = (log.clone(), answers.clone());
        async move {
            let (parts, body) = request.into_parts();
            let (method, path) = (parts.method.to_string(), parts.uri.to_string());
            let bytes = body.collect().await?.to_bytes();
            let fits = |answer: &&(&str, &str, u16, Value)| answer.0 == method && path.starts_with(answer.1);
            let (code, answer) = match answers.iter().find(fits) {
                Some((_, _, code, answer)) => (*code, answer.clone()),
                None => (404, failure(404, "NotFound", "not found", "it")),
            };
            log.lock().unwrap().push((method, path, serde_json::from_slice(&bytes).unwrap_or_default()));
            let response = Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer)?))?;
            Ok::<_, anyhow::Error>(response)
        }
    });
    (Client::new(service, "default"), asked)
}

fn failure(code: u16, reason: &str, message: &str, name: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": message, "details": {"name": name, "kind": "devices"}})
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

struct Says(Option<&'static str>);

impl Answers for Says {
    fn answer(&mut self) -> Option<String> {
        self.0.map(str::to_owned)
    }
}

/// Runs a command line and returns what it printed, or its error.
async fn run(client: Client, line: &str, answer: Option<&'static str>) -> Result<String, String> {
    let program = Program::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let done = match program.command {
        DeviceCommand::Add(add) => add.execute(client, now(), &mut out).await,
        DeviceCommand::List(list) => list.execute(client, now(), &mut out).await,
        DeviceCommand::Show(show) => show.execute(client, now(), &mut out).await,
        DeviceCommand::Remove(remove) => remove.execute(client, &mut Says(answer), &mut out).await,
    };
    done.map(|()| String::from_utf8(out).unwrap()).map_err(|error| format!("{error:#}"))
}

const DEVICES: &str = "/apis/hawser.dev/v1alpha1/devices";
const BRIDGE: &str = "/api/v1/namespaces/hawser-system/configmaps/hawser-bridge";
const SECRETS: &str = "/api/v1/namespaces/hawser-system/secrets";

fn bridge() -> (&'static str, &'static str, u16, Value) {
    let data = json!({"publicKey": "ab".repeat(32), "hubUrl": "mqtts://hub.example:8883", "root": "hawser"});
    ("GET", BRIDGE, 200, json!({"metadata": {"name": "hawser-bridge"}, "data": data}))
}

fn device(name: &str, status: Value) -> Value {
    json!({"apiVersion": "hawser.dev/v1alpha1", "kind": "Device", "spec": {}, "status": status,
        "metadata": {"name": name, "uid": "u-1", "creationTimestamp": "2026-11-21T10:00:00Z"}})
}

fn joined(name: &str) -> Value {
    device(
        name,
        json!({"publicKey": "cd".repeat(32), "joinedAt": "2026-11-21T10:30:00Z", "agentVersion": "0.1.0",
        "architecture": "arm64", "lastSeen": "2026-11-21T11:56:48Z", "conditions": [{"type": "Ready", "status": "True",
        "reason": "Connected", "message": "heard", "lastTransitionTime": "2026-11-21T11:00:00Z"}]}),
    )
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-11-21T11:59:00Z"},
        "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}})
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
}

#[test]
fn the_command_line_is_sound() {
    Program::command().debug_assert();
}

#[tokio::test]
async fn adding_prints_the_command_that_joins() {
    let created = ("POST", DEVICES, 201, device("pi", json!({})));
    let (client, asked) = client(vec![bridge(), created, ("POST", SECRETS, 201, json!({}))]);
    let text = run(client, "x add pi --label site=b --taint none --token-ttl 5h", None).await.unwrap();
    let asked = asked.lock().unwrap();
    let device = &asked[1].2;
    assert_eq!(
        (&device["metadata"]["name"], &device["spec"]),
        (&json!("pi"), &json!({"labels": {"site": "b"}, "taints": []}))
    );
    let secret = &asked[2].2;
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(secret["type"], "hawser.dev/join-token");
    let secret = serde_json::from_value(secret.clone()).unwrap();
    let stored = crate::device::join_token::StoredToken::from_secret(&secret).unwrap();
    assert_eq!(stored.expires, "2026-11-21T17:00:00Z".parse().unwrap());
    let command = format!(
        "\n  hawser-agent join mqtts://hub.example:8883 --name pi --bridge-key {} --token {}\n",
        "ab".repeat(32),
        stored.token.to_text()
    );
    assert!(text.contains(&command), "{text}");
    assert!(text.contains("Within 5h"), "{text}");
}

#[tokio::test]
async fn adding_as_json_gives_the_parts() {
    let created = ("POST", DEVICES, 201, device("pi", json!({})));
    let (client, _) = client(vec![bridge(), created, ("POST", SECRETS, 201, json!({}))]);
    let text = run(client, "x add pi -o json", None).await.unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["name"], &value["root"]), (&json!("pi"), &json!("hawser")));
    assert!(value["command"].as_str().unwrap().ends_with(value["token"].as_str().unwrap()));
}

#[tokio::test]
async fn what_stands_in_the_way_of_adding_is_told_in_one_line() {
    let taken = failure(409, "AlreadyExists", "devices.hawser.dev \"pi\" already exists", "pi");
    let forbidden = failure(403, "Forbidden", "devices.hawser.dev is forbidden: User \"x\" cannot create", "");
    let unknown = failure(404, "NotFound", "the server could not find the requested resource", "");
    let created = ("POST", DEVICES, 201, device("pi", json!({})));
    let no_secret = failure(403, "Forbidden", "secrets is forbidden", "");
    for (answers, line, expected) in [
        (vec![], "x add pi", "no bridge has run there yet"),
        (
            vec![("GET", BRIDGE, 200, json!({"data": {}}))],
            "x add pi",
            "key `publicKey` of ConfigMap `hawser-bridge` is missing",
        ),
        (
            vec![bridge(), ("POST", DEVICES, 409, taken)],
            "x add pi",
            "there is a device `pi` already; choose another name",
        ),
        (vec![bridge(), ("POST", DEVICES, 403, forbidden)], "x add pi", "you may not (devices.hawser.dev is forbidden"),
        (vec![bridge(), ("POST", DEVICES, 404, unknown)], "x add pi", "hawser manifests all | kubectl apply"),
        (vec![bridge(), created, ("POST", SECRETS, 403, no_secret)], "x add pi", "hawser device add pi --renew"),
        (vec![bridge()], "x add pi --renew", "leave out --renew"),
        (vec![bridge(), ("GET", DEVICES, 200, joined("pi"))], "x add pi --renew", "add --reset-key"),
    ] {
        let (client, _) = client(answers);
        let error = run(client, line, None).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_bad_command_line_asks_nothing() {
    for line in [
        "x add Pi_4",
        "x add pi --label a",
        "x add pi --public-key 12",
        "x add pi --token-ttl 99d",
        "x add pi --reset-key",
        "x show /",
    ] {
        let (client, asked) = client(vec![]);
        assert!(run(client, line, None).await.is_err(), "{line}");
        assert!(asked.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn renewing_replaces_the_token_and_forgets_the_key_only_when_told() {
    let taken = failure(409, "AlreadyExists", "secrets already exists", "hawser-join-pi");
    let answers = vec![
        bridge(),
        ("GET", DEVICES, 200, joined("pi")),
        ("PATCH", DEVICES, 200, joined("pi")),
        ("POST", SECRETS, 409, taken),
        ("PUT", SECRETS, 200, json!({})),
    ];
    let (client, asked) = client(answers);
    let text = run(client, "x add pi --renew --reset-key", None).await.unwrap();
    assert!(text.contains("has a new join token"), "{text}");
    let asked = asked.lock().unwrap();
    let paths: Vec<_> =
        asked.iter().map(|(method, path, _)| format!("{method} {}", path.split('?').next().unwrap())).collect();
    assert_eq!(paths[2], format!("PATCH {DEVICES}/pi/status"));
    assert_eq!(asked[2].2, json!({"status": {"publicKey": null, "joinedAt": null}}));
    assert_eq!(paths[4], format!("PUT {SECRETS}/hawser-join-pi"));
    assert_eq!(paths.len(), 5);
}

#[tokio::test]
async fn the_list_aligns_and_counts_pods() {
    let devices = list(vec![joined("pi-long-name"), device("new", json!({}))]);
    let pods = list(vec![pod("a", "pi-long-name"), pod("b", "pi-long-name"), pod("c", "elsewhere")]);
    let (client, _) = client(vec![("GET", DEVICES, 200, devices), ("GET", "/api/v1/pods", 200, pods)]);
    let text = run(client, "x list", None).await.unwrap();
    let expected = "\
NAME           READY       AGENT   ARCH    LAST SEEN   PODS   AGE
pi-long-name   True        0.1.0   arm64   3m12s ago   2      120m
new            NotJoined   -       -       never       0      120m
";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn who_may_not_list_pods_still_sees_devices() {
    let forbidden = failure(403, "Forbidden", "pods is forbidden", "");
    let answers = vec![("GET", DEVICES, 200, list(vec![joined("pi")])), ("GET", "/api/v1/pods", 403, forbidden)];
    let (client, _) = client(answers);
    let value: Value = serde_json::from_str(&run(client, "x list -o json", None).await.unwrap()).unwrap();
    assert_eq!((&value[0]["name"], &value[0]["pods"]), (&json!("pi"), &Value::Null));
}

#[tokio::test]
async fn an_empty_list_says_what_to_do() {
    let (client, _) = client(vec![("GET", DEVICES, 200, list(vec![])), ("GET", "/api/v1/pods", 200, list(vec![]))]);
    assert!(run(client, "x list", None).await.unwrap().contains("hawser device add"));
}

#[tokio::test]
async fn one_device_is_shown_with_all_that_is_known() {
    let answers = vec![("GET", DEVICES, 200, joined("pi")), ("GET", "/api/v1/pods", 200, list(vec![pod("a", "pi")]))];
    let (client, asked) = client(answers);
    let text = run(client, "x show pi", None).await.unwrap();
    for expected in [
        "Joined      90m ago",
        &"cd".repeat(32),
        "none, and none is needed",
        "Ready   True     60m",
        "default     a      Running   60s",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(asked.lock().unwrap().iter().any(|(_, path, _)| path.contains("spec.nodeName%3Dpi")));
}

#[tokio::test]
async fn an_expired_token_is_told() {
    let stored = crate::device::join_token::StoredToken {
        token: hawser_wire::token::JoinToken { id: hawser_wire::TokenId([1; 8]), secret: [2; 32] },
        expires: "2026-11-21T11:59:00Z".parse().unwrap(),
    };
    let id = hawser_wire::DeviceId::new("pi").unwrap();
    let secret = serde_json::to_value(stored.to_secret("hawser-system", &id)).unwrap();
    let answers = vec![
        ("GET", DEVICES, 200, device("pi", json!({}))),
        ("GET", SECRETS, 200, secret),
        ("GET", "/api/v1/pods", 200, list(vec![])),
    ];
    let (client, _) = client(answers);
    let text = run(client, "x show pi", None).await.unwrap();
    assert!(text.contains("expired 60s ago; make a new one with `hawser device add pi --renew`"), "{text}");
    assert!(!text.contains("0202"), "the secret is shown: {text}");
}

#[tokio::test]
async fn removing_asks_first_and_removes_what_was_shown() {
    let answers = || {
        vec![
            ("GET", DEVICES, 200, joined("pi")),
            ("GET", "/api/v1/pods", 200, list(vec![pod("a", "pi"), pod("b", "pi")])),
            ("DELETE", DEVICES, 200, joined("pi")),
        ]
    };
    for (line, answer, removed) in [
        ("x remove pi", Some("y\n"), true),
        ("x remove pi --yes", None, true),
        ("x remove pi", Some("n\n"), false),
        ("x remove pi", Some("\n"), false),
    ] {
        let (client, asked) = client(answers());
        let text = run(client, line, answer).await.unwrap();
        assert_eq!(text.contains("is removed"), removed, "{text}");
        assert_eq!(text.contains("2 pods are bound to it"), !line.contains("--yes"), "{text}");
        let asked = asked.lock().unwrap();
        let deletion = asked.iter().find(|(method, ..)| method == "DELETE");
        assert_eq!(deletion.is_some(), removed);
        if let Some((_, _, body)) = deletion {
            assert_eq!(body["preconditions"]["uid"], "u-1");
        }
    }
    let (client, asked) = client(answers());
    assert!(run(client, "x remove pi", None).await.unwrap_err().contains("pass --yes"));
    assert!(asked.lock().unwrap().iter().all(|(method, ..)| method != "DELETE"));
}

#[tokio::test]
async fn a_device_that_is_not_there_is_named() {
    for line in ["x show pi", "x remove pi --yes"] {
        let (client, _) = client(vec![]);
        assert!(run(client, line, None).await.unwrap_err().contains("there is no device `pi`"));
    }
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    for text in [None, Some("not: [a kubeconfig"), Some("apiVersion: v1\nkind: Config\n")] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let line = format!("x list --kubeconfig {}", file.display());
        let DeviceCommand::List(list) = Program::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!()
        };
        let error = reach::client(&list.place).await.err().map(|error| error.to_string()).unwrap();
        assert!(error.contains(&file.display().to_string()) && error.contains("--kubeconfig"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[tokio::test]
async fn an_api_server_that_is_not_there_is_told() {
    let service = tower::service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused"))
    });
    let error = run(Client::new(service, "default"), "x list", None).await.unwrap_err();
    assert!(error.contains("connection refused") && error.contains("kubectl version"), "{error}");
}
