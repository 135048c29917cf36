//! Clients that speak WebSocket: the first byte of a message says which channel it is for; or all of it is SPDY.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures::{Sink as _, SinkExt, Stream as _, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, SimplexStream, WriteHalf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::session::{self, Activity, Dial, Gone, Patience, Remote, Sink, Start};
use crate::provider::streams::Channels;

/// Clients cut what they send into tens of kilobytes.
const MESSAGE_LIMIT: usize = 4 << 20;
/// What waits for a process that is slow to read.
const PIPE: usize = 64 << 10;
/// How long a client may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the channel that follows has ended.
const CLOSE: u8 = 255;

type Socket<T> = WebSocketStream<T>;
type AnyTransport = Pin<Box<dyn Transport>>;

/// What a WebSocket runs over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Transport for T {}

/// The sending half, for several.
#[derive(Clone)]
pub(crate) struct Sender(Arc<tokio::sync::Mutex<SplitSink<Socket<AnyTransport>, Message>>>);

impl Sender {
    pub(crate) async fn binary(&self, framed: Bytes) -> io::Result<()> {
        self.send(Message::Binary(framed)).await
    }

    async fn send(&self, message: Message) -> io::Result<()> {
        self.0.lock().await.send(message).await.map_err(io_error)
    }

    async fn close(&self) {
        // If it cannot be told the client has gone.
        let _ = self.send(goodbye()).await;
    }
}

fn goodbye() -> Message {
    // Clients take another code, or none, for a failure.
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn io_error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

async fn accept<T: Transport + 'static>(transport: T) -> (Sender, SplitStream<Socket<AnyTransport>>) {
    let transport: AnyTransport = Box::pin(transport);
    let (sink, stream) = socket(transport).await.split();
    (Sender(Arc::new(tokio::sync::Mutex::new(sink))), stream)
}

async fn socket<T: AsyncRead + AsyncWrite + Unpin>(transport: T) -> Socket<T> {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(config)).await
}

/// The bytes of a message with a channel; `None` for one without.
fn payload(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        _ => None,
    }
}

/// Sends pings where they are needed, as the SPDY side does.
async fn probe(sender: &Sender, activity: &Activity) {
    loop {
        activity.probe_is_due().await;
        if sender.send(Message::Ping(Bytes::new())).await.is_err() {
            return;
        }
    }
}

/// Serves a process. `protocol` is what was agreed.
pub(crate) async fn process<T>(transport: T, protocol: &str, channels: Channels, start: Start, patience: Patience)
where
    T: Transport + 'static,
{
    let (sender, mut messages) = accept(transport).await;
    let activity = Activity::begun(patience);
    let (stdin, to_stdin) = pipe(channels.stdin);
    let (resize, to_resize) = pipe(channels.tty);
    let channel = |wanted: bool, number: u8| wanted.then(|| Sink::Channel(sender.clone(), number));
    let remote = Remote {
        stdin: stdin.map(|pipe| Box::pin(pipe) as _),
        stdout: channel(channels.stdout, STDOUT),
        stderr: channel(channels.stderr, STDERR),
        resize: resize.map(|pipe| Box::pin(pipe) as _),
    };
    let talk = async {
        // Tells that all is set up, though there may be nothing to say for long.
        let first = [(channels.stdout, STDOUT), (channels.stderr, STDERR), (true, ERROR)];
        let first = first.iter().find(|(wanted, _)| *wanted).map_or(ERROR, |(_, channel)| *channel);
        if sender.binary(Bytes::copy_from_slice(&[first])).await.is_err() {
            return;
        }
        let ended = match start.await {
            Err(refused) => Err(refused),
            Ok(process) => match session::run(process, remote, &activity).await {
                Ok(ended) => ended,
                Err(Gone) => return,
            },
        };
        let text =
            if protocol == "channel.k8s.io" { session::sentence(&ended) } else { session::status(&ended).to_string() };
        // In the oldest protocol what went well is told by silence.
        if !text.is_empty() {
            let status = [&[ERROR], text.as_bytes()].concat();
            let _ = sender.binary(status.into()).await;
        }
        sender.close().await;
    };
    let v5 = protocol == "v5.channel.k8s.io";
    let listen = async {
        let (mut stdin, mut resize) = (to_stdin, to_resize);
        while let Some(Ok(message)) = messages.next().await {
            let Some(bytes) = payload(message) else { continue };
            match bytes.split_first() {
                Some((&STDIN, rest)) => put(&mut stdin, rest).await,
                Some((&RESIZE, rest)) => put(&mut resize, rest).await,
                Some((&CLOSE, [STDIN])) if v5 => end(&mut stdin).await,
                _ => {}
            }
        }
    };
    until_gone(talk, listen, &sender, &activity).await;
}

/// Runs until the session has ended and the client has said goodbye, or it has gone, or all was silent for too long.
async fn until_gone(
    talk: impl Future<Output = ()>,
    listen: impl Future<Output = ()>,
    sender: &Sender,
    activity: &Activity,
) {
    let mut listen = std::pin::pin!(listen);
    {
        let talk = std::pin::pin!(talk);
        tokio::select! {
            // Listening goes on; the others are dropped, and with them all that they hold.
            () = &mut listen => return,
            () = talk => {}
            () = probe(sender, activity) => return,
            () = activity.silent() => sender.close().await,
        }
    }
    let _ = tokio::time::timeout(FAREWELL, listen).await;
}

type Pipe = (Option<ReadHalf<SimplexStream>>, Option<WriteHalf<SimplexStream>>);

fn pipe(wanted: bool) -> Pipe {
    if wanted {
        let (read, write) = tokio::io::simplex(PIPE);
        (Some(read), Some(write))
    } else {
        (None, None)
    }
}

/// Waits while the pipe is full, and the client with us.
async fn put(to: &mut Option<WriteHalf<SimplexStream>>, bytes: &[u8]) {
    if let Some(pipe) = to
        && pipe.write_all(bytes).await.is_err()
    {
        *to = None;
    }
}

async fn end(to: &mut Option<WriteHalf<SimplexStream>>) {
    if let Some(mut pipe) = to.take() {
        // Who has stopped reading does not mind.
        let _ = pipe.shutdown().await;
    }
}

/// Serves one connection to each of `ports`: channel 2i is the data of the i-th, channel 2i+1 its errors. Each begins
/// with its port.
pub(crate) async fn forward<T>(transport: T, ports: Vec<u16>, pod: String, dial: Dial, patience: Patience)
where
    T: Transport + 'static,
{
    let (sender, mut messages) = accept(transport).await;
    let activity = Activity::begun(patience);
    let mut inputs = Vec::new();
    let running = FuturesUnordered::new();
    for (n, port) in ports.into_iter().enumerate() {
        let Ok(data) = u8::try_from(2 * n) else { break };
        let (from, to) = tokio::io::simplex(PIPE);
        inputs.push(Some(to));
        running.push(forward_one(sender.clone(), data, port, from, &pod, &dial, &activity));
    }
    let talk = async {
        running.collect::<()>().await;
        sender.close().await;
    };
    let listen = async {
        while let Some(Ok(message)) = messages.next().await {
            let Some(bytes) = payload(message) else { continue };
            if let Some((channel, rest)) = bytes.split_first()
                && channel % 2 == 0
                && let Some(input) = inputs.get_mut(usize::from(channel / 2))
            {
                put(input, rest).await;
            }
        }
    };
    until_gone(talk, listen, &sender, &activity).await;
}

async fn forward_one(
    sender: Sender,
    data: u8,
    port: u16,
    from: ReadHalf<SimplexStream>,
    pod: &str,
    dial: &Dial,
    activity: &Activity,
) {
    let [low, high] = port.to_le_bytes();
    for channel in [data, data + 1] {
        if sender.binary(Bytes::copy_from_slice(&[channel, low, high])).await.is_err() {
            return;
        }
    }
    let failed = match dial(port).await {
        Err(refused) => Some(refused.to_string()),
        Ok(connection) => match session::carry(connection, from, Sink::Channel(sender.clone(), data), activity).await {
            Ok(failed) => failed.map(|error| error.to_string()),
            Err(Gone) => return,
        },
    };
    if let Some(why) = failed {
        let mut text = vec![data + 1];
        text.extend_from_slice(format!("error forwarding port {port} to pod {pod}: {why}").as_bytes());
        // If it cannot be told the client has gone.
        let _ = sender.binary(text.into()).await;
    }
}

/// A WebSocket whose binary messages are nothing but bytes.
pub(crate) struct Tunnel<T> {
    socket: Socket<T>,
    unread: Bytes,
    closing: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel<T> {
    pub(crate) async fn new(transport: T) -> Self {
        Self { socket: socket(transport).await, unread: Bytes::new(), closing: false }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None | Some(Err(tungstenite::Error::ConnectionClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(_)) => {}
            }
        }
        let count = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        let count = bytes.len().min(PIPE);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..count]));
        Pin::new(&mut self.socket).start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
            Pin::new(&mut self.socket).start_send(goodbye()).map_err(io_error)?;
            self.closing = true;
        }
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }
}
