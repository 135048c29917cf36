//! `hawser bridge`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use embedded_hub::{Accounts, HubConfig, Password};
use hawser_wire::Root;

use super::cluster::ClusterArgs;
use super::keep::KeepArgs;
use super::kubelet::KubeletArgs;
use super::process::{LogArgs, install_crypto, stop_on_signals};
use super::{Failure, hub::read_password};
use crate::bridge::key::KeySource;
use crate::bridge::{Bridge, BridgeConfig, HubChoice, StartError};
use crate::hub::address::{HubAddress, TlsFiles};
use crate::hub::client::HubAccess;

const EXAMPLES: &str = "\
Examples:
  hawser bridge --hub mqtts://hub.example:8883 --hub-ca ca.pem --hub-password-file password
  hawser bridge --embedded-hub 0.0.0.0:1883 --advertise-hub mqtt://192.168.1.10:1883
  hawser bridge --embedded-hub 0.0.0.0:1883 --kubelet-advertise 192.168.1.10 --kubelet-ports 20000-20999
  hawser bridge --hub mqtts://hub.example --hub-password-file password --keep-logs 16Ki
  hawser bridge --kubeconfig ~/.kube/config --hub mqtt://127.0.0.1 --hub-password-file password";

/// Arguments of `hawser bridge`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BridgeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    log: LogArgs,
    /// The hub: mqtt://host[:port] or mqtts://host[:port]
    #[arg(long, value_name = "URL", env = "HAWSER_HUB", required_unless_present = "embedded_hub")]
    hub: Option<String>,
    /// Run the hub in this process and listen here
    #[arg(long, value_name = "ADDR:PORT", env = "HAWSER_EMBEDDED_HUB", conflicts_with = "hub")]
    embedded_hub: Option<SocketAddr>,
    /// Where devices find the hub, if not where the bridge does
    #[arg(long, value_name = "URL", env = "HAWSER_ADVERTISE_HUB")]
    advertise_hub: Option<String>,
    /// The user name at the hub
    #[arg(long, value_name = "NAME", env = "HAWSER_HUB_USER", default_value = "bridge")]
    hub_user: String,
    /// A file with the password at the hub [default: $HAWSER_HUB_PASSWORD]
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_PASSWORD_FILE")]
    hub_password_file: Option<PathBuf>,
    /// Certificates of the authorities that the hub's certificate may come from [default: the system's]
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_CA")]
    hub_ca: Option<PathBuf>,
    /// The bridge's certificate for the hub
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_CERT", requires = "hub_key")]
    hub_cert: Option<PathBuf>,
    /// The key of the bridge's certificate for the hub
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_KEY", requires = "hub_cert")]
    hub_key: Option<PathBuf>,
    /// The first levels of all topics
    #[arg(long, value_name = "ROOT", env = "HAWSER_ROOT", default_value = "hawser")]
    root: String,
    /// A file with the bridge's key, 64 hexadecimal digits [default: the Secret `hawser-bridge-key`, made at the first start]
    #[arg(long, value_name = "FILE", env = "HAWSER_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// How often devices send heartbeats, in seconds
    #[arg(long, value_name = "SECONDS", env = "HAWSER_HEARTBEAT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    heartbeat: u16,
    /// Where metrics and health are served, or `none`
    #[arg(long, value_name = "ADDR:PORT", env = "HAWSER_HTTP", default_value = "127.0.0.1:9464")]
    http: String,
    #[command(flatten)]
    kubelet: KubeletArgs,
    #[command(flatten)]
    keep: KeepArgs,
}

impl BridgeArgs {
    /// Runs the bridge until a signal comes.
    pub async fn run(self) -> Result<(), Failure> {
        self.log.start()?;
        install_crypto();
        let stop = stop_on_signals().context("cannot listen to signals").map_err(Failure::running)?;
        // Dropping what has started is fine: it all goes with the process.
        let started = stop.run_until_cancelled(Box::pin(self.start())).await;
        match started {
            Some(bridge) => bridge?.run(stop).await.map_err(Failure::running),
            None => Ok(()),
        }
    }

    async fn start(self) -> Result<Bridge, Failure> {
        Bridge::start(self.config().await?).await.map_err(start_failure)
    }

    async fn config(self) -> Result<BridgeConfig, Failure> {
        let root = Root::new(&self.root).context("--root").map_err(Failure::usage)?;
        let http = match self.http.as_str() {
            "none" => None,
            address => Some(
                address
                    .parse()
                    .with_context(|| format!("--http `{address}`: expected an address like 127.0.0.1:9464, or `none`"))
                    .map_err(Failure::usage)?,
            ),
        };
        let hub = self.hub_choice()?;
        let kubelet = self.kubelet.config()?;
        let keep_logs = self.keep.config()?;
        let client = self.cluster.client().await?;
        Ok(BridgeConfig {
            client,
            hub,
            namespace: self.cluster.namespace,
            root,
            key: self.key_file.map_or(KeySource::Secret, KeySource::File),
            heartbeat: Duration::from_secs(u64::from(self.heartbeat)),
            http,
            advertised_hub: self.advertise_hub,
            kubelet,
            keep_logs,
        })
    }

    fn hub_choice(&self) -> Result<HubChoice, Failure> {
        if let Some(listen) = self.embedded_hub {
            // Nobody but this process needs it.
            let password = Password::generate().context("make a password for the hub").map_err(Failure::running)?;
            return Ok(HubChoice::Embedded(HubConfig { listen, ..HubConfig::on_loopback(Accounts::new(password)) }));
        }
        let address = HubAddress::parse(self.hub.as_deref().unwrap_or_default()).map_err(Failure::usage)?;
        let identity = self.hub_cert.clone().zip(self.hub_key.clone());
        let files = TlsFiles { ca: self.hub_ca.clone(), identity };
        if !address.tls && files != TlsFiles::default() {
            return Err(Failure::usage(anyhow::anyhow!("--hub-ca, --hub-cert and --hub-key need --hub mqtts://…")));
        }
        let tls = if address.tls { Some(files.client_config().map_err(Failure::address)?) } else { None };
        let password = password(self.hub_password_file.as_deref())?;
        Ok(HubChoice::External(HubAccess { address, tls, username: self.hub_user.clone(), password }))
    }
}

fn password(file: Option<&Path>) -> Result<String, Failure> {
    match file {
        Some(path) => read_password(path),
        None => Ok(std::env::var("HAWSER_HUB_PASSWORD").unwrap_or_default()),
    }
}

fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Api(_) | StartError::NoCrd | StartError::Forbidden { .. } => Failure::cluster(error),
        StartError::Key(_) => Failure::key(error),
        StartError::Hub(_) | StartError::Http { .. } | StartError::Kubelet(_) => Failure::address(error),
        _ => Failure::running(error),
    }
}
