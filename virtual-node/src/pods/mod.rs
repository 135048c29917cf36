//! Pods: from what the API says about them to calls of the provider, and from its reports back to the API.
//!
//! [`task`] owns the state: the [`index`] of pods, what was done about each, and the [`status_writer`]'s slots. It feeds
//! facts to [`plan`], starts what the plan says as jobs ([`reconcile`]), and takes in how they ended.

pub(crate) mod begun;
pub(crate) mod conditions;
pub(crate) mod index;
pub(crate) mod plan;
pub(crate) mod qos;
pub(crate) mod reconcile;
mod resize;
mod resources;
pub(crate) mod status;
pub(crate) mod status_writer;
pub(crate) mod task;
