//! The bridge's connection to the hub: one task polls it, everybody else publishes through a handle.
//!
//! What is queued when the connection ends is lost, and nobody repeats it here: the twins converge whatever is lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::{Channel, DeviceId, Root};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet, SubscribeReasonCode};
use rumqttc::mqttbytes::{QoS, v4::Subscribe, v4::SubscribeFilter};
use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, MqttOptions, NetworkOptions, Outgoing, Request, TlsConfiguration,
    TlsError, Transport,
};
use rustls::{CertificateError, ClientConfig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::address::HubAddress;
use crate::metrics::{Dropped, Metrics};

/// How many messages may wait for the hub. A message that finds no room is dropped and counted: an index, a chunk or an
/// acknowledgement is sent again when the device shows that it lacks it.
const QUEUE: usize = 4096;
/// Larger packets from the hub end the connection. Hubs are to refuse them from devices at 256 KiB (deploy/ does), so
/// this is met only by a hub that lets anything through.
const MAX_PACKET: usize = 4 * 1024 * 1024;
/// Which of [`Root::bridge_filters`] nothing works without.
const MESSAGES: usize = 0;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Where the hub is and who we are there.
#[derive(Debug, Clone)]
pub struct HubAccess {
    /// Where.
    pub address: HubAddress,
    /// With which TLS configuration, if the address says TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The user name, `bridge` unless the hub's accounts are of another making.
    pub username: String,
    /// The password.
    pub password: String,
}

/// What comes from the hub.
#[derive(Debug)]
pub enum FromHub {
    /// Connected and subscribed.
    Connected,
    /// A message on a topic of ours.
    Message(DeviceId, Channel, Bytes),
}

/// Publishes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HubSender {
    client: AsyncClient,
    metrics: Metrics,
}

/// Owns the connection.
pub struct HubClient {
    connection: EventLoop,
    filters: Vec<SubscribeFilter>,
    root: Root,
    address: String,
    told: Told,
    metrics: Metrics,
    client: AsyncClient,
}

/// What has been said about the connection: each state is told once, when it begins.
#[derive(Debug, Default, PartialEq, Eq)]
enum Told {
    /// Nothing: it has just begun.
    #[default]
    Nothing,
    /// That there is no connection, with what would help against each cause since it was lost.
    Down(Vec<&'static str>),
    /// That there is one, and that the hub refuses these subscriptions.
    Refused(Vec<String>),
    /// That all is well.
    Up,
}

impl HubSender {
    /// Hands a message to the connection, or drops it.
    pub fn send(&self, topic: String, payload: Vec<u8>) {
        let len = payload.len() as u64;
        match self.client.try_publish(topic, QoS::AtLeastOnce, false, payload) {
            Ok(()) => {
                self.metrics.messages_out.inc();
                self.metrics.bytes_out.inc_by(len);
            }
            Err(_) => self.metrics.on_dropped(Dropped::HubQueue),
        }
    }
}

impl HubClient {
    /// Prepares the connection; nothing is opened before [`HubClient::run`]. `id` must differ from that of any other
    /// bridge.
    pub fn new(access: HubAccess, root: Root, id: [u8; 8], metrics: Metrics) -> (HubSender, Self) {
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = MqttOptions::new(format!("bridge-{id}"), access.address.host.clone(), access.address.port);
        options.set_credentials(access.username, access.password);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(true);
        options.set_max_packet_size(MAX_PACKET, MAX_PAYLOAD + 1024);
        options.set_inflight(1000);
        if let Some(tls) = access.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        let (client, mut connection) = AsyncClient::new(options, QUEUE);
        // Otherwise a small message waits until the hub has acknowledged the one before: 40 ms for each line of a terminal.
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        connection.set_network_options(network);
        let filters = root.bridge_filters().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce)).to_vec();
        let sender = HubSender { client: client.clone(), metrics: metrics.clone() };
        let address = access.address.to_string();
        (sender, Self { connection, filters, root, address, told: Told::default(), metrics, client })
    }

    /// Stays connected until told to stop.
    pub async fn run(mut self, messages: mpsc::Sender<FromHub>, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let polled = tokio::select! {
                biased;
                // Cancel-safe: a token only ever goes one way.
                () = stop.cancelled() => break,
                // Not cancel-safe, and it does not matter: it is only cancelled to end the connection.
                polled = self.connection.poll() => polled,
            };
            let wait = match polled {
                Ok(rumqttc::Event::Incoming(packet)) => {
                    let up = matches!(packet, Packet::SubAck(_));
                    let Some(heard) = self.take(packet) else { continue };
                    if up {
                        pause = FIRST_PAUSE;
                    }
                    tokio::select! {
                        // Cancel-safe: a token only ever goes one way.
                        () = stop.cancelled() => break,
                        // Cancelled only to end. While the fleet is busy the hub has to wait.
                        sent = messages.send(heard) => if sent.is_err() { break },
                    }
                    continue;
                }
                // Every half minute: the access list may have been put right meanwhile.
                Ok(rumqttc::Event::Outgoing(Outgoing::PingReq)) => {
                    if matches!(self.told, Told::Refused(_)) {
                        self.subscribe();
                    }
                    continue;
                }
                Ok(rumqttc::Event::Outgoing(_)) => continue,
                Err(error) => self.went_down(&error, &mut pause),
            };
            tokio::select! {
                // Cancel-safe: a token only ever goes one way.
                () = stop.cancelled() => break,
                // Cancel-safe: a pause.
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.leave().await;
    }

    fn take(&mut self, packet: Packet) -> Option<FromHub> {
        match packet {
            Packet::ConnAck(_) => {
                self.subscribe();
                None
            }
            Packet::SubAck(ack) => self.take_subscriptions(&ack.return_codes),
            Packet::Publish(publish) => self.take_message(&publish.topic, publish.payload),
            _ => None,
        }
    }

    fn subscribe(&mut self) {
        // What was queued for the connection before is of sessions that may be over; this goes first.
        self.connection.pending.push_front(Request::Subscribe(Subscribe::new_many(self.filters.clone())));
    }

    /// A hub that refuses the devices' messages leaves the bridge deaf, and so not connected as far as anybody is
    /// concerned. One that refuses only streams or presence carries everything else.
    fn take_subscriptions(&mut self, answers: &[SubscribeReasonCode]) -> Option<FromHub> {
        let granted = |at: usize| answers.get(at).is_some_and(|answer| *answer != SubscribeReasonCode::Failure);
        let refused: Vec<String> =
            (0..self.filters.len()).filter(|at| !granted(*at)).map(|at| self.filters[at].path.clone()).collect();
        self.metrics.hub_refused.set(refused.len() as i64);
        let was_connected = self.metrics.hub_connected.get() == 1;
        if refused.is_empty() {
            self.told = Told::Up;
        } else if self.told != Told::Refused(refused.clone()) {
            let filters = refused.join("`, `");
            tracing::error!(
                hub = self.address,
                "the hub does not let the bridge subscribe to `{filters}`; asking again every {} s: its access list must let the bridge's user read `{root}/+/up/#` and `{root}/+/presence`",
                KEEP_ALIVE.as_secs(),
                root = self.root,
            );
            self.told = Told::Refused(refused);
        }
        if !granted(MESSAGES) || was_connected {
            return None;
        }
        self.metrics.on_hub(&self.address, true);
        Some(FromHub::Connected)
    }

    fn take_message(&self, topic: &str, payload: Bytes) -> Option<FromHub> {
        self.metrics.messages_in.inc();
        self.metrics.bytes_in.inc_by(payload.len() as u64);
        if payload.len() > MAX_PAYLOAD {
            self.metrics.on_dropped(Dropped::TooLong);
            return None;
        }
        match Channel::parse(&self.root, topic) {
            Some((device, channel)) => Some(FromHub::Message(device, channel, payload)),
            None => {
                self.metrics.on_dropped(Dropped::Topic);
                None
            }
        }
    }

    /// Says what is wrong and what helps, once per outage for each cause, and how long to wait before the next attempt.
    fn went_down(&mut self, error: &ConnectionError, pause: &mut Duration) -> Duration {
        self.metrics.on_hub(&self.address, false);
        let fix = what_helps(error);
        if !matches!(self.told, Told::Down(_)) {
            self.told = Told::Down(Vec::new());
        }
        if let Told::Down(fixes) = &mut self.told
            && !fixes.contains(&fix)
        {
            fixes.push(fix);
            tracing::error!(hub = self.address, %error, fix, "no connection to the hub; trying again until there is one");
        }
        let wait = jittered(*pause);
        *pause = (*pause * 2).min(LAST_PAUSE);
        wait
    }

    /// Says goodbye, for as long as that takes no time worth mentioning.
    async fn leave(mut self) {
        if self.client.try_disconnect().is_ok() {
            let goodbye = async { while self.connection.poll().await.is_ok() {} };
            let _ = tokio::time::timeout(Duration::from_millis(500), goodbye).await;
        }
        self.metrics.on_hub(&self.address, false);
    }
}

fn what_helps(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "check the password of user `bridge` on the hub and in --hub-password-file",
        ConnectionError::ConnectionRefused(_) => "the hub answers and refuses: look into its log",
        ConnectionError::Tls(TlsError::Io(error)) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(error)) => what_helps_with(error),
                _ => "check that this port of the hub speaks TLS",
            }
        }
        ConnectionError::Io(_) | ConnectionError::NetworkTimeout => {
            "check --hub, and that the hub runs and can be reached from here"
        }
        _ => "look into the hub's log, and check that --hub names a port for MQTT",
    }
}

fn what_helps_with(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "renew the hub's certificate, or set this machine's clock",
        // The latter: of an authority of the same name with another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "name the authority of the hub's certificate with --hub-ca"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "write the host in --hub as the hub's certificate has it"
        }
        _ => "check the hub's certificate",
    }
}

/// Between half and the whole of `pause`: bridges and devices that lost the same hub come back one by one.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, which is no reason not to connect.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause.mul_f64(f64::from(byte[0]) / 512.0)
}

#[cfg(test)]
mod tests;
