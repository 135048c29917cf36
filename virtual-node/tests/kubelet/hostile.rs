//! Clients that break the rules, vanish, never listen or never speak: each is dealt with by itself, and afterwards there
//! are as many tasks and descriptors as before.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use hawser_spdy::{Decoder, Encoder, Event, Headers, Limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::process::{EXEC, V4};
use crate::support::{World, eventually, soon};

const PROTOCOL_ERROR: u32 = 1;

fn hang() -> String {
    format!("{EXEC}command=hang&input=1&output=1")
}

/// What comes until the other end hangs up.
async fn events(transport: &mut (impl AsyncRead + Unpin)) -> Result<Vec<Event>> {
    let (mut decoder, mut input, mut events) = (Decoder::new(&Limits::default()), BytesMut::new(), Vec::new());
    // A reset says as much as an end.
    while matches!(soon(transport.read_buf(&mut input)).await?, Ok(1..)) {
        while let Some(event) = decoder.decode(&mut input)? {
            events.push(event);
        }
    }
    Ok(events)
}

fn opened(ids: &[u32], headers: &Headers) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    for id in ids {
        encoder.syn_stream(&mut out, *id, headers, false).unwrap();
    }
    out.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn spdy_that_breaks_the_rules_is_told_and_leaves_nothing_behind() -> Result<()> {
    let world = World::new().await?;
    let bomb = Headers::from_iter([("a", "b".repeat(4 << 20))]);
    let plain = Headers::from_iter([("streamtype", "error")]);
    let crimes = [
        ("a header of 4 MB in 4 kB", opened(&[1], &bomb)),
        ("a control frame of 16 MB", b"\x80\x03\0\x01\0\xff\xff\xff".to_vec()),
        ("an even stream", opened(&[2], &plain)),
        ("stream 0", opened(&[0], &plain)),
        ("a stream twice", opened(&[1, 1], &plain)),
        ("streams backwards", opened(&[5, 3], &plain)),
        ("bytes of no stream", b"\0\0\0\x07\0\0\0\x01x".to_vec()),
        ("headers that are not packed", b"\x80\x03\0\x01\0\0\0\x0c\0\0\0\x01\0\0\0\0\0\0xx".to_vec()),
        ("SPDY/2", b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01".to_vec()),
        ("HTTP after the upgrade", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    world.settles(usize::MAX).await?;
    let before = World::tasks();
    for (crime, bytes) in &crimes {
        for path in [hang(), "/portForward/default/web".to_owned()] {
            let versions = if path.starts_with("/exec") { V4 } else { &["portforward.k8s.io"] };
            let mut transport = world.spdy(&path, versions).await?;
            // It may hang up before it has read all.
            let _ = transport.write_all(bytes).await;
            let heard = events(&mut transport).await?;
            let told = |event: &Event| matches!(event, Event::GoAway { status: PROTOCOL_ERROR, .. });
            ensure!(heard.iter().any(told), "{crime}: {heard:?}");
        }
    }
    world.settles(before).await?;
    assert_eq!(world.get("/healthz").await?.1, "ok");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_overflow_mean_nothing_here() -> Result<()> {
    let world = World::new().await?;
    let mut transport = world.spdy(&format!("{EXEC}command=hang&output=1"), V4).await?;
    // SETTINGS with a window of 4 GB, then WINDOW_UPDATE by the most there is, for the connection and for a stream.
    let mut bytes = b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\0\0\0\x07\xff\xff\xff\xff".to_vec();
    for id in [0, 1, 1, 99] {
        bytes.extend([0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, id, 0x7f, 0xff, 0xff, 0xff]);
    }
    bytes.extend(b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x07");
    transport.write_all(&bytes).await?;
    let mut answer = [0; 12];
    soon(transport.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x07", "the ping is answered");
    drop(transport);
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_abandoned_commands_leave_nothing_behind() -> Result<()> {
    const ROUNDS: usize = 10;
    let world = World::new().await?;
    world.settles(usize::MAX).await?;
    let before = World::tasks();
    for round in 0..ROUNDS {
        let mut sockets = Vec::new();
        let mut drivers = Vec::new();
        for _ in 0..50 {
            sockets.push(world.websocket(&hang(), "v5.channel.k8s.io").await?);
            let (handle, driver) = hawser_spdy::connect(world.spdy(&hang(), V4).await?, Limits::default());
            drivers.push(tokio::spawn(driver.run()));
            for kind in ["error", "stdin", "stdout"] {
                // Some vanish before they have opened all that they announced.
                if round % 2 == 0 || kind != "stdout" {
                    let stream = handle.open(&Headers::from_iter([("streamtype", kind)]))?;
                    soon(stream.replied()).await??;
                    // Kept open until the connection goes.
                    std::mem::forget(stream);
                }
            }
        }
        eventually("all that were set up to run", async || {
            let live = world.provider.live.load(std::sync::atomic::Ordering::SeqCst);
            (live == if round % 2 == 0 { 100 } else { 50 }).then_some(())
        })
        .await?;
        assert_eq!(world.sockets()?, 100);
        for driver in drivers {
            driver.abort();
        }
        drop(sockets);
        world.settles(before).await?;
    }
    world.stop().await
}

/// How far a command may be ahead of a client that reads slowly: the pipes in between, and what the kernel keeps for a
/// connection, which on loopback is the most.
const AHEAD: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_goes_as_fast_as_it_is_read() -> Result<()> {
    const ALL: u64 = 1_000_000_000;
    let world = World::new().await?;
    let said = || world.provider.said.load(std::sync::atomic::Ordering::Relaxed);
    let path = format!("{EXEC}command=big&command={}&output=1", ALL / 1000);
    let (handle, driver) = hawser_spdy::connect(world.spdy(&path, V4).await?, Limits::default());
    let driver = tokio::spawn(driver.run());
    let mut error = handle.open(&Headers::from_iter([("streamtype", "error")]))?;
    let mut stdout = handle.open(&Headers::from_iter([("streamtype", "stdout")]))?;
    let (mut read, mut most, mut piece) = (0, 0, vec![0; 64 << 10]);
    loop {
        let count = soon(stdout.read(&mut piece)).await??;
        if count == 0 {
            break;
        }
        read += u64::try_from(count)?;
        most = most.max(said().saturating_sub(read));
    }
    let mut status = String::new();
    soon(error.read_to_string(&mut status)).await??;
    assert_eq!((read, said()), (ALL, ALL));
    assert!(status.contains("Success") && most < AHEAD, "{status}, {most} bytes ahead");
    handle.close();
    soon(driver).await???;
    world.nothing_lives().await?;
    world.stop().await
}

/// Says more and more until nobody takes it for a moment; that must come before it is too much.
async fn held_back(mut say: impl AsyncFnMut(&[u8]) -> Result<()>) -> Result<()> {
    let piece = vec![b'x'; 32 << 10];
    let mut taken = 0;
    while let Ok(said) = tokio::time::timeout(Duration::from_millis(500), say(&piece)).await {
        said?;
        taken += piece.len() as u64;
        ensure!(taken < AHEAD, "{taken} bytes were taken for a command that reads nothing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_where_nobody_listens_holds_nothing_up() -> Result<()> {
    let world = World::new().await?;
    let noise = vec![b'x'; 4 * Limits::default().stream_buffer];
    let stream = |kind: &str, more: &[(&'static str, &str)]| {
        let pairs = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Headers::from_iter(pairs.chain([("streamtype", kind.to_owned())]))
    };

    let echo = format!("{EXEC}command=echo&input=1&output=1");
    let (handle, driver) = hawser_spdy::connect(world.spdy(&echo, V4).await?, Limits::default());
    let driver = tokio::spawn(driver.run());
    let open = |kind: &str| handle.open(&stream(kind, &[]));
    let (mut error, mut stdin, mut stdout) = (open("error")?, open("stdin")?, open("stdout")?);
    soon(stdout.replied()).await??;
    let mut uninvited = open("stdin")?;
    soon(error.write_all(&noise)).await??;
    soon(stdout.write_all(&noise)).await??;
    // It is refused, which may be heard while writing.
    let _ = soon(uninvited.write_all(&noise)).await?;
    soon(stdin.write_all(b"heard")).await??;
    soon(stdin.shutdown()).await??;
    let mut heard = String::new();
    soon(stdout.read_to_string(&mut heard)).await??;
    assert_eq!(heard, "heard");
    handle.close();
    soon(driver).await???;

    let versions = &["portforward.k8s.io"];
    let (handle, driver) =
        hawser_spdy::connect(world.spdy("/portForward/default/web", versions).await?, Limits::default());
    let driver = tokio::spawn(driver.run());
    let open = |kind: &str| handle.open(&stream(kind, &[("port", "80"), ("requestid", "0")]));
    let (mut error, mut data) = (open("error")?, open("data")?);
    soon(data.replied()).await??;
    soon(error.write_all(&noise)).await??;
    soon(data.write_all(b"heard")).await??;
    soon(data.shutdown()).await??;
    let mut heard = String::new();
    soon(data.read_to_string(&mut heard)).await??;
    assert_eq!(heard, "80:heard");
    handle.close();
    soon(driver).await???;
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_never_ends_waits_for_its_reader_and_ends_with_its_client() -> Result<()> {
    // The end of the client lies behind what nobody reads.
    let world = World::with(|config| config.vanished = Duration::from_secs(6)).await?;
    world.settles(usize::MAX).await?;
    let before = World::tasks();

    let (handle, driver) = hawser_spdy::connect(world.spdy(&hang(), V4).await?, Limits::default());
    let driver = tokio::spawn(driver.run());
    let open = |kind: &str| handle.open(&Headers::from_iter([("streamtype", kind)]));
    let (error, mut stdin, stdout) = (open("error")?, open("stdin")?, open("stdout")?);
    held_back(async |piece| Ok(stdin.write_all(piece).await?)).await?;
    driver.abort();
    drop((error, stdin, stdout, handle));
    world.settles(before).await?;

    let mut socket = world.websocket(&hang(), "v5.channel.k8s.io").await?;
    held_back(async |piece| Ok(socket.send(Message::Binary([&[0], piece].concat().into())).await?)).await?;
    drop(socket);
    world.settles(before).await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_their_turn() -> Result<()> {
    let world = World::with(|config| config.connections = 2).await?;
    let echo = format!("{EXEC}command=echo&input=1&output=1");
    let mut first = world.websocket(&echo, "v5.channel.k8s.io").await?;
    let second = world.websocket(&echo, "v5.channel.k8s.io").await?;
    soon(first.next()).await?.context("a first message")??;
    let mut third = Box::pin(world.get("/healthz"));
    for _ in 0..100 {
        let turn = async {
            first.send(Message::Binary(vec![0, b'x'].into())).await?;
            let answer = soon(first.next()).await?.context("an answer")??;
            ensure!(answer == Message::Binary(vec![1, b'x'].into()), "{answer:?}");
            Ok(())
        };
        tokio::select! {
            // The turn is not cancelled but for a failure.
            answer = &mut third => anyhow::bail!("served beyond the limit: {answer:?}"),
            done = turn => done?,
        }
    }
    drop(second);
    assert_eq!(soon(third).await??.1, "ok");
    drop(first);
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_and_says_nothing_is_shown_out() -> Result<()> {
    let world = World::with(|config| config.connections = 1).await?;
    world.settles(usize::MAX).await?;
    let mut silent = TcpStream::connect(world.address).await?;
    // It has the only place, and loses it.
    assert_eq!(world.get("/healthz").await?.1, "ok");
    assert_eq!(soon(silent.read(&mut [0])).await??, 0);
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_without_a_word_is_noticed() -> Result<()> {
    let Some(elsewhere) = Elsewhere::make()? else {
        println!("NOT TESTED: it takes root, `ip` and `openssl` to make a client that vanishes");
        return Ok(());
    };
    let world = World::with(|config| {
        config.listen = "0.0.0.0:0".parse().unwrap();
        config.vanished = Duration::from_secs(6);
    })
    .await?;
    world.settles(usize::MAX).await?;
    let before = World::tasks();
    let client = elsewhere.asks(&world, &format!("{EXEC}command=hang&output=1"))?;
    let followed = elsewhere.asks(&world, "/containerLogs/default/web/main?follow=true")?;
    let live = || world.provider.live.load(std::sync::atomic::Ordering::SeqCst);
    eventually("both to be served", async || (live() == 2).then_some(())).await?;
    // What is on its way the kernel tries to bring for a quarter of an hour, and asks for no sign of life meanwhile.
    eventually("all to have arrived", async || (world.on_their_way().ok()? == 0).then_some(())).await?;
    elsewhere.cut()?;
    world.settles(before).await?;
    drop((client, followed));
    world.stop().await
}

/// Another network, with a rope to ours that can be cut: then not even its kernel answers.
struct Elsewhere {
    name: String,
}

/// In a range for such tests.
const HERE: &str = "198.18.77.1";
const THERE: &str = "198.18.77.2";

impl Elsewhere {
    /// `None`: not possible here.
    fn make() -> Result<Option<Self>> {
        let possible = ["ip", "openssl"].iter().all(|program| Command::new(program).arg("-V").output().is_ok());
        let elsewhere = Self { name: format!("hawser{}", std::process::id()) };
        if !possible || !succeeds("ip", &["netns", "add", &elsewhere.name]) {
            return Ok(None);
        }
        // Named after the process: other tests may run beside it.
        let (near, far) = (elsewhere.rope(), "far");
        for words in [
            format!("link add {near} type veth peer name {far} netns {}", elsewhere.name),
            format!("addr add {HERE}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {} addr add {THERE}/30 dev {far}", elsewhere.name),
            format!("-n {} link set {far} up", elsewhere.name),
        ] {
            if !succeeds("ip", &words.split(' ').collect::<Vec<_>>()) {
                return Ok(None);
            }
        }
        Ok(Some(elsewhere))
    }

    fn rope(&self) -> String {
        format!("hw{}", std::process::id())
    }

    /// A client there that asks for this and stays.
    fn asks(&self, world: &World, path: &str) -> Result<Client> {
        let to = format!("{HERE}:{}", world.address.port());
        let arguments = ["netns", "exec", &self.name, "openssl", "s_client", "-quiet", "-connect", &to];
        let mut child = Command::new("ip")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
        let upgrade = if path.starts_with("/exec") { upgrade } else { "" };
        let token = &world.token;
        let request = format!("GET {path} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n{upgrade}\r\n");
        child.stdin.as_mut().context("its input")?.write_all(request.as_bytes())?;
        Ok(Client(child))
    }

    fn cut(&self) -> Result<()> {
        ensure!(succeeds("ip", &["-n", &self.name, "link", "set", "far", "down"]), "cannot cut the rope");
        Ok(())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        succeeds("ip", &["link", "del", &self.rope()]);
        succeeds("ip", &["netns", "del", &self.name]);
    }
}

struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let done = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}
