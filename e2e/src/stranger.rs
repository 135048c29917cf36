//! Somebody on the hub who is neither bridge nor device: hears everything, and says whatever it likes wherever it likes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wait::{SOON, eventually};

/// What a hub lets through; more is cut off by it, and not what stories are about.
const MAX_PACKET: usize = 1024 * 1024;

/// A message as the hub carried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A client that listens to all topics of a root.
pub struct Stranger {
    client: AsyncClient,
    heard: Arc<Mutex<Vec<Captured>>>,
    acknowledged: watch::Receiver<usize>,
    polling: JoinHandle<()>,
}

impl Stranger {
    /// Connects to a hub that lets everybody in, under this client id.
    pub async fn connect(hub: SocketAddr, client_id: &str) -> Result<Self> {
        let mut options = MqttOptions::new(client_id, hub.ip().to_string(), hub.port());
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        let (client, mut event_loop) = AsyncClient::new(options, 1024);
        client.try_subscribe("hawser/#", QoS::AtLeastOnce)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (acknowledged_in, acknowledged) = watch::channel(0);
        let (listening_in, mut listening) = watch::channel(false);
        let notes = Arc::clone(&heard);
        let polling = tokio::spawn(async move {
            while let Ok(event) = event_loop.poll().await {
                match event {
                    Event::Incoming(Packet::Publish(publish)) => {
                        let captured = Captured { topic: publish.topic, payload: publish.payload.to_vec() };
                        notes.lock().unwrap_or_else(PoisonError::into_inner).push(captured);
                    }
                    Event::Incoming(Packet::PubAck(_)) => acknowledged_in.send_modify(|count| *count += 1),
                    Event::Incoming(Packet::SubAck(_)) => drop(listening_in.send_replace(true)),
                    _ => {}
                }
            }
        });
        listening.wait_for(|listens| *listens).await.context("the hub does not let the stranger listen")?;
        Ok(Self { client, heard, acknowledged, polling })
    }

    /// What was heard so far on topics that end so.
    pub fn heard(&self, end: &str) -> Vec<Captured> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|message| message.topic.ends_with(end)).cloned().collect()
    }

    /// Waits until so many messages were heard on topics that end so.
    pub async fn hears(&self, end: &str, count: usize) -> Result<Vec<Captured>> {
        eventually(&format!("{count} messages on …{end}"), SOON, || async {
            let heard = self.heard(end);
            if heard.len() >= count { Ok(heard) } else { Err(heard.len()) }
        })
        .await
    }

    /// Says it, and waits until the hub has all of it.
    pub async fn say(&mut self, messages: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<()> {
        let mut expected = *self.acknowledged.borrow();
        for (topic, payload) in messages {
            self.client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
            expected += 1;
        }
        self.acknowledged.wait_for(|count| *count >= expected).await.context("the stranger lost its connection")?;
        Ok(())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.polling.abort();
    }
}
