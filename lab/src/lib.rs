//! The lab: the whole system in one process, for a laptop, a Pi and the tests.

pub mod args;
pub mod demo;
pub mod lab;
pub mod rope;
pub mod table;
