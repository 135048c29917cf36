//! The devices as the bridge knows them: what each is to run, what each says, whether each is alive.
//!
//! ```text
//! Provider calls ┐                       ┌ Down → session → hub
//! hub messages   ┼→ task ─→ twin (pure) ─┼ Observation → reporting → virtual-node
//! receipts       ┘                       └ news → Device.status
//! ```
//!
//! One task owns every twin: an idle device is a few hundred bytes in a map, not a task with channels and timers.

pub mod clock;
pub(crate) mod desired;
mod handshake;
pub(crate) mod inbox;
pub(crate) mod objects;
pub mod observe;
pub(crate) mod reporting;
mod slot;
pub(crate) mod streams;
pub mod task;
pub mod twin;
pub mod version;
