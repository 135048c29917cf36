//! exec and attach, by all the ways that clients come.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hawser_spdy::{Headers, Limits, Stream};
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{World, soon};

pub(crate) const V4: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];
pub(crate) const EXEC: &str = "/exec/default/web/main?";

/// What a client saw.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    stdout: String,
    stderr: String,
    error: String,
}

impl Seen {
    fn status(&self) -> Value {
        serde_json::from_str(&self.error).unwrap_or_default()
    }
}

/// Runs a command as an API server does, over SPDY; `stdin` is sent and then ended.
async fn over_spdy(world: &World, path: &str, versions: &[&str], stdin: &[u8], resize: &str) -> Result<Seen> {
    let (handle, driver) = hawser_spdy::connect(world.spdy(path, versions).await?, Limits::default());
    let driver = tokio::spawn(driver.run());
    let open = |kind: &str| handle.open(&Headers::from_iter([("streamType", kind)]));
    let error = open("error")?;
    let wanted = |name: &str, kind: &str| path.contains(name).then(|| open(kind)).transpose();
    let (input, output, errors) =
        (wanted("input=1", "stdin")?, wanted("output=1", "stdout")?, wanted("&error=1", "stderr")?);
    let sizes = wanted("tty=1", "resize")?;
    let feed = async {
        if let Some(mut sizes) = sizes {
            let _ = sizes.write_all(resize.as_bytes()).await;
            // Kept until the process has ended.
            std::future::pending::<()>().await;
        }
        std::future::pending::<()>().await;
    };
    let send = async {
        if let Some(mut input) = input {
            // A command may end before it has read all.
            let _ = input.write_all(stdin).await;
            let _ = input.shutdown().await;
        }
    };
    let all = async |stream: Option<Stream>| {
        let mut text = String::new();
        if let Some(stream) = stream {
            // The outputs of a process that was lost are reset.
            let _ = stream.split().0.read_to_string(&mut text).await;
        }
        text
    };
    let read = async {
        let (stdout, stderr, error, ()) = tokio::join!(all(output), all(errors), all(Some(error)), send);
        Seen { stdout, stderr, error }
    };
    let seen = soon(async {
        tokio::select! {
            seen = read => seen,
            () = feed => unreachable!("it waits for ever"),
        }
    })
    .await?;
    handle.close();
    soon(driver).await???;
    Ok(seen)
}

/// The same over WebSocket.
async fn over_websocket(
    world: &World,
    path: &str,
    protocol: &str,
    messages: Vec<Vec<u8>>,
) -> Result<(Seen, CloseCode)> {
    let mut socket = world.websocket(path, protocol).await?;
    let first = soon(socket.next()).await?.context("a first message")??;
    assert_eq!(first.into_data().len(), 1, "empty, on the lowest channel");
    for message in messages {
        socket.send(Message::Binary(Bytes::from(message))).await?;
    }
    let mut seen = [const { String::new() }; 4];
    let mut code = CloseCode::Abnormal;
    while let Some(Ok(message)) = soon(socket.next()).await? {
        match message {
            Message::Binary(bytes) => seen[usize::from(bytes[0])].push_str(std::str::from_utf8(&bytes[1..])?),
            Message::Close(Some(frame)) => code = frame.code,
            _ => {}
        }
    }
    let [_, stdout, stderr, error] = seen;
    Ok((Seen { stdout, stderr, error }, code))
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_and_exit_codes_arrive() -> Result<()> {
    let world = World::new().await?;
    let say = format!("{EXEC}command=say&command=hello&command=oops&command=3&output=1&error=1");
    let (websocket, code) = over_websocket(&world, &say, "v5.channel.k8s.io", Vec::new()).await?;
    let (older, older_code) = over_websocket(&world, &say, "v4.channel.k8s.io", Vec::new()).await?;
    let spdy = over_spdy(&world, &say, V4, b"", "").await?;
    assert_eq!((code, older_code), (CloseCode::Normal, CloseCode::Normal));
    assert_eq!((spdy.stdout.as_str(), spdy.stderr.as_str()), ("hello", "oops"));
    let status = spdy.status();
    assert_eq!((&status["status"], &status["reason"]), (&Value::from("Failure"), &Value::from("NonZeroExitCode")));
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    assert_eq!((&websocket, &older), (&spdy, &spdy));
    let ancient = over_spdy(&world, &say, &["v2.channel.k8s.io"], b"", "").await?;
    assert_eq!(ancient.error, "command terminated with non-zero exit code: exit status 3");
    let (oldest, code) = over_websocket(&world, &say, "channel.k8s.io", Vec::new()).await?;
    assert_eq!((oldest.error, code), (ancient.error, CloseCode::Normal));
    assert_eq!((oldest.stdout.as_str(), oldest.stderr.as_str()), ("hello", "oops"));
    let asked = world.provider.asked.lock().unwrap().last().cloned();
    assert_eq!(asked.as_deref(), Some("exec gw default/web main say hello oops 3"));
    let fine = format!("{EXEC}command=say&command=hello&command=&command=0&output=1&error=1");
    let (fine, _) = over_websocket(&world, &fine, "channel.k8s.io", Vec::new()).await?;
    assert_eq!((fine.stdout.as_str(), fine.error.as_str()), ("hello", ""), "what went well is told by silence");
    let attached = over_spdy(&world, "/attach/default/web/main?output=1&error=1", V4, b"", "").await?;
    assert_eq!((attached.stdout.as_str(), &attached.status()["status"]), ("attached", &Value::from("Success")));
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_and_its_end_is_heard() -> Result<()> {
    let world = World::new().await?;
    let echo = format!("{EXEC}command=echo&input=1&output=1");
    let text = "0123456789".repeat(300_000);
    let spdy = over_spdy(&world, &echo, V4, text.as_bytes(), "").await?;
    assert!(spdy.stdout == text && spdy.status()["status"] == "Success", "{} {}", spdy.stdout.len(), spdy.error);
    let mut messages: Vec<Vec<u8>> = text.as_bytes().chunks(30_000).map(|piece| [&[0][..], piece].concat()).collect();
    messages.push(vec![255, 0]);
    // Nobody reads while it is sent, so it must fit in what is on its way.
    messages.drain(..messages.len() - 2);
    let (websocket, _) = over_websocket(&world, &echo, "v5.channel.k8s.io", messages).await?;
    assert_eq!((websocket.stdout.len(), &websocket.status()["status"]), (30_000, &Value::from("Success")));
    let big = over_spdy(&world, &format!("{EXEC}command=big&command=5000&output=1"), V4, b"", "").await?;
    assert_eq!(big.stdout.len(), 5_000_000);
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_can_be_resized() -> Result<()> {
    let world = World::new().await?;
    let path = format!("{EXEC}command=sizes&command=1&input=1&output=1&tty=1");
    let spdy = over_spdy(&world, &path, V4, b"", "{\"Width\":80,\"Height\":24}\n").await?;
    assert_eq!(spdy.stdout, "80x24 ");
    let size = [&[4][..], b"{\"Width\":100,\"Height\":30}"].concat();
    let (websocket, _) = over_websocket(&world, &path, "v5.channel.k8s.io", vec![size]).await?;
    assert_eq!(websocket.stdout, "100x30 ");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn why_it_failed_is_for_the_person_at_the_terminal() -> Result<()> {
    let world = World::new().await?;
    for (command, why) in [("refused", "container is not running"), ("lost", "gw has not been heard for 3m")] {
        let path = format!("{EXEC}command={command}&error=1");
        let spdy = over_spdy(&world, &path, V4, b"", "").await?;
        let (websocket, code) = over_websocket(&world, &path, "v5.channel.k8s.io", Vec::new()).await?;
        assert_eq!((spdy.status()["message"].as_str(), code), (Some(why), CloseCode::Normal));
        assert_eq!(websocket, spdy);
    }
    let request = world.request(Method::POST, &format!("{EXEC}command=x&output=1"));
    let request = request.header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    let answer = world.send(request.header("x-stream-protocol-version", "v9.channel.k8s.io")).await?;
    assert_eq!(answer.status().as_u16(), 403);
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_more_ends_the_command() -> Result<()> {
    let world = World::new().await?;
    let path = format!("{EXEC}command=big&command=1000000&output=1");
    let (handle, driver) = hawser_spdy::connect(world.spdy(&path, V4).await?, Limits::default());
    let driver = tokio::spawn(driver.run());
    let error = handle.open(&Headers::from_iter([("streamtype", "error")]))?;
    let mut output = handle.open(&Headers::from_iter([("streamtype", "stdout")]))?;
    soon(output.read_exact(&mut [0; 1000])).await??;
    drop(output);
    world.nothing_lives().await?;
    drop(error);
    soon(driver).await???;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_what_is_open() -> Result<()> {
    let world = World::new().await?;
    let mut socket = world.websocket(&format!("{EXEC}command=hang&output=1"), "v5.channel.k8s.io").await?;
    soon(socket.next()).await?.context("a first message")??;
    let provider = std::sync::Arc::clone(&world.provider);
    world.stop().await?;
    assert_eq!(provider.live.load(std::sync::atomic::Ordering::SeqCst), 0);
    while let Some(Ok(_)) = soon(socket.next()).await? {}
    Ok(())
}
