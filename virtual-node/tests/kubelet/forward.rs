//! port-forward, by all the ways that clients come.

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes};
use futures::{SinkExt, StreamExt};
use hawser_spdy::{Handle, Headers, Limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{World, soon};

const PATH: &str = "/portForward/default/web";

/// One forwarded connection, as `kubectl` makes it: says `text`, and gives what comes back on both streams.
async fn connection(handle: &Handle, port: u16, id: u32, text: &[u8]) -> Result<(String, String)> {
    let port = port.to_string();
    let open = |kind: &str| {
        let id = id.to_string();
        handle.open(&Headers::from_iter([("streamType", kind), ("port", &port), ("requestID", &id)]))
    };
    let mut error = open("error")?;
    error.shutdown().await?;
    let mut data = open("data")?;
    // A refused connection resets its data stream.
    let _ = data.write_all(text).await;
    let _ = data.shutdown().await;
    let (mut answer, mut failure) = (String::new(), String::new());
    let _ = data.read_to_string(&mut answer).await;
    error.read_to_string(&mut failure).await?;
    Ok((answer, failure))
}

async fn over<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(transport: T) -> Result<()> {
    let (handle, driver) = hawser_spdy::connect(transport, Limits::default());
    let driver = tokio::spawn(driver.run());
    let long = "x".repeat(3_000);
    let all = (0..30).map(|id| connection(&handle, 80 + u16::try_from(id).unwrap(), id, long.as_bytes()));
    for (id, answer) in soon(futures::future::try_join_all(all)).await??.into_iter().enumerate() {
        assert_eq!(answer, (format!("{}:{long}", 80 + id), String::new()));
    }
    let (answer, failure) = soon(connection(&handle, 9, 99, b"x")).await??;
    assert_eq!(answer, "");
    assert!(failure.starts_with("error forwarding port 9 to pod web, uid "), "{failure}");
    assert!(failure.ends_with(": nobody listens on port 9"), "{failure}");
    let refused = handle.open(&Headers::from_iter([("streamtype", "data"), ("port", "0")]))?;
    assert!(soon(refused.replied()).await?.is_err());
    assert_eq!(soon(handle.ping()).await?, Ok(()));
    drop(refused);
    handle.close();
    soon(driver).await???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_share_one_upgrade() -> Result<()> {
    let world = World::new().await?;
    over(world.spdy(PATH, &["portforward.k8s.io"]).await?).await?;
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn spdy_goes_through_a_websocket() -> Result<()> {
    let world = World::new().await?;
    let (mut sink, mut stream) = world.websocket(PATH, "SPDY/3.1+portforward.k8s.io").await?.split();
    let (here, there) = tokio::io::duplex(1 << 16);
    let (mut read, mut write) = tokio::io::split(there);
    let pump = tokio::spawn(async move {
        let up = async {
            let mut piece = vec![0; 8192];
            while let Ok(count @ 1..) = read.read(&mut piece).await {
                if sink.send(Message::Binary(Bytes::copy_from_slice(&piece[..count]))).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        };
        let down = async {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Binary(bytes) = message
                    && write.write_all(&bytes).await.is_err()
                {
                    return;
                }
            }
            let _ = write.shutdown().await;
        };
        tokio::join!(up, down);
    });
    over(here).await?;
    soon(pump).await??;
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_as_channels_begin_with_their_number() -> Result<()> {
    let world = World::new().await?;
    let mut socket = world.websocket(&format!("{PATH}?port=80&port=9"), "v4.channel.k8s.io").await?;
    let mut seen = [const { Vec::new() }; 4];
    while seen.iter().any(|channel| channel.len() < 2) {
        let message = soon(socket.next()).await?.context("a message")??.into_data();
        seen[usize::from(message[0])].put_slice(&message[1..]);
    }
    assert_eq!((&seen[0], &seen[1]), (&vec![80, 0], &vec![80, 0]));
    while !seen[3].ends_with(b"nobody listens on port 9") {
        let message = soon(socket.next()).await?.context("a message")??.into_data();
        seen[usize::from(message[0])].put_slice(&message[1..]);
    }
    assert_eq!(world.provider.live.load(std::sync::atomic::Ordering::SeqCst), 1);
    socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await?;
    socket.close(None).await?;
    while let Some(Ok(_)) = soon(socket.next()).await? {}
    world.nothing_lives().await?;
    world.stop().await
}
