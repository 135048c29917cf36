//! The `process` runtime on a real kernel: real shells, real signals, real crashes.

#![expect(clippy::disallowed_methods, reason = "a test of real processes needs real time")]
mod adoption;
mod attach;
mod attacks;
mod care;
mod ends;
mod exec;
mod limits;
mod logs;
mod places;
mod ports;
mod stats;
mod users;
mod world;
