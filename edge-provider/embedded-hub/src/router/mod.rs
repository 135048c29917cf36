//! rumqttd's router, kept in a box.
//!
//! What reaches the router is chosen so that none of its known failures can be provoked by a client:
//!
//! - Its topics are a fixed set of **lanes** ([`envelope::Lane`]), never a client's topic: it keeps a log per filter and
//!   a table entry per topic for ever.
//! - Its client ids are `slot-<n>`, reused: it remembers each id for ever, and a `/` or a duplicate kills or confuses it.
//! - Every connection has exactly one subscription, made before the client hears anything and never undone; it carries
//!   QoS 0. Acknowledgements, unsubscribing, wills and sessions end in [`crate::session`].
//! - One thread, the [`keeper`], does everything that touches it, in order; [`supervisor`] watches that thread and starts
//!   another router when it fails.
//!
//! A connection hears its lane through a [`pump`] that never waits for the client, so that the router's ring cannot
//! overtake it unnoticed.

mod envelope;
mod keeper;
mod pump;
mod supervisor;

pub(crate) use envelope::Lane;
pub(crate) use keeper::Command;
pub(crate) use pump::{Delivery, Queue, pump};
pub(crate) use supervisor::{Generation, Supervisor};

#[cfg(test)]
mod tests;
