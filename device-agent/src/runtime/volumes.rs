//! What pods have on the disk, whichever runtime runs them: their places, and their volumes as directories.

pub(crate) mod beneath;
mod files;
mod group;
mod host_path;
pub(super) mod mounts;
mod ownership;
mod part;
pub(super) mod place;
pub(super) mod removal;
pub(super) mod space;
