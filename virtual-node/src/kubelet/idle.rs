//! Tests: what becomes of clients that are silent for hours, with the clock that tests turn.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use hawser_spdy::{Headers, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::session::{Patience, Start};
use super::{KubeletConfig, spdy, websocket};
use crate::clock;
use crate::provider::streams::{Channels, Process};

const CHANNELS: Channels = Channels { stdin: true, stdout: true, stderr: false, tty: false };
const MINUTE: Duration = Duration::from_secs(60);

fn four_hours() -> Duration {
    let idle = KubeletConfig::new("127.0.0.1:0".parse().unwrap(), "127.0.0.1".parse().unwrap()).idle;
    assert_eq!(idle, 240 * MINUTE, "as a kubelet's --streaming-connection-idle-timeout");
    idle
}

fn patience() -> Patience {
    Patience { idle: four_hours(), vanished: MINUTE }
}

/// A process that gives back what it hears, and never ends.
fn shell() -> Start {
    let (stdin_read, stdin) = tokio::io::simplex(64);
    let (stdout_read, stdout) = tokio::io::simplex(64);
    let exit: BoxFuture<'static, _> = Box::pin(async move {
        let (mut stdin, mut stdout) = (stdin_read, stdout);
        let _ = tokio::io::copy(&mut stdin, &mut stdout).await;
        std::future::pending().await
    });
    let (stdin, stdout) = (Some(Box::pin(stdin) as _), Some(Box::pin(stdout_read) as _));
    Box::pin(async { Ok(Process { stdin, stdout, stderr: None, resize: None, exit }) })
}

fn transport() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(4096)
}

/// A terminal that is typed into now and then is kept, and given up when nothing came for four hours.
async fn typed_into_and_left(mut say: impl AsyncFnMut(), served: JoinHandle<()>, ended: impl Future<Output = ()>) {
    for _ in 0..3 {
        tokio::time::sleep(four_hours() - MINUTE).await;
        assert!(!served.is_finished());
        say().await;
    }
    let last = clock::instant();
    ended.await;
    let silent = clock::instant() - last;
    assert!((four_hours()..four_hours() + MINUTE).contains(&silent), "{silent:?}");
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_terminal_over_spdy_is_kept_for_four_hours() {
    let (here, there) = transport();
    let served = tokio::spawn(spdy::process(here, "v4.channel.k8s.io", CHANNELS, shell(), patience()));
    let (handle, driver) = hawser_spdy::connect(there, Limits::default());
    let driver = tokio::spawn(driver.run());
    let open = |kind: &str| handle.open(&Headers::from_iter([("streamtype", kind)])).unwrap();
    let (mut error, mut stdin, mut stdout) = (open("error"), open("stdin"), open("stdout"));
    let say = async || {
        stdin.write_all(b"x").await.unwrap();
        stdout.read_exact(&mut [0]).await.unwrap();
    };
    let ended = async {
        let mut said = String::new();
        // It is reset, or ends without a status: there is none.
        let _ = error.read_to_string(&mut said).await;
        assert_eq!(said, "");
        let _ = driver.await;
    };
    typed_into_and_left(say, served, ended).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_terminal_over_websocket_is_kept_for_four_hours() {
    let (here, there) = transport();
    let served = tokio::spawn(websocket::process(here, "v5.channel.k8s.io", CHANNELS, shell(), patience()));
    let socket = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
    let (mut sink, stream) = socket.split();
    let mut stream = stream.peekable();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, Message::Binary(vec![1].into()));
    let stream = tokio::sync::Mutex::new(stream);
    let say = async || {
        sink.send(Message::Binary(vec![0, b'x'].into())).await.unwrap();
        assert_eq!(stream.lock().await.next().await.unwrap().unwrap(), Message::Binary(vec![1, b'x'].into()));
    };
    let ended = async {
        let mut stream = stream.lock().await;
        let goodbye = stream.next().await.unwrap().unwrap();
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        assert_eq!(goodbye, Message::Close(Some(normal)));
        assert!(stream.next().await.is_none_or(|end| end.is_err()));
    };
    typed_into_and_left(say, served, ended).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_whether_we_live_is_answered_and_yet_silent() {
    let (here, there) = transport();
    let served = tokio::spawn(spdy::process(here, "v4.channel.k8s.io", CHANNELS, shell(), patience()));
    let (handle, driver) = hawser_spdy::connect(there, Limits::default());
    let driver = tokio::spawn(driver.run());
    let open = |kind: &str| handle.open(&Headers::from_iter([("streamtype", kind)])).unwrap();
    let _streams = (open("error"), open("stdin"), open("stdout"));
    let began = clock::instant();
    // As an API server does. Otherwise nobody's terminal would ever be given up.
    while handle.ping().await.is_ok() {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!((four_hours()..four_hours() + MINUTE).contains(&(clock::instant() - began)));
    let _ = driver.await;
    served.await.unwrap();
}
