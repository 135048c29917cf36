//! Many devices in one process: the real brain of the agent's link, without a ledger and without workloads.

use std::time::{Duration, Instant};

use anyhow::Result;
use device_agent::ledger::Recovered;
use device_agent::link::session::Credentials;
use device_agent::link::{Brain, BrainConfig, Input, Moment, Output};
use edge_provider::device::Device;
use futures::{StreamExt, TryStreamExt};
use hawser_e2e::wait::eventually;
use hawser_e2e::world::{SYSTEM, World};
use hawser_lab::table::node_is_ready;
use hawser_wire::report::{Condition, NodeFacts, Resource};
use hawser_wire::session::StaticKey;
use hawser_wire::{BootId, Channel, DeviceId, DeviceTime, PublicKey, Root};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Requests under way at once while devices are made and unmade.
const AT_ONCE: usize = 16;

/// Devices that send heartbeats and do nothing else.
pub(crate) struct Fleet {
    names: Vec<String>,
    _devices: JoinSet<()>,
}

impl Fleet {
    /// Admits so many devices by their keys and waits until all their nodes are ready.
    pub(crate) async fn join(world: &World, count: usize, pace: Duration) -> Result<Self> {
        let bridge = bridge_key(world).await?;
        let mut devices = JoinSet::new();
        let mut names = Vec::new();
        for number in 0..count {
            let name = format!("{}-sim-{number}", world.name());
            let mut secret = [0; 32];
            getrandom::fill(&mut secret)?;
            names.push((name, StaticKey::from_secret(secret)));
        }
        futures::stream::iter(names.iter().map(anyhow::Ok))
            .try_for_each_concurrent(AT_ONCE, |(name, key)| admit(world, name, key))
            .await?;
        for (name, key) in &names {
            let device = DeviceId::new(name)?;
            let root = Root::default();
            let credentials = Credentials { root, device, key: key.clone(), bridge, token: None };
            devices.spawn(live(credentials, world.hub_address()));
            tokio::time::sleep(pace).await;
        }
        let fleet = Self { names: names.into_iter().map(|(name, _)| name).collect(), _devices: devices };
        let nodes: Api<Node> = Api::all(world.client());
        let begun = now();
        loop {
            let listed = nodes.list(&ListParams::default()).await?;
            let ready = listed.items.iter().filter(|node| node_is_ready(node)).count();
            if ready >= count {
                return Ok(fleet);
            }
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(600), "only {ready} of {count} nodes are ready");
            // Ten thousand nodes are tens of megabytes: asking more often would be what is measured.
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// Removes the devices from the cluster.
    pub(crate) async fn leave(self, world: &World) -> Result<()> {
        let devices: Api<Device> = Api::all(world.client());
        futures::stream::iter(self.names)
            .for_each_concurrent(AT_ONCE, |name| {
                let devices = devices.clone();
                async move { drop(devices.delete(&name, &DeleteParams::default()).await) }
            })
            .await;
        Ok(())
    }
}

async fn bridge_key(world: &World) -> Result<PublicKey> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), SYSTEM);
    eventually("the bridge publishes its key", Duration::from_secs(60), || async {
        let map = maps.get("hawser-bridge").await.map_err(|error| error.to_string())?;
        let key = map.data.as_ref().and_then(|data| data.get("publicKey"));
        key.and_then(|key| PublicKey::parse(key)).ok_or_else(|| format!("{map:?}"))
    })
    .await
}

async fn admit(world: &World, name: &str, key: &StaticKey) -> Result<()> {
    let devices: Api<Device> = Api::all(world.client());
    let device = json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "Device", "metadata": { "name": name },
        "spec": { "publicKey": key.public().to_string() },
    });
    devices.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(device)).await?;
    Ok(())
}

/// One device, for ever.
async fn live(credentials: Credentials, hub: std::net::SocketAddr) {
    let (root, device) = (credentials.root.clone(), credentials.device.clone());
    let mut options = MqttOptions::new(format!("agent-{device}"), hub.ip().to_string(), hub.port());
    options.set_credentials(device.to_string(), "").set_keep_alive(Duration::from_secs(30));
    let (client, event_loop) = AsyncClient::new(options, 64);
    let (events, mut heard) = mpsc::channel(32);
    let polling = tokio::spawn(poll(event_loop, client.clone(), root.clone(), device.clone(), events));
    let start = now();
    let config = BrainConfig { credentials, agent_version: "bench".to_owned(), boot: BootId([1; 8]) };
    let (mut brain, mut outputs) = Brain::new(config, &Recovered::default(), &moment(start));
    outputs.extend(brain.handle(&moment(start), Input::Facts(Box::new(facts()))));
    loop {
        let mut next = Vec::new();
        for output in outputs.drain(..) {
            match output {
                Output::Publish { channel, payload } => {
                    // A full queue loses it, as a hub may.
                    let _ = client.try_publish(channel.topic(&root, &device), QoS::AtLeastOnce, false, payload);
                }
                Output::Persist { ticket: Some(ticket), .. } => {
                    next.extend(brain.handle(&moment(start), Input::Persisted { ticket }));
                }
                Output::Persist { ticket: None, .. }
                | Output::Desired(_)
                | Output::Resync
                | Output::Stream(_)
                | Output::Note(_) => {}
            }
        }
        outputs = next;
        if !outputs.is_empty() {
            continue;
        }
        let pause = brain
            .deadline()
            .map_or(Duration::from_secs(60), |deadline| Duration::from_millis(deadline.millis_since(moment(start).at)));
        let input = match tokio::time::timeout(pause, heard.recv()).await {
            Ok(Some(input)) => input,
            Ok(None) => break,
            Err(_) => Input::Tick,
        };
        outputs = brain.handle(&moment(start), input);
    }
    polling.abort();
}

async fn poll(
    mut event_loop: EventLoop,
    client: AsyncClient,
    root: Root,
    device: DeviceId,
    events: mpsc::Sender<Input>,
) {
    loop {
        let input = match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                for filter in root.device_filters(&device) {
                    let _ = client.try_subscribe(filter, QoS::AtLeastOnce);
                }
                continue;
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => Input::Connected,
            Ok(Event::Incoming(Packet::Publish(message))) => match Channel::parse(&root, &message.topic) {
                Some((_, channel)) => Input::Message { channel, payload: message.payload.to_vec() },
                None => continue,
            },
            Ok(_) => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Input::Disconnected
            }
        };
        if events.send(input).await.is_err() {
            return;
        }
    }
}

/// What a small board with an ordinary system says of itself.
fn facts() -> NodeFacts {
    let text = str::to_owned;
    let resources: Vec<_> =
        [("cpu", "4"), ("memory", "3977088Ki"), ("ephemeral-storage", "30440692Ki"), ("pods", "110")]
            .map(|(name, quantity)| Resource { name: text(name), quantity: text(quantity) })
            .to_vec();
    let conditions = [
        ("MemoryPressure", "MemoryIsEnough", "the device has memory available"),
        ("DiskPressure", "DiskIsEnough", "the device has disk space available"),
        ("PIDPressure", "PidsAreEnough", "the device has process ids available"),
        ("Throttled", "NotThrottled", "supply voltage and temperature are within bounds"),
    ];
    let condition = |(kind, reason, message)| Condition {
        kind: text(kind),
        holds: Some(false),
        reason: text(reason),
        message: text(message),
    };
    NodeFacts {
        capacity: resources.clone(),
        allocatable: resources,
        arch: text("arm64"),
        os: text("linux"),
        kernel: text("6.12.47+rpt-rpi-v8"),
        os_image: text("Debian GNU/Linux 13 (trixie)"),
        machine_id: text("0c7b0d5f4bd24f8ea4a5a8d7a6a2d0d1"),
        system_uuid: text("0c7b0d5f-4bd2-4f8e-a4a5-a8d7a6a2d0d1"),
        boot_id: text("3f0a2a6e-6b4a-4c64-9ad7-6f2b8e6d7f10"),
        agent_version: text("0.1.0"),
        runtime: text("process://0.1.0"),
        hostname: text("raspberrypi"),
        addresses: vec![text("192.0.2.1"), text("2001:db8::ba27:ebff:fe00:1")],
        images: Vec::new(),
        conditions: conditions.map(condition).to_vec(),
    }
}

fn moment(start: Instant) -> Moment {
    let mut random = [0; 40];
    // Without randomness the handshake fails, and the bench says so by never becoming ready.
    let _ = getrandom::fill(&mut random);
    let (ephemeral, jitter) = random.split_at(32);
    Moment {
        at: DeviceTime(start.elapsed().as_millis() as u64),
        wall_millis: 0,
        ephemeral: ephemeral.try_into().unwrap_or_default(),
        jitter: u64::from_le_bytes(jitter.try_into().unwrap_or_default()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench lives in real time")]
fn now() -> Instant {
    Instant::now()
}
