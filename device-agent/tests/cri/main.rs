//! The `cri` runtime on a real containerd: real sandboxes, images, networks and crashes.
//!
//! Each test has an engine of its own below a temporary directory. Where containerd, its helpers or root are missing, the
//! tests say so and pass.

#![expect(clippy::disallowed_methods, reason = "a test of a real engine needs real time")]
mod adoption;
mod asks;
mod attach;
mod care;
mod cgroups;
mod engine;
mod env_file;
mod ephemeral;
mod exec;
mod huge_pages;
mod image_volumes;
mod logs;
mod pods;
mod ports;
mod registry;
mod resize;
mod stats;
mod trouble;
mod users;
mod volumes;
mod world;
