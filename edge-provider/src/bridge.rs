//! The bridge: virtual nodes, the fleet and the connection to the hub, put together, run and stopped.
//!
//! It holds nothing that matters: kill it at any instant and start it again.

mod announce;
mod http;
pub mod key;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use embedded_hub::{BRIDGE_USERNAME, Hub};
use hawser_wire::{PublicKey, Root};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use virtual_node::{Kubelet, KubeletConfig, VirtualNodes};

use crate::deployment::{References, ReferencesConfig, Services};
use crate::device::Device;
use crate::device::bridge_info::BridgeInfo;
use crate::fleet::reporting;
use crate::fleet::task::{Ends, Fleet, FleetConfig};
use crate::fleet::twin::Settings;
use crate::hub::address::HubAddress;
use crate::hub::client::{HubAccess, HubClient};
use crate::kept::bell::Bell;
use crate::kept::task::Keeper;
use crate::kept::{KeepLogs, Kept};
use crate::metrics::Metrics;
use crate::provider::DeviceProvider;
use crate::registry::key_store::KeyStore;
use crate::registry::{status, watch};
use key::KeySource;

/// Messages from the hub on their way to the fleet, which deals with each in microseconds. When it is full the hub
/// client waits, and with it the hub.
const FROM_HUB: usize = 1024;
/// Reports on their way to the virtual nodes, which coalesce as they drain.
const REPORTS: usize = 512;
/// Observations and receipts on their way; the fleet keeps the rest itself.
const LINES: usize = 64;
/// How long the parts may take to end when told to.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Everything that [`Bridge::start`] needs.
pub struct BridgeConfig {
    /// The cluster.
    pub client: kube::Client,
    /// The hub.
    pub hub: HubChoice,
    /// Where the bridge's own objects live: its key, join tokens, what it announces.
    pub namespace: String,
    /// The root of the topics.
    pub root: Root,
    /// Where the bridge's key comes from.
    pub key: KeySource,
    /// How often devices send heartbeats.
    pub heartbeat: Duration,
    /// Where metrics and health are served, if anywhere.
    pub http: Option<SocketAddr>,
    /// The address under which devices reach the hub, if it is not the one that the bridge uses.
    pub advertised_hub: Option<String>,
    /// How the kubelet API is served, if it is.
    pub kubelet: Option<KubeletConfig>,
    /// How much of the logs is kept for when devices are away, if anything.
    pub keep_logs: Option<KeepLogs>,
}

/// Which hub.
pub enum HubChoice {
    /// One in this process.
    Embedded(embedded_hub::HubConfig),
    /// One elsewhere.
    External(HubAccess),
}

/// Why the bridge did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The API server cannot be reached, or refuses.
    #[error("cannot talk to the API server: check the kubeconfig, and that the cluster runs")]
    Api(#[source] kube::Error),
    /// The `Device` resource is not known.
    #[error(
        "the cluster does not know the resource devices.hawser.dev: install it with `hawser manifests crd | kubectl apply -f -`"
    )]
    NoCrd,
    /// The bridge may not do what it must.
    #[error(
        "the API server does not let the bridge {what}: apply `hawser manifests rbac`, and run the bridge as that service account"
    )]
    Forbidden {
        /// What it wanted.
        what: &'static str,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The key cannot be had.
    #[error(transparent)]
    Key(#[from] key::KeyError),
    /// The embedded hub did not start.
    #[error("the embedded hub did not start")]
    Hub(#[from] embedded_hub::StartError),
    /// Metrics and health cannot be served.
    #[error("cannot serve metrics and health on {address}: choose a free port with --http, or `--http none`")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet API cannot be served.
    #[error("cannot serve the kubelet API: mend the --kubelet-… option that this is about, or `--kubelet-listen off`")]
    Kubelet(#[source] virtual_node::kubelet::StartError),
    /// There is no randomness.
    #[error("the operating system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// Why a running bridge ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A part that must run has ended.
    #[error("the part `{part}` has ended: {why}; start the bridge again, nothing is lost")]
    Part {
        /// Which.
        part: &'static str,
        /// Why.
        why: String,
    },
}

/// A bridge that is running.
pub struct Bridge {
    public_key: PublicKey,
    hub_address: String,
    http: Option<SocketAddr>,
    kubelet: Option<SocketAddr>,
    registry: Arc<Mutex<Registry>>,
    metrics: Metrics,
    provider: Arc<DeviceProvider>,
    hub: Option<Hub>,
    parts: JoinSet<(&'static str, Result<(), String>)>,
    stop: CancellationToken,
}

impl Bridge {
    /// Starts every part. When this returns the bridge is at work; [`Bridge::run`] watches over it.
    pub async fn start(config: BridgeConfig) -> Result<Self, StartError> {
        preflight(&config.client).await?;
        let key = key::obtain(&config.client, &config.namespace, &config.key).await?;
        let public_key = key.public();
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(StartError::Random)?;

        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (hub, access) = start_hub(config.hub, &config.root, &mut registry).await?;
        let hub_address = config.advertised_hub.unwrap_or_else(|| access.address.to_string());
        let info = BridgeInfo { public_key, hub_url: hub_address.clone(), root: config.root.clone() };
        announce::announce(&config.client, &config.namespace, &info).await?;

        let stop = CancellationToken::new();
        let keeping = config.keep_logs.map(|keep| (keep, Kept::new(keep, metrics.clone()), Bell::default()));
        let (hub_sender, hub_client) = HubClient::new(access, config.root.clone(), id, metrics.clone());
        let (fleet_handle, fleet) = Fleet::new(FleetConfig {
            root: config.root,
            key,
            settings: Settings { heartbeat: config.heartbeat },
            keys: KeyStore::new(config.client.clone(), &config.namespace),
            hub: hub_sender,
            metrics: metrics.clone(),
            bell: keeping.as_ref().map(|(_, _, bell)| bell.clone()),
        });
        let (from_hub, hub_messages) = mpsc::channel(FROM_HUB);
        let (lines_in, lines) = mpsc::channel(LINES);
        let (settled_in, settled) = mpsc::channel(LINES);
        let (news_in, news) = mpsc::channel(1);
        let (reporter, reports) = virtual_node::reports(REPORTS);
        let (services, service_watch) = Services::new(config.client.clone());
        let references = References::new(config.client.clone(), services, ReferencesConfig::default());
        let kept = keeping.as_ref().map(|(_, kept, _)| kept.clone());
        let provider = Arc::new(DeviceProvider::new(references, fleet_handle.clone()).with_kept(kept));
        let mut nodes = VirtualNodes::new(config.client.clone(), virtual_node::Config::default())
            .with_metrics(virtual_node::Metrics::register(&mut registry));
        let mut kubelet_addr = None;
        if let Some(config_of_kubelet) = config.kubelet {
            let kubelet = Kubelet::bind(&config.client, config_of_kubelet).await.map_err(StartError::Kubelet)?;
            kubelet_addr = Some(kubelet.local_addr());
            nodes = nodes.with_kubelet(kubelet);
        }
        let registry = Arc::new(Mutex::new(registry));

        let mut parts = JoinSet::new();
        let http = match config.http {
            Some(address) => {
                let listener = http::listen(address).await?;
                let local = listener.local_addr().map_err(|source| StartError::Http { address, source })?;
                let serving = http::serve(listener, Arc::clone(&registry), metrics.clone(), stop.clone());
                parts.spawn(named("http", async move { serving.await.map_err(|error| error.to_string()) }));
                Some(local)
            }
            None => None,
        };
        let ends = Ends { hub: hub_messages, lines: lines_in, settled, news: news_in };
        let token = || stop.clone();
        parts.spawn(named("fleet", {
            let running = fleet.run(ends, token());
            async move { running.await.map_err(|part| format!("its counterpart has ended: {part}")) }
        }));
        parts.spawn(named("hub client", infallible(hub_client.run(from_hub, token()))));
        parts.spawn(named("status writer", infallible(status::run(config.client.clone(), news, token()))));
        parts.spawn(named("service watch", infallible(service_watch.run(token()))));
        parts.spawn(named("reporting", {
            let running = reporting::run(reporter, lines, settled_in, token());
            async move { running.await.map_err(|error| error.to_string()) }
        }));
        if let Some((keep, kept, bell)) = keeping {
            let keeper = Keeper::new(fleet_handle.clone(), kept, keep);
            parts.spawn(named("log keeper", infallible(keeper.run(bell, token()))));
        }
        parts.spawn(named("device watch", {
            let running = watch::run(config.client, fleet_handle, token());
            async move { running.await.map_err(|error| error.to_string()) }
        }));
        parts.spawn(named("virtual nodes", {
            let running = nodes.run(Arc::clone(&provider), reports, token());
            async move { running.await.map(drop).map_err(|error| error.to_string()) }
        }));
        tracing::info!(%public_key, hub = hub_address, namespace = config.namespace, "the bridge runs");
        let kubelet = kubelet_addr;
        Ok(Self { public_key, hub_address, http, kubelet, registry, metrics, provider, hub, parts, stop })
    }

    /// The key that devices pin.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Where devices find the hub.
    pub fn hub_address(&self) -> &str {
        &self.hub_address
    }

    /// Where the embedded hub listens.
    pub fn embedded_hub_addr(&self) -> Option<SocketAddr> {
        self.hub.as_ref().map(Hub::local_addr)
    }

    /// The embedded hub, if there is one.
    pub fn embedded_hub(&self) -> Option<&Hub> {
        self.hub.as_ref()
    }

    /// Where metrics and health are served.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where the kubelet API is served.
    pub fn kubelet_addr(&self) -> Option<SocketAddr> {
        self.kubelet
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the virtual nodes call.
    pub fn provider(&self) -> &Arc<DeviceProvider> {
        &self.provider
    }

    /// Everything that is registered to be scraped.
    pub fn registry(&self) -> &Arc<Mutex<Registry>> {
        &self.registry
    }

    /// Runs until told to stop, or until a part ends that must not. Then everything else is stopped too.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let ended = tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => None,
            // Cancel-safe: yields an ended part only if this arm runs.
            ended = self.parts.join_next() => ended,
        };
        self.stop.cancel();
        let unfinished = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, unfinished).await.is_err() {
            tracing::warn!(parts = self.parts.len(), "some parts did not end in time and are cut; nothing is lost");
            self.parts.shutdown().await;
        }
        if let Some(hub) = self.hub {
            hub.stop(Duration::from_secs(1)).await;
        }
        match ended {
            None => Ok(()),
            Some(Ok((part, Ok(())))) => Err(RunError::Part { part, why: "for no reason it gave".to_owned() }),
            Some(Ok((part, Err(why)))) => Err(RunError::Part { part, why }),
            Some(Err(panicked)) => Err(RunError::Part { part: "unknown", why: panicked.to_string() }),
        }
    }
}

async fn named(
    part: &'static str,
    running: impl Future<Output = Result<(), String>> + Send,
) -> (&'static str, Result<(), String>) {
    (part, running.await)
}

async fn infallible(running: impl Future<Output = ()> + Send) -> Result<(), String> {
    running.await;
    Ok(())
}

/// Asks once for what cannot work later either, so that the start fails with a reason.
async fn preflight(client: &kube::Client) -> Result<(), StartError> {
    let devices: Api<Device> = Api::all(client.clone());
    match devices.list(&ListParams::default().limit(1)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(StartError::NoCrd),
        Err(error) => return Err(api_error("list devices.hawser.dev", error)),
    }
    // A right that came with a later version. Without it every new pod would wait.
    let services: Api<Service> = Api::all(client.clone());
    services.list_metadata(&ListParams::default().limit(1)).await.map_err(|error| api_error("list services", error))?;
    Ok(())
}

pub(crate) fn api_error(what: &'static str, error: kube::Error) -> StartError {
    match &error {
        kube::Error::Api(status) if status.code == 403 => StartError::Forbidden { what, source: error },
        _ => StartError::Api(error),
    }
}

async fn start_hub(
    choice: HubChoice,
    root: &Root,
    registry: &mut Registry,
) -> Result<(Option<Hub>, HubAccess), StartError> {
    let config = match choice {
        HubChoice::External(access) => return Ok((None, access)),
        HubChoice::Embedded(config) => config,
    };
    let password = config.accounts.bridge_password().reveal().to_owned();
    let hub = Hub::start(embedded_hub::HubConfig { root: root.as_str().to_owned(), ..config }).await?;
    hub.metrics().register(registry);
    let listens = hub.local_addr();
    let host = if listens.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { listens.ip() };
    let address = HubAddress { host: host.to_string(), port: listens.port(), tls: false };
    let access = HubAccess { address, tls: None, username: BRIDGE_USERNAME.to_owned(), password };
    Ok((Some(hub), access))
}
