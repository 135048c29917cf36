//! Listening, TLS, connections, and ending them.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Kubelet;
use super::answer;
use super::auth::{Auth, User};
use super::ports::{Endpoint, Ports};
use super::route::Target;
use super::session::Patience;
use super::socket;
use super::tls::Current;
use crate::ids::{NodeName, PodRef};
use crate::metrics::Metrics;
use crate::pods;
use crate::provider::Provider;

/// A client that takes longer is not one.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests, too.
const HEADERS: Duration = Duration::from_secs(60);
/// After a failed accept: most likely there are no file descriptors left.
const BREATHE: Duration = Duration::from_millis(100);
/// How often a port of a node that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// What goes on after an upgrade.
pub(crate) type Session = BoxFuture<'static, ()>;

/// What the rest of the library lends.
pub(crate) struct Parts<P> {
    pub(crate) provider: Arc<P>,
    pub(crate) client: kube::Client,
    pub(crate) metrics: Metrics,
    pub(crate) lookup: Lookup,
    pub(crate) limit: Duration,
}

/// What every connection needs.
pub(crate) struct Server<P> {
    pub(super) provider: Arc<P>,
    pub(super) client: kube::Client,
    pub(super) metrics: Metrics,
    pub(super) lookup: Lookup,
    pub(super) auth: Auth,
    pub(super) limit: Duration,
    pub(super) patience: Patience,
}

/// Asks the owner of the pods.
#[derive(Debug, Clone)]
pub(crate) struct Lookup(pub(crate) mpsc::WeakSender<pods::task::Command>);

/// A pod on one of our nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) node: NodeName,
    pub(crate) pod: PodRef,
    /// The names of its containers, of all kinds.
    pub(crate) containers: Vec<String>,
}

impl Lookup {
    pub(super) async fn find(&self, target: &Target) -> Option<Found> {
        let (answer, found) = oneshot::channel();
        let (namespace, name) = (target.namespace.clone(), target.pod.clone());
        let find = pods::task::Command::Find { namespace, name, uid: target.uid.clone(), answer };
        // Weak, so that the owner ends when those end who have something to tell it.
        self.0.upgrade()?.send(find).await.ok()?;
        found.await.ok().flatten()
    }
}

impl Kubelet {
    pub(crate) fn ports(&self) -> Ports {
        let shared = Endpoint { address: self.config.advertise, port: self.local.port(), declares: self.declares };
        Ports::new(shared, self.config.node_ports.clone())
    }

    /// Serves until `stop`. Dropping it ends everything that it has begun.
    pub(crate) async fn run<P: Provider>(self, parts: Parts<P>, ports: Arc<Ports>, stop: CancellationToken) {
        let Self { config, listener, local, tls, .. } = self;
        let Parts { provider, client, metrics, lookup, limit } = parts;
        let auth = Auth::new(client.clone());
        let patience = Patience { idle: config.idle, vanished: config.vanished };
        let server = Arc::new(Server { provider, client: client.clone(), metrics, lookup, auth, limit, patience });
        let current = tls.current();
        let permits = Arc::new(Semaphore::new(config.connections));
        let mut connections = JoinSet::new();
        let mut listeners = JoinSet::new();
        // Unaccepted connections wait in the kernel.
        let (accepted, mut incoming) = mpsc::channel(1);
        listeners.spawn(accept(listener, None, accepted.clone()));
        listeners.spawn(node_ports(local, ports, accepted));
        listeners.spawn(tls.follow(client, stop.clone()));
        tracing::info!(address = %local, "the kubelet API is served");
        loop {
            // All arms are cancel-safe: a permit is only taken with a connection, sets and channels lose nothing.
            tokio::select! {
                arrived = next(&permits, &mut incoming) => {
                    let Some((permit, stream, node)) = arrived else { return };
                    connections.spawn(connection(Arc::clone(&server), Arc::clone(&current), stream, node, permit));
                }
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection of the kubelet API was lost; this is a bug");
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        listeners.shutdown().await;
        connections.shutdown().await;
    }
}

type Arrived = (TcpStream, Option<NodeName>);

async fn next(
    permits: &Arc<Semaphore>,
    incoming: &mut mpsc::Receiver<Arrived>,
) -> Option<(OwnedSemaphorePermit, TcpStream, Option<NodeName>)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    let (stream, node) = incoming.recv().await?;
    Some((permit, stream, node))
}

/// Accepts on one port.
async fn accept(listener: TcpListener, node: Option<NodeName>, accepted: mpsc::Sender<Arrived>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if accepted.send((stream, node.clone())).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the kubelet API");
                tokio::time::sleep(BREATHE).await;
            }
        }
    }
}

/// Listens on the ports that nodes have been given, and on no others.
async fn node_ports(shared: SocketAddr, ports: Arc<Ports>, accepted: mpsc::Sender<Arrived>) {
    let mut listeners = JoinSet::new();
    let mut listening: HashMap<(NodeName, u16), AbortHandle> = HashMap::new();
    loop {
        let wanted: HashSet<(NodeName, u16)> = ports.all().into_iter().collect();
        listening.retain(|key, listener| {
            let keep = wanted.contains(key);
            if !keep {
                listener.abort();
            }
            keep
        });
        let mut missing = false;
        for key in wanted {
            if listening.contains_key(&key) {
                continue;
            }
            let address = SocketAddr::new(shared.ip(), key.1);
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let handle = listeners.spawn(accept(listener, Some(key.0.clone()), accepted.clone()));
                    listening.insert(key, handle);
                }
                Err(error) => {
                    missing = true;
                    tracing::warn!(%error, node = %key.0, %address, "cannot listen on the port of a node; it is tried again");
                }
            }
        }
        tokio::select! {
            // Cancel-safe: a notification stays until it is taken.
            () = ports.changed() => {}
            () = tokio::time::sleep(RETRY), if missing => {}
            // Those that were told to end.
            Some(_) = listeners.join_next(), if !listeners.is_empty() => {}
        }
    }
}

/// One connection, and what becomes of it after an upgrade. All of it is this one task.
async fn connection<P: Provider>(
    server: Arc<Server<P>>,
    tls: Arc<Current>,
    stream: TcpStream,
    node: Option<NodeName>,
    _permit: OwnedSemaphorePermit,
) {
    let (stream, watch) = socket::watched(stream, server.patience.vanished);
    let stream = match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls.get()).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake of the kubelet API failed");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certified = Arc::new(certificate.and_then(|certificate| User::of_certificate(certificate)));
    let session: Arc<Mutex<Option<Session>>> = Arc::default();
    let _counted = server.metrics.kubelet_connection();
    let service = {
        let (session, server) = (Arc::clone(&session), Arc::clone(&server));
        service_fn(move |request| {
            let (session, server, certified) = (Arc::clone(&session), Arc::clone(&server), Arc::clone(&certified));
            let node = node.clone();
            async move {
                let answering = answer::answer(&server, certified.as_ref().as_ref(), node.as_ref(), request);
                let (response, after) = Box::pin(answering).await;
                *session.lock().unwrap_or_else(PoisonError::into_inner) = after;
                Ok::<_, Infallible>(response)
            }
        })
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = serving.await {
        // Clients hang up as they like.
        tracing::debug!(%error, "a connection of the kubelet API ended early");
    }
    let session = session.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(session) = session {
        tokio::select! {
            // Whichever ends first ends the other: both are dropped with all that they hold.
            () = session => {}
            () = watch.hung_up() => {}
        }
    }
}
