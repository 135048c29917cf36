//! The lab: the whole system in one process.
