//! How a command finds its cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Failure;

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// The kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of the bridge's own objects: its key, join tokens, the ConfigMap `hawser-bridge`
    #[arg(long, value_name = "NAME", env = "HAWSER_NAMESPACE", default_value = crate::device::DEFAULT_NAMESPACE)]
    pub namespace: String,
}

impl ClusterArgs {
    /// Makes a client. Nothing is sent yet.
    pub async fn client(&self) -> Result<kube::Client, Failure> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let named = || format!("cannot use the kubeconfig {}: check --kubeconfig", path.display());
                let file = Kubeconfig::read_from(path).with_context(named).map_err(Failure::cluster)?;
                kube::Config::from_custom_kubeconfig(file, &options).await.with_context(named)
            }
            None if self.context.is_some() => kube::Config::from_kubeconfig(&options)
                .await
                .context("cannot use the kubeconfig: check $KUBECONFIG and --context"),
            None => kube::Config::infer()
                .await
                .context("found no cluster: name a kubeconfig with --kubeconfig, or run in a pod"),
        };
        let mut config = config.map_err(Failure::cluster)?;
        config.connect_timeout = Some(Duration::from_secs(10));
        let address = config.cluster_url.to_string();
        kube::Client::try_from(config)
            .with_context(|| format!("cannot make a client for {address}: check the certificates in the kubeconfig"))
            .map_err(Failure::cluster)
    }
}
