//! Listening, TLS, connections, and stopping.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::authority::{Authority, AuthorityError};
use crate::faults::Faults;
use crate::http;
use crate::kubelet::{Kubelets, Peer};
use crate::store::Store;

/// Connections beyond this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take to greet.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long running requests may take when the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What connections share.
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) authority: Authority,
    pub(crate) faults: Faults,
    pub(crate) kubelets: Kubelets,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) bookmark_every: Duration,
    /// The version up to which everything is on disk; none without a journal.
    pub(crate) durable: Option<watch::Receiver<u64>>,
}

impl Shared {
    /// Waits until everything that has happened so far is on disk.
    pub(crate) async fn durable(&self) {
        let Some(durable) = &self.durable else { return };
        let version = self.store.version();
        // The journal ends only with the server.
        let _ = durable.clone().wait_for(|saved| *saved >= version).await;
    }
}

/// TLS that asks for a client certificate of our authority and takes none for an answer (bearer tokens then decide).
pub(crate) fn tls(authority: &Authority, address: SocketAddr) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).map_err(|_| TlsError::Authority)?;
    roots.add(ca).map_err(TlsError::Rustls)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let (certificate, key) = authority.server(address.ip()).map_err(TlsError::Certificate)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(TlsError::Rustls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What went wrong with TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate of the authority cannot be read.
    #[error("the lab's CA certificate cannot be read")]
    Authority,
    /// A certificate could not be made.
    #[error("could not make a serving certificate")]
    Certificate(#[source] AuthorityError),
    /// The verifier of client certificates could not be made.
    #[error("could not make the verifier of client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// rustls refused the configuration.
    #[error("could not configure TLS")]
    Rustls(#[source] rustls::Error),
}

/// Serves until stopped, then drains.
pub(crate) async fn run(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: keeps nothing.
            () = shared.stop.cancelled() => break,
            // Cancel-safe: a finished task that is not returned stays in the set.
            Some(_) = connections.join_next() => {}
            // Cancel-safe: a permit that is not returned is given back, and `accept` takes no connection unless it returns.
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, permit)) => {
                    let (acceptor, shared) = (acceptor.clone(), shared.clone());
                    connections.spawn(async move {
                        connection(stream, acceptor, shared).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, or the peer is already gone: others may still come.
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.shutdown().await;
    }
    shared.kubelets.close(DRAIN).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let peer = stream.peer_addr().ok().map(Peer);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certified = http::certified(stream.get_ref().1.peer_certificates());
    let service = service_fn(|mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let (shared, certified) = (shared.clone(), certified.clone());
        async move { Ok::<_, std::convert::Infallible>(http::serve(shared, certified, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).max_header_list_size(64 * 1024);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        // Cancel-safe: the connection is pinned and goes on below.
        result = serving.as_mut() => result,
        // Cancel-safe: keeps nothing.
        () = shared.stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}
