//! A hub for a test, and a client that is nothing but a socket and rumqttc's codec: it does what it is told, well
//! behaved or not, and never reconnects behind the test's back.

#![allow(dead_code, reason = "each test file uses a part of it")]

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use embedded_hub::{Accounts, Hub, HubConfig, Limits, Password};
use rumqttc::mqttbytes::v4::{Connect, LastWill, Login, Packet, PubAck, Publish, Subscribe, Unsubscribe};
use rumqttc::mqttbytes::{Error, QoS};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nothing in a test takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const BRIDGE_PASSWORD: &str = "the bridge's password";

pub(crate) fn config() -> HubConfig {
    HubConfig::on_loopback(Accounts::new(Password::new(BRIDGE_PASSWORD)))
}

pub(crate) fn config_with(limits: Limits) -> HubConfig {
    HubConfig { limits, ..config() }
}

pub(crate) async fn hub() -> Result<Hub> {
    Ok(Hub::start(config()).await?)
}

/// Fails instead of hanging.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{what} did not happen"))
}

/// Waits until something that nobody announces is so.
pub(crate) async fn eventually(what: &str, so: impl Fn() -> bool) -> Result<()> {
    soon(what, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// A CONNECT that a device's agent would send.
pub(crate) fn as_device(name: &str) -> Connect {
    let mut connect = Connect::new(format!("agent-{name}"));
    connect.keep_alive = 60;
    connect.login = Some(Login::new(name, ""));
    connect
}

/// A CONNECT that a bridge would send.
pub(crate) fn as_bridge(id: &str) -> Connect {
    let mut connect = Connect::new(format!("bridge-{id}"));
    connect.keep_alive = 60;
    connect.login = Some(Login::new("bridge", BRIDGE_PASSWORD));
    connect
}

pub(crate) fn with_will(mut connect: Connect, topic: &str, payload: &str) -> Connect {
    connect.last_will = Some(LastWill::new(topic, payload, QoS::AtLeastOnce, false));
    connect
}

pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    input: BytesMut,
    next_id: u16,
}

impl Client {
    /// Connects and expects to be let in.
    pub(crate) async fn connect(hub: SocketAddr, connect: Connect) -> Result<Self> {
        let stream = TcpStream::connect(hub).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, connect).await
    }

    /// Connects and expects to be refused with this return code.
    pub(crate) async fn refused(hub: SocketAddr, connect: Connect) -> Result<u8> {
        let mut client = Self::new(TcpStream::connect(hub).await?);
        client.send(Packet::Connect(connect)).await?;
        let rest = client.read_to_end().await?;
        match rest.as_slice() {
            [0x20, 2, 0, code] => Ok(*code),
            other => bail!("expected a CONNACK and the end, got {other:?}"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), next_id: 0 }
    }

    pub(crate) async fn over(stream: S, connect: Connect) -> Result<Self> {
        let mut client = Self::new(stream);
        client.send(Packet::Connect(connect)).await?;
        match client.packet().await? {
            Packet::ConnAck(ack) if ack.code as u8 == 0 && !ack.session_present => Ok(client),
            other => bail!("expected to be let in, got {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) -> Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX)?;
        self.raw(&bytes).await
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        soon("a write", self.stream.write_all(bytes)).await??;
        soon("a flush", self.stream.flush()).await??;
        Ok(())
    }

    /// The next packet from the hub.
    pub(crate) async fn packet(&mut self) -> Result<Packet> {
        loop {
            match Packet::read(&mut self.input, usize::MAX) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => bail!("the hub sent nonsense: {error}"),
            }
            if soon("a packet from the hub", self.stream.read_buf(&mut self.input)).await?? == 0 {
                bail!("the hub closed the connection");
            }
        }
    }

    /// Everything up to the end of the connection, which the hub has to bring about.
    pub(crate) async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut rest = self.input.split().to_vec();
        // A reset is an end as well.
        soon("the end of the connection", self.stream.read_to_end(&mut rest)).await?.ok();
        Ok(rest)
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<u8> {
        let mut subscribe = Subscribe::new(filter, qos);
        subscribe.pkid = self.id();
        self.send(Packet::Subscribe(subscribe.clone())).await?;
        match self.packet().await? {
            Packet::SubAck(ack) if ack.pkid == subscribe.pkid => {
                let mut bytes = BytesMut::new();
                ack.write(&mut bytes)?;
                bytes.last().copied().context("an empty SUBACK")
            }
            other => bail!("expected a SUBACK, got {other:?}"),
        }
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Result<()> {
        let mut unsubscribe = Unsubscribe::new(filter);
        unsubscribe.pkid = self.id();
        self.send(Packet::Unsubscribe(unsubscribe.clone())).await?;
        match self.packet().await? {
            Packet::UnsubAck(ack) if ack.pkid == unsubscribe.pkid => Ok(()),
            other => bail!("expected an UNSUBACK, got {other:?}"),
        }
    }

    /// Publishes at QoS 1 and waits for the acknowledgement.
    pub(crate) async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = self.id();
        self.send(Packet::Publish(publish.clone())).await?;
        match self.packet().await? {
            Packet::PubAck(ack) if ack.pkid == publish.pkid => Ok(()),
            other => bail!("expected a PUBACK, got {other:?}"),
        }
    }

    pub(crate) async fn publish_unacknowledged(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        self.send(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, payload))).await
    }

    /// The next message; acknowledged if it asks for it.
    pub(crate) async fn message(&mut self) -> Result<Publish> {
        match self.packet().await? {
            Packet::Publish(publish) => {
                if publish.qos == QoS::AtLeastOnce {
                    self.send(Packet::PubAck(PubAck::new(publish.pkid))).await?;
                }
                Ok(publish)
            }
            other => bail!("expected a message, got {other:?}"),
        }
    }

    /// The next message's topic and payload.
    pub(crate) async fn text(&mut self) -> Result<(String, String)> {
        let publish = self.message().await?;
        Ok((publish.topic, String::from_utf8(publish.payload.to_vec())?))
    }

    fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }
}

/// A bridge and a device that hear each other.
pub(crate) struct Pair {
    pub(crate) bridge: Client,
    pub(crate) device: Client,
    name: String,
    round: u64,
}

impl Pair {
    pub(crate) async fn connect(hub: SocketAddr, name: &str) -> Result<Self> {
        let mut bridge = Client::connect(hub, as_bridge(name)).await?;
        let mut device = Client::connect(hub, as_device(name)).await?;
        anyhow::ensure!(bridge.subscribe("hawser/+/up/#", QoS::AtLeastOnce).await? == 1);
        anyhow::ensure!(device.subscribe(&format!("hawser/{name}/down/#"), QoS::AtLeastOnce).await? == 1);
        Ok(Self { bridge, device, name: name.to_owned(), round: 0 })
    }

    /// A message each way. The bridge must hear nobody else meanwhile.
    pub(crate) async fn talk(&mut self) -> Result<()> {
        self.round += 1;
        let (up, down) = (format!("hawser/{}/up", self.name), format!("hawser/{}/down", self.name));
        let text = format!("round {}", self.round);
        self.device.publish(&up, text.clone()).await?;
        anyhow::ensure!(self.bridge.text().await? == (up, text.clone()));
        self.bridge.publish(&down, text.clone()).await?;
        anyhow::ensure!(self.device.text().await? == (down, text));
        Ok(())
    }
}
