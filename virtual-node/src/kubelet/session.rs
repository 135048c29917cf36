//! A process and a client, tied together until one of them ends, whatever they speak in between.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::websocket::Sender;
use crate::clock;
use crate::provider::streams::{Connection, Input, Output, Process, StreamError, TerminalSize};

/// How much is moved at once.
const PIECE: usize = 32 << 10;
/// Sizes of a terminal are tiny; who sends more without one is talking about something else.
const SIZE_LIMIT: usize = 1024;
/// How long the outputs of a process that was lost may still say something.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a client may take to open the streams that it has announced.
pub(crate) const CREATION: Duration = Duration::from_secs(30);

/// Starts the process, once the client's streams are there: who vanishes before has started nothing.
pub(crate) type Start = BoxFuture<'static, Result<Process, StreamError>>;
/// Opens a connection to a port.
pub(crate) type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<Connection, StreamError>> + Send + Sync>;

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Who moves nothing for so long is not there any more, whatever its machine says.
    pub(crate) idle: Duration,
    /// Who gives no sign of life for so long has gone.
    pub(crate) vanished: Duration,
}

/// When something was last moved, and whether something cannot be.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Moves>);

#[derive(Debug)]
struct Moves {
    patience: Patience,
    last: Mutex<Instant>,
    /// Inputs that a process or a port is slow to take.
    held_up: AtomicUsize,
}

impl Activity {
    pub(crate) fn begun(patience: Patience) -> Self {
        let last = Mutex::new(clock::instant());
        Self(Arc::new(Moves { patience, last, held_up: AtomicUsize::new(0) }))
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last() = clock::instant();
    }

    /// Ends when nothing has been moved for too long.
    pub(crate) async fn silent(&self) {
        loop {
            let due = *self.last() + self.0.patience.idle;
            if due <= clock::instant() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    /// Ends when it is time to say something to a client that is not read because what it sent is not taken: one that is no
    /// more says so only if it is sent something. Otherwise the kernel asks clients whether they live.
    pub(crate) async fn probe_is_due(&self) {
        loop {
            tokio::time::sleep(self.0.patience.vanished / 2).await;
            if self.0.held_up.load(Ordering::Relaxed) > 0 {
                return;
            }
        }
    }

    /// Waits for what may be held up by others.
    async fn held_up<T>(&self, by: impl Future<Output = T>) -> T {
        struct Held<'a>(&'a AtomicUsize);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.0.held_up.fetch_add(1, Ordering::Relaxed);
        let _held = Held(&self.0.held_up);
        by.await
    }
}

/// Where an output goes.
pub(crate) enum Sink {
    Stream(hawser_spdy::Writer),
    /// A channel of a WebSocket.
    Channel(Sender, u8),
}

impl Sink {
    /// `framed` is the bytes with one of room in front.
    async fn send(&mut self, framed: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(&framed[1..]).await,
            Self::Channel(sender, channel) => {
                framed[0] = *channel;
                sender.binary(Bytes::copy_from_slice(framed)).await
            }
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.shutdown().await,
            // There is no way to say it.
            Self::Channel(..) => Ok(()),
        }
    }
}

/// The client's ends.
#[derive(Default)]
pub(crate) struct Remote {
    pub(crate) stdin: Option<Output>,
    pub(crate) stdout: Option<Sink>,
    pub(crate) stderr: Option<Sink>,
    pub(crate) resize: Option<Output>,
}

impl Remote {
    /// There is no process: the outputs end before they have begun.
    pub(crate) async fn finish(self) {
        for mut sink in [self.stdout, self.stderr].into_iter().flatten() {
            // If it cannot be told the client has gone.
            let _ = sink.finish().await;
        }
    }
}

/// The client does not take what it asked for.
pub(crate) struct Gone;

/// Moves everything until the process has ended and its outputs are read to their ends.
pub(crate) async fn run(
    process: Process,
    remote: Remote,
    activity: &Activity,
) -> Result<Result<i32, StreamError>, Gone> {
    let Process { stdin, stdout, stderr, resize, exit } = process;
    let ended = async {
        let mut exit = exit;
        let mut outputs = std::pin::pin!(async {
            let both = tokio::try_join!(pump(stdout, remote.stdout, activity), pump(stderr, remote.stderr, activity));
            both.map(drop).map_err(|_| Gone)
        });
        let ended = tokio::select! {
            // Both arms are used again: neither is dropped here. A client that takes no output any more ends it.
            done = &mut outputs => {
                done?;
                return Ok(exit.await);
            }
            ended = &mut exit => ended,
        };
        match &ended {
            Ok(_) => outputs.await?,
            // What was lost may never end.
            Err(_) => tokio::time::timeout(LAST_WORDS, outputs).await.unwrap_or(Ok(()))?,
        }
        Ok(ended)
    };
    let inputs = async {
        tokio::join!(feed(remote.stdin, stdin, activity), sizes(remote.resize, resize));
        // The end of the input is not the end of the process.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Neither arm is polled again after the other: both are dropped with all that they hold.
        ended = ended => ended,
        () = inputs => Err(Gone),
    }
}

/// Moves an output. A reader that fails has ended: why is told by the exit of its process, or by `Err` of a connection.
pub(crate) async fn pump(from: Option<Output>, to: Option<Sink>, activity: &Activity) -> io::Result<Option<io::Error>> {
    let Some(mut to) = to else { return Ok(None) };
    let mut failed = None;
    if let Some(mut from) = from {
        let mut piece = vec![0; PIECE + 1];
        loop {
            match from.read(&mut piece[1..]).await {
                Ok(0) => break,
                Ok(count) => to.send(&mut piece[..=count]).await?,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            activity.touch();
        }
    }
    to.finish().await?;
    Ok(failed)
}

/// Moves an input. When nobody takes it any more it is still read, so that what comes with it is heard.
pub(crate) async fn feed(from: Option<Output>, to: Option<Input>, activity: &Activity) {
    let Some(mut from) = from else { return };
    let mut to = to;
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        activity.touch();
        if let Some(input) = &mut to
            && activity.held_up(write_through(input, &piece[..count])).await.is_err()
        {
            to = None;
        }
    }
    if let Some(mut input) = to {
        // Who has stopped reading does not mind.
        let _ = input.shutdown().await;
    }
}

/// Somebody types: every piece is of interest at once.
async fn write_through(input: &mut Input, piece: &[u8]) -> io::Result<()> {
    input.write_all(piece).await?;
    input.flush().await
}

/// Hands on the sizes of a terminal, which come as JSON objects one after another.
async fn sizes(from: Option<Output>, to: Option<mpsc::Sender<TerminalSize>>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let mut text = Vec::new();
    let mut piece = [0; 256];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        text.extend_from_slice(&piece[..count]);
        let (last, used) = last_size(&text);
        text.drain(..used);
        if let Some(size) = last {
            // Only the last counts, and a full channel holds one that is about to be read: wait for room.
            if to.send(size).await.is_err() {
                return;
            }
        }
        if text.len() > SIZE_LIMIT {
            return;
        }
    }
}

/// The last complete size, and how many bytes it and those before it take.
fn last_size(text: &[u8]) -> (Option<TerminalSize>, usize) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let mut sizes = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let (mut last, mut used) = (None, 0);
    while let Some(Ok(Size { width, height })) = sizes.next() {
        last = Some(TerminalSize { columns: width, rows: height });
        used = sizes.byte_offset();
    }
    (last, used)
}

/// How a process ended, as a client wants to be told.
pub(crate) fn status(ended: &Result<i32, StreamError>) -> Value {
    match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": error.to_string(),
            "reason": "InternalError",
            "details": {"causes": [{"message": error.to_string()}]},
            "code": 500,
        }),
    }
}

/// The same for clients from before there were exit codes: nothing, or a sentence.
pub(crate) fn sentence(ended: &Result<i32, StreamError>) -> String {
    match ended {
        Ok(0) => String::new(),
        Ok(code) => format!("command terminated with non-zero exit code: exit status {code}"),
        Err(error) => error.to_string(),
    }
}

/// One connection to a port: both directions, until the port has said all. The error is for the client to read.
pub(crate) async fn carry(
    connection: Connection,
    from: impl AsyncRead + Send + 'static,
    to: Sink,
    activity: &Activity,
) -> Result<Option<io::Error>, Gone> {
    let Connection { output, input } = connection;
    let from: Pin<Box<dyn AsyncRead + Send>> = Box::pin(from);
    let up = async {
        feed(Some(from), Some(input), activity).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // As above: whatever is left is dropped.
        failed = pump(Some(output), Some(to), activity) => failed.map_err(|_| Gone),
        () = up => Err(Gone),
    }
}

/// Runs `session` until it ends, the transport (which `driver` runs) ends, or nothing was moved for too long. When the
/// session ends by itself the driver goes on until the client has heard all.
pub(crate) async fn driven(session: impl Future<Output = ()>, driver: impl Future<Output = ()>, activity: &Activity) {
    let mut driver = std::pin::pin!(driver);
    {
        let session = std::pin::pin!(session);
        tokio::select! {
            // The driver is used again; the others are dropped, and with them all streams.
            () = &mut driver => return,
            () = session => {}
            () = activity.silent() => {}
        }
    }
    // It says goodbye by itself within seconds; a client that does not read may not hold us longer.
    let _ = tokio::time::timeout(Duration::from_secs(10), driver).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_sizes_counts_and_halves_wait() {
        let text = br#"{"Width":80,"Height":24}{"Width":100,"Height":50} {"Width":1"#;
        let (last, used) = last_size(text);
        assert_eq!((last, used), (Some(TerminalSize { columns: 100, rows: 50 }), 49));
        for bad in [&b"{}"[..], b"[1]", b"{\"Width\":70000,\"Height\":1}", b"\xff", b""] {
            assert_eq!(last_size(bad), (None, 0));
        }
    }

    #[test]
    fn ends_are_told_in_a_clients_words() {
        assert_eq!(status(&Ok(0)), json!({"metadata": {}, "status": "Success"}));
        let failed = status(&Ok(3));
        assert_eq!(
            (&failed["reason"], &failed["details"]["causes"][0]["message"]),
            (&json!("NonZeroExitCode"), &json!("3"))
        );
        let lost = Err(StreamError::Unreachable("gw-1 has not been heard for 3m".into()));
        assert_eq!(status(&lost)["message"], "gw-1 has not been heard for 3m");
        assert_eq!((sentence(&Ok(0)), sentence(&lost)), (String::new(), "gw-1 has not been heard for 3m".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_measured_from_the_last_move() {
        let minute = Duration::from_secs(60);
        let activity = Activity::begun(Patience { idle: minute, vanished: minute });
        let began = clock::instant();
        let other = activity.clone();
        let move_later = async {
            tokio::time::sleep(Duration::from_secs(50)).await;
            other.touch();
        };
        tokio::join!(activity.silent(), move_later);
        assert_eq!(clock::instant() - began, Duration::from_secs(110));
    }
}
