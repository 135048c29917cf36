//! The hub as its owner sees it: start, look, change, stop. And the accept loop.

use crate::acl::Acl;
use crate::config::{ConfigError, HubConfig};
use crate::connection::{self, Shared};
use crate::doorman::Doorbell;
use crate::metrics::{HubMetrics, Refused};
use crate::pressure::Pressure;
use crate::rate::ConnectRate;
use crate::router::Supervisor;
use crate::tls::{self, TlsError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// After `accept` fails (no file descriptors left, most likely), it is left alone for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running hub. Dropping it stops it without waiting.
///
/// ```
/// # use embedded_hub::{Accounts, Hub, HubConfig, Password};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let accounts = Accounts::new(Password::generate()?);
/// let hub = Hub::start(HubConfig::on_loopback(accounts.clone())).await?;
/// println!("bridges connect to {} by {}", hub.local_addr(), accounts.bridge_password().reveal());
/// accounts.remove_device("lost-in-a-taxi");
/// let report = hub.stop(Duration::from_secs(5)).await;
/// assert_eq!(report.cut, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Hub {
    local_addr: SocketAddr,
    tls_addr: Option<SocketAddr>,
    metrics: HubMetrics,
    supervisor: Supervisor,
    serving: JoinHandle<JoinSet<()>>,
    parts: JoinSet<()>,
    stop: DropGuard,
}

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("the hub's configuration is not usable")]
    Config(#[from] ConfigError),
    /// The TLS material is not usable.
    #[error("the hub cannot speak TLS")]
    Tls(#[from] TlsError),
    /// The address cannot be listened on: in use, not ours, or not allowed.
    #[error("cannot listen for MQTT on {address}: choose a free port, or 0 for any")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How a hub's end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopReport {
    /// Connections that were closed properly.
    pub closed: usize,
    /// Connections that did not close within the grace period and were cut.
    pub cut: usize,
}

impl Hub {
    /// Starts a hub. When this returns, clients can connect.
    ///
    /// # Errors
    /// When the configuration is not usable or an address cannot be listened on.
    pub async fn start(config: HubConfig) -> Result<Self, StartError> {
        config.check()?;
        let tls = match &config.tls {
            Some(tls) => Some((tls::acceptor(tls)?, listen(tls.listen).await?)),
            None => None,
        };
        let plain = listen(config.listen).await?;
        let local_addr = address_of(&plain, config.listen)?;
        let tls_addr = match (&tls, &config.tls) {
            (Some((_, listener)), Some(tls)) => Some(address_of(listener, tls.listen)?),
            _ => None,
        };

        let (metrics, stop) = (HubMetrics::default(), CancellationToken::new());
        let mut parts = JoinSet::new();
        let (mut supervisor, supervising) = Supervisor::new(&config.limits, metrics.clone(), stop.clone());
        let (doorbell, attending) = Doorbell::new(config.limits.devices, config.limits.bridges);
        parts.spawn(supervising);
        parts.spawn(attending);
        supervisor.started().await;
        let shared = Shared {
            acl: Arc::new(Acl::new(&config.root)),
            limits: Arc::new(config.limits),
            accounts: config.accounts,
            metrics: metrics.clone(),
            doorbell,
            pressure: Pressure::default(),
            router: supervisor.current.clone(),
            stop: stop.clone(),
        };
        let serving = tokio::spawn(accept_until_stopped(plain, tls, shared));
        tracing::info!(%local_addr, ?tls_addr, "hub listens");
        Ok(Self { local_addr, tls_addr, metrics, supervisor, serving, parts, stop: stop.drop_guard() })
    }

    /// Where plain MQTT is spoken, with the port that the system chose if it was asked to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where MQTT over TLS is spoken, if anywhere.
    #[must_use]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_addr
    }

    /// What the hub has counted.
    #[must_use]
    pub fn metrics(&self) -> &HubMetrics {
        &self.metrics
    }

    /// Throws the router away with everything that is on its way, and disconnects all clients: what they would see if
    /// the hub were restarted with all of its state lost. Returns when clients can connect again.
    pub async fn restart_router(&self) {
        self.supervisor.restart().await;
    }

    /// Stops: no new connections, the present ones are closed, what is not closed within `grace` is cut.
    pub async fn stop(self, grace: Duration) -> StopReport {
        let Self { serving, mut parts, stop, supervisor, .. } = self;
        let deadline = deadline_in(grace);
        drop((stop, supervisor));
        let mut report = StopReport { closed: 0, cut: 0 };
        // The accept loop awaits nothing else once it is told to stop, so it cannot hang; if it panicked, its
        // connections ended with it.
        let Ok(mut connections) = serving.await else { return report };
        loop {
            match tokio::time::timeout_at(deadline, connections.join_next()).await {
                Ok(Some(_)) => report.closed += 1,
                Ok(None) => break,
                Err(_) => {
                    report.cut = connections.len();
                    connections.shutdown().await;
                    break;
                }
            }
        }
        while parts.join_next().await.is_some() {}
        tracing::info!(closed = report.closed, cut = report.cut, "hub stopped");
        report
    }
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: deadlines for connecting and for stopping")]
fn deadline_in(time: Duration) -> Instant {
    Instant::now() + time
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn address_of(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { address, source })
}

/// Accepts until told to stop; gives the connections back, so that whoever stops can wait for them.
async fn accept_until_stopped(
    plain: TcpListener,
    tls: Option<(TlsAcceptor, TcpListener)>,
    shared: Shared,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let mut rate = ConnectRate::new(shared.limits.burst_per_address, shared.limits.connects_per_second_per_address);
    let pending = Arc::new(Semaphore::new(shared.limits.pending));
    loop {
        let (accepted, acceptor) = tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = shared.stop.cancelled() => return connections,
            // Cancel-safe: a connection that is not accepted here stays with the system.
            accepted = plain.accept() => (accepted, None),
            accepted = accept(tls.as_ref().map(|(_, listener)| listener)) => {
                (accepted, tls.as_ref().map(|(acceptor, _)| acceptor.clone()))
            }
            // Cancel-safe: yields an ended connection only if this arm runs. Its panic, if any, was its own.
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "hub cannot accept a connection; is the limit of open files too low?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        shared.metrics.on_accepted();
        if !rate.take(peer.ip(), deadline_in(Duration::ZERO).into_std()) {
            shared.metrics.on_refused(Refused::Rate, peer, &"the address connects too often");
            continue;
        }
        let Ok(permit) = pending.clone().try_acquire_owned() else {
            shared.metrics.on_refused(Refused::Pending, peer, &"too many sockets wait for their CONNECT");
            continue;
        };
        let connect_by = deadline_in(shared.limits.connect_timeout);
        let shared = shared.clone();
        connections.spawn(async move {
            // Messages are small and somebody waits for each. A failure costs speed only.
            stream.set_nodelay(true).ok();
            match acceptor {
                None => Box::pin(connection::serve(stream, peer, connect_by, permit, shared)).await,
                Some(acceptor) => {
                    if let Some(stream) = handshake(&acceptor, stream, peer, connect_by, &shared).await {
                        Box::pin(connection::serve(stream, peer, connect_by, permit, shared)).await;
                    }
                }
            }
        });
    }
}

/// The next connection of a listener that may not exist.
async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    connect_by: Instant,
    shared: &Shared,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let outcome = tokio::select! {
        // Nothing is lost by dropping a handshake: the connection is refused as a whole.
        outcome = tokio::time::timeout_at(connect_by, acceptor.accept(stream)) => outcome,
        () = shared.stop.cancelled() => return None,
    };
    match outcome {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => shared.metrics.on_refused(Refused::Tls, peer, &error),
        Err(_) => shared.metrics.on_refused(Refused::Timeout, peer, &"no TLS handshake within the time for it"),
    }
    None
}
