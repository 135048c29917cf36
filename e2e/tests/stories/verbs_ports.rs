//! `kubectl port-forward`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use hawser_e2e::kubectl::{Kubectl, Running};
use hawser_e2e::process::actor;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{Port, World};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A pod that listens on these ports.
async fn listening_pod(world: &World, ports: &[&Port]) -> Result<()> {
    let ports = ports.iter().map(|port| port.address().port().to_string());
    let command: Vec<String> = std::iter::once(actor().display().to_string()).chain(ports).collect();
    let more = json!({ "containers": [{
        "name": "main", "image": "host", "command": command, "env": [{ "name": "HAWSER_ACTOR", "value": "echo" }],
    }] });
    let pod = world.create_pod(&recipes::pod_with("server", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    Ok(())
}

/// Forwards to these ports of the pod; where it listens for each.
async fn forwarded(kubectl: &Kubectl, ports: &[&Port]) -> Result<(Running, Vec<SocketAddr>)> {
    let ports: Vec<u16> = ports.iter().map(|port| port.address().port()).collect();
    forwarded_to(kubectl, "server", &ports).await
}

/// Forwards to these ports of a pod; where it listens for each.
pub(crate) async fn forwarded_to(kubectl: &Kubectl, pod: &str, ports: &[u16]) -> Result<(Running, Vec<SocketAddr>)> {
    let (pod, pairs) = (format!("pod/{pod}"), ports.iter().map(|port| format!(":{port}")).collect::<Vec<_>>());
    let mut arguments = vec!["port-forward", &pod, "--address", "127.0.0.1"];
    arguments.extend(pairs.iter().map(String::as_str));
    let mut running = kubectl.start(&arguments)?;
    let mut addresses = Vec::new();
    for _ in ports {
        let line = running.line().await?.context("kubectl ended before it listened")?;
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> "));
        addresses.push(address.with_context(|| line.clone())?.0.parse()?);
    }
    Ok((running, addresses))
}

/// What a client hears that sends this and then nothing more.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let stream = TcpStream::connect(address).await?;
    let (mut from, mut to) = stream.into_split();
    let send = async {
        // A port that nobody listens on may end this early.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let mut heard = Vec::new();
    let both = async { tokio::join!(send, from.read_to_end(&mut heard)).1 };
    // A reset is an end too.
    let _ = tokio::time::timeout(SOON, both).await.with_context(|| format!("{address} does not end"))?;
    Ok(heard)
}

fn expected(port: &Port, bytes: &[u8]) -> Vec<u8> {
    [format!("port {}\n", port.address().port()).as_bytes(), bytes].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_pod_are_reached_by_many_at_once() -> Result<()> {
    let world = World::start("ports", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let (one, two) = (Port::take()?, Port::take()?);
    listening_pod(&world, &[&one, &two]).await?;
    for kubectl in [kubectl.clone(), kubectl.without_websockets()] {
        let (running, addresses) = forwarded(&kubectl, &[&one, &two]).await?;
        // A pod is ready before its program listens.
        eventually("the first answer", SOON, || async {
            match exchange(addresses[0], b"hello").await {
                Ok(heard) if heard == expected(&one, b"hello") => Ok(()),
                other => Err(other),
            }
        })
        .await?;
        let mut clients = JoinSet::new();
        for number in 0..40_usize {
            let (address, port) = [(addresses[0], one.address()), (addresses[1], two.address())][number % 2];
            clients.spawn(async move {
                let bytes: Vec<u8> = (0..50_000).map(|index| ((index * (number + 1)) >> 3) as u8).collect();
                let heard = exchange(address, &bytes).await?;
                let wanted = [format!("port {}\n", port.port()).as_bytes(), &bytes].concat();
                anyhow::ensure!(heard == wanted, "client {number} heard {} bytes", heard.len());
                Ok(())
            });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        let much = vec![b'x'; 8 << 20];
        assert!(exchange(addresses[1], &much).await? == expected(&two, &much));
        running.kill().await?;
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_is_said() -> Result<()> {
    let world = World::start("ports-closed", 1).await?;
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    let (open, closed) = (Port::take()?, Port::take()?);
    listening_pod(&world, &[&open]).await?;
    let (running, addresses) = forwarded(&kubectl, &[&closed]).await?;
    assert_eq!(exchange(addresses[0], b"hello").await?, b"");
    // kubectl gives up then.
    let (code, _, told) = tokio::time::timeout(Duration::from_secs(60), running.end()).await??;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&closed.address().port().to_string()) && told.contains("refused"), "{told}");
    // Another one works.
    let (running, addresses) = forwarded(&kubectl, &[&open]).await?;
    eventually("an answer", SOON, || async {
        match exchange(addresses[0], b"hello").await {
            Ok(heard) if heard == expected(&open, b"hello") => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    running.kill().await?;
    world.end().await
}
