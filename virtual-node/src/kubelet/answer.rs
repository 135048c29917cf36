//! A request, from who sends it to the answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::auth::User;
use super::route::{self, NoRoute, Route, Target};
use super::serve::{Found, Server, Session};
use super::session::Patience;
use super::{exec, forward, logs, spdy, stats};
use crate::ids::{NodeName, PodRef};
use crate::provider::Provider;
use crate::provider::streams::StreamError;
use crate::{api, clock};

pub(crate) type Response = http::Response<UnsyncBoxBody<Bytes, io::Error>>;

/// An answer that is not what was asked for. The text is for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), header: None }
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    fn response(self) -> Response {
        let mut response = whole(self.status, "text/plain; charset=utf-8", Bytes::from(self.text));
        response.headers_mut().extend(self.header);
        response
    }
}

/// What a verb about a pod needs.
pub(crate) struct Ask<P> {
    pub(crate) provider: Arc<P>,
    pub(crate) node: NodeName,
    pub(crate) pod: PodRef,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) patience: Patience,
    limit: Duration,
}

impl<P> Ask<P> {
    /// Makes the provider answer in time.
    pub(crate) async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, StreamError>>,
    ) -> Result<T, StreamError> {
        limited(self.limit, call).await
    }
}

async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T, StreamError>>) -> Result<T, StreamError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(spdy::no_answer(limit)))
}

/// Answers. After an upgrade the session goes on where the answer ends. `node` is whose port the request came to.
pub(crate) async fn answer<P: Provider>(
    server: &Server<P>,
    certified: Option<&User>,
    node: Option<&NodeName>,
    request: Request<Incoming>,
) -> (Response, Option<Session>) {
    let route = Route::of(request.method(), request.uri().path());
    let verb = route.as_ref().map_or("other", Route::verb);
    let (response, session) = match checked(server, certified, node, route, request).await {
        Ok(answer) => answer,
        Err(refusal) => (refusal.response(), None),
    };
    server.metrics.kubelet_request(verb, response.status().as_u16());
    (response, session)
}

async fn checked<P: Provider>(
    server: &Server<P>,
    certified: Option<&User>,
    node: Option<&NodeName>,
    route: Result<Route, NoRoute>,
    request: Request<Incoming>,
) -> Result<(Response, Option<Session>), Refusal> {
    let user = server.auth.authenticate(certified, request.headers()).await?;
    let query = route::query(request.uri().query());
    let target = route.as_ref().ok().and_then(Route::target).cloned();
    let found = match &target {
        Some(target) => server.lookup.find(target).await.filter(|found| node.is_none_or(|node| *node == found.node)),
        None => None,
    };
    // A right is for a node. Who asks for a pod that there is not learns so if they may ask about any node.
    let named = route::value(&query, "node").and_then(|name| NodeName::new(name).ok());
    let about = found.as_ref().map(|found| &found.node).or(node).or(named.as_ref().filter(|_| target.is_none()));
    let path = request.uri().path();
    let verb = route::api_verb(request.method());
    server.auth.authorize(&user, verb, route::subresources(path), about).await?;

    let route = route.map_err(|none| match none {
        NoRoute::NotFound => Refusal::new(StatusCode::NOT_FOUND, "404: Page Not Found"),
        NoRoute::Method(methods) => Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            .with_header(header::ALLOW, HeaderValue::from_static(methods)),
    })?;
    match (route, target) {
        (Route::Healthz, _) => Ok((whole(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from("ok")), None)),
        (route, None) => {
            let node = about.ok_or_else(which_node)?;
            of_node(server, &route, node).await.map(|response| (response, None))
        }
        (route, Some(target)) => {
            let found = found.ok_or_else(|| no_pod(&route, &target))?;
            let Found { node, pod, containers } = found;
            let named = route == Route::PortForward(target.clone()) || containers.contains(&target.container);
            if !named {
                return Err(no_container(&route, &target));
            }
            let (provider, limit) = (Arc::clone(&server.provider), server.limit);
            let ask = Ask { provider, node, pod, query, patience: server.patience, limit };
            of_pod(ask, route, target, request).await
        }
    }
}

async fn of_pod<P: Provider>(
    ask: Ask<P>,
    route: Route,
    target: Target,
    request: Request<Incoming>,
) -> Result<(Response, Option<Session>), Refusal> {
    let container = target.container;
    match route {
        Route::Logs(_) => {
            let options = logs::options(&ask.query, clock::wall())?;
            let opening = ask.provider.logs(&ask.node, &ask.pod, &container, options);
            // API servers hand on the text of these two codes, and of no other.
            let log = ask.limited(opening).await.map_err(|error| match &error {
                StreamError::NotFound(_) | StreamError::NotPossible(_) | StreamError::NotSupported(_) => {
                    Refusal::new(StatusCode::BAD_REQUEST, error.to_string())
                }
                _ => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            })?;
            Ok((logs::response(log), None))
        }
        Route::Exec(_) => exec::stream(ask, container, true, request).map(|(answer, session)| (answer, Some(session))),
        Route::Attach(_) => {
            exec::stream(ask, container, false, request).map(|(answer, session)| (answer, Some(session)))
        }
        Route::PortForward(_) => forward::stream(ask, request).map(|(answer, session)| (answer, Some(session))),
        Route::Run(_) => exec::run(ask, container).await.map(|answer| (answer, None)),
        _ => {
            let text = format!("checkpointing of {}/{container} failed (this node cannot checkpoint)", ask.pod);
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

async fn of_node<P: Provider>(server: &Server<P>, route: &Route, node: &NodeName) -> Result<Response, Refusal> {
    let measured = || async { limited(server.limit, server.provider.stats(node)).await };
    let failed = |error: StreamError| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let metrics = |text: String| whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(text));
    match route {
        Route::Pods => Ok(json_value(&pods(server, node, Clone::clone).await?)),
        Route::RunningPods => Ok(json_value(&pods(server, node, running).await?)),
        Route::Summary => Ok(json_value(&stats::summary(node, &measured().await.map_err(failed)?, clock::wall()))),
        Route::ResourceMetrics => Ok(metrics(stats::resource_metrics(measured().await.ok().as_ref()))),
        _ => Ok(metrics(stats::cadvisor_metrics(&measured().await.map_err(failed)?))),
    }
}

/// The pods of a node, from the API server: what is kept here is less than a pod.
async fn pods<P>(server: &Server<P>, node: &NodeName, of: fn(&Value) -> Value) -> Result<Value, Refusal> {
    let all: Api<Pod> = Api::all(server.client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let list = api::call(all.list(&params)).await;
    let list = list.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let values = list.items.iter().filter_map(|pod| serde_json::to_value(pod).ok());
    let items: Vec<Value> = values.map(|pod| of(&pod)).filter(|pod| !pod.is_null()).collect();
    Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// What a runtime would know of a pod; null if nothing of it runs.
fn running(pod: &Value) -> Value {
    let statuses = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let statuses = statuses.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    let containers: Vec<Value> = statuses
        .filter(|status| !status["state"]["running"].is_null())
        .map(|status| json!({"name": status["name"], "image": status["image"], "resources": {}}))
        .collect();
    if containers.is_empty() {
        return Value::Null;
    }
    let meta = &pod["metadata"];
    json!({
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"], "creationTimestamp": null},
        "spec": {"containers": containers},
        "status": {},
    })
}

fn which_node() -> Refusal {
    let text = "this port serves many nodes: say which with ?node=NAME, or give each node a port of its own";
    Refusal::new(StatusCode::NOT_FOUND, text)
}

fn no_pod(route: &Route, target: &Target) -> Refusal {
    let text = match (route, &target.uid) {
        (Route::Logs(_), _) => format!("pod {:?} does not exist", target.pod),
        (_, Some(_)) => "pod not found".to_owned(),
        (_, None) => "pod does not exist".to_owned(),
    };
    Refusal::new(StatusCode::NOT_FOUND, text)
}

fn no_container(route: &Route, target: &Target) -> Refusal {
    let Target { pod, container, .. } = target;
    match route {
        Route::Logs(_) => {
            Refusal::new(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}"))
        }
        Route::Checkpoint(_) => Refusal::new(StatusCode::NOT_FOUND, format!("container {container} does not exist")),
        _ => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})")),
    }
}

fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response {
    let mut response = http::Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A proxy hands this to browsers; they must not guess what it is.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(crate) fn json_bytes(bytes: Bytes) -> Response {
    whole(StatusCode::OK, "application/json", bytes)
}

fn json_value(value: &Value) -> Response {
    json_bytes(Bytes::from(value.to_string()))
}

pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = http::Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

pub(crate) fn streamed(pieces: impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> Response {
    let mut response = http::Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
