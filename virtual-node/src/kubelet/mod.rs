//! The kubelet API of all our nodes, over HTTPS: what `kubectl logs`, `exec`, `attach`, `port-forward`, `cp` and `top` end
//! at.
//!
//! One listener serves all nodes: a pod tells which node it is on. What has no pod in its path (`/pods`,
//! `/stats/summary`, `/metrics/resource`) is told apart by the port, if nodes have ports of their own, or by `?node=NAME`.
//!
//! # Who does what
//!
//! - [`route`] reads a request: what is asked, and which right it needs. Pure.
//! - [`auth`] says who asks (client certificate, bearer token) and whether they may (SubjectAccessReview).
//! - [`serve`] accepts, bounds and ends connections, [`socket`] notices clients that have gone; [`tls`] keeps certificates and authorities current.
//! - [`answer`] carries a request out; [`logs`], [`exec`], [`forward`] and [`stats`] know their verbs.
//! - [`upgrade`], [`spdy`] and [`websocket`] speak to the two kinds of streaming clients.
//!
//! # One task per connection
//!
//! Everything that a connection needs runs in its one task, the streams after an upgrade too. So nothing outlives a
//! client, and dropping the server ends all of it.

mod answer;
mod auth;
mod exec;
mod forward;
mod logs;
mod ports;
mod route;
mod serve;
mod session;
mod socket;
mod spdy;
mod stats;
mod tls;
mod upgrade;
mod websocket;

#[cfg(test)]
mod idle;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use tls::TlsFault;

pub(crate) use ports::Endpoint;
pub(crate) use ports::Ports;
pub(crate) use serve::{Found, Lookup, Parts};

/// The feature by which an API server knows that it may speak WebSocket to a kubelet.
pub(crate) const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";
/// The first minor version of Kubernetes 1 in which nodes declare features; older ones drop the field on every write.
const FEATURES_SINCE: u32 = 36;

/// How the kubelet API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The address under which API servers reach us. It becomes the first `InternalIP` of every node.
    pub advertise: IpAddr,
    /// Ports of which each node gets one for itself, for clients that tell nodes apart by address alone.
    pub node_ports: Option<RangeInclusive<u16>>,
    /// Certificate chain and key, read again when they change. Without, a certificate is made at every start.
    pub certificate: Option<CertificateFiles>,
    /// Certificates of the authorities that clients' certificates may come from, read again when they change. Without,
    /// they are what the API server publishes in ConfigMap `kube-system/extension-apiserver-authentication`.
    pub client_ca: Option<PathBuf>,
    /// How many connections may be open at once. More wait.
    pub connections: usize,
    /// How long a stream may be silent.
    pub idle: Duration,
    /// How long the other end of a connection may give no sign of life. Its kernel gives them, so a client that only
    /// has nothing to say, or does not read, is not meant.
    pub vanished: Duration,
}

/// Where a serving certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those between it and its authority, as PEM.
    pub chain: PathBuf,
    /// The key, as PEM.
    pub key: PathBuf,
}

impl KubeletConfig {
    /// The defaults of a kubelet.
    pub fn new(listen: SocketAddr, advertise: IpAddr) -> Self {
        Self {
            listen,
            advertise,
            node_ports: None,
            certificate: None,
            client_ca: None,
            connections: 512,
            idle: Duration::from_secs(4 * 60 * 60),
            vanished: Duration::from_secs(60),
        }
    }
}

/// Why the kubelet API is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port cannot be had.
    #[error("cannot listen on {address} for the kubelet API")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The address to advertise is not one that somebody could connect to.
    #[error("the kubelet API cannot be reached at {0}: give an address of this machine or pod that API servers reach")]
    Advertise(IpAddr),
}

/// The kubelet API, listening but not yet serving. See [`VirtualNodes::with_kubelet`](crate::VirtualNodes::with_kubelet).
#[derive(Debug)]
pub struct Kubelet {
    pub(crate) config: KubeletConfig,
    listener: tokio::net::TcpListener,
    pub(crate) local: SocketAddr,
    tls: tls::Tls,
    pub(crate) declares: bool,
}

impl Kubelet {
    /// Listens, and reads what is needed for TLS.
    pub async fn bind(client: &kube::Client, config: KubeletConfig) -> Result<Self, StartError> {
        if config.advertise.is_unspecified() || config.advertise.is_multicast() {
            return Err(StartError::Advertise(config.advertise));
        }
        let tls = tls::Tls::load(client, &config).await?;
        let failed = |source| StartError::Listen { address: config.listen, source };
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let version = crate::api::call(client.apiserver_version()).await;
        let declares = version.is_ok_and(|version| knows_features(&version.major, &version.minor));
        Ok(Self { config, listener, local, tls, declares })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

fn knows_features(major: &str, minor: &str) -> bool {
    // Some providers put a `+` behind it.
    let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
    major == "1" && minor.parse::<u32>().is_ok_and(|minor| minor >= FEATURES_SINCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_know_features_are_told() {
        for (major, minor, knows) in
            [("1", "36", true), ("1", "37+", true), ("1", "35", false), ("1", "", false), ("2", "40", false)]
        {
            assert_eq!(knows_features(major, minor), knows, "{major}.{minor}");
        }
    }
}
