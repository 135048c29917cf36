//! The lab: the whole system in one process, for a laptop, a Pi and the tests.

pub mod rope;
