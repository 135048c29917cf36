//! The device's end of streams: logs, exec, attach, port-forward, stats.
//!
//! [`service`] is what a stream talks to on the device.

pub mod service;
