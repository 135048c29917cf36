//! The messages of the interface, as far as they are used. Names and numbers are those of the CRI, version 1.

mod container;
mod engine;
mod image;
mod sandbox;

pub use container::*;
pub use engine::*;
pub use image::*;
pub use sandbox::*;

/// Names and values.
pub type Labels = std::collections::HashMap<String, String>;
