//! Stories told against an API server. See [`support`].

mod faults;
mod nodes;
mod pods;
mod support;
