//! What the stories in `tests/stories` are told with: a world of real processes, objects, and patience.

#[cfg(test)]
mod bad_input;
pub mod engine;
pub mod ground;
pub mod kubectl;
pub mod kubelet;
pub mod process;
pub mod recipes;
pub mod registry;
pub mod shapes;
pub mod stranger;
pub mod tls;
pub mod wait;
pub mod witness;
pub mod world;
