//! What clients send over WebSocket besides what they should.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use crate::process::EXEC;
use crate::support::{World, soon};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";

type Socket = WebSocketStream<TokioIo<Upgraded>>;

fn echo() -> String {
    format!("{EXEC}command=echo&input=1&output=1")
}

fn binary(bytes: &'static [u8]) -> Message {
    Message::Binary(Bytes::from_static(bytes))
}

async fn begun(world: &World, protocol: &str) -> Result<Socket> {
    let mut socket = world.websocket(&echo(), protocol).await?;
    let first = soon(socket.next()).await?.context("a first message")??;
    assert_eq!(first, binary(b"\x01"));
    Ok(socket)
}

/// Everything that comes, by channel, and how it was closed.
async fn rest(mut socket: Socket) -> Result<([String; 4], Option<CloseCode>)> {
    let (mut seen, mut code) = ([const { String::new() }; 4], None);
    while let Some(Ok(message)) = soon(socket.next()).await? {
        match message {
            Message::Binary(bytes) => seen[usize::from(bytes[0])].push_str(std::str::from_utf8(&bytes[1..])?),
            Message::Close(frame) => code = frame.map(|frame| frame.code),
            _ => {}
        }
    }
    Ok((seen, code))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_nothing_is_passed_over() -> Result<()> {
    let world = World::new().await?;
    let mut socket = begun(&world, V5).await?;
    for message in [
        binary(b""),
        binary(b"\x00"),
        binary(b"\x01said on stdout"),
        binary(b"\x02said on stderr"),
        binary(b"\x03said on the error channel"),
        binary(b"\x04{\"Width\":80,\"Height\":24} without a terminal"),
        binary(b"\x09on a channel that is not"),
        binary(b"\xff"),
        binary(b"\xff\x01"),
        binary(b"\xff\x00\x00"),
        Message::Ping(Bytes::from_static(b"alive?")),
        Message::Pong(Bytes::from_static(b"nobody asked")),
        binary(b"\x00one "),
        Message::Text("\0two ".into()),
    ] {
        socket.send(message).await?;
    }
    for (opcode, last, bytes) in
        [(Data::Binary, false, &b"\x00th"[..]), (Data::Continue, false, b""), (Data::Continue, true, b"ree")]
    {
        let frame = Frame::message(bytes.to_vec(), OpCode::Data(opcode), last);
        socket.send(Message::Frame(frame)).await?;
    }
    socket.send(binary(b"\xff\x00")).await?;
    // After its end.
    socket.send(binary(b"\x00four")).await?;
    socket.send(binary(b"\xff\x00")).await?;
    let (seen, code) = rest(socket).await?;
    assert_eq!((seen[1].as_str(), code), ("one two three", Some(CloseCode::Normal)));
    assert!(seen[3].contains("Success"), "{seen:?}");
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn before_v5_input_ends_with_the_client() -> Result<()> {
    let world = World::new().await?;
    let mut socket = begun(&world, V4).await?;
    // No end in v4, and no input either.
    socket.send(binary(b"\xff\x00")).await?;
    socket.send(binary(b"\x00still there")).await?;
    let answer = soon(socket.next()).await?.context("an answer")??;
    assert_eq!(answer, binary(b"\x01still there"));
    socket.close(None).await?;
    let (seen, _) = rest(socket).await?;
    assert_eq!(seen, [const { String::new() }; 4], "no status for a command that did not end");
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_protocol_that_both_know_is_spoken() -> Result<()> {
    let world = World::new().await?;
    let path = echo();
    let asked = |offered: &str| {
        let request = world.request(http::Method::GET, &path).header("connection", "keep-alive, Upgrade");
        let request = request.header("upgrade", "WebSocket").header("sec-websocket-version", "13");
        let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let request = request.header("sec-websocket-protocol", offered);
        async {
            let answer = world.send(request).await?;
            let agreed = answer.headers().get("sec-websocket-protocol");
            let agreed = agreed.map(|value| value.to_str().map(str::to_owned)).transpose()?;
            anyhow::Ok((answer.status().as_u16(), agreed))
        }
    };
    for (offered, agreed) in [("v9.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io", V5), (V4, V4)] {
        assert_eq!(asked(offered).await?, (101, Some(agreed.to_owned())), "{offered}");
    }
    for unknown in ["v9.channel.k8s.io", "SPDY/3.1+portforward.k8s.io", ""] {
        let (status, _) = asked(unknown).await?;
        assert!((400..500).contains(&status), "{unknown}: {status}");
    }
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_no_client_may_send_end_the_connection() -> Result<()> {
    let world = World::new().await?;
    world.settles(usize::MAX).await?;
    let before = World::tasks();
    let huge = FrameHeader { is_final: true, ..FrameHeader::default() };
    let mut claims = Vec::new();
    huge.format(5 << 20, &mut claims)?;
    for (crime, bytes) in [
        ("not masked", b"\x82\x02\x00x".to_vec()),
        ("a message of 5 MB where 4 are allowed", claims),
        ("an operation that is not", b"\x83\x80\0\0\0\0".to_vec()),
        ("reserved bits", b"\xf2\x80\0\0\0\0".to_vec()),
        ("a ping in pieces", b"\x09\x80\0\0\0\0".to_vec()),
        ("a rest without a beginning", b"\x80\x80\0\0\0\0".to_vec()),
        ("SPDY", b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01".to_vec()),
    ] {
        let mut transport = world.websocket_bytes(&echo(), V5).await?;
        transport.write_all(&bytes).await?;
        let mut heard = Vec::new();
        // A reset says as much as an end.
        let ended = soon(transport.read_to_end(&mut heard)).await;
        ensure!(ended.is_ok(), "{crime}: the connection stays, having said {heard:?}");
    }
    world.settles(before).await?;
    world.stop().await
}
