//! The TLS listener.

mod support;

use anyhow::{Context as _, Result, ensure};
use embedded_hub::{Hub, HubConfig, Limits, Refused, TlsConfig};
use rumqttc::mqttbytes::QoS;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{Client, Pair, as_device, config};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

async fn hub(limits: Limits) -> Result<(Hub, TlsConnector)> {
    let certified = rcgen::generate_simple_self_signed(["hub.local".to_owned()])?;
    let tls = TlsConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        certificate_pem: certified.cert.pem().into_bytes(),
        key_pem: certified.signing_key.serialize_pem().into_bytes(),
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone())?;
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let hub = Hub::start(HubConfig { tls: Some(tls), limits, ..config() }).await?;
    Ok((hub, TlsConnector::from(Arc::new(client))))
}

async fn connect(hub: &Hub, connector: &TlsConnector, name: &str) -> Result<Client<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(hub.tls_addr().context("no TLS address")?).await?;
    let stream = connector.connect("hub.local".try_into()?, stream).await?;
    Client::over(stream, as_device(name)).await
}

#[tokio::test]
async fn both_listeners_serve_one_hub() -> Result<()> {
    let (hub, connector) = hub(Limits::default()).await?;
    ensure!(hub.tls_addr().is_some_and(|address| address.port() != 0 && address != hub.local_addr()));
    let mut pair = Pair::connect(hub.local_addr(), "plain").await?;
    let mut device = connect(&hub, &connector, "pi").await?;
    device.subscribe("hawser/pi/down", QoS::AtLeastOnce).await?;
    let large = "x".repeat(200 * 1024);
    for _ in 0..10 {
        device.publish("hawser/pi/up", large.clone()).await?;
        ensure!(pair.bridge.text().await? == ("hawser/pi/up".into(), large.clone()));
        pair.bridge.publish("hawser/pi/down", large.clone()).await?;
        ensure!(device.text().await? == ("hawser/pi/down".into(), large.clone()));
    }
    let report = hub.stop(Duration::from_secs(5)).await;
    ensure!((report.closed, report.cut) == (3, 0), "{report:?}");
    Ok(())
}

#[tokio::test]
async fn a_silent_handshake_blocks_nobody_and_is_closed() -> Result<()> {
    let limits = Limits { connect_timeout: Duration::from_millis(500), ..Limits::default() };
    let (hub, connector) = hub(limits).await?;
    let address = hub.tls_addr().context("no TLS address")?;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(Client::new(TcpStream::connect(address).await?));
    }
    // The beginning of a ClientHello, and nothing after it.
    silent[0].raw(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await?;
    connect(&hub, &connector, "pi").await?.publish("hawser/pi/up", "not blocked").await?;
    for client in &mut silent {
        client.read_to_end().await?;
    }
    ensure!(hub.metrics().refused(Refused::Timeout) == 5);
    Ok(())
}

#[tokio::test]
async fn plain_mqtt_on_the_tls_port_is_refused() -> Result<()> {
    let (hub, connector) = hub(Limits::default()).await?;
    let mut plain = Client::new(TcpStream::connect(hub.tls_addr().context("no TLS address")?).await?);
    plain.raw(b"\x10\x0d\0\x04MQTT\x04\x02\0\x0a\0\x01a").await?;
    plain.read_to_end().await?;
    ensure!(hub.metrics().refused(Refused::Tls) == 1);
    connect(&hub, &connector, "pi").await?;
    Ok(())
}
