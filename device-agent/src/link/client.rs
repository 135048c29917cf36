//! The connection to the hub: one task owns the MQTT event loop, connects, subscribes, and comes back after every loss.
//!
//! It hands events to the brain's task and takes publishes through a bounded queue without waiting. Whatever it loses, the
//! brain says again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::{Channel, DeviceId, Root};
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Packet, QoS, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hub_url::HubUrl;
use super::retry::back_off;
use super::trouble::in_words;

/// Publishes that may wait for the socket. A report is at most a few of them; beyond it, they are dropped and said again.
const QUEUE: usize = 64;
/// Events that may wait for the brain. When it is full the socket is not read, which slows the hub down.
const EVENTS: usize = 32;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT_SECONDS: u64 = 20;
/// The event loop moves at least at every keep-alive. If it does not, the connection is half-open or stuck.
const WATCHDOG: Duration = Duration::from_secs(30 + 2 * CONNECT_TIMEOUT_SECONDS);
const FIRST_RETRY: u64 = 1_000;
const LAST_RETRY: u64 = 60_000;
/// A connection that lasted so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// So many short connections in a row smell of a second agent with our name.
const SHORT_LIVES: u32 = 3;
/// MQTT's own bytes around a payload: topic and header.
const MQTT_OVERHEAD: usize = 1024;

/// How to reach the hub.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    pub(crate) url: HubUrl,
    /// A PEM file with the certificates to trust instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) password: Option<String>,
    pub(crate) root: Root,
    pub(crate) device: DeviceId,
}

/// Why the connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The file with the hub's certificate authority.
    #[error("the file {0} with the hub's certificate authority cannot be read; give a PEM file with --hub-ca")]
    Ca(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// No certificate in that file.
    #[error("the file {0} holds no certificate; give a PEM file with --hub-ca")]
    EmptyCa(PathBuf),
    /// No system certificates.
    #[error("this system has no certificates to check the hub's with; install ca-certificates or give --hub-ca FILE")]
    NoSystemCertificates,
    /// TLS itself.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Something happened to the connection.
#[derive(Debug)]
pub(crate) enum HubEvent {
    /// The hub accepted connection and subscriptions.
    Connected,
    /// The connection is gone, or did not come about. In words for people.
    Disconnected(String),
    /// A message.
    Message { channel: Channel, payload: Vec<u8> },
}

/// The handle to the connection.
pub(crate) struct Hub {
    client: AsyncClient,
    config: HubConfig,
    pub(crate) events: mpsc::Receiver<HubEvent>,
    task: JoinHandle<()>,
}

impl Hub {
    /// Starts the task that connects and stays connected.
    pub(crate) fn start(config: HubConfig, stop: CancellationToken) -> Result<Self, HubError> {
        let options = options(&config)?;
        let (client, mut event_loop) = AsyncClient::new(options, QUEUE);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
        event_loop.set_network_options(network);
        let (sender, events) = mpsc::channel(EVENTS);
        let connection = Connection { config: config.clone(), client: client.clone(), events: sender, stop };
        let task = tokio::spawn(connection.run(event_loop));
        Ok(Self { client, config, events, task })
    }

    /// Hands a payload to the hub. `false`: the queue is full and the payload is lost.
    pub(crate) fn publish(&self, channel: Channel, payload: Vec<u8>) -> bool {
        let topic = channel.topic(&self.config.root, &self.config.device);
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok()
    }

    /// Says goodbye and ends the task; its stop token must be cancelled.
    pub(crate) async fn close(mut self) {
        self.publish(Channel::Presence, b"0".to_vec());
        let _ = self.client.try_disconnect();
        // The task must not wait for us to take events.
        self.events.close();
        if tokio::time::timeout(Duration::from_secs(2), &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    config: HubConfig,
    client: AsyncClient,
    events: mpsc::Sender<HubEvent>,
    stop: CancellationToken,
}

/// How a connection ended.
struct Ended {
    why: String,
    /// How long the hub had us.
    lasted: Option<Duration>,
}

impl Connection {
    async fn run(self, mut event_loop: EventLoop) {
        let (mut failures, mut short_lives) = (0, 0);
        while !self.stop.is_cancelled() {
            let ended = self.connection(&mut event_loop).await;
            event_loop.clean();
            // Nothing of the last connection is worth sending in the next: the brain says it again.
            event_loop.pending.clear();
            if self.stop.is_cancelled() {
                return;
            }
            let good = ended.lasted.is_some_and(|lasted| lasted >= GOOD_AFTER);
            short_lives = if ended.lasted.is_some() && !good { short_lives + 1 } else { 0 };
            failures = if good { 0 } else { failures + 1 };
            let why = if short_lives >= SHORT_LIVES {
                format!("{}; this repeats: another agent may be running as `{}`", ended.why, self.config.device)
            } else {
                ended.why
            };
            if self.events.send(HubEvent::Disconnected(why)).await.is_err() {
                return;
            }
            let wait = back_off(FIRST_RETRY, LAST_RETRY, failures.max(1) - 1, jitter());
            // Both are cancel-safe: a token and a timer have nothing to lose.
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
        }
    }

    /// From connecting to the loss of the connection.
    async fn connection(&self, event_loop: &mut EventLoop) -> Ended {
        let (mut greeted, mut since) = (false, None);
        loop {
            // Not cancel-safe, and it does not matter: after the watchdog the connection is thrown away.
            let event = match tokio::time::timeout(WATCHDOG, event_loop.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    let why = in_words(&error, &self.config.url, &self.config.device, greeted);
                    return Ended { why, lasted: since.map(elapsed) };
                }
                Err(_) => return Ended { why: "the connection is stuck".to_owned(), lasted: since.map(elapsed) },
            };
            let said = match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    greeted = true;
                    self.subscribe();
                    continue;
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                        let why = format!(
                            "the hub {} does not let us subscribe to our own topics: check its access rules for `{}`",
                            self.config.url, self.config.device
                        );
                        return Ended { why, lasted: None };
                    }
                    since = Some(now());
                    HubEvent::Connected
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    let parsed = Channel::parse(&self.config.root, &publish.topic);
                    let Some((_, channel)) = parsed.filter(|(device, _)| *device == self.config.device) else {
                        continue;
                    };
                    HubEvent::Message { channel, payload: publish.payload.into() }
                }
                _ => continue,
            };
            if self.events.send(said).await.is_err() {
                return Ended { why: "the agent is stopping".to_owned(), lasted: None };
            }
        }
    }

    fn subscribe(&self) {
        // The queue is empty at the start of a connection. If it were not, the watchdog would end the connection.
        let filters = self.config.root.device_filters(&self.config.device);
        let filters = filters.map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
        let _ = self.client.try_subscribe_many(filters);
        let presence = Channel::Presence.topic(&self.config.root, &self.config.device);
        let _ = self.client.try_publish(presence, QoS::AtLeastOnce, false, b"1".to_vec());
    }
}

fn options(config: &HubConfig) -> Result<MqttOptions, HubError> {
    let mut options = MqttOptions::new(format!("agent-{}", config.device), &config.url.host, config.url.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_session(true);
    options.set_inflight(16);
    options.set_max_packet_size(MAX_PAYLOAD + MQTT_OVERHEAD, MAX_PAYLOAD + MQTT_OVERHEAD);
    options.set_credentials(config.device.as_str(), config.password.clone().unwrap_or_default());
    let presence = Channel::Presence.topic(&config.root, &config.device);
    options.set_last_will(LastWill::new(presence, b"0".to_vec(), QoS::AtLeastOnce, false));
    if config.url.tls {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls(config)?)));
    }
    Ok(options)
}

fn tls(config: &HubConfig) -> Result<Arc<rustls::ClientConfig>, HubError> {
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca {
        Some(path) => {
            let read = |error| HubError::Ca(path.clone(), error);
            let certificates: Vec<_> =
                CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
            roots.add_parsable_certificates(certificates);
            if roots.is_empty() {
                return Err(HubError::EmptyCa(path.clone()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(HubError::NoSystemCertificates);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.map_err(HubError::Tls)?.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

fn jitter() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness all agents would only wait equally long.
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the connection is an IO edge: it tells good connections from short ones"
)]
fn now() -> Instant {
    Instant::now()
}

fn elapsed(since: Instant) -> Duration {
    now().saturating_duration_since(since)
}
