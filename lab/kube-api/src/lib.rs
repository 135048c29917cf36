//! The in-memory Kubernetes API of the Hawser lab.
//!
//! It speaks to real clients (kubectl, kube-rs, the Python client) over HTTPS on a loopback address, and behaves as the
//! real API server does for what Hawser, its tests and a person at a desk need. It is a lab and not a cluster: everybody
//! it knows may do everything, there is one server, and nothing here is built to hold a fleet's only truth.
//!
//! ```no_run
//! # async fn run() -> Result<(), lab_kube_api::Error> {
//! let api = lab_kube_api::KubeApi::start(lab_kube_api::Config::default()).await?;
//! println!("{}", api.kubeconfig()?);
//! api.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Tests use it as an adversary too: [`KubeApi::compact`] makes every watch start over, [`KubeApi::cut_watches`] ends
//! them, and [`KubeApi::inject`] orders refusals, lost answers and delays.

mod auth;
mod clock;
mod defaults;
mod discovery;
mod faults;
mod http;
mod kubeconfig;
mod kubelet;
mod object;
mod openapi;
mod operations;
mod patch;
mod persist;
mod protobuf;
mod random;
mod refusal;
mod registry;
mod schema;
mod selectors;
mod server;
mod store;
mod table;
mod validation;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use crate::auth::authority::AuthorityError;
pub use crate::faults::{Fault, Matcher};
pub use crate::persist::PersistError;
pub use crate::server::TlsError;

use crate::auth::authority::Authority;
use crate::kubeconfig::Credentials;
use crate::kubelet::Kubelets;
use crate::persist::Journal;
use crate::server::Shared;
use crate::store::{Limits, Store};

/// How the API is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// Where to keep everything between runs; in memory only when `None`.
    pub data_dir: Option<PathBuf>,
    /// How many changes a watch can catch up on before it is told to start over (410 Gone).
    pub history: usize,
    /// How many watches may run at once.
    pub max_watches: usize,
    /// How often a quiet watch that wants bookmarks gets one.
    pub bookmark_every: Duration,
    /// The types of node addresses by which to reach kubelets, the most preferred first.
    pub kubelet_addresses: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: None,
            history: 8192,
            max_watches: 4096,
            bookmark_every: Duration::from_secs(15),
            kubelet_addresses: KUBELET_ADDRESSES.map(str::to_owned).to_vec(),
        }
    }
}

/// The order of address types that kubeadm sets. Without, a real server tries `Hostname` first, and the names of devices
/// do not resolve.
const KUBELET_ADDRESSES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];
/// How many changes a watch may lag behind before it is dropped.
const WATCH_QUEUE: usize = 2048;

/// Why the API could not start, or could not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: choose another port, or port 0 to have one picked")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The address is not a loopback address.
    #[error("the lab listens on loopback addresses only, not on {0}")]
    NotLoopback(SocketAddr),
    /// Keys or certificates failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS could not be configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What was kept cannot be read, or nothing can be kept.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The kubeconfig cannot be written.
    #[error("cannot write the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A running API.
pub struct KubeApi {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    journal: Option<Journal>,
    admin: (String, String),
}

impl KubeApi {
    /// Starts to listen; when this returns, clients may connect.
    pub async fn start(config: Config) -> Result<Self, Error> {
        if !config.listen.ip().is_loopback() {
            return Err(Error::NotLoopback(config.listen));
        }
        let kept = match &config.data_dir {
            Some(folder) => Some(persist::open(folder)?),
            None => None,
        };
        let (journal, kept) = match kept {
            Some((journal, kept)) => (Some(journal), kept),
            None => (None, None),
        };
        let (authority, objects, version) = match kept {
            Some(kept) => (Authority::load(kept.secrets)?, kept.objects, kept.version),
            None => (Authority::generate()?, Vec::new(), 1),
        };
        let listening = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let acceptor = TlsAcceptor::from(Arc::new(server::tls(&authority, address)?));
        let limits = Limits { history: config.history, watchers: config.max_watches, watch_queue: WATCH_QUEUE };
        let store = Arc::new(Store::new(objects, version, limits, journal.is_some()));
        store.transact(|tx| operations::lifecycle::bootstrap(tx, authority.ca_pem(), clock::now()));
        let journal = match journal {
            Some(journal) => Some(journal.begin(store.clone(), authority.secrets())?),
            None => None,
        };
        let admin = authority.client(auth::ADMIN, Some(auth::MASTERS))?;
        let kubelets = Kubelets::new(&authority, config.kubelet_addresses)?;
        let shared = Arc::new(Shared {
            store,
            kubelets,
            authority,
            faults: faults::Faults::default(),
            address,
            stop: CancellationToken::new(),
            bookmark_every: config.bookmark_every,
            durable: journal.as_ref().map(Journal::durable),
        });
        let server = tokio::spawn(server::run(listener, acceptor, shared.clone()));
        tracing::info!(%address, "the lab's Kubernetes API listens");
        Ok(Self { shared, server, journal, admin })
    }

    /// Where the API is: `https://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("https://{}", self.shared.address)
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The certificate of the lab's authority.
    pub fn ca_pem(&self) -> &str {
        self.shared.authority.ca_pem()
    }

    /// The bearer token of the admin.
    pub fn admin_token(&self) -> &str {
        self.shared.authority.admin_token()
    }

    /// A kubeconfig of the admin, who is known by a client certificate.
    pub fn kubeconfig(&self) -> Result<String, Error> {
        let (certificate, key) = &self.admin;
        let credentials = Credentials::Certificate { certificate, key };
        Ok(kubeconfig::text(&self.url(), self.ca_pem(), auth::ADMIN, &credentials))
    }

    /// A kubeconfig of the admin, who is known by a bearer token.
    pub fn kubeconfig_with_token(&self) -> String {
        let credentials = Credentials::Token(self.admin_token());
        kubeconfig::text(&self.url(), self.ca_pem(), auth::ADMIN, &credentials)
    }

    /// A kubeconfig of any user (`system:serviceaccount:…`, `system:node:…`, `jane`), in at most one group.
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> Result<String, Error> {
        let (certificate, key) = self.shared.authority.client(user, group)?;
        let credentials = Credentials::Certificate { certificate: &certificate, key: &key };
        Ok(kubeconfig::text(&self.url(), self.ca_pem(), user, &credentials))
    }

    /// Writes the admin's kubeconfig to a file that only its owner may read.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<(), Error> {
        let text = self.kubeconfig()?;
        kubeconfig::write_private(path, text.as_bytes())
            .map_err(|source| Error::Kubeconfig { path: path.to_owned(), source })
    }

    /// Forgets the history of changes: a watch from an earlier version is answered with 410 Gone.
    pub fn compact(&self) {
        self.shared.store.compact();
    }

    /// Ends all running watches, as a restarted server would.
    pub fn cut_watches(&self) {
        self.shared.store.cut_watches();
    }

    /// Orders a fault for the next `times` requests that match. Faults strike in the order they were given.
    pub fn inject(&self, matcher: Matcher, fault: Fault, times: usize) {
        self.shared.faults.order(matcher, fault, times);
    }

    /// Orders the next matching request to be refused with this status.
    pub fn fail_next(&self, matcher: Matcher, status: u16) {
        self.inject(matcher, Fault::Refuse { status, retry_after: None }, 1);
    }

    /// How many connections to kubelets there are: logs that are followed, commands that run, ports that are forwarded.
    pub fn kubelet_connections(&self) -> usize {
        self.shared.kubelets.open()
    }

    /// Takes all faults back that have not struck yet.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Stops: running requests end, watches are closed, what is to be kept is on disk.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the lab's API server task failed");
        }
        if let Some(journal) = self.journal {
            journal.end().await;
        }
    }
}
