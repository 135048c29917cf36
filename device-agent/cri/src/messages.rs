//! The messages of the interface, as far as they are used. Names and numbers are those of the CRI, version 1.

mod container;
mod engine;
mod image;
mod sandbox;
mod streaming;

pub use container::*;
pub use engine::*;
pub use image::*;
pub use sandbox::*;
pub use streaming::*;

/// Names and values.
pub type Labels = std::collections::HashMap<String, String>;
