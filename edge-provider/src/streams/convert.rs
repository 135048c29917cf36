//! Between the words of the wire and those of the virtual nodes. Pure.

use hawser_wire::stream::mux::{End, NotOpened};
use hawser_wire::stream::{self, StreamRefusal};
use hawser_wire::{DeviceTime, PodUid};
use jiff::Timestamp;
use virtual_node::PodRef;
use virtual_node::provider::stats::{ContainerStats, NodeStats, PodStats, Usage};
use virtual_node::provider::streams::{Channels, StreamError};

pub(super) fn uid_of(pod: &PodRef) -> Result<PodUid, StreamError> {
    // One that cannot travel was refused at the beginning, so nothing runs for it.
    PodUid::new(pod.uid.as_str()).map_err(|error| StreamError::NotFound(error.to_string()))
}

pub(super) fn channels_of(channels: Channels) -> stream::Channels {
    let Channels { stdin, stdout, stderr, tty } = channels;
    stream::Channels { stdin, stdout, stderr, tty }
}

pub(super) fn not_opened(why: NotOpened) -> StreamError {
    match why {
        NotOpened::Down(why) => StreamError::Unreachable(format!("there is no session with the device: {why}")),
        NotOpened::TooMany(limit) => {
            StreamError::TooMany(format!("{limit} streams to this device are open already; close some of them"))
        }
    }
}

pub(super) fn error_of(end: End) -> StreamError {
    match end {
        End::Finished(_) => StreamError::Failed("the device ended the stream and did not say how".to_owned()),
        End::Refused(refusal) => refused(refusal),
        End::Aborted(why) => StreamError::Failed(why),
        End::Lost(why) => StreamError::Unreachable(format!("the connection to the device was lost: {why}")),
    }
}

fn refused(StreamRefusal { status, message }: StreamRefusal) -> StreamError {
    match status {
        404 | 410 => StreamError::NotFound(message),
        400 | 409 | 412 => StreamError::NotPossible(message),
        405 | 501 => StreamError::NotSupported(message),
        429 => StreamError::TooMany(message),
        503 | 504 => StreamError::Unreachable(message),
        _ => StreamError::Failed(message),
    }
}

/// `when` maps the device's timeline to ours, `pod` finds pods. What the device has and we do not know is left out.
pub(crate) fn named(
    stats: stream::Stats,
    when: impl Fn(DeviceTime) -> Option<Timestamp>,
    pod: impl Fn(&PodUid) -> Option<PodRef>,
) -> NodeStats {
    let measured = stats.at;
    let usage = |usage: stream::Usage| Usage {
        at: when(usage.at.unwrap_or(measured)),
        cpu_nanoseconds: usage.cpu_nanoseconds,
        memory_working_set_bytes: usage.memory_working_set_bytes,
        memory_rss_bytes: usage.memory_rss_bytes,
    };
    let container = |container: stream::ContainerStats| ContainerStats {
        name: container.name,
        started: container.started.and_then(&when),
        usage: usage(container.usage),
    };
    let pods = stats.pods.into_iter().filter_map(|stats| {
        let containers = stats.containers.into_iter().map(container).collect();
        Some(PodStats { pod: pod(&stats.pod)?, started: stats.started.and_then(&when), containers })
    });
    NodeStats { node: usage(stats.node), started: stats.started.and_then(&when), pods: pods.collect() }
}
