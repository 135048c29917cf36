//! Reads what pods refer to.

use std::time::Duration;

use virtual_node::provider::NotApplied;

/// How references are read and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencesConfig {
    /// How long an object that was read serves all pods that refer to it.
    pub keep: Duration,
    /// How often a pod's references are looked at again.
    pub refresh: Duration,
}

impl Default for ReferencesConfig {
    fn default() -> Self {
        Self { keep: Duration::from_secs(15), refresh: Duration::from_secs(20) }
    }
}

/// Reads ConfigMaps, Secrets and tokens. A clone is another handle to the same.
#[derive(Clone)]
pub struct References {
    client: kube::Client,
}

impl References {
    /// Reads through `client`.
    pub fn new(client: kube::Client, _config: ReferencesConfig) -> Self {
        Self { client }
    }

    pub(crate) async fn reach(&self) -> Result<(), NotApplied> {
        match self.client.apiserver_version().await {
            Ok(_) => Ok(()),
            Err(error) => Err(NotApplied::Unavailable { message: error.to_string() }),
        }
    }
}
