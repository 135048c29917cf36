//! The manifests, the subcommands and `prepare` against a whole API: the lab's, or unchanged the cluster that
//! `EDGE_PROVIDER_TEST_KUBECONFIG` names. Rights are only checked there, since everybody may do everything in the lab.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Config, Discovery};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use virtual_node::provider::NotApplied;

use super::{Answers, DeviceCommand};
use crate::cli::manifests::{ManifestsCommand, Place};
use crate::deployment::{References, ReferencesConfig, Services, prepare};
use crate::device::bridge_info::BridgeInfo;
use crate::device::join_token::{StoredToken, secret_name};
use crate::device::{Device, DeviceSpec};

/// Longer than anything takes on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    config: Config,
    client: Client,
    namespace: String,
    /// Whether the API checks what users may do.
    checks_rights: bool,
    _lab: Option<lab_kube_api::KubeApi>,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// The rights of the whole cluster go to the bridge of one namespace: one world at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl World {
    async fn new() -> Result<Self> {
        let turn = TURN.lock().await;
        // Another test of this process may have chosen it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (kubeconfig, lab) = match std::env::var("EDGE_PROVIDER_TEST_KUBECONFIG") {
            Ok(path) => (Kubeconfig::read_from(path)?, None),
            Err(_) => {
                let api = lab_kube_api::KubeApi::start(lab_kube_api::Config::default()).await?;
                (Kubeconfig::from_yaml(&api.kubeconfig()?)?, Some(api))
            }
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config.clone())?;
        let mut random = [0; 4];
        getrandom::fill(&mut random)?;
        let namespace = format!("hawser-test-{:08x}", u32::from_be_bytes(random));
        let world = Self { config, client, namespace, checks_rights: lab.is_none(), _lab: lab, _turn: turn };
        world.apply_manifests().await?;
        Ok(world)
    }

    /// `hawser manifests all | kubectl apply --server-side -f -`
    async fn apply_manifests(&self) -> Result<()> {
        let text = ManifestsCommand::All(Place { namespace: self.namespace.clone() }).text()?;
        let discovery = Discovery::new(self.client.clone()).run().await?;
        for document in text.split("---\n") {
            let object: DynamicObject = serde_saphyr::from_str(document)?;
            let types = object.types.clone().context("a type")?;
            let kind = GroupVersionKind::try_from(&types)?;
            let Some((resource, _)) = discovery.resolve_gvk(&kind) else {
                // As on a cluster before 1.36: kubectl says so and goes on.
                ensure!(kind.group == "admissionregistration.k8s.io", "{types:?} is unknown");
                continue;
            };
            let name = object.metadata.name.clone().context("a name")?;
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let params = PatchParams::apply("hawser-test").force();
            // A namespace that was just made may not be there yet for what goes into it.
            retry(|| async { Ok(api.patch(&name, &params, &Patch::Apply(&object)).await?) })
                .await
                .with_context(|| format!("{} {name}", types.kind))?;
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        retry(|| async {
            let definition = definitions.get("devices.hawser.dev").await?;
            let conditions = definition.status.and_then(|status| status.conditions).unwrap_or_default();
            ensure!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"), "not established");
            Ok(())
        })
        .await
    }

    async fn run(&self, client: &Client, line: &str) -> Result<String> {
        #[derive(Parser)]
        struct Program {
            #[command(subcommand)]
            command: DeviceCommand,
        }
        struct Nobody;
        impl Answers for Nobody {
            fn answer(&mut self) -> Option<String> {
                None
            }
        }
        let line = format!("x {line} -n {}", self.namespace);
        let mut out = Vec::new();
        let (client, now) = (client.clone(), now());
        match Program::try_parse_from(line.split_whitespace())?.command {
            DeviceCommand::Add(add) => add.execute(client, now, &mut out).await?,
            DeviceCommand::List(list) => list.execute(client, now, &mut out).await?,
            DeviceCommand::Show(show) => show.execute(client, now, &mut out).await?,
            DeviceCommand::Remove(remove) => remove.execute(client, &mut Nobody, &mut out).await?,
        }
        Ok(String::from_utf8(out)?)
    }

    /// Who the bridge is in the cluster, with a token as its pod would have it.
    async fn bridge(&self) -> Result<Client> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(600), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request("hawser-bridge", &PostParams::default(), &request).await?;
        let token = answer.status.and_then(|status| status.token).context("a token")?;
        let mut config = Config::new(self.config.cluster_url.clone());
        config.root_cert = self.config.root_cert.clone();
        config.auth_info.token = Some(token.into());
        Ok(Client::try_from(config)?)
    }

    /// A pod with a ConfigMap, a Secret and a token, bound to a node that does not exist, and what it refers to.
    async fn pod(&self) -> Result<Pod> {
        let (client, namespace) = (self.client.clone(), self.namespace.as_str());
        let create = PostParams::default();
        let map = serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": {"COLOR": "red"}}))?;
        Api::<ConfigMap>::namespaced(client.clone(), namespace).create(&create, &map).await?;
        let secret = serde_json::from_value(json!({"metadata": {"name": "keys"}, "data": {"password": "cHc="}}))?;
        Api::<Secret>::namespaced(client.clone(), namespace).create(&create, &secret).await?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let token = json!({"path": "token", "expirationSeconds": 600});
        let pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {
            "nodeName": "a-device", "serviceAccountName": "hawser-bridge", "automountServiceAccountToken": true,
            "containers": [{"name": "main", "image": "host",
                "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
                "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
            "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": token}]}}],
        }}))?;
        Ok(pods.create(&create, &pod).await?)
    }

    /// Takes away what would stay in a cluster that outlives the test. The definition and the cluster's roles stay.
    async fn end(self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let _ = pods.delete("web", &DeleteParams::default().grace_period(0)).await;
        namespaces.delete(&self.namespace, &DeleteParams::background()).await?;
        Ok(())
    }
}

async fn retry<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        // Both arms are timers: dropping one loses nothing.
        tokio::select! {
            () = &mut deadline => return Err(error),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the objects of a real cluster have the real time")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[track_caller]
fn forbidden<T>(what: &str, answer: kube::Result<T>) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what} is allowed"),
    }
}

#[tokio::test]
async fn a_device_is_added_shown_and_removed() -> Result<()> {
    let world = World::new().await?;
    let name = format!("pi-{}", world.namespace);
    let client = &world.client;
    let error = world.run(client, &format!("add {name}")).await.unwrap_err().to_string();
    assert!(error.contains("no bridge has run there yet"), "{error}");

    let info = BridgeInfo {
        public_key: hawser_wire::PublicKey([7; 32]),
        hub_url: "mqtts://hub.example:8883".to_owned(),
        root: hawser_wire::Root::default(),
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &world.namespace);
    maps.create(&PostParams::default(), &info.to_config_map(&world.namespace)).await?;
    let text = world.run(client, &format!("add {name} --label site=b")).await?;
    assert!(text.contains("hawser-agent join mqtts://hub.example:8883"), "{text}");
    let error = world.run(client, &format!("add {name}")).await.unwrap_err().to_string();
    assert!(error.contains("already; choose another name"), "{error}");

    let devices: Api<Device> = Api::all(client.clone());
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &world.namespace);
    let id = hawser_wire::DeviceId::new(&name)?;
    let secret = secrets.get(&secret_name(&id)).await?;
    let owners = secret.metadata.owner_references.clone().unwrap_or_default();
    assert_eq!(Some(&owners[0].uid), devices.get(&name).await?.metadata.uid.as_ref());
    let stored = StoredToken::from_secret(&secret).context("a token")?;
    world.run(client, &format!("add {name} --renew")).await?;
    let renewed = StoredToken::from_secret(&secrets.get(&secret_name(&id)).await?).context("a token")?;
    assert_ne!(stored.token, renewed.token);

    let list = world.run(client, "list").await?;
    let row = list.lines().find(|line| line.starts_with(&name)).context("a row")?;
    assert!(row.contains("NotJoined") && row.contains("never"), "{row}");
    let joined = json!({"status": {"publicKey": "ab".repeat(32), "agentVersion": "0.1.0"}});
    devices.patch_status(&name, &PatchParams::default(), &Patch::Merge(joined)).await?;
    let shown = world.run(client, &format!("show {name}")).await?;
    assert!(shown.contains("valid for another") && shown.contains("site=b") && shown.contains("0.1.0"), "{shown}");
    let error = world.run(client, &format!("add {name} --renew")).await.unwrap_err().to_string();
    assert!(error.contains("add --reset-key"), "{error}");
    world.run(client, &format!("add {name} --renew --reset-key")).await?;
    assert_eq!(devices.get(&name).await?.status.and_then(|status| status.public_key), None);

    world.run(client, &format!("remove {name} --yes")).await?;
    assert!(devices.get_opt(&name).await?.is_none());
    let error = world.run(client, &format!("show {name}")).await.unwrap_err().to_string();
    assert!(error.contains("there is no device"), "{error}");
    world.end().await
}

#[tokio::test]
async fn the_definition_of_devices_refuses_what_is_no_key() -> Result<()> {
    let world = World::new().await?;
    let devices: Api<Device> = Api::all(world.client.clone());
    let spec = DeviceSpec { public_key: Some("not a key".to_owned()), ..DeviceSpec::default() };
    let answer = devices.create(&PostParams::default(), &Device::new(&format!("bad-{}", world.namespace), spec)).await;
    // The lab keeps custom resources without judging them by their schema.
    if world.checks_rights {
        assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 422), "{answer:?}");
    }
    world.end().await
}

#[tokio::test]
async fn a_pod_is_prepared_with_the_rights_of_the_bridge() -> Result<()> {
    let world = World::new().await?;
    let pod = world.pod().await?;
    let (services, watch) = Services::new(world.bridge().await?);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch.run(stop.clone()));
    let references = References::new(world.bridge().await?, services, ReferencesConfig::default());
    let prepared = match prepare(&references, &pod).await {
        Ok(prepared) => prepared,
        Err(NotApplied::Waiting(waiting)) => anyhow::bail!("{}", waiting.event_message),
        Err(error) => anyhow::bail!("{error:?}"),
    };
    assert!(prepared.again.is_some());
    assert!(!prepared.blobs.is_empty(), "a token is longer than what travels inline");
    stop.cancel();
    watching.await?;
    world.end().await
}

#[tokio::test]
async fn the_bridge_may_do_what_it_must_and_no_more() -> Result<()> {
    let world = World::new().await?;
    if !world.checks_rights {
        eprintln!("skipped: the lab checks no rights; set EDGE_PROVIDER_TEST_KUBECONFIG to a cluster that does");
        return world.end().await;
    }
    let bridge = world.bridge().await?;
    let namespace = world.namespace.as_str();
    let (create, list) = (PostParams::default(), ListParams::default());

    let secrets: Api<Secret> = Api::namespaced(bridge.clone(), namespace);
    let own = serde_json::from_value(json!({"metadata": {"name": "hawser-bridge-key"}}))?;
    secrets.create(&create, &own).await.context("making its own key")?;
    secrets.delete("hawser-bridge-key", &DeleteParams::default()).await.context("deleting a used token")?;
    let maps: Api<ConfigMap> = Api::namespaced(bridge.clone(), namespace);
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hawser-bridge"}, "data": {"a": "b"}});
    let params = PatchParams::apply("hawser-bridge").force();
    maps.patch("hawser-bridge", &params, &Patch::Apply(&map)).await.context("saying of itself")?;
    let devices: Api<Device> = Api::all(bridge.clone());
    devices.list(&list).await.context("listing devices")?;

    forbidden("listing all Secrets", Api::<Secret>::all(bridge.clone()).list(&list).await);
    forbidden("listing Secrets of its own namespace", secrets.list(&list).await);
    forbidden("listing ConfigMaps", Api::<ConfigMap>::all(bridge.clone()).list(&list).await);
    forbidden("adding devices", devices.create(&create, &Device::new("x", DeviceSpec::default())).await);
    forbidden("removing devices", devices.delete("x", &DeleteParams::default()).await);
    let pods: Api<Pod> = Api::namespaced(bridge.clone(), namespace);
    let pod = serde_json::from_value(
        json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}),
    )?;
    forbidden("creating pods", pods.create(&create, &pod).await);
    let elsewhere: Api<Secret> = Api::namespaced(bridge.clone(), "default");
    forbidden("making Secrets elsewhere", elsewhere.create(&create, &own).await);
    forbidden("making namespaces", Api::<Namespace>::all(bridge).create(&create, &Namespace::default()).await);
    world.end().await
}
