//! Passing requests on to a kubelet, and its answers back.
//!
//! Each request has a connection of its own, whose task ends when the answer has been read, when the client is gone (its
//! end of the answer is dropped) and when the server stops.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::dial::{dial, words};
use super::endpoint::Endpoint;
use super::head::{after_proxy, drop_hops, forwarded, keep_host, wants_upgrade};
use crate::http::reply::{self, Body};
use crate::refusal::Refusal;
use crate::server::Shared;

/// The most that is read of an answer that only says why not.
const MAX_REASON: usize = 50_000;
/// How long a kubelet may take to say why not.
const REASON: Duration = Duration::from_secs(10);
/// How long the two ends may take to hear that it is over.
const FAREWELL: Duration = Duration::from_secs(1);
const BUFFER: usize = 32 * 1024;

/// A connection to a kubelet, for one request. Dropping it closes the connection.
struct Connection<B> {
    sender: SendRequest<B>,
    held: Held,
}

/// What keeps a connection open.
struct Held {
    _task: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
}

/// Why a kubelet was not reached.
enum Unreached {
    TooMany(Refusal),
    Failed(String),
}

impl Unreached {
    fn refusal(self, how: impl FnOnce(String) -> Refusal) -> Refusal {
        match self {
            Self::TooMany(refusal) => refusal,
            Self::Failed(words) => how(words),
        }
    }
}

async fn connect<B>(shared: &Shared, endpoint: &Endpoint) -> Result<Connection<B>, Unreached>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kubelets = &shared.kubelets;
    let too_many = |_| Unreached::TooMany(Refusal::too_many("too many connections to kubelets", 1));
    let place = kubelets.places.clone().try_acquire_owned().map_err(too_many)?;
    let stream = dial(&kubelets.connector, endpoint).await.map_err(Unreached::Failed)?;
    let greeted = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = greeted.map_err(|error| Unreached::Failed(heard(&error)))?;
    let task = kubelets.connections.spawn(async move {
        // Whoever waits for the answer is told the same.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a kubelet ended badly");
        }
    });
    Ok(Connection { sender, held: Held { _task: AbortOnDropHandle::new(task), _place: place } })
}

/// Why there was no answer, in the words of the real server.
fn heard(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() {
        return "EOF".to_owned();
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<std::io::Error>() {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return "EOF".to_owned();
            }
            return format!("read: {}", words(error));
        }
        cause = inner.source();
    }
    error.to_string()
}

/// The answer for a pod that runs nowhere: nothing.
pub(super) fn nothing() -> Response<Body> {
    let mut response = Response::new(reply::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A container's log, as it comes.
pub(super) async fn log(
    shared: &Shared,
    endpoint: &Endpoint,
    path: &str,
    pod: &str,
) -> Result<Response<Body>, Refusal> {
    let failed =
        |words: String| Refusal::unclassified(format!("Get \"https://{}{path}\": {words}", endpoint.authority()));
    let Connection { mut sender, held } =
        connect::<Empty<Bytes>>(shared, endpoint).await.map_err(|e| e.refusal(failed))?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = local(path)?;
    let authority = HeaderValue::from_str(&endpoint.authority());
    request.headers_mut().insert(header::HOST, authority.map_err(|error| failed(error.to_string()))?);
    let response = sender.send_request(request).await.map_err(|error| failed(heard(&error)))?;
    if !(200..=206).contains(&response.status().as_u16()) {
        return Err(refused_log(response, pod).await);
    }
    // A log that breaks off just ends, as that of the real server does.
    let body = held_body(response.into_body(), held, shared.stop.clone(), Broken::Ends);
    let mut response = reply::stream(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

async fn refused_log(response: Response<Incoming>, pod: &str) -> Refusal {
    let status = response.status().as_u16();
    let body = tokio::time::timeout(REASON, Limited::new(response.into_body(), MAX_REASON).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Refusal::internal(error.to_string()),
        Err(_) => return Refusal::internal("the kubelet does not say why not"),
    };
    Refusal::of_kubelet(status, &String::from_utf8_lossy(&body), "pods/log", pod)
}

/// Any request to a node's kubelet.
pub(super) async fn node(
    shared: &Shared,
    endpoint: &Endpoint,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let uri = request.uri().clone();
    let rest = after_proxy(uri.path());
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) && !wants_upgrade(request.headers()) {
        return redirect(&uri);
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let path = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    if wants_upgrade(request.headers()) {
        return upgrade(shared, endpoint, &path, request).await;
    }
    let failed =
        |words: String| Refusal::new(503, "ServiceUnavailable", format!("error trying to reach service: {words}"));
    let Connection { mut sender, held } = connect(shared, endpoint).await.map_err(|e| e.refusal(failed))?;
    keep_host(&mut request);
    let (mut head, body) = request.into_parts();
    forwarded(&mut head);
    drop_hops(&mut head.headers);
    if let Ok(own) = HeaderValue::from_str(uri.path()) {
        head.headers.insert(HeaderName::from_static("x-forwarded-uri"), own);
    }
    head.uri = local(&path)?;
    head.version = Version::HTTP_11;
    let response = sender.send_request(Request::from_parts(head, body)).await.map_err(|error| failed(heard(&error)))?;
    let (mut head, body) = response.into_parts();
    drop_hops(&mut head.headers);
    let mut response = Response::new(held_body(body, held, shared.stop.clone(), Broken::Breaks));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// A request whose connection then speaks another protocol.
pub(super) async fn upgrade(
    shared: &Shared,
    endpoint: &Endpoint,
    path: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !wants_upgrade(request.headers()) {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let client = hyper::upgrade::on(&mut request);
    keep_host(&mut request);
    let (mut head, _) = request.into_parts();
    forwarded(&mut head);
    // Such a request has no body that anybody waits for.
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.remove(header::TRANSFER_ENCODING);
    head.uri = local(path)?;
    let failed = |words: String| Refusal::unclassified(format!("error dialing backend: {words}"));
    let Connection { mut sender, held } =
        connect::<Empty<Bytes>>(shared, endpoint).await.map_err(|e| e.refusal(failed))?;
    let response = sender.send_request(Request::from_parts(head, Empty::new())).await;
    let mut response = response.map_err(|error| match heard(&error).as_str() {
        "EOF" => Refusal::unclassified("unexpected EOF"),
        other => Refusal::unclassified(other),
    })?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS && status.as_u16() < 400 {
        return Err(Refusal::unclassified(format!("invalid upgrade response: status code {}", status.as_u16())));
    }
    let mut headers = std::mem::take(response.headers_mut());
    let body = if status == StatusCode::SWITCHING_PROTOCOLS {
        let kubelet = hyper::upgrade::on(response);
        let stop = shared.stop.clone();
        shared.kubelets.connections.spawn(async move {
            // Cancel-safe: what is dropped here is over anyway.
            tokio::select! {
                () = stop.cancelled() => {}
                () = join(client, kubelet) => {}
            }
            drop(held);
        });
        reply::empty()
    } else {
        drop_hops(&mut headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        held_body(response.into_body(), held, shared.stop.clone(), Broken::Breaks)
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Carries bytes both ways until either end is gone; the other one is then closed.
async fn join(client: OnUpgrade, kubelet: OnUpgrade) {
    let (client, kubelet) = match tokio::try_join!(client, kubelet) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was upgraded");
            return;
        }
    };
    let halves = |io: Upgraded| tokio::io::split(TokioIo::new(io));
    let ((mut from_client, mut to_client), (mut from_kubelet, mut to_kubelet)) = (halves(client), halves(kubelet));
    // Cancel-safe: when one direction has ended, what the other one holds has nobody left to go to.
    tokio::select! {
        () = carry(&mut from_client, &mut to_kubelet) => {}
        () = carry(&mut from_kubelet, &mut to_client) => {}
    }
    let _ = tokio::time::timeout(FAREWELL, async {
        let _ = tokio::join!(to_client.shutdown(), to_kubelet.shutdown());
    })
    .await;
}

async fn carry<R: AsyncRead, W: AsyncWrite>(from: &mut ReadHalf<R>, to: &mut WriteHalf<W>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// What a client sees of a kubelet that is gone in the middle of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// The answer ends there.
    Ends,
    /// The client's connection breaks too.
    Breaks,
}

/// The body of an answer, which keeps the connection open that it comes from.
fn held_body(body: Incoming, held: Held, stop: CancellationToken, broken: Broken) -> Body {
    let frames = stream::unfold(Some((body, held, stop)), move |state| async move {
        let (mut body, held, stop) = state?;
        // Cancel-safe: `cancelled` keeps nothing, and a frame is taken only when it is returned.
        let frame = tokio::select! {
            () = stop.cancelled() => None,
            frame = body.frame() => frame,
        };
        match frame? {
            Ok(frame) => Some((Ok::<Frame<Bytes>, hyper::Error>(frame), Some((body, held, stop)))),
            Err(error) if broken == Broken::Breaks => Some((Err(error), None)),
            Err(_) => None,
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn local(path: &str) -> Result<Uri, Refusal> {
    let path: PathAndQuery = path.parse().map_err(|_| Refusal::bad_request(format!("invalid path {path:?}")))?;
    Ok(Uri::from(path))
}

/// Without a path, links of a page would go astray.
fn redirect(uri: &Uri) -> Result<Response<Body>, Refusal> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()));
    let location = location.map_err(|error| Refusal::internal(error.to_string()))?;
    let mut response = Response::new(reply::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
