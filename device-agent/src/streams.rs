//! The device's end of streams: logs, exec, attach, port-forward, stats.
//!
//! [`service`] is what a stream talks to on the device; `serve` pumps between it and the session. The link owns the session:
//! it gives the frames that come to [`Streams`](hawser_streams::Streams) and takes those that are to go.

pub(crate) mod serve;
pub mod service;

use hawser_wire::stream::mux::Limits;

/// What a device can afford: 100 KiB for each of ten streams, little for each of the others.
pub(crate) const LIMITS: Limits = Limits { streams: 256, budget: 1024 * 1024 };
