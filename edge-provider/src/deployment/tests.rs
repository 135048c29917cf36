//! `prepare` against an API server of a few lines: what it is asked, how often, and what becomes of its answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hawser_wire::deployment::{Ask, Content, EdgeDeployment, EnvValue, VolumeSource};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// An API server that holds objects by path, counts requests, and can be told to answer something else.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    asked: Vec<String>,
    tokens: usize,
    last_token: Value,
    /// What every request is answered.
    fault: Option<u16>,
    /// Answers nothing at version 0, as a memory that lags behind.
    lags: bool,
}

impl Server {
    fn put(&self, kind: &str, name: &str, object: Value) {
        self.state.lock().unwrap().objects.insert(format!("/api/v1/namespaces/shop/{kind}/{name}"), object);
    }

    /// An object that belongs to the cluster, or to another group.
    fn put_at(&self, path: &str, object: Value) {
        self.state.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    fn remove(&self, kind: &str, name: &str) {
        self.state.lock().unwrap().objects.remove(&format!("/api/v1/namespaces/shop/{kind}/{name}"));
    }

    fn fail(&self, fault: Option<u16>) {
        self.state.lock().unwrap().fault = fault;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    fn references(&self) -> References {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await?.to_bytes();
                let body = serde_json::from_slice(&bytes).unwrap_or_default();
                // Others get their turn, as with a real request.
                tokio::task::yield_now().await;
                let (code, answer) = server.answer(parts.method.as_str(), &parts.uri.to_string(), body);
                let body = Body::from(serde_json::to_vec(&answer)?);
                Ok::<_, anyhow::Error>(Response::builder().status(code).body(body)?)
            }
        });
        References::new(Client::new(service, "default"), Services::these(&[]), ReferencesConfig::default())
    }

    fn answer(&self, method: &str, uri: &str, body: Value) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        // The client separates with more question marks and ampersands than needed.
        state.asked.push(format!("{method} {}", uri.replace("?&", "?").trim_end_matches('?')));
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        if let Some(code) = state.fault {
            return (code, status(code, "the server is having a bad day"));
        }
        if method == "POST" && path.ends_with("/token") {
            state.tokens += 1;
            let token = format!("token {}", state.tokens);
            let seconds = body["spec"]["expirationSeconds"].clone();
            state.last_token = body;
            let status = json!({"token": token, "expirationTimestamp": "2026-11-21T12:00:00Z"});
            return (
                201,
                json!({"metadata": {}, "spec": {"audiences": [], "expirationSeconds": seconds}, "status": status}),
            );
        }
        match state.objects.get(path) {
            Some(object) if !(state.lags && query.contains("resourceVersion=0")) => (200, object.clone()),
            _ => (404, status(404, "not found")),
        }
    }
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": "Reason",
        "message": message, "details": {"name": "x", "kind": "y"}})
}

fn pod(uid: &str, spec: Value) -> Pod {
    let metadata = json!({"name": "web", "namespace": "shop", "uid": uid});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn reading_settings(uid: &str) -> Pod {
    let from = json!([{"configMapRef": {"name": "settings"}}]);
    pod(uid, json!({"containers": [{"name": "main", "image": "host", "envFrom": from}]}))
}

fn with_token(uid: &str, seconds: u64) -> Pod {
    let token = json!({"path": "token", "audience": "vault", "expirationSeconds": seconds});
    pod(
        uid,
        json!({
            "serviceAccountName": "robot",
            "containers": [{"name": "main", "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
            "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": token}]}}],
        }),
    )
}

fn decoded(prepared: &Prepared) -> EdgeDeployment {
    let bytes = &prepared.deployment.bytes;
    assert_eq!(prepared.deployment.reference.hash, ContentHash::of(bytes));
    hawser_wire::decode(bytes, MAX_OBJECT as usize).unwrap().value
}

fn color(prepared: &Prepared) -> EnvValue {
    decoded(prepared).containers[0].env[0].value.clone()
}

fn red() -> Value {
    json!({"metadata": {"name": "settings"}, "data": {"COLOR": "red"}})
}

fn literal(text: &str) -> EnvValue {
    EnvValue::Literal(text.to_owned())
}

const READ: &str = "GET /api/v1/namespaces/shop/configmaps/settings?resourceVersion=0";

#[tokio::test(start_paused = true)]
async fn thousand_pods_that_share_a_config_map_cost_one_request() {
    let server = Server::default();
    server.put("configmaps", "settings", red());
    let references = server.references();
    let pods: Vec<_> = (0..1000).map(|at| reading_settings(&format!("uid-{at}"))).collect();
    let prepared = futures::future::join_all(pods.iter().map(|pod| prepare(&references, pod))).await;
    for prepared in prepared {
        assert_eq!(color(&prepared.unwrap()), literal("red"));
    }
    assert_eq!(server.asked(), [READ]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_when_the_copy_is_old() {
    let server = Server::default();
    server.put("configmaps", "settings", red());
    let references = server.references();
    let pod = reading_settings("uid");
    let first = prepare(&references, &pod).await.unwrap();
    let refresh = references.config().refresh;
    assert!(first.again.is_some_and(|again| again >= refresh * 3 / 4 && again < refresh * 5 / 4), "{:?}", first.again);
    server.put("configmaps", "settings", json!({"data": {"COLOR": "blue"}}));
    assert_eq!(prepare(&references, &pod).await.unwrap(), first);
    tokio::time::advance(references.config().keep).await;
    assert_eq!(color(&prepare(&references, &pod).await.unwrap()), literal("blue"));
}

#[tokio::test(start_paused = true)]
async fn one_changed_key_moves_one_blob() {
    let server = Server::default();
    let map = |a: &str, b: &str| json!({"data": {"a": a.repeat(1000), "b": b.repeat(1000)}});
    server.put("configmaps", "settings", map("x", "y"));
    let references = server.references();
    let pod = pod(
        "uid",
        json!({
            "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "settings"}}],
        }),
    );
    let before = prepare(&references, &pod).await.unwrap();
    server.put("configmaps", "settings", map("x", "z"));
    tokio::time::advance(references.config().keep).await;
    let after = prepare(&references, &pod).await.unwrap();
    assert_eq!(after.blobs.len(), 2);
    assert_eq!(after.blobs.iter().filter(|blob| !before.blobs.contains(blob)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_config_map_that_is_missing_is_found_soon_after_it_came() {
    let server = Server::default();
    let references = server.references();
    let pod = reading_settings("uid");
    let missing = prepare(&references, &pod).await;
    assert!(
        matches!(&missing, Err(NotApplied::Waiting(waiting)) if waiting.event_message == "Error: configmap \"settings\" not found")
    );
    server.put("configmaps", "settings", red());
    tokio::time::advance(references.config().keep_failure).await;
    assert!(prepare(&references, &pod).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_the_servers_memory_lacks_is_looked_for_in_its_store() {
    let server = Server::default();
    server.state.lock().unwrap().lags = true;
    server.put("configmaps", "settings", red());
    assert!(prepare(&server.references(), &reading_settings("uid")).await.is_ok());
    assert_eq!(server.asked(), [READ, "GET /api/v1/namespaces/shop/configmaps/settings"]);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_told_in_the_servers_words() {
    let server = Server::default();
    server.fail(Some(403));
    match prepare(&server.references(), &reading_settings("uid")).await {
        Err(NotApplied::Waiting(waiting)) => {
            assert_eq!(waiting.containers[0].message, "the server is having a bad day");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_in_trouble_is_no_missing_config_map_and_is_not_asked_by_every_pod() {
    let server = Server::default();
    server.fail(Some(400));
    let references = server.references();
    let pods: Vec<_> = (0..100).map(|at| reading_settings(&format!("uid-{at}"))).collect();
    for prepared in futures::future::join_all(pods.iter().map(|pod| prepare(&references, pod))).await {
        let Err(NotApplied::Unavailable { message }) = prepared else { panic!("{prepared:?}") };
        assert_eq!(message, "reading ConfigMap shop/settings: the API server says 400: the server is having a bad day");
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let service = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, anyhow::Error>>());
    let services = Services::these(&[]);
    let references = References::new(Client::new(service, "default"), services, ReferencesConfig::default());
    let Err(NotApplied::Unavailable { message }) = prepare(&references, &reading_settings("uid")).await else {
        panic!()
    };
    assert!(message.ends_with("no answer from the API server within 10 s"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_refers_to_nothing_asks_nothing_and_is_not_looked_at_again() {
    let server = Server::default();
    let plain = pod("uid", json!({"containers": [{"name": "main"}]}));
    assert_eq!(prepare(&server.references(), &plain).await.unwrap().again, None);
    assert!(server.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_field_that_a_device_cannot_honour_is_refused_before_anything_is_asked() {
    let server = Server::default();
    let blocks = pod(
        "uid",
        json!({"containers": [{"name": "main", "volumeDevices": [{}], "envFrom": [{"configMapRef": {"name": "settings"}}]}]}),
    );
    let Err(NotApplied::Refused { reason, message }) = prepare(&server.references(), &blocks).await else { panic!() };
    assert_eq!(reason, "UnsupportedField");
    assert_eq!(
        message,
        "spec.containers[0].volumeDevices: a device does not hand block devices to workloads by claims: mount the disk on \
         the device and use a local volume, or a hostPath of type BlockDevice in a privileged container"
    );
    assert!(server.asked().is_empty());
}

fn token(prepared: &Prepared) -> Vec<u8> {
    let VolumeSource::Files(files) = decoded(prepared).volumes.remove(0).source else { panic!() };
    assert!(files.secret);
    let Content::Inline(bytes) = files.entries[0].content.clone() else { panic!() };
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_token_is_bound_to_its_pod_and_rotated_in_time() {
    let server = Server::default();
    let references = server.references();
    let pod = with_token("uid", 600);
    let first = prepare(&references, &pod).await.unwrap();
    assert_eq!(token(&first), b"token 1");
    assert_eq!(first.again, Some(Duration::from_secs(480)));
    assert_eq!(server.asked(), ["POST /api/v1/namespaces/shop/serviceaccounts/robot/token"]);
    let request = server.state.lock().unwrap().last_token["spec"].clone();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid"});
    assert_eq!(request, json!({"audiences": ["vault"], "expirationSeconds": 600, "boundObjectRef": bound}));

    tokio::time::advance(Duration::from_secs(479)).await;
    assert_eq!(token(&prepare(&references, &pod).await.unwrap()), b"token 1");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(token(&prepare(&references, &pod).await.unwrap()), b"token 2");
    assert_eq!(token(&prepare(&references, &with_token("other", 600)).await.unwrap()), b"token 3");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_rotated_serves_until_its_end() {
    let server = Server::default();
    let references = server.references();
    let pod = with_token("uid", 600);
    prepare(&references, &pod).await.unwrap();
    server.fail(Some(400));
    tokio::time::advance(Duration::from_secs(599)).await;
    let old = prepare(&references, &pod).await.unwrap();
    assert_eq!(token(&old), b"token 1");
    assert_eq!(old.again, Some(ROTATION_RETRY));
    tokio::time::advance(Duration::from_secs(1)).await;
    let Err(NotApplied::Waiting(waiting)) = prepare(&references, &pod).await else { panic!() };
    assert_eq!(
        waiting.event_message,
        "MountVolume.SetUp failed for volume \"t\" : failed to fetch token: the server is having a bad day"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_but_never_stops_a_pod_that_has_begun() {
    let server = Server::default();
    let names: Vec<_> = (0..5).map(|at| format!("map-{at}")).collect();
    for (at, name) in names.iter().enumerate() {
        server.put("configmaps", name, json!({"data": {"big": at.to_string().repeat(1 << 20)}}));
    }
    let volumes: Vec<_> = names.iter().map(|name| json!({"name": name, "configMap": {"name": name}})).collect();
    let mounts: Vec<_> = names.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
    let mut pod = pod("uid", json!({"containers": [{"name": "main", "volumeMounts": mounts}], "volumes": volumes}));
    let references = server.references();
    let Err(NotApplied::Refused { reason, message }) = prepare(&references, &pod).await else { panic!() };
    assert_eq!(reason, "TooLarge");
    assert!(message.contains("and a device takes 4194304"), "{message}");
    let ran = json!([{"name": "init", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0}}}]);
    for status in [json!({"phase": "Running"}), json!({"phase": "Pending", "initContainerStatuses": ran})] {
        pod.status = serde_json::from_value(status).unwrap();
        assert!(matches!(prepare(&references, &pod).await, Err(NotApplied::Waiting(_))));
    }
    server.remove("configmaps", "map-0");
    tokio::time::advance(references.config().keep).await;
    assert!(matches!(prepare(&references, &pod).await, Err(NotApplied::Waiting(_))));
}

fn claiming(uid: &str) -> Pod {
    pod(
        uid,
        json!({
            "nodeName": "gw-1", "runtimeClassName": "sandboxed",
            "containers": [{"name": "main", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}],
        }),
    )
}

fn data(phase: &str) -> Value {
    json!({"metadata": {"name": "data", "uid": "claim-1"}, "spec": {"volumeName": "disk"}, "status": {"phase": phase}})
}

#[tokio::test(start_paused = true)]
async fn a_claim_leads_to_its_volume_and_that_to_the_node() {
    let server = Server::default();
    server.put("persistentvolumeclaims", "data", data("Bound"));
    let terms =
        json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gw-1"]}]}]);
    let spec = json!({"claimRef": {"uid": "claim-1"}, "local": {"path": "/mnt/data"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}});
    server.put_at("/api/v1/persistentvolumes/disk", json!({"metadata": {"name": "disk"}, "spec": spec}));
    let labels = json!({"kubernetes.io/hostname": "gw-1"});
    server.put_at("/api/v1/nodes/gw-1", json!({"metadata": {"name": "gw-1", "labels": labels}}));
    let class = json!({"metadata": {"name": "sandboxed"}, "handler": "kata"});
    server.put_at("/apis/node.k8s.io/v1/runtimeclasses/sandboxed", class);

    let references = server.references();
    let prepared = prepare(&references, &claiming("uid")).await.unwrap();
    let deployment = decoded(&prepared);
    let VolumeSource::HostPath(path) = &deployment.volumes[0].source else { panic!() };
    assert_eq!((path.path.as_str(), path.of_group), ("/mnt/data", true));
    assert_eq!(deployment.engine.unwrap().asks, [Ask::Handler("kata".to_owned())]);
    assert!(prepared.again.is_some(), "what it refers to may change");
    let mut asked = server.asked();
    asked.sort();
    let expected = [
        "GET /api/v1/namespaces/shop/persistentvolumeclaims/data?resourceVersion=0",
        "GET /api/v1/nodes/gw-1?resourceVersion=0",
        "GET /api/v1/persistentvolumes/disk?resourceVersion=0",
        "GET /apis/node.k8s.io/v1/runtimeclasses/sandboxed?resourceVersion=0",
    ];
    assert_eq!(asked, expected);
    prepare(&references, &claiming("uid-2")).await.unwrap();
    assert!(server.asked().is_empty(), "it serves all pods");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_bound_is_looked_at_again_soon() {
    let server = Server::default();
    server.put("persistentvolumeclaims", "data", data("Pending"));
    let references = server.references();
    let waiting = async || match prepare(&references, &claiming("uid")).await {
        Err(NotApplied::Waiting(waiting)) => waiting.event_message,
        other => panic!("{other:?}"),
    };
    assert!(waiting().await.ends_with("error processing PVC shop/data: PVC is not bound"));
    server.put("persistentvolumeclaims", "data", data("Bound"));
    tokio::time::advance(references.config().keep_failure).await;
    assert!(waiting().await.ends_with("failed to fetch PV disk from API server: persistentvolumes \"disk\" not found"));
}

fn bound(uid: &str, more: Value) -> Pod {
    let mut spec = json!({"nodeName": "gw-1", "containers": [{"name": "main", "image": "host"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pod(uid, spec)
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_for_its_node_is_rejected_in_a_kubelets_words() {
    let server = Server::default();
    let taints = json!([{"key": "repair", "effect": "NoExecute"}]);
    let node = |labels: Value, taints: &Value| json!({"metadata": {"name": "gw-1", "labels": labels}, "spec": {"taints": taints}});
    server.put_at("/api/v1/nodes/gw-1", node(json!({"site": "7"}), &taints));
    let references = server.references();
    let rejected = async |pod: &Pod| match prepare(&references, pod).await {
        Err(NotApplied::Refused { reason, message }) => format!("{reason}: {message}"),
        other => panic!("{other:?}"),
    };
    let elsewhere = bound("a", json!({"nodeSelector": {"site": "8"}}));
    assert_eq!(
        rejected(&elsewhere).await,
        "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    );
    assert_eq!(
        rejected(&bound("b", json!({"nodeSelector": {"site": "7"}}))).await,
        "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
    );
    let tolerant = json!({"tolerations": [{"operator": "Exists"}]});
    prepare(&references, &bound("c", tolerant)).await.unwrap();

    let mut running = elsewhere.clone();
    running.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
    server.asked();
    prepare(&references, &running).await.expect("what has begun goes on");
    assert!(server.asked().is_empty(), "and nobody asks");
}

#[tokio::test(start_paused = true)]
async fn a_label_that_came_with_the_pod_counts_and_a_node_that_cannot_be_read_rejects_nobody() {
    let server = Server::default();
    let node = |labels: Value| json!({"metadata": {"name": "gw-1", "labels": labels}});
    server.put_at("/api/v1/nodes/gw-1", node(json!({})));
    let references = server.references();
    prepare(&references, &bound("a", json!({}))).await.unwrap();
    // It is kept for a while without the label.
    server.put_at("/api/v1/nodes/gw-1", node(json!({"site": "7"})));
    prepare(&references, &bound("b", json!({"nodeSelector": {"site": "7"}}))).await.unwrap();
    for server in [Server::default(), forbidding()] {
        prepare(&server.references(), &bound("c", json!({"nodeSelector": {"site": "7"}}))).await.unwrap();
    }
}

fn forbidding() -> Server {
    let server = Server::default();
    server.fail(Some(403));
    server
}
