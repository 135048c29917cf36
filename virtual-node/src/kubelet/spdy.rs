//! Clients that speak SPDY: each of stdin, stdout, stderr, error and resize is a stream, and so is each half of a
//! forwarded connection.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hawser_spdy::{Handle, Headers, Limits, ResetStatus, Stream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::session::{self, Activity, CREATION, Dial, Gone, Patience, Remote, Sink, Start};
use crate::clock;
use crate::provider::streams::{Channels, StreamError};

/// A process has five streams at most; a client that retries has a few more.
const PROCESS_STREAMS: usize = 16;
/// How long the answer to a ping is waited for; most likely nobody reads it.
const ANSWER: Duration = Duration::from_secs(1);

/// Serves a process. `protocol` is what was agreed.
pub(crate) async fn process<T>(transport: T, protocol: &str, channels: Channels, start: Start, patience: Patience)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (handle, driver) = hawser_spdy::serve(transport, Limits { streams: PROCESS_STREAMS, ..Limits::default() });
    let activity = Activity::begun(patience);
    let talk = async {
        // Who does not open what was announced wants nothing.
        if let Ok(Some(streams)) = tokio::time::timeout(CREATION, Streams::collect(&handle, protocol, channels)).await {
            // Nobody would read more streams, and a connection waits for the readers of what it brings.
            tokio::select! {
                () = streams.serve(protocol, start, &activity) => {}
                () = refuse_all(&handle) => {}
            }
        }
        handle.close();
    };
    let driver = async {
        // A client that hangs up has ended, and one that breaks the protocol has been told.
        let _ = driver.run().await;
    };
    session::driven(probed(talk, &handle, &activity), driver, &activity).await;
}

/// Sends pings where they are needed: their answers do not matter, but that they can be sent does.
async fn probed(session: impl Future<Output = ()>, handle: &Handle, activity: &Activity) {
    let probe = async {
        loop {
            activity.probe_is_due().await;
            let _ = tokio::time::timeout(ANSWER, handle.ping()).await;
        }
    };
    tokio::select! {
        () = session => {}
        () = probe => {}
    }
}

/// Until the connection ends.
async fn refuse_all(handle: &Handle) {
    while let Ok(incoming) = handle.accept().await {
        incoming.refuse(ResetStatus::REFUSED);
    }
}

/// What a client has opened for a process.
struct Streams {
    error: Stream,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    /// Waits for all that the request has announced. `None`: the client has gone.
    async fn collect(handle: &Handle, protocol: &str, channels: Channels) -> Option<Self> {
        let resizable = channels.tty && protocol != "v2.channel.k8s.io";
        let mut missing: Vec<&str> = vec!["error"];
        for (name, wanted) in
            [("stdin", channels.stdin), ("stdout", channels.stdout), ("stderr", channels.stderr), ("resize", resizable)]
        {
            if wanted {
                missing.push(name);
            }
        }
        let mut streams: HashMap<&str, Stream> = HashMap::new();
        while !missing.is_empty() {
            let incoming = handle.accept().await.ok()?;
            let kind = incoming.headers().get("streamtype").unwrap_or_default();
            match missing.iter().position(|name| *name == kind) {
                Some(at) => {
                    let (_, stream) = incoming.accept(&Headers::default()).ok()?;
                    streams.insert(missing.swap_remove(at), stream);
                }
                None => incoming.refuse(ResetStatus::REFUSED),
            }
        }
        let mut take = |name| streams.remove(name);
        let [stdin, stdout, stderr, resize] = ["stdin", "stdout", "stderr", "resize"].map(&mut take);
        Some(Self { error: take("error")?, stdin, stdout, stderr, resize })
    }

    async fn serve(self, protocol: &str, start: Start, activity: &Activity) {
        let Self { error, stdin, stdout, stderr, resize } = self;
        // Only written, here and below: what the client says on such a stream is thrown away.
        let (_, mut error) = error.split();
        let writer = |stream: Option<Stream>| stream.map(|stream| Sink::Stream(stream.split().1));
        let remote = Remote {
            stdin: stdin.map(|stream| Box::pin(stream.split().0) as _),
            stdout: writer(stdout),
            stderr: writer(stderr),
            resize: resize.map(|stream| Box::pin(stream.split().0) as _),
        };
        let ended = match start.await {
            Err(refused) => {
                remote.finish().await;
                Err(refused)
            }
            Ok(process) => match session::run(process, remote, activity).await {
                Ok(ended) => ended,
                Err(Gone) => return,
            },
        };
        let text = match protocol {
            "v4.channel.k8s.io" => session::status(&ended).to_string(),
            _ => session::sentence(&ended),
        };
        // If it cannot be told the client has gone.
        if error.write_all(text.as_bytes()).await.is_ok() {
            let _ = error.shutdown().await;
        }
    }
}

/// Serves forwarded connections, each of which is a pair of streams. `pod` is for messages.
pub(crate) async fn forward<T>(transport: T, pod: String, dial: Dial, patience: Patience)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (handle, driver) = hawser_spdy::serve(transport, Limits::default());
    let activity = Activity::begun(patience);
    let talk = async {
        forward_all(&handle, &pod, &dial, &activity).await;
        handle.close();
    };
    let driver = async {
        // As above.
        let _ = driver.run().await;
    };
    session::driven(probed(talk, &handle, &activity), driver, &activity).await;
}

/// Half of a pair that waits for the other.
struct Half {
    stream: Stream,
    is_error: bool,
    port: u16,
    until: Instant,
}

async fn forward_all(handle: &Handle, pod: &str, dial: &Dial, activity: &Activity) {
    // At most as many as there may be streams.
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let due = halves.values().map(|half| half.until).min();
        let expiry = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // All arms are cancel-safe: accepting loses nothing, neither does the set, and the sleep is begun anew.
        tokio::select! {
            incoming = handle.accept() => {
                let Ok(incoming) = incoming else { return };
                let headers = incoming.headers();
                let port = headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
                let is_error = match headers.get("streamtype") {
                    Some("error") => Some(true),
                    Some("data") => Some(false),
                    _ => None,
                };
                let (Some(port), Some(is_error)) = (port, is_error) else {
                    incoming.refuse(ResetStatus::PROTOCOL_ERROR);
                    continue;
                };
                let request = headers.get("requestid").map(str::to_owned);
                let Ok((_, stream)) = incoming.accept(&Headers::default()) else { return };
                // Clients from before there were request ids open the error stream, and the data stream right after.
                let request = request.unwrap_or_else(|| {
                    let first = if is_error { stream.id() } else { stream.id().saturating_sub(2) };
                    format!("#{first}")
                });
                let until = clock::instant() + CREATION;
                let half = Half { stream, is_error, port, until };
                match halves.remove(&request) {
                    Some(other) if other.is_error != half.is_error && other.port == half.port => {
                        let (error, data) = if is_error { (half, other) } else { (other, half) };
                        running.push(forward_one(data, error.stream, pod, dial, activity));
                    }
                    // Something is wrong with both; dropping resets them.
                    Some(_) => {}
                    None => drop(halves.insert(request, half)),
                }
            }
            Some(()) = running.next(), if !running.is_empty() => {}
            () = expiry => {
                let now = clock::instant();
                halves.retain(|_, half| half.until > now);
            }
        }
    }
}

async fn forward_one(data: Half, error: Stream, pod: &str, dial: &Dial, activity: &Activity) {
    let port = data.port;
    let (_, mut error) = error.split();
    let (from, to) = data.stream.split();
    let failed = match dial(port).await {
        Err(refused) => Some(refused.to_string()),
        Ok(connection) => match session::carry(connection, from, Sink::Stream(to), activity).await {
            Ok(failed) => failed.map(|error| error.to_string()),
            Err(Gone) => return,
        },
    };
    if let Some(why) = failed {
        let text = format!("error forwarding port {port} to pod {pod}: {why}");
        // If it cannot be told the client has gone.
        let _ = error.write_all(text.as_bytes()).await;
    }
    let _ = error.shutdown().await;
}

/// What a provider that does not answer is taken for.
pub(crate) fn no_answer(limit: Duration) -> StreamError {
    StreamError::Unreachable(format!("the node did not answer within {} seconds", limit.as_secs()))
}
