//! Where the streams of a command or a container can be had.

use prost::Message;

/// Run a command in a container.
#[derive(Clone, PartialEq, Message)]
pub struct ExecRequest {
    /// Which container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The program and its arguments.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// Whether its streams are a terminal.
    #[prost(bool, tag = "3")]
    pub tty: bool,
    /// Whether its stdin is wanted.
    #[prost(bool, tag = "4")]
    pub stdin: bool,
    /// Whether its stdout is wanted.
    #[prost(bool, tag = "5")]
    pub stdout: bool,
    /// Whether its stderr is wanted.
    #[prost(bool, tag = "6")]
    pub stderr: bool,
}

/// Attach to a container's own program.
#[derive(Clone, PartialEq, Message)]
pub struct AttachRequest {
    /// Which container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Whether its stdin is wanted.
    #[prost(bool, tag = "2")]
    pub stdin: bool,
    /// Whether its streams are a terminal.
    #[prost(bool, tag = "3")]
    pub tty: bool,
    /// Whether its stdout is wanted.
    #[prost(bool, tag = "4")]
    pub stdout: bool,
    /// Whether its stderr is wanted.
    #[prost(bool, tag = "5")]
    pub stderr: bool,
}

/// Where the streams can be had, once.
#[derive(Clone, PartialEq, Message)]
pub struct StreamingResponse {
    /// An address of the engine's streaming server.
    #[prost(string, tag = "1")]
    pub url: String,
}
