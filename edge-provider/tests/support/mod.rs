//! A cluster, a hub, a bridge, and a board that speaks the wire and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge_provider::bridge::key::KeySource;
use edge_provider::bridge::{Bridge, BridgeConfig, HubChoice, RunError};
use edge_provider::device::join_token::StoredToken;
use edge_provider::device::{DEFAULT_NAMESPACE, Device, DeviceSpec};
use edge_provider::hub::address::HubAddress;
use edge_provider::hub::client::HubAccess;
use edge_provider::kept::KeepLogs;
use edge_provider::metrics::Metrics;
use edge_provider::provider::DeviceProvider;
use hawser_wire::desired::{Want, WantedObject, Wish};
use hawser_wire::report::{Gone, Heartbeat, NodeFacts, Numbered, Phase, Report, ReportItem, Resource, WorkloadReport};
use hawser_wire::session::{Initiator, Names, Session, StaticKey};
use hawser_wire::session_messages::{Envelope, HelloPayload, Refusal};
use hawser_wire::token::JoinToken;
use hawser_wire::{
    BootId, Channel, DeviceId, DeviceTime, Digest, Down, Open, PublicKey, Root, TokenId, Up, Version, codec,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::CustomResourceExt;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
pub(crate) const PASSWORD: &str = "hub-password";

pub(crate) struct World {
    pub(crate) client: kube::Client,
    pub(crate) hub: SocketAddr,
    keep_logs: Option<KeepLogs>,
    running: Option<Running>,
    _api: lab_kube_api::KubeApi,
}

struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), RunError>>,
    key: PublicKey,
    metrics: Metrics,
    provider: Arc<DeviceProvider>,
}

impl World {
    /// A cluster, and a bridge on the hub at `hub`.
    pub(crate) async fn on(hub: SocketAddr) -> Result<Self> {
        Self::keeping(None, hub).await
    }

    /// As [`World::on`]; the bridge keeps logs.
    pub(crate) async fn keeping(keep_logs: Option<KeepLogs>, hub: SocketAddr) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = lab_kube_api::KubeApi::start(lab_kube_api::Config::default()).await?;
        let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig()?)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let params = PostParams::default();
        Api::all(client.clone()).create(&params, &Device::crd()).await.context("create the CRD")?;
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": DEFAULT_NAMESPACE}}))?;
        Api::all(client.clone()).create(&params, &namespace).await.context("create the namespace")?;
        let devices: Api<Device> = Api::all(client.clone());
        within("the CRD to be served", async || Ok(devices.list(&Default::default()).await.is_ok())).await?;
        let mut world = Self { client, hub, keep_logs, running: None, _api: api };
        world.start_bridge().await?;
        Ok(world)
    }

    pub(crate) async fn start_bridge(&mut self) -> Result<()> {
        let address = HubAddress { host: self.hub.ip().to_string(), port: self.hub.port(), tls: false };
        let bridge = Bridge::start(BridgeConfig {
            client: self.client.clone(),
            hub: HubChoice::External(HubAccess {
                address,
                tls: None,
                username: "bridge".to_owned(),
                password: PASSWORD.to_owned(),
            }),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            root: Root::default(),
            key: KeySource::Secret,
            heartbeat: Duration::from_secs(1),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            advertised_hub: None,
            kubelet: None,
            keep_logs: self.keep_logs,
        })
        .await?;
        let (key, metrics, stop) = (bridge.public_key(), bridge.metrics().clone(), CancellationToken::new());
        let provider = Arc::clone(bridge.provider());
        let ended = tokio::spawn(bridge.run(stop.clone()));
        let connected = metrics.clone();
        self.running = Some(Running { stop, ended, key, metrics, provider });
        within("the bridge to reach the hub", async || Ok(connected.hub_connected.get() == 1)).await
    }

    pub(crate) async fn stop_bridge(&mut self) -> Result<()> {
        let running = self.running.take().context("no bridge runs")?;
        running.stop.cancel();
        Ok(running.ended.await??)
    }

    pub(crate) fn bridge_key(&self) -> PublicKey {
        self.running.as_ref().map_or(PublicKey([0; 32]), |running| running.key)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.running.as_ref().expect("a bridge runs").metrics
    }

    pub(crate) fn provider(&self) -> &DeviceProvider {
        &self.running.as_ref().expect("a bridge runs").provider
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.ended.is_finished())
    }

    pub(crate) async fn add_device(&self, name: &str) -> Result<()> {
        self.devices().create(&PostParams::default(), &Device::new(name, DeviceSpec::default())).await?;
        Ok(())
    }

    /// A token that is good for so many seconds from now.
    pub(crate) async fn add_token(&self, name: &str, id: u8, seconds: i64) -> Result<JoinToken> {
        let token = JoinToken { id: TokenId([id; 8]), secret: [id; 32] };
        let expires = Timestamp::from_second(now().as_second() + seconds)?;
        let stored = StoredToken { token: token.clone(), expires };
        let secret = stored.to_secret(DEFAULT_NAMESPACE, &DeviceId::new(name)?);
        self.secrets().create(&PostParams::default(), &secret).await?;
        Ok(token)
    }

    pub(crate) fn devices(&self) -> Api<Device> {
        Api::all(self.client.clone())
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), DEFAULT_NAMESPACE)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn add_pod(&self, name: &str, node: &str) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "host", "command": ["sleep", "1000"]}],
            },
        }))?;
        self.pods().create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    pub(crate) async fn phase(&self, name: &str) -> Result<Option<String>> {
        let pod = self.pods().get_opt(name).await?;
        Ok(pod.and_then(|pod| pod.status).and_then(|status| status.phase))
    }
}

/// Waits until something is so.
pub(crate) async fn within(what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !is_so().await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("waited in vain for {what}"))?
}

#[expect(clippy::disallowed_methods, reason = "a board has a clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// A device: shakes hands, sends heartbeats, accepts indexes, fetches objects, reports that everything goes well.
pub(crate) struct Board {
    id: DeviceId,
    pub(crate) key: StaticKey,
    bridge: PublicKey,
    mqtt: AsyncClient,
    inbox: mpsc::Receiver<Envelope>,
    poll: JoinHandle<()>,
    session: Option<Session>,
    pub(crate) accepted: Option<(Version, Digest)>,
    pub(crate) indexes: usize,
    pub(crate) chunks: usize,
    pub(crate) acked: Vec<u64>,
    seq: u64,
}

impl Drop for Board {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

impl Board {
    pub(crate) async fn connect(world: &World, name: &str, secret: u8) -> Result<Self> {
        let mut options = MqttOptions::new(format!("agent-{name}"), world.hub.ip().to_string(), world.hub.port());
        options.set_credentials(name, "");
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (mqtt, mut connection) = AsyncClient::new(options, 64);
        let id = DeviceId::new(name)?;
        for filter in Root::default().device_filters(&id) {
            mqtt.subscribe(filter, QoS::AtLeastOnce).await?;
        }
        let (sender, inbox) = mpsc::channel(1024);
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        let poll = tokio::spawn(async move {
            let mut ready = Some(ready);
            loop {
                match connection.poll().await {
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.take().map(|ready| ready.send(()))),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let envelope = codec::decode::<Envelope>(&publish.payload, 70_000).expect("from the bridge");
                        if sender.send(envelope.value).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        tokio::time::timeout(PATIENCE, subscribed).await.context("no subscription")??;
        Ok(Self {
            id,
            key: StaticKey::from_secret([secret; 32]),
            bridge: world.bridge_key(),
            mqtt,
            inbox,
            poll,
            session: None,
            accepted: None,
            indexes: 0,
            chunks: 0,
            acked: Vec::new(),
            seq: 0,
        })
    }

    pub(crate) fn pin(&mut self, bridge: PublicKey) {
        self.bridge = bridge;
    }

    /// Sends raw bytes on one of its topics.
    pub(crate) async fn shout(&self, channel: Channel, bytes: Vec<u8>) -> Result<()> {
        Ok(self.mqtt.publish(channel.topic(&Root::default(), &self.id), QoS::AtLeastOnce, false, bytes).await?)
    }

    /// Shakes hands. `Ok(Err(_))`: refused.
    pub(crate) async fn greet(&mut self, token: Option<&JoinToken>) -> Result<Result<(), Refusal>> {
        let root = Root::default();
        let names = Names { root: &root, device: &self.id };
        let payload = HelloPayload {
            agent_version: "test".to_owned(),
            accepted: self.accepted.map(|(version, _)| version),
            digest: self.accepted.map(|(_, digest)| digest),
            boot: BootId([1; 8]),
        };
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let (mut initiator, hello) = Initiator::start(names, &self.key, &self.bridge, token, random, &payload)?;
        self.shout(Channel::Up, codec::encode(&Envelope::Hello(hello))).await?;
        let answered = async {
            while let Some(envelope) = self.inbox.recv().await {
                match envelope {
                    Envelope::Welcome(welcome) => match initiator.finish(&welcome) {
                        Ok((session, _)) => return Ok(Ok(session)),
                        Err((back, _)) => initiator = back,
                    },
                    Envelope::Refusal(refusal) => return Ok(Err(refusal)),
                    _ => {}
                }
            }
            bail!("the hub is gone")
        };
        match tokio::time::timeout(PATIENCE, answered).await.context("no answer to the hello")?? {
            Ok(session) => {
                self.session = Some(session);
                self.beat().await?;
                self.report(ReportItem::Facts(facts())).await?;
                Ok(Ok(()))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    pub(crate) async fn say(&mut self, message: &Up) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let sealed = Envelope::Sealed(session.seal(message)?);
        self.shout(Channel::Up, codec::encode(&sealed)).await
    }

    async fn beat(&mut self) -> Result<()> {
        let millis = now().as_millisecond() as u64;
        let digest = self.accepted.map(|(_, digest)| digest);
        let now = DeviceTime(millis - 1_700_000_000_000);
        self.say(&Up::Heartbeat(Heartbeat { boot: BootId([1; 8]), now, wall_millis: millis, digest, answers: None }))
            .await
    }

    async fn report(&mut self, item: ReportItem) -> Result<()> {
        self.seq += 1;
        self.say(&Up::Report(Report { items: vec![Numbered { seq: self.seq, item: Open::Known(item) }] })).await
    }

    /// Lives until something is so.
    pub(crate) async fn live_until(&mut self, what: &str, is_so: impl AsyncFn(&Self) -> Result<bool>) -> Result<()> {
        let living = async {
            while !is_so(self).await? {
                self.beat().await?;
                let quiet = Duration::from_millis(150);
                while let Ok(Some(envelope)) = tokio::time::timeout(quiet, self.inbox.recv()).await {
                    self.take(envelope).await?;
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, living).await.with_context(|| format!("waited in vain for {what}"))?
    }

    async fn take(&mut self, envelope: Envelope) -> Result<()> {
        let sealed = match envelope {
            Envelope::Sealed(sealed) => sealed,
            Envelope::NoSession(session) if self.session.as_ref().is_some_and(|ours| ours.id() == session) => {
                self.session = None;
                if let Err(refusal) = Box::pin(self.greet(None)).await? {
                    bail!("refused: {}", refusal.message);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(Ok(message)) = self.session.as_mut().map(|session| session.open::<Down>(&sealed)) else {
            return Ok(());
        };
        match message.value {
            Open::Known(Down::Index(index)) => {
                self.indexes += 1;
                if self.accepted.is_some_and(|(has, _)| index.version < has) {
                    bail!("an index of {} after {:?}", index.version, self.accepted);
                }
                self.accepted = Some((index.version, index.digest));
                self.beat().await?;
                for entry in index.entries {
                    self.act(entry.uid, entry.wish).await?;
                }
            }
            Open::Known(Down::Chunk(_)) => self.chunks += 1,
            Open::Known(Down::Ack(ack)) => self.acked.extend(ack.seqs),
            Open::Known(Down::Ping(_)) => self.beat().await?,
            _ => {}
        }
        Ok(())
    }

    async fn act(&mut self, uid: hawser_wire::PodUid, wish: Wish) -> Result<()> {
        match wish {
            Wish::Run(object) => {
                let objects = vec![WantedObject { hash: object.hash, offset: 0, window: u32::MAX }];
                self.say(&Up::Want(Want { objects })).await?;
                self.report(ReportItem::Workload(running(uid))).await
            }
            Wish::Stop(_) => self.report(ReportItem::Gone(Gone { uid, last: None })).await,
            Wish::Keep | Wish::Retain => Ok(()),
        }
    }
}

fn running(uid: hawser_wire::PodUid) -> WorkloadReport {
    WorkloadReport {
        uid,
        deployment: None,
        phase: Phase::Running,
        reason: None,
        message: None,
        started: None,
        sandbox_ready: true,
        pod_ips: vec!["10.1.2.3".to_owned()],
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        resize: None,
    }
}

fn facts() -> NodeFacts {
    let resource = |name: &str, quantity: &str| Resource { name: name.to_owned(), quantity: quantity.to_owned() };
    let resources = vec![resource("cpu", "4"), resource("memory", "1Gi"), resource("pods", "110"), resource("x", "no")];
    NodeFacts {
        capacity: resources.clone(),
        allocatable: resources,
        arch: "arm64".to_owned(),
        os: "linux".to_owned(),
        kernel: "6.1".to_owned(),
        os_image: "Debian".to_owned(),
        machine_id: "m".to_owned(),
        system_uuid: "s".to_owned(),
        boot_id: "b".to_owned(),
        agent_version: "test".to_owned(),
        runtime: "process://1".to_owned(),
        hostname: "raspberrypi".to_owned(),
        addresses: vec!["192.168.1.9".to_owned()],
        images: Vec::new(),
        conditions: Vec::new(),
    }
}
