//! What `kubectl logs`, `exec`, `attach`, `port-forward` and `top` do on a device.
//!
//! Two services: [`Verbs`] for containers that are programs of the host, [`EngineVerbs`] for those of a container engine.
//! [`subjects`] finds what is asked for; [`logs`] and [`port`] serve both. Whatever a verb does, and however it ends, the
//! container goes on.

mod attach;
mod disk;
mod ends;
mod engine;
mod exec;
mod logs;
mod port;
mod process;
mod pulled;
mod stats;
mod subjects;

pub use engine::EngineVerbs;
pub use process::Verbs;
