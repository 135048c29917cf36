//! A bridge in this process, on the lab's API and a real hub, with a board that speaks the wire.

#[expect(dead_code, reason = "shared with the tests of streams, which use the provider")]
mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use edge_provider::metrics::Dropped;
use embedded_hub::{Accounts, Hub, HubConfig, Password};
use hawser_wire::session_messages::{Envelope, Hello, Intent, RefusalKind, Sealed};
use hawser_wire::{Channel, PublicKey, SessionId, codec};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams};
use support::{Board, PASSWORD, World, within};

async fn hub() -> Result<Hub> {
    Ok(Hub::start(HubConfig::on_loopback(Accounts::new(Password::new(PASSWORD)))).await?)
}

async fn joined(world: &World, name: &str, id: u8) -> Result<Board> {
    world.add_device(name).await?;
    let token = world.add_token(name, id, 600).await?;
    let mut board = Board::connect(world, name, id).await?;
    join(&mut board, &token).await?;
    Ok(board)
}

/// A Device that was just made may not have reached the bridge yet: an agent tries again, and so do we.
async fn join(board: &mut Board, token: &hawser_wire::token::JoinToken) -> Result<()> {
    for _ in 0..100 {
        match board.greet(Some(token)).await? {
            Ok(()) => return Ok(()),
            Err(refusal) if matches!(refusal.kind, RefusalKind::UnknownDevice | RefusalKind::Unavailable) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Err(refusal) => bail!("refused: {refusal:?}"),
        }
    }
    bail!("the bridge never heard of the device")
}

/// From the join to the pod that is gone again.
async fn a_life(world: &mut World) -> Result<()> {
    let mut board = joined(world, "pi", 7).await?;
    let key = board.key.public().to_string();
    board
        .live_until("the key in the Device", async |_| {
            let status = world.devices().get("pi").await?.status.unwrap_or_default();
            Ok(status.public_key.as_deref() == Some(key.as_str()) && status.agent_version.as_deref() == Some("test"))
        })
        .await?;
    board
        .live_until("the token to be gone", async |_| Ok(world.secrets().get_opt("hawser-join-pi").await?.is_none()))
        .await?;
    let nodes: Api<Node> = Api::all(world.client.clone());
    board
        .live_until("a node that is ready", async |_| {
            let Some(node) = nodes.get_opt("pi").await? else { return Ok(false) };
            let labels = node.metadata.labels.unwrap_or_default();
            let status = node.status.unwrap_or_default();
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            let memory =
                status.capacity.is_some_and(|capacity| capacity["memory"].0 == "1Gi" && !capacity.contains_key("x"));
            Ok(ready && memory && labels.get("kubernetes.io/arch").is_some_and(|arch| arch == "arm64"))
        })
        .await?;

    world.add_pod("web", "pi").await?;
    board.live_until("the pod to run", async |_| Ok(world.phase("web").await?.as_deref() == Some("Running"))).await?;
    board.live_until("its bytes", async |board| Ok(board.chunks > 0)).await?;
    board.live_until("acknowledgements", async |board| Ok(!board.acked.is_empty())).await?;

    // Another bridge takes over: the device shakes hands again, and nothing about the pod changes.
    let before = board.accepted;
    world.stop_bridge().await?;
    world.start_bridge().await?;
    board.live_until("the new bridge to hear the device", async |_| Ok(world.metrics().online.get() == 1)).await?;
    board.live_until("a while", async |_| Ok(world.metrics().messages_in.get() > 20)).await?;
    assert_eq!(board.accepted.map(|(_, digest)| digest), before.map(|(_, digest)| digest));
    assert_eq!(world.phase("web").await?.as_deref(), Some("Running"));

    world.pods().delete("web", &DeleteParams::default()).await?;
    board.live_until("the pod to be gone", async |_| Ok(world.phase("web").await?.is_none())).await?;

    drop(board);
    within("the node to be unknown", async || {
        let status = nodes.get("pi").await?.status.unwrap_or_default();
        Ok(status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "Unknown" && c.reason.as_deref() == Some("DeviceOffline")))
    })
    .await?;
    world.devices().delete("pi", &DeleteParams::default()).await?;
    within("the node to go with its device", async || Ok(nodes.get_opt("pi").await?.is_none())).await?;
    world.stop_bridge().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_dies_on_a_device_behind_the_embedded_hub() -> Result<()> {
    let hub = hub().await?;
    let mut world = World::on(hub.local_addr()).await?;
    a_life(&mut world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_dies_on_a_device_behind_mosquitto() -> Result<()> {
    let Some(hub) = Mosquitto::start()? else {
        eprintln!("SKIPPED: there is no mosquitto on this machine (Debian: apt-get install mosquitto)");
        return Ok(());
    };
    let mut world = World::on(hub.address).await?;
    a_life(&mut world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_join_is_told_why() -> Result<()> {
    let hub = hub().await?;
    let world = World::on(hub.local_addr()).await?;
    let mut good = joined(&world, "good", 1).await?;
    good.live_until("the join", async |_| Ok(world.metrics().online.get() == 1)).await?;
    let refused = async |board: &mut Board, token: Option<&hawser_wire::token::JoinToken>| -> Result<RefusalKind> {
        let Err(refusal) = board.greet(token).await? else { bail!("let in") };
        assert!(!refusal.message.is_empty() && !refusal.message.contains('\n'));
        Ok(refusal.kind)
    };

    let mut nobody = Board::connect(&world, "nobody", 2).await?;
    assert_eq!(refused(&mut nobody, None).await?, RefusalKind::UnknownDevice);

    // The token that `good` has used, with another key; and without one. The hub lets only one of the two be connected.
    drop(good);
    let mut thief = Board::connect(&world, "good", 3).await?;
    let token = hawser_wire::token::JoinToken { id: hawser_wire::TokenId([1; 8]), secret: [1; 32] };
    assert_eq!(refused(&mut thief, Some(&token)).await?, RefusalKind::OtherKey);
    assert_eq!(refused(&mut thief, None).await?, RefusalKind::OtherKey);
    drop(thief);

    world.add_device("late").await?;
    let token = world.add_token("late", 4, -1).await?;
    let mut late = Board::connect(&world, "late", 4).await?;
    let mut kind = refused(&mut late, Some(&token)).await?;
    while kind == RefusalKind::UnknownDevice {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        kind = refused(&mut late, Some(&token)).await?;
    }
    assert_eq!(kind, RefusalKind::TokenExpired);
    drop(late);

    let mut lost = Board::connect(&world, "late", 5).await?;
    lost.pin(hawser_wire::session::StaticKey::from_secret([9; 32]).public());
    assert_eq!(refused(&mut lost, None).await?, RefusalKind::Unreadable);
    Ok(())
}

/// Whoever has seen a token's id on the hub, but not its secret, gets nowhere: above all not into the Device.
#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_token_is_not_enough_to_join() -> Result<()> {
    let hub = hub().await?;
    let world = World::on(hub.local_addr()).await?;
    world.add_device("pi").await?;
    let token = world.add_token("pi", 1, 600).await?;
    let mut thief = Board::connect(&world, "pi", 3).await?;
    let guessed = hawser_wire::token::JoinToken { id: token.id, secret: [0xff; 32] };
    // The welcome cannot be read without the secret, so the handshake never ends.
    let greeting = join(&mut thief, &guessed);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(2), greeting).await.is_err());
    assert_eq!(world.devices().get("pi").await?.status.unwrap_or_default().public_key, None);
    drop(thief);
    let mut owner = Board::connect(&world, "pi", 1).await?;
    join(&mut owner, &token).await?;
    let key = owner.key.public().to_string();
    owner
        .live_until("the owner's key", async |_| {
            Ok(world.devices().get("pi").await?.status.unwrap_or_default().public_key.as_deref() == Some(key.as_str()))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_disturb_nobody() -> Result<()> {
    let hub = hub().await?;
    let world = World::on(hub.local_addr()).await?;
    let mut good = joined(&world, "good", 1).await?;
    good.live_until("the join", async |_| Ok(world.metrics().online.get() == 1)).await?;
    let evil = joined(&world, "evil", 2).await?;

    let mut deep = vec![0x81; 10_000];
    deep.push(0);
    let hello = Hello { oldest: 1, newest: 1, intent: Intent::Resume, noise: vec![7; 200] };
    let valid = codec::encode(&Envelope::Hello(hello));
    for bytes in [
        Vec::new(),
        vec![0xff; 100],
        deep,
        // A byte string of 100 MB, by its own account.
        vec![0x82, 0x00, 0x81, 0x5a, 0x06, 0x00, 0x00, 0x00, 0x01],
        valid[..valid.len() - 1].to_vec(),
        vec![0; 100_000],
    ] {
        evil.shout(Channel::Up, bytes.clone()).await?;
        evil.shout(Channel::UpStreams, bytes.clone()).await?;
        evil.shout(Channel::Presence, bytes).await?;
    }
    // As if it were in somebody else's session.
    let foreign = Sealed { session: SessionId([1; 8]), counter: 5, ciphertext: vec![0; 64] };
    evil.shout(Channel::Up, codec::encode(&Envelope::Sealed(foreign))).await?;
    within("the hostile bytes to be counted", async || {
        let metrics = world.metrics();
        Ok(metrics.dropped(Dropped::Malformed) >= 10
            && metrics.dropped(Dropped::TooLong) >= 2
            && metrics.dropped(Dropped::NoSession) >= 1)
    })
    .await?;
    // A hub that lets a device speak on another's topic is none that this bridge has; the session tells all the same.
    let sealed_for_nobody =
        Envelope::Sealed(Sealed { session: SessionId([2; 8]), counter: 0, ciphertext: vec![1; 80] });
    evil.shout(Channel::Up, codec::encode(&sealed_for_nobody)).await?;

    world.add_pod("web", "good").await?;
    good.live_until("the pod to run", async |_| Ok(world.phase("web").await?.as_deref() == Some("Running"))).await?;
    assert!(world.is_running());
    assert_ne!(world.bridge_key(), PublicKey([0; 32]));
    Ok(())
}

/// Debian's Mosquitto, for as long as it is held.
struct Mosquitto {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    fn start() -> Result<Option<Self>> {
        let Some(program) =
            ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|p| std::path::Path::new(p).exists())
        else {
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        // Mosquitto cannot choose a port and say which.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("listener {} 127.0.0.1\nallow_anonymous true\nmessage_size_limit 262144\n", address.port()),
        )?;
        let process = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start mosquitto")?;
        Ok(Some(Self { process, address, _folder: folder }))
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
