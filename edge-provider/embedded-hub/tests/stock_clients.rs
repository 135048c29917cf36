//! Clients that are not ours: rumqttc's event loop and Mosquitto's command line tools.

mod support;

use anyhow::{Context as _, Result, bail, ensure};
use embedded_hub::Refused;
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use support::{BRIDGE_PASSWORD, Client, Pair, as_bridge, as_device, hub, soon};

fn options(hub: std::net::SocketAddr, id: &str, username: &str, password: &str) -> MqttOptions {
    let mut options = MqttOptions::new(id, hub.ip().to_string(), hub.port());
    options.set_credentials(username, password).set_keep_alive(Duration::from_secs(30));
    options
}

/// Runs a client's event loop in a task of its own (`poll` may not be dropped half-way) and passes on its messages.
fn drive(mut events: rumqttc::EventLoop) -> tokio::sync::mpsc::Receiver<Incoming> {
    // The test reads all of it; a full channel would only slow the client down.
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(packet)) => {
                    if sender.send(packet).await.is_err() {
                        return;
                    }
                }
                Ok(Event::Outgoing(_)) => {}
                // It reconnects at the next poll.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    receiver
}

async fn until(incoming: &mut tokio::sync::mpsc::Receiver<Incoming>, wanted: impl Fn(&Incoming) -> bool) -> Result<()> {
    soon("the packet waited for", async {
        while let Some(packet) = incoming.recv().await {
            if wanted(&packet) {
                return Ok(());
            }
        }
        bail!("the client ended")
    })
    .await?
}

#[tokio::test]
async fn rumqttc_talks_reconnects_and_talks_again() -> Result<()> {
    let hub = hub().await?;
    let (bridge, events) = AsyncClient::new(options(hub.local_addr(), "bridge-1", "bridge", BRIDGE_PASSWORD), 16);
    let mut from_bridge = drive(events);
    let (device, events) = AsyncClient::new(options(hub.local_addr(), "agent-pi", "pi", ""), 16);
    let mut from_device = drive(events);
    for round in 0..2 {
        until(&mut from_bridge, |packet| matches!(packet, Incoming::ConnAck(_))).await?;
        bridge.subscribe("hawser/+/up/#", QoS::AtLeastOnce).await?;
        until(&mut from_bridge, |packet| matches!(packet, Incoming::SubAck(_))).await?;
        until(&mut from_device, |packet| matches!(packet, Incoming::ConnAck(_))).await?;
        let payload = format!("round {round}");
        device.publish("hawser/pi/up", QoS::AtLeastOnce, false, payload.clone()).await?;
        until(&mut from_device, |packet| matches!(packet, Incoming::PubAck(_))).await?;
        let ours = |packet: &Incoming| matches!(packet, Incoming::Publish(publish) if publish.payload == payload);
        until(&mut from_bridge, ours).await?;
        hub.restart_router().await;
    }
    Ok(())
}

#[tokio::test]
async fn an_mqtt_5_client_is_told_why() -> Result<()> {
    let hub = hub().await?;
    let address = hub.local_addr();
    let mut options = rumqttc::v5::MqttOptions::new("agent-pi", address.ip().to_string(), address.port());
    options.set_credentials("pi", "").set_outgoing_inflight_upper_limit(10);
    let (_client, mut events) = rumqttc::v5::AsyncClient::new(options, 4);
    let error = soon("the refusal", events.poll()).await?.err().context("let in")?;
    ensure!(error.to_string().contains("UnsupportedProtocolVersion"), "{error}");
    ensure!(hub.metrics().refused(Refused::Version) == 1);
    Ok(())
}

/// Runs a Mosquitto tool against the hub; `None`, and a line that says so, where it is not installed.
async fn mosquitto(tool: &str, hub: std::net::SocketAddr, arguments: &[&str]) -> Result<Option<Output>> {
    let Some(mut command) = mosquitto_command(tool, hub, arguments) else { return Ok(None) };
    let run = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    Ok(Some(soon(tool, run).await???))
}

fn mosquitto_command(tool: &str, hub: std::net::SocketAddr, arguments: &[&str]) -> Option<std::process::Command> {
    let path = Path::new("/usr/bin").join(tool);
    if !path.exists() {
        eprintln!("SKIPPED: {} is not installed (Debian: mosquitto-clients)", path.display());
        return None;
    }
    let mut command = std::process::Command::new(path);
    command.args(["-h", &hub.ip().to_string(), "-p", &hub.port().to_string()]).args(arguments);
    Some(command)
}

#[tokio::test]
async fn mosquitto_pub_publishes_at_every_qos() -> Result<()> {
    let hub = hub().await?;
    let mut bridge = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    bridge.subscribe("hawser/+/up", QoS::AtLeastOnce).await?;
    for qos in ["0", "1", "2"] {
        let payload = format!("at {qos}");
        let arguments = ["-i", "agent-pi", "-u", "pi", "-t", "hawser/pi/up", "-q", qos, "-m", &payload, "-r"];
        let Some(output) = mosquitto("mosquitto_pub", hub.local_addr(), &arguments).await? else { return Ok(()) };
        ensure!(output.status.success(), "{output:?}");
        ensure!(bridge.text().await?.1 == payload);
    }
    Ok(())
}

#[tokio::test]
async fn mosquitto_pub_hears_why_it_is_refused() -> Result<()> {
    let hub = hub().await?;
    let cases: [(&[&str], &str); 3] = [
        (&["-i", "agent-pi", "-u", "bridge", "-P", "wrong"], "bad user name or password"),
        (&["-i", "a/b", "-u", "pi"], "identifier rejected"),
        (&["-V", "5", "-i", "agent-pi", "-u", "pi"], "Unsupported Protocol Version"),
    ];
    for (arguments, reason) in cases {
        let arguments = [arguments, &["-t", "hawser/pi/up", "-m", "x"]].concat();
        let Some(output) = mosquitto("mosquitto_pub", hub.local_addr(), &arguments).await? else { return Ok(()) };
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        ensure!(!output.status.success() && said.contains(&reason.to_lowercase()), "{arguments:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn mosquitto_sub_hears_what_it_may() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let arguments =
        ["-i", "bridge-sub", "-u", "bridge", "-P", BRIDGE_PASSWORD, "-t", "hawser/+/up", "-q", "1", "-C", "3"];
    let Some(command) = mosquitto_command("mosquitto_sub", hub.local_addr(), &arguments) else { return Ok(()) };
    let mut child = tokio::process::Command::from(command).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    // It says nothing before it ends, so messages are sent until it has had enough.
    soon("three messages for mosquitto_sub", async {
        while child.try_wait()?.is_none() {
            pair.talk().await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success());
    let heard = String::from_utf8(output.stdout)?;
    let rounds: Vec<u32> = heard.lines().filter_map(|line| line.strip_prefix("round ")?.parse().ok()).collect();
    ensure!(rounds.len() == 3 && rounds[0] + 1 == rounds[1] && rounds[1] + 1 == rounds[2], "{heard}");

    // A device that asks for more than its own is refused, filter by filter.
    let arguments = ["-i", "agent-x", "-u", "x", "-t", "hawser/#", "-t", "$SYS/#", "-C", "1", "-W", "5"];
    let output = mosquitto("mosquitto_sub", hub.local_addr(), &arguments).await?.context("it is installed")?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("denied"), "{output:?}");
    let _still_works = Client::connect(hub.local_addr(), as_device("x")).await?;
    Ok(())
}
