//! The kubelet API, from clients as they are to a provider that is nothing but memory.

mod forward;
mod hostile;
mod plain;
mod process;
mod support;
mod websocket;
