//! A cluster with one node and one pod, a provider whose processes are futures, and clients.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use virtual_node::provider::stats::{ContainerStats, NodeStats, PodStats, Usage};
use virtual_node::provider::streams::{
    Channels, Connection, Input, LogOptions, Output, Process, StreamError, TerminalSize,
};
use virtual_node::provider::{Applied, Liveness, NotApplied};
use virtual_node::{
    Config, Kubelet, KubeletConfig, Metrics, NodeName, PodRef, Provider, Revision, VirtualNodes, reports,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PIPE: usize = 4096;

/// What the provider does, and how much of it is under way.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) live: Arc<AtomicUsize>,
    /// How many bytes the commands have said.
    pub(crate) said: Arc<AtomicU64>,
    pub(crate) asked: Mutex<Vec<String>>,
}

/// Counts what holds it.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(live))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Memory {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn process(&self, command: &[String], channels: Channels) -> Process {
        let (stdin_read, stdin) = tokio::io::simplex(PIPE);
        let (stdout_read, stdout) = tokio::io::simplex(PIPE);
        let (stderr_read, stderr) = tokio::io::simplex(PIPE);
        let (resize, resizes) = mpsc::channel(1);
        let alive = Alive::new(&self.live);
        let (command, said) = (command.to_vec(), Arc::clone(&self.said));
        let stdin_read = channels.stdin.then(|| Box::pin(stdin_read) as Output);
        Process {
            stdin: channels.stdin.then(|| Box::pin(stdin) as Input),
            stdout: channels.stdout.then(|| Box::pin(stdout_read) as Output),
            stderr: channels.stderr.then(|| Box::pin(stderr_read) as Output),
            resize: channels.tty.then_some(resize),
            exit: Box::pin(async move {
                let _alive = alive;
                program(&command, stdin_read, Box::pin(stdout), Box::pin(stderr), resizes, &said).await
            }),
        }
    }
}

/// What the commands do.
async fn program(
    command: &[String],
    stdin: Option<Output>,
    mut stdout: Input,
    mut stderr: Input,
    mut resizes: mpsc::Receiver<TerminalSize>,
    said: &AtomicU64,
) -> Result<i32, StreamError> {
    let number = |at: usize| command.get(at).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let io = |error: std::io::Error| StreamError::Failed(error.to_string());
    let code = match command[0].as_str() {
        "echo" => {
            tokio::io::copy(&mut stdin.unwrap(), &mut stdout).await.map_err(io)?;
            0
        }
        "say" => {
            stdout.write_all(command[1].as_bytes()).await.map_err(io)?;
            stderr.write_all(command[2].as_bytes()).await.map_err(io)?;
            i32::try_from(number(3)).unwrap()
        }
        "big" => {
            for _ in 0..number(1) {
                stdout.write_all(&[b'x'; 1000]).await.map_err(io)?;
                said.fetch_add(1000, Ordering::Relaxed);
            }
            0
        }
        "sizes" => {
            for _ in 0..number(1) {
                let size = resizes.recv().await.unwrap();
                stdout.write_all(format!("{}x{} ", size.columns, size.rows).as_bytes()).await.map_err(io)?;
            }
            0
        }
        "lost" => return Err(StreamError::Unreachable("gw has not been heard for 3m".to_owned())),
        _ => std::future::pending().await,
    };
    stdout.shutdown().await.map_err(io)?;
    stderr.shutdown().await.map_err(io)?;
    Ok(code)
}

/// A reader whose end, or loss, is noticed.
struct Held(Pin<Box<dyn tokio::io::AsyncRead + Send>>, #[expect(dead_code, reason = "held, not read")] Alive);

impl tokio::io::AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.as_mut().poll_read(cx, into)
    }
}

impl Provider for Memory {
    async fn apply(&self, _: Arc<Pod>, _: Revision) -> Result<Applied, NotApplied> {
        Ok(Applied::Settled)
    }

    async fn stop(&self, _: &NodeName, _: &PodRef, _: Duration, _: Revision) {}

    async fn forget(&self, _: &NodeName, _: &PodRef, _: Revision) {}

    async fn synced(&self, _: &NodeName, _: Vec<String>, _: Revision) {}

    async fn logs(
        &self,
        node: &NodeName,
        pod: &PodRef,
        container: &str,
        options: LogOptions,
    ) -> Result<Output, StreamError> {
        self.note(format!("logs {node} {pod} {container}"));
        if options.previous {
            return Err(StreamError::NotFound("previous terminated container \"main\" not found".to_owned()));
        }
        let lines = "one\ntwo\n".repeat(usize::try_from(options.tail.unwrap_or(1)).unwrap());
        let lines = std::io::Cursor::new(lines.into_bytes());
        let log: Output = if options.follow {
            let (rest, writer) = tokio::io::duplex(64);
            Box::pin(FollowedLog { written: Box::pin(lines.chain(rest)), _writer: writer })
        } else {
            Box::pin(lines)
        };
        Ok(Box::pin(Held(log, Alive::new(&self.live))))
    }

    async fn exec(
        &self,
        node: &NodeName,
        pod: &PodRef,
        container: &str,
        command: Vec<String>,
        channels: Channels,
    ) -> Result<Process, StreamError> {
        self.note(format!("exec {node} {pod} {container} {}", command.join(" ")));
        if command[0] == "refused" {
            return Err(StreamError::NotPossible("container is not running".to_owned()));
        }
        Ok(self.process(&command, channels))
    }

    async fn attach(&self, _: &NodeName, _: &PodRef, _: &str, channels: Channels) -> Result<Process, StreamError> {
        Ok(self.process(&["say".to_owned(), "attached".to_owned(), String::new(), "7".to_owned()], channels))
    }

    async fn port_forward(&self, _: &NodeName, _: &PodRef, port: u16) -> Result<Connection, StreamError> {
        if port == 9 {
            return Err(StreamError::NotPossible("nobody listens on port 9".to_owned()));
        }
        let (here, there) = tokio::io::duplex(PIPE);
        let (output, input) = tokio::io::split(here);
        let (mut read, mut write) = tokio::io::split(there);
        // Answers when it has heard all; ends by itself when both ends are gone.
        tokio::spawn(async move {
            let mut heard = Vec::new();
            let _ = read.read_to_end(&mut heard).await;
            let _ = write.write_all(format!("{port}:").as_bytes()).await;
            let _ = write.write_all(&heard).await;
            let _ = write.shutdown().await;
        });
        Ok(Connection { output: Box::pin(Held(Box::pin(output), Alive::new(&self.live))), input: Box::pin(input) })
    }

    async fn stats(&self, _: &NodeName) -> Result<NodeStats, StreamError> {
        let usage =
            Usage { cpu_nanoseconds: Some(2_500_000_000), memory_working_set_bytes: Some(77), ..Usage::default() };
        let pod = PodRef { namespace: "default".into(), name: "web".into(), uid: virtual_node::PodUid::new("u") };
        let containers = vec![ContainerStats { name: "main".into(), started: None, usage, rootfs: None, logs: None }];
        let pods = vec![PodStats { pod, started: None, containers, ephemeral_storage: None, volumes: Vec::new() }];
        Ok(NodeStats { node: usage, pods, ..NodeStats::default() })
    }
}

/// A log that goes on for ever.
struct FollowedLog {
    written: Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    _writer: tokio::io::DuplexStream,
}

impl tokio::io::AsyncRead for FollowedLog {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.written.as_mut().poll_read(cx, into)
    }
}

/// One cluster, one node `gw`, one pod `default/web` with the container `main`.
pub(crate) struct World {
    pub(crate) provider: Arc<Memory>,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) token: String,
    pub(crate) registry: prometheus_client::registry::Registry,
    pub(crate) client: kube::Client,
    stop: CancellationToken,
    engine: JoinHandle<Result<virtual_node::Outcome, virtual_node::Error>>,
    _api: lab_kube_api::KubeApi,
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut KubeletConfig)) -> Result<Self> {
        // Another test of this process may have chosen it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = lab_kube_api::KubeApi::start(lab_kube_api::Config::default()).await?;
        let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig()?)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let mut config = KubeletConfig::new("127.0.0.1:0".parse()?, "127.0.0.1".parse()?);
        change(&mut config);
        let kubelet = Kubelet::bind(&client, config).await?;
        let address = ([127, 0, 0, 1], kubelet.local_addr().port()).into();
        let mut registry = prometheus_client::registry::Registry::default();
        let nodes = VirtualNodes::new(client.clone(), Config::default())
            .with_metrics(Metrics::register(&mut registry))
            .with_kubelet(kubelet);
        let (reporter, inbox) = reports(16);
        let (provider, stop) = (Arc::new(Memory::default()), CancellationToken::new());
        let engine = tokio::spawn(nodes.run(Arc::clone(&provider), inbox, stop.clone()));
        let node = NodeName::new("gw")?;
        reporter.node_present(node.clone(), Default::default()).await?;
        reporter.node_liveness(node, Liveness::Online).await?;
        // Dropping it would end the engine.
        tokio::spawn({
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                drop(reporter);
            }
        });
        let world =
            Self { provider, address, token: api.admin_token().to_owned(), registry, client, stop, engine, _api: api };
        world.make_pod().await?;
        Ok(world)
    }

    async fn make_pod(&self) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"nodeName": "gw", "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "nothing"}]},
        }))?;
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        eventually("the pod to be admitted", async || pods.create(&PostParams::default(), &pod).await.ok()).await?;
        eventually("the pod to be known", async || {
            let (status, _) = self.get("/containerLogs/default/web/main").await.ok()?;
            (status == StatusCode::OK).then_some(())
        })
        .await
    }

    pub(crate) async fn node_is(&self, what: impl Fn(&Node) -> bool) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually("the node to be as described", async || nodes.get("gw").await.ok().filter(&what)).await
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        let outcome = tokio::time::timeout(PATIENCE, self.engine).await???;
        ensure!(outcome.is_clean(), "{outcome:?}");
        Ok(())
    }

    /// A request with the token of somebody who may do everything.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let builder = Request::builder().method(method).uri(path).header("host", "gw");
        builder.header("authorization", format!("Bearer {}", self.token))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(StatusCode, String)> {
        whole(self.send(self.request(Method::GET, path)).await?).await
    }

    pub(crate) async fn post(&self, path: &str) -> Result<(StatusCode, String)> {
        whole(self.send(self.request(Method::POST, path)).await?).await
    }

    pub(crate) async fn send(&self, request: http::request::Builder) -> Result<Response<Incoming>> {
        send(self.address, None, request).await
    }

    /// Asks for SPDY.
    pub(crate) async fn spdy(&self, path: &str, versions: &[&str]) -> Result<TokioIo<Upgraded>> {
        let mut request =
            self.request(Method::POST, path).header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
        for version in versions {
            request = request.header("x-stream-protocol-version", *version);
        }
        self.upgraded(request).await
    }

    /// Asks for WebSocket.
    pub(crate) async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<tokio_tungstenite::WebSocketStream<TokioIo<Upgraded>>> {
        let transport = self.websocket_bytes(path, protocol).await?;
        let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
        Ok(tokio_tungstenite::WebSocketStream::from_raw_socket(transport, role, None).await)
    }

    /// The same for who frames by hand.
    pub(crate) async fn websocket_bytes(&self, path: &str, protocol: &str) -> Result<TokioIo<Upgraded>> {
        let request = self
            .request(Method::GET, path)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol);
        self.upgraded(request).await
    }

    async fn upgraded(&self, request: http::request::Builder) -> Result<TokioIo<Upgraded>> {
        let response = self.send(request).await?;
        ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "{:?}", whole(response).await?);
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }

    /// How many descriptors there are of connections to the kubelet API, at its end.
    pub(crate) fn sockets(&self) -> Result<usize> {
        Ok(self.connections()?.len())
    }

    /// How many bytes the kernel still has to bring to clients of the kubelet API.
    pub(crate) fn on_their_way(&self) -> Result<u64> {
        Ok(self.connections()?.into_iter().sum())
    }

    /// Of each connection to the kubelet API, at its end, how many bytes the other end has not acknowledged.
    fn connections(&self) -> Result<Vec<u64>> {
        // Of the columns: local address, state, queues, …, inode. One that only the kernel still holds has the inode 0.
        let port = format!(":{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/self/net/tcp")?;
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        const LISTENING: &str = "0A";
        let ours = lines.filter(|line| line[1].ends_with(&port) && line[3] != LISTENING && line[9] != "0");
        ours.map(|line| {
            let (sending, _) = line[4].split_once(':').context("two queues")?;
            Ok(u64::from_str_radix(sending, 16)?)
        })
        .collect()
    }

    /// How many tasks there are in all.
    pub(crate) fn tasks() -> usize {
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    }

    /// Waits until there are no connections, and no more tasks than `before`.
    pub(crate) async fn settles(&self, before: usize) -> Result<()> {
        self.nothing_lives().await?;
        eventually("descriptors and tasks to be gone", async || {
            (self.sockets().ok()? == 0 && Self::tasks() <= before).then_some(())
        })
        .await
        .with_context(|| format!("{:?} sockets, {} tasks where {before} were before", self.sockets(), Self::tasks()))
    }

    pub(crate) async fn nothing_lives(&self) -> Result<()> {
        eventually("nothing to be under way", async || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &self.registry).ok()?;
            let idle = text.lines().any(|line| line == "virtual_node_kubelet_connections 0");
            (idle && self.provider.live.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await
    }
}

pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Sends a request over a connection of its own, which lives as long as the answer does.
pub(crate) async fn send(
    address: std::net::SocketAddr,
    identity: Option<Identity>,
    request: http::request::Builder,
) -> Result<Response<Incoming>> {
    let builder =
        rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(anything::Goes));
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    let stream = connector.connect(ServerName::try_from("gw")?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    drop((sender, connection));
    Ok(response)
}

pub(crate) async fn whole(response: Response<Incoming>) -> Result<(StatusCode, String)> {
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(bytes.to_vec())?))
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("waited too long for {what}"))
}

/// Nothing that a test does takes this long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, what).await.context("it took too long")
}

/// API servers do not verify kubelets unless told to, and neither do these tests.
mod anything {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Goes;

    impl ServerCertVerifier for Goes {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
