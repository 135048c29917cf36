//! A kubelet that does what a test tells it, and a client that speaks HTTP/1.1 and nothing more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lab_kube_api::KubeApi;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))
}

/// What the kubelet answers next.
pub(crate) enum Answer {
    /// This, at once.
    Say(u16, &'static str),
    /// What the test sends; an `Err` breaks the connection.
    Stream(mpsc::Receiver<Result<&'static str, ()>>),
    /// 101, and the bytes are the test's.
    Upgrade(&'static str),
    /// Nothing, until the client goes.
    Silence,
    /// Nothing, and it goes itself.
    Leave,
}

/// A request as the kubelet saw it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) struct Kubelet {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    pub(crate) seen: mpsc::Receiver<Seen>,
    pub(crate) upgraded: mpsc::Receiver<TokioIo<Upgraded>>,
    _tasks: JoinSet<()>,
}

struct State {
    answers: Mutex<VecDeque<Answer>>,
    open: AtomicUsize,
    seen: mpsc::Sender<Seen>,
    upgraded: mpsc::Sender<TokioIo<Upgraded>>,
}

impl Kubelet {
    /// A kubelet that lets in whoever has a client certificate of the authority that the API names for that.
    pub(crate) async fn start(authority: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(tls(authority)?));
        let (seen_in, seen) = mpsc::channel(256);
        let (upgraded_in, upgraded) = mpsc::channel(256);
        let state = Arc::new(State {
            answers: Mutex::default(),
            open: AtomicUsize::new(0),
            seen: seen_in,
            upgraded: upgraded_in,
        });
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    state.open.fetch_add(1, Ordering::SeqCst);
                    let answer = service_fn(|request| {
                        let state = state.clone();
                        async move { state.answer(request).await }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, state, seen, upgraded, _tasks: tasks })
    }

    pub(crate) fn will(&self, answer: Answer) {
        self.state.answers.lock().expect("no test panics with this").push_back(answer);
    }

    /// Connections that speak HTTP; upgraded ones are the test's.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub(crate) async fn saw(&mut self) -> Result<Seen> {
        soon("a request at the kubelet", self.seen.recv()).await?.context("the kubelet is gone")
    }
}

fn tls(authority: &str) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let own = rcgen::generate_simple_self_signed(["another-name".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_client_cert_verifier(verifier).with_single_cert(vec![own.cert.der().clone()], key)?)
}

impl State {
    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let _ = self.seen.send(Seen { method: head.method, path, headers: head.headers, body }).await;
        let answer = self.answers.lock().expect("no test panics with this").pop_front();
        let full = |text: &'static str| Full::from(text).map_err(|never: Infallible| match never {}).boxed_unsync();
        let mut response = Response::new(full(""));
        match answer.unwrap_or(Answer::Say(200, "ok")) {
            Answer::Say(status, text) => {
                *response.status_mut() = StatusCode::from_u16(status).map_err(std::io::Error::other)?;
                *response.body_mut() = full(text);
            }
            Answer::Stream(receiver) => {
                let frames = futures::stream::unfold(receiver, |mut receiver| async move {
                    let frame = receiver.recv().await?.map(|text| Frame::data(Bytes::from(text)));
                    Some((frame.map_err(|()| std::io::Error::other("told to break")), receiver))
                });
                *response.body_mut() = StreamBody::new(frames.boxed()).boxed_unsync();
            }
            Answer::Upgrade(protocol) => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, header::HeaderValue::from_static(protocol));
                let upgraded = self.upgraded.clone();
                tokio::spawn(async move {
                    if let Ok(io) = upgrade.await {
                        let _ = upgraded.send(TokioIo::new(io)).await;
                    }
                });
            }
            Answer::Silence => std::future::pending::<()>().await,
            // hyper closes the connection then.
            Answer::Leave => return Err(std::io::Error::other("told to leave")),
        }
        Ok(response)
    }
}

/// A client of the API, known by its token, with a connection of its own for each request.
pub(crate) struct Client {
    address: SocketAddr,
    connector: TlsConnector,
    token: String,
}

impl Client {
    pub(crate) fn of(api: &KubeApi) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(api.ca_pem().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { address: api.address(), connector, token: api.admin_token().to_owned() })
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let stream = self.connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "api.example");
        request = request.header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        soon(path, sender.send_request(request.body(Full::new(Bytes::from(body.to_owned())))?))
            .await?
            .context("no answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response<Incoming>> {
        self.send("GET", path, &[], "").await
    }

    /// Status and text.
    pub(crate) async fn told(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String)> {
        let response = self.send(method, path, headers, "").await?;
        let status = response.status().as_u16();
        let body = soon("the whole answer", response.into_body().collect()).await??.to_bytes();
        let text = String::from_utf8(body.to_vec())?;
        let message = serde_json::from_str::<serde_json::Value>(&text);
        let message = message.ok().and_then(|status| Some(status.get("message")?.as_str()?.to_owned()));
        Ok((status, message.unwrap_or(text)))
    }

    /// Creates an object, or changes one.
    pub(crate) async fn write(&self, method: &str, path: &str, object: &serde_json::Value) -> Result<()> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let response = self.send(method, path, &[("content-type", media)], &object.to_string()).await?;
        if !response.status().is_success() {
            bail!("{path}: {}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
        }
        Ok(())
    }
}

/// The next piece of an answer.
pub(crate) async fn piece(body: &mut Incoming) -> Result<Option<String>> {
    let frame = soon("the next piece", body.frame()).await?;
    let Some(frame) = frame.transpose()? else { return Ok(None) };
    Ok(frame.into_data().ok().map(|data| String::from_utf8_lossy(&data).into_owned()))
}

/// Waits until something holds that nobody tells.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
