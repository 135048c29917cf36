//! What well-behaved clients get.

mod support;

use anyhow::{Result, ensure};
use rumqttc::mqttbytes::QoS;
use std::time::Duration;
use support::{Client, Pair, as_bridge, as_device, hub};

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
