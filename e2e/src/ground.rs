//! The ground on which a story is told: the lab's API server and controllers, or a real cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, Config};
use lab_controllers::Controllers;
use lab_kube_api::KubeApi;
use serde::Deserialize;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::process::{Role, command};
use crate::wait::{SOON, eventually};
use crate::world::SYSTEM;

/// The ServiceAccount that `hawser manifests` makes for the bridge.
const BRIDGE_ACCOUNT: &str = "hawser-bridge";

/// An API server with everything that the bridge needs installed.
pub struct Ground {
    kubeconfig: PathBuf,
    bridge_kubeconfig: PathBuf,
    _lab: Option<LabGround>,
}

/// An API server and controllers in this process.
struct LabGround {
    _api: KubeApi,
    _stop: DropGuard,
}

impl Ground {
    /// Chooses the ground and installs CRD and RBAC on it.
    pub async fn prepare(folder: &Path) -> Result<Self> {
        // The first provider that is asked for wins; a second install is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = folder.join("admin.kubeconfig");
        let lab = if on_cluster() {
            let own =
                std::env::var_os("KUBECONFIG").context("HAWSER_E2E=cluster needs KUBECONFIG: name a kubeconfig")?;
            std::fs::copy(&own, &kubeconfig).with_context(|| format!("{} cannot be read", own.display()))?;
            None
        } else {
            Some(LabGround::start(&kubeconfig).await?)
        };
        let ground = Self { bridge_kubeconfig: folder.join("bridge.kubeconfig"), kubeconfig, _lab: lab };
        let client = ground.client().await?;
        install(&client).await?;
        ground.write_bridge_kubeconfig(&client).await?;
        Ok(ground)
    }

    /// A kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// A kubeconfig with the rights of the bridge.
    pub fn bridge_kubeconfig(&self) -> PathBuf {
        self.bridge_kubeconfig.clone()
    }

    /// A client with all rights.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig).await
    }

    async fn write_bridge_kubeconfig(&self, client: &Client) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(6 * 3600), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let issued = accounts.create_token_request(BRIDGE_ACCOUNT, &PostParams::default(), &request).await?;
        let token = issued.status.and_then(|status| status.token).context("the API server issued no token")?;
        let mut kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        for named in &mut kubeconfig.auth_infos {
            named.auth_info = Some(AuthInfo { token: Some(token.clone().into()), ..AuthInfo::default() });
        }
        // JSON is YAML.
        std::fs::write(&self.bridge_kubeconfig, serde_json::to_vec(&kubeconfig)?)?;
        Ok(())
    }
}

/// Whether the stories are to be told on the cluster of KUBECONFIG.
pub fn on_cluster() -> bool {
    std::env::var("HAWSER_E2E").is_ok_and(|ground| ground == "cluster")
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

impl LabGround {
    async fn start(kubeconfig: &Path) -> Result<Self> {
        let api = KubeApi::start(lab_kube_api::Config::default()).await?;
        api.write_kubeconfig(kubeconfig)?;
        let stop = CancellationToken::new();
        let controllers = Controllers::new(client(kubeconfig).await?, lab_controllers::Config::default());
        tokio::spawn(controllers.run(stop.clone()));
        Ok(Self { _api: api, _stop: stop.drop_guard() })
    }
}

/// Applies what `hawser manifests all` prints, as an operator would with kubectl.
async fn install(client: &Client) -> Result<()> {
    let output = command(Role::Hawser).args(["manifests", "all"]).output().await?;
    if !output.status.success() {
        bail!("hawser manifests: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    for document in text.split("\n---").map(str::trim).filter(|document| !document.is_empty()) {
        let Some(object) = Option::<DynamicObject>::deserialize(parse(document)?)? else {
            continue;
        };
        apply(client, object).await?;
    }
    Ok(())
}

fn parse(text: &str) -> Result<serde_json::Value> {
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))
}

async fn apply(client: &Client, object: DynamicObject) -> Result<()> {
    let types = object.types.clone().context("a manifest without kind")?;
    if !on_cluster() && types.kind.starts_with("MutatingAdmissionPolicy") {
        // The lab's API does not know this kind, as clusters before 1.36 do not: kubectl complains and goes on.
        return Ok(());
    }
    let kind = kube::api::GroupVersionKind::try_from(&types)?;
    let (resource, capabilities): (ApiResource, _) = pinned_kind(client, &kind).await?;
    let name = object.metadata.name.clone().context("a manifest without name")?;
    let api: Api<DynamicObject> = match (capabilities.scope, &object.metadata.namespace) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, namespace) => {
            Api::namespaced_with(client.clone(), namespace.as_deref().unwrap_or("default"), &resource)
        }
    };
    let parameters = PatchParams::apply("hawser-e2e").force();
    // A namespace that was only just created may not take objects yet.
    eventually(&format!("{} {name} is applied", kind.kind), SOON, || async {
        api.patch(&name, &parameters, &Patch::Apply(&object)).await.map_err(|error| error.to_string())
    })
    .await?;
    Ok(())
}
