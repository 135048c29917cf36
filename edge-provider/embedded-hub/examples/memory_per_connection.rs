//! Prints what connections cost the hub in memory:
//!
//! ```sh
//! cargo run --example memory_per_connection -p hawser-embedded-hub -- 500
//! ```
//!
//! The clients are sockets that hold nothing, in the same process; what they take beside the hub is some hundred bytes
//! each. The kernel's socket buffers are not in the figures.

use anyhow::{Context as _, Result, ensure};
use embedded_hub::{Accounts, Hub, HubConfig, Limits, Password};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<()> {
    let devices = match std::env::args().nth(1) {
        Some(count) => count.parse().with_context(|| format!("{count:?} is not a number of devices"))?,
        None => 500usize,
    };
    let limits = Limits { devices, burst_per_address: u32::MAX, pending: devices.clamp(64, 4096), ..Limits::default() };
    let config = HubConfig { limits, ..HubConfig::on_loopback(Accounts::new(Password::generate()?)) };
    let before = resident_kib()?;
    let hub = Hub::start(config).await?;
    let started = resident_kib()?;
    println!("hub alone                 {:>8} KiB", started - before);

    let mut clients = Vec::with_capacity(devices);
    for n in 0..devices {
        clients.push(connect(&hub, n).await?);
    }
    report("connected and subscribed", started, devices)?;

    // A heartbeat's worth from each, ten times.
    for _ in 0..10 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.write_all(&publish(&format!("hawser/d{n}/up"), &[0; 60])).await?;
        }
    }
    let heard = hub.metrics().clone();
    while heard.messages_in() < 10 * devices as u64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    report("after ten heartbeats each", started, devices)?;
    drop(clients);
    let stopped = hub.stop(Duration::from_secs(30)).await;
    println!("stopped: {} closed, {} cut", stopped.closed, stopped.cut);
    Ok(())
}

fn report(what: &str, started: i64, devices: usize) -> Result<()> {
    let grown = resident_kib()? - started;
    println!("{what:<25} {grown:>8} KiB = {:.1} KiB per connection", grown as f64 / devices as f64);
    Ok(())
}

async fn connect(hub: &Hub, n: usize) -> Result<TcpStream> {
    let (name, id) = (format!("d{n}"), format!("agent-d{n}"));
    let mut body = b"\0\x04MQTT\x04\x82\x04\xb0".to_vec();
    for field in [&id, &name] {
        body.extend_from_slice(&u16::try_from(field.len())?.to_be_bytes());
        body.extend_from_slice(field.as_bytes());
    }
    let mut stream = TcpStream::connect(hub.local_addr()).await?;
    stream.write_all(&packet(0x10, &body)).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == [0x20, 2, 0, 0], "{id} was not let in: {answer:?}");

    let filter = format!("hawser/{name}/down/#");
    let mut body = vec![0, 1, 0, u8::try_from(filter.len())?];
    body.extend_from_slice(filter.as_bytes());
    body.push(1);
    stream.write_all(&packet(0x82, &body)).await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    ensure!(answer[4] == 1, "{id} may not subscribe: {answer:?}");
    Ok(stream)
}

fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, topic.len() as u8];
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(payload);
    packet(0x30, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, body.len() as u8][..], body].concat()
}

fn resident_kib() -> Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read this process's memory (Linux only)")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
