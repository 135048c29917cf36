//! The four ways to change part of an object, all pure.

pub(crate) mod apply;
pub(crate) mod field_set;
pub(crate) mod json;
pub(crate) mod managers;
pub(crate) mod merge;
pub(crate) mod strategic;
