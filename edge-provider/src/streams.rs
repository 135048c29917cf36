//! Logs, exec, attach, port-forward and stats of devices, as the virtual nodes ask for them.
//!
//! The fleet owns the sessions and never waits: it gives frames to a device's [`Streams`](hawser_streams::Streams) and takes
//! those that are to go. What is here holds the other end: readers and writers that go to whoever serves `kubectl`. A client
//! that does not read costs its window and nobody else's time.

pub(crate) mod convert;
mod logs;
pub(crate) mod ready;

use std::io::Cursor;

use hawser_streams::{Stream, Streams};
use hawser_wire::stream::mux::{End, Limits};
use hawser_wire::stream::{AttachRequest, ExecRequest, LogsRequest, Stats, StreamRequest};
use hawser_wire::{DeviceTime, codec};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use virtual_node::provider::stats::NodeStats;
use virtual_node::provider::streams::{Channels, Connection, LogOptions, Output, Process, StreamError, TerminalSize};
use virtual_node::{NodeName, PodRef};

use crate::fleet::task::{FleetHandle, device_of};
use crate::kept::{Kept, Key};
use convert::{channels_of, error_of, not_opened, uid_of};

/// What the bridge can afford for one device: 96 KiB for each of some eighty channels, 16 KiB for each of the others.
pub(crate) const LIMITS: Limits = Limits { streams: 256, budget: 8 * 1024 * 1024 };
/// The longest answer to a request for stats: 512 pods of twenty containers each.
const MAX_STATS: u64 = 1024 * 1024;

/// The way to a device at this moment.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) streams: Streams,
    /// The point in time that was asked about, on the device's timeline.
    pub(crate) since: Option<DeviceTime>,
    /// How far the device's wall clock is ahead of ours, in milliseconds, as it was last heard.
    pub(crate) ahead: i64,
}

/// Reads a container's log. It goes on over a short loss of the connection. Of a device that is away it is what is kept.
pub(crate) async fn logs(
    fleet: &FleetHandle,
    kept: Option<&Kept>,
    node: &NodeName,
    pod: &PodRef,
    container: &str,
    options: LogOptions,
) -> Result<Output, StreamError> {
    let pod = uid_of(pod)?;
    let container = container.to_owned();
    let reach = match (fleet.reach(node, options.since).await, kept, device_of(node)) {
        (Err(away @ StreamError::Unreachable(_)), Some(kept), Some(device)) => {
            let key = Key { device, pod, container };
            let text = kept.answer(&key, &options, &away).ok_or(away)??;
            return Ok(Box::pin(Cursor::new(text)));
        }
        (reach, ..) => reach?,
    };
    let LogOptions { follow, previous, timestamps, tail, since: _, limit_bytes } = options;
    let since = reach.since;
    let request = LogsRequest {
        pod,
        container,
        follow,
        previous,
        timestamps,
        tail,
        since,
        limit_bytes,
        from: None,
        newest: None,
    };
    logs::open(fleet.clone(), node.clone(), reach, request).await
}

/// Starts a command in a running container.
pub(crate) async fn exec(
    fleet: &FleetHandle,
    node: &NodeName,
    pod: &PodRef,
    container: &str,
    command: Vec<String>,
    channels: Channels,
) -> Result<Process, StreamError> {
    let (pod, container) = (uid_of(pod)?, container.to_owned());
    let request = ExecRequest { pod, container, command, channels: channels_of(channels) };
    Ok(process(opened(fleet, node, StreamRequest::Exec(request)).await?, channels))
}

/// Connects to the process of a running container.
pub(crate) async fn attach(
    fleet: &FleetHandle,
    node: &NodeName,
    pod: &PodRef,
    container: &str,
    channels: Channels,
) -> Result<Process, StreamError> {
    let (pod, container) = (uid_of(pod)?, container.to_owned());
    let request = AttachRequest { pod, container, channels: channels_of(channels) };
    Ok(process(opened(fleet, node, StreamRequest::Attach(request)).await?, channels))
}

/// Connects to a port of a pod.
pub(crate) async fn port_forward(
    fleet: &FleetHandle,
    node: &NodeName,
    pod: &PodRef,
    port: u16,
) -> Result<Connection, StreamError> {
    let stream = opened(fleet, node, StreamRequest::PortForward(uid_of(pod)?, port)).await?;
    Ok(Connection { output: Box::pin(stream.reader(1)), input: Box::pin(stream.writer(0)) })
}

/// Measures what a device and its pods use.
pub(crate) async fn stats(fleet: &FleetHandle, node: &NodeName) -> Result<NodeStats, StreamError> {
    let stream = opened(fleet, node, StreamRequest::Stats).await?;
    let mut bytes = Vec::new();
    let read = stream.reader(1).take(MAX_STATS).read_to_end(&mut bytes).await;
    read.map_err(|error| StreamError::Failed(format!("the device did not finish what it measured: {error}")))?;
    let decoded = codec::decode::<Stats>(&bytes, MAX_STATS as usize)
        .map_err(|error| StreamError::Failed(format!("what the device measured cannot be read: {error}")))?;
    fleet.name_stats(node, decoded.value).await
}

async fn opened(fleet: &FleetHandle, node: &NodeName, request: StreamRequest) -> Result<Stream, StreamError> {
    let reach = fleet.reach(node, None).await?;
    let stream = reach.streams.open(request).map_err(not_opened)?;
    stream.opened().await.map_err(error_of)?;
    Ok(stream)
}

fn process(stream: Stream, channels: Channels) -> Process {
    let (resize, sizes) = mpsc::channel(1);
    Process {
        stdin: channels.stdin.then(|| Box::pin(stream.writer(0)) as _),
        stdout: channels.stdout.then(|| Box::pin(stream.reader(1)) as _),
        stderr: (channels.stderr && !channels.tty).then(|| Box::pin(stream.reader(2)) as _),
        resize: channels.tty.then_some(resize),
        exit: Box::pin(exit(stream, sizes)),
    }
}

/// Passes on the sizes of the terminal until the process has ended.
async fn exit(stream: Stream, mut sizes: mpsc::Receiver<TerminalSize>) -> Result<i32, StreamError> {
    loop {
        // Both are cancel-safe: the end is there when asked again, `recv` takes nothing unless it returns.
        let end = tokio::select! {
            end = stream.ended() => end,
            Some(TerminalSize { columns, rows }) = sizes.recv() => {
                stream.resize(columns, rows);
                continue;
            }
        };
        return match end {
            End::Finished(Some(code)) => Ok(code),
            other => Err(error_of(other)),
        };
    }
}
