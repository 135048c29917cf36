//! `hawser manifests`: what has to be in a cluster before a bridge can run there, as YAML.

use std::io::Write;

use clap::{Args, Subcommand};
use kube::CustomResourceExt;

use crate::device::{DEFAULT_NAMESPACE, Device};

/// Print what has to be in a cluster before a bridge can run there.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  hawser manifests all | kubectl apply -f -
  hawser manifests rbac -n edge > rbac.yaml
  hawser manifests crd | kubectl diff -f -")]
pub enum ManifestsCommand {
    /// The definition of the resource Device.
    Crd,
    /// Namespace, ServiceAccount and the rights of the bridge, each with its reason.
    Rbac(Place),
    /// The policy that keeps pods on devices that are away (Kubernetes 1.36 or later).
    Policy,
    /// All of it.
    All(Place),
}

/// Where the bridge runs.
#[derive(Debug, Args)]
pub struct Place {
    /// The namespace of the bridge
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE, value_parser = parse_namespace)]
    pub(super) namespace: String,
}

impl ManifestsCommand {
    /// Prints to standard output.
    pub async fn run(self) -> anyhow::Result<()> {
        Ok(std::io::stdout().lock().write_all(self.text()?.as_bytes())?)
    }

    pub(super) fn text(&self) -> anyhow::Result<String> {
        Ok(match self {
            Self::Crd => crd()?,
            Self::Rbac(place) => rbac(&place.namespace),
            Self::Policy => POLICY.to_owned(),
            Self::All(place) => format!("{}---\n{}---\n{POLICY}", crd()?, rbac(&place.namespace)),
        })
    }
}

fn crd() -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(&Device::crd())?)
}

/// Written by hand, because each rule carries its reason; a test holds it against what the code needs.
const RBAC: &str = include_str!("manifests/rbac.yaml");

/// As text for the same reason.
const POLICY: &str = include_str!("manifests/no-eviction.yaml");

fn rbac(namespace: &str) -> String {
    RBAC.replace(DEFAULT_NAMESPACE, namespace)
}

fn parse_namespace(name: &str) -> Result<String, String> {
    let good = !name.contains('.') && name.len() <= 63 && hawser_wire::DeviceId::new(name).is_ok();
    if good {
        Ok(name.to_owned())
    } else {
        Err("a namespace has at most 63 lower-case letters, digits and `-`".to_owned())
    }
}

#[cfg(test)]
mod tests;
