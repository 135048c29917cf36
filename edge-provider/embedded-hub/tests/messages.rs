//! What well-behaved clients get.

mod support;

use anyhow::{Context as _, Result, ensure};
use embedded_hub::{Devices, Hub, HubConfig, Password};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Login, Packet, PubRel, Publish};
use std::time::Duration;
use support::{Client, Pair, as_bridge, as_device, config, hub, soon};

#[tokio::test]
async fn bridge_and_device_hear_each_other() -> Result<()> {
    let hub = hub().await?;
    ensure!(hub.local_addr().port() != 0, "the port that the system chose is not told");
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    for _ in 0..100 {
        pair.talk().await?;
    }
    let report = hub.stop(Duration::from_secs(5)).await;
    ensure!((report.closed, report.cut) == (2, 0), "{report:?}");
    ensure!(pair.device.read_to_end().await?.is_empty(), "a stopped hub still talks");
    Ok(())
}

#[tokio::test]
async fn devices_hear_what_is_theirs() -> Result<()> {
    let hub = hub().await?;
    let mut bridge = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    let mut devices = Vec::new();
    for n in 0..20 {
        let name = format!("pi-{n}");
        let mut device = Client::connect(hub.local_addr(), as_device(&name)).await?;
        device.subscribe(&format!("hawser/{name}/down/#"), QoS::AtLeastOnce).await?;
        devices.push(device);
    }
    for n in 0..20 {
        bridge.publish(&format!("hawser/pi-{n}/down"), format!("for {n}")).await?;
    }
    for (n, device) in devices.iter_mut().enumerate() {
        ensure!(device.text().await? == (format!("hawser/pi-{n}/down"), format!("for {n}")));
    }
    // Lanes keep their order, so whatever else was on its way to a device comes before its next message.
    for n in 0..20 {
        bridge.publish(&format!("hawser/pi-{n}/down"), "again").await?;
    }
    for device in &mut devices {
        ensure!(device.text().await?.1 == "again", "a device heard what is not its own");
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_arrives_whole_and_in_order() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let (mut device, mut bridge) = (pair.device, pair.bridge);
    let sender = tokio::spawn(async move {
        for n in 0..3000 {
            device.publish_unacknowledged("hawser/pi/up", n.to_string()).await?;
        }
        anyhow::Ok(device)
    });
    for n in 0..3000 {
        ensure!(bridge.text().await?.1 == n.to_string(), "message {n} was lost or overtaken");
    }
    (pair.device, pair.bridge) = (sender.await??, bridge);
    pair.talk().await
}

#[tokio::test]
async fn large_messages_do_not_overrun_the_router() -> Result<()> {
    let hub = hub().await?;
    let pair = Pair::connect(hub.local_addr(), "pi").await?;
    let (mut device, mut bridge) = (pair.device, pair.bridge);
    let sender = tokio::spawn(async move {
        // Eight times what a log of the router holds.
        for n in 0..40u8 {
            device.publish("hawser/pi/up", vec![n; 250 * 1024]).await?;
        }
        anyhow::Ok(())
    });
    for n in 0..40u8 {
        let message = bridge.message().await?;
        ensure!(message.payload.len() == 250 * 1024 && message.payload.iter().all(|byte| *byte == n));
    }
    sender.await?
}

#[tokio::test]
async fn an_exactly_once_publish_is_delivered_once() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let mut publish = Publish::new("hawser/pi/up", QoS::ExactlyOnce, "once");
    publish.pkid = 77;
    for dup in [false, true] {
        publish.dup = dup;
        pair.device.send(Packet::Publish(publish.clone())).await?;
        ensure!(matches!(pair.device.packet().await?, Packet::PubRec(record) if record.pkid == 77));
    }
    pair.device.send(Packet::PubRel(PubRel::new(77))).await?;
    ensure!(matches!(pair.device.packet().await?, Packet::PubComp(complete) if complete.pkid == 77));
    ensure!(pair.bridge.text().await?.1 == "once");
    pair.talk().await
}

#[tokio::test]
async fn an_account_that_ends_ends_its_connection() -> Result<()> {
    let config = config();
    let accounts = config.accounts.clone();
    let hub = Hub::start(config).await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let mut other = Client::connect(hub.local_addr(), as_device("other")).await?;
    accounts.remove_device("other");
    ensure!(other.read_to_end().await?.is_empty());
    ensure!(Client::refused(hub.local_addr(), as_device("other")).await? == 5);
    pair.talk().await?;

    accounts.set_devices(Devices::Table([("pi".to_owned(), Password::new("π"))].into()));
    ensure!(pair.device.read_to_end().await?.is_empty());
    let mut connect = as_device("pi");
    ensure!(Client::refused(hub.local_addr(), connect.clone()).await? == 4);
    connect.login = Some(Login::new("pi", "π"));
    pair.device = Client::connect(hub.local_addr(), connect).await?;
    pair.device.subscribe("hawser/pi/down", QoS::AtLeastOnce).await?;
    pair.talk().await?;

    accounts.set_bridge_password(Password::new("another"));
    ensure!(pair.bridge.read_to_end().await?.is_empty());
    ensure!(Client::refused(hub.local_addr(), as_bridge("1")).await? == 4);
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named() -> Result<()> {
    let hub = hub().await?;
    let taken = HubConfig { listen: hub.local_addr(), ..config() };
    let error = Hub::start(taken).await.err().context("two hubs on one port")?;
    ensure!(error.to_string().contains(&hub.local_addr().to_string()), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_stop() -> Result<()> {
    let hub = hub().await?;
    let mut deaf = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    deaf.subscribe("hawser/+/up", QoS::AtMostOnce).await?;
    let mut device = Client::connect(hub.local_addr(), as_device("pi")).await?;
    // More than the sockets' buffers hold, less than the bridge's queue does.
    for _ in 0..80 {
        device.publish("hawser/pi/up", vec![0; 250 * 1024]).await?;
    }
    let report = soon("the stop", hub.stop(Duration::from_millis(50))).await?;
    ensure!((report.closed, report.cut) == (1, 1), "{report:?}");
    Ok(())
}
