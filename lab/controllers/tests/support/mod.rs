//! A cluster for one test: an API, the controllers, and kubelets that run nothing but say they do.

#![allow(dead_code, reason = "every test file uses the part it needs")]

pub(crate) mod kubelet;
pub(crate) mod manifests;

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Resource, ResourceExt};
use lab_controllers::{Config, Controllers, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::kubelet::Kubelet;

/// Longer than anything here takes on a slow machine; a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that one test needs.
pub(crate) struct Lab {
    pub(crate) client: Client,
    /// Where the test works; also the label `test` of its nodes.
    pub(crate) namespace: String,
    controllers: Option<(CancellationToken, JoinHandle<Result<(), Error>>)>,
    kubelets: Vec<Kubelet>,
    api: Option<lab_kube_api::KubeApi>,
}

/// Controllers that are quicker than those of a real cluster, so that a test need not wait.
pub(crate) fn quick() -> Config {
    Config {
        node_monitor_period: Duration::from_millis(200),
        node_monitor_grace_period: Duration::from_millis(1_500),
        node_startup_grace_period: Duration::from_secs(3),
        pod_gc_period: Duration::from_millis(500),
        pod_gc_quarantine: Duration::from_millis(500),
        job_backoff: Duration::from_millis(200),
        ..Config::default()
    }
}

impl Lab {
    /// Starts an API, controllers, and these nodes. With `HAWSER_TEST_KUBECONFIG` the API is the one named there, which
    /// must not have controllers for workloads and nodes of its own, unless `HAWSER_TEST_THEIR_CONTROLLERS` says that
    /// they, and not ours, are to be tested; run such tests one at a time.
    pub(crate) async fn start(config: Config, nodes: &[&str]) -> Result<Self> {
        let (client, api) = match std::env::var("HAWSER_TEST_KUBECONFIG") {
            Ok(file) => (real_client(&file).await?, None),
            Err(_) => {
                let api = lab_kube_api::KubeApi::start(lab_kube_api::Config::default()).await?;
                (lab_client(&api).await?, Some(api))
            }
        };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = Namespace {
            metadata: ObjectMeta { generate_name: Some("test-".into()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let namespace = namespaces.create(&PostParams::default(), &namespace).await?.name_any();
        wait_for_service_account(&client, &namespace, api.is_none()).await?;
        let mut lab = Self { client, namespace, controllers: None, kubelets: Vec::new(), api };
        for node in nodes {
            lab.add_node(node).await?;
        }
        // Whether what the tests expect is what people get from kube-controller-manager and kube-scheduler.
        if std::env::var_os("HAWSER_TEST_THEIR_CONTROLLERS").is_none() {
            lab.start_controllers(config);
        }
        Ok(lab)
    }

    pub(crate) fn start_controllers(&mut self, config: Config) {
        let stop = CancellationToken::new();
        let running = tokio::spawn(Controllers::new(self.client.clone(), config).run(stop.clone()));
        self.controllers = Some((stop, running));
    }

    /// Stops the controllers and checks that they did so in time and without complaint.
    pub(crate) async fn stop_controllers(&mut self) -> Result<()> {
        let Some((stop, running)) = self.controllers.take() else { return Ok(()) };
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), running).await.context("controllers did not stop in 5 s")???;
        Ok(())
    }

    /// The name of a node of this test.
    pub(crate) fn node(&self, short: &str) -> String {
        format!("{}-{short}", self.namespace)
    }

    pub(crate) async fn add_node(&mut self, short: &str) -> Result<()> {
        let kubelet = Kubelet::start(self.client.clone(), &self.node(short), &self.namespace).await?;
        self.kubelets.push(kubelet);
        Ok(())
    }

    pub(crate) fn kubelet(&mut self, short: &str) -> &mut Kubelet {
        let name = self.node(short);
        self.kubelets.iter_mut().find(|kubelet| kubelet.node == name).expect("a node of this test")
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from a manifest.
    pub(crate) async fn create<K>(&self, manifest: Value) -> Result<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(manifest)?;
        Ok(self.api::<K>().create(&PostParams::default(), &object).await?)
    }

    pub(crate) async fn patch<K>(&self, name: &str, patch: Value) -> Result<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        Ok(self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// Waits until an object of the namespace is as wanted.
    pub(crate) async fn until<K>(&self, name: &str, what: &str, wanted: impl Fn(&K) -> bool + Send + Sync) -> Result<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        until_in(self.api::<K>(), name, what, wanted).await
    }

    /// Waits until there is no such object.
    pub(crate) async fn until_gone<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let api = self.api::<K>();
        let Some(uid) = api.get_opt(name).await?.and_then(|object| object.uid()) else { return Ok(()) };
        let gone = await_condition(api, name, conditions::is_deleted(&uid));
        tokio::time::timeout(PATIENCE, gone).await.with_context(|| format!("{name} is not gone"))??;
        Ok(())
    }

    pub(crate) async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.api::<Pod>().list(&ListParams::default()).await?.items)
    }

    /// Waits until the pods of the namespace are as wanted.
    pub(crate) async fn until_pods(&self, what: &str, wanted: impl Fn(&[Pod]) -> bool) -> Result<Vec<Pod>> {
        use futures::StreamExt;
        use kube::runtime::{WatchStreamExt, reflector, watcher};
        let (store, writer) = reflector::store();
        let events = watcher(self.api::<Pod>(), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(reflector::reflector(writer, events));
        let found = tokio::time::timeout(PATIENCE, async {
            let mut listed = false;
            while let Some(event) = events.next().await {
                listed |= matches!(event?, watcher::Event::InitDone);
                let pods: Vec<Pod> = store.state().iter().map(|pod| Pod::clone(pod)).collect();
                if listed && wanted(&pods) {
                    return Ok(pods);
                }
            }
            anyhow::bail!("the watch ended")
        });
        match found.await {
            Ok(found) => found,
            Err(_) => anyhow::bail!("{what}: pods are {:#?}", self.summary().await?),
        }
    }

    async fn summary(&self) -> Result<Vec<String>> {
        let line = |pod: &Pod| {
            let status = pod.status.clone().unwrap_or_default();
            let spec = pod.spec.clone().unwrap_or_default();
            format!("{} {:?} on {:?}, deleted {}", pod.name_any(), status.phase, spec.node_name, leaving(pod))
        };
        Ok(self.pods().await?.iter().map(line).collect())
    }

    /// The reasons of the Events about an object, waiting for one of them.
    pub(crate) async fn until_event(&self, about: &str, reason: &str) -> Result<String> {
        use futures::StreamExt;
        use k8s_openapi::api::core::v1::Event;
        use kube::runtime::{WatchStreamExt, watcher};
        let events = watcher(self.api::<Event>(), watcher::Config::default()).default_backoff().applied_objects();
        let mut events = std::pin::pin!(events);
        let found = async {
            while let Some(event) = events.next().await {
                let event = event?;
                let name = event.involved_object.name.as_deref();
                if name == Some(about) && event.reason.as_deref() == Some(reason) {
                    return Ok(event.message.unwrap_or_default());
                }
            }
            anyhow::bail!("the watch ended")
        };
        tokio::time::timeout(PATIENCE, found).await.with_context(|| format!("no event {reason} about {about}"))?
    }

    /// Ends the test: everything stops, and on an API that lives on, what was made is deleted.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.stop_controllers().await?;
        for kubelet in self.kubelets {
            kubelet.finish(self.api.is_none()).await?;
        }
        if let Some(api) = self.api {
            api.stop().await;
            return Ok(());
        }
        for pod in Api::<Pod>::namespaced(self.client.clone(), &self.namespace).list(&ListParams::default()).await? {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            let free = serde_json::json!({ "metadata": { "finalizers": null } });
            let _ = pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(free)).await;
            let _ = pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
        Api::<Namespace>::all(self.client).delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }
}

pub(crate) fn leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(crate) async fn until_in<K>(
    api: Api<K>,
    name: &str,
    what: &str,
    wanted: impl Fn(&K) -> bool + Send + Sync,
) -> Result<K>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let condition = await_condition(api.clone(), name, |object: Option<&K>| object.is_some_and(&wanted));
    match tokio::time::timeout(PATIENCE, condition).await {
        Ok(found) => found?.context("the object is not there"),
        Err(_) => anyhow::bail!("{name}: {what}; it is {:#?}", api.get_opt(name).await?),
    }
}

async fn real_client(file: &str) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(file)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn lab_client(api: &lab_kube_api::KubeApi) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&api.kubeconfig()?)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    Ok(Client::try_from(config)?)
}

/// A real API server admits no pod before the default service account is there.
async fn wait_for_service_account(client: &Client, namespace: &str, needed: bool) -> Result<()> {
    use k8s_openapi::api::core::v1::ServiceAccount;
    if !needed {
        return Ok(());
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    until_in(accounts, "default", "exists", |_| true).await.map(drop)
}
