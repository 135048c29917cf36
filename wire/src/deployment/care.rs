//! How a container is looked after: probes, hooks, and when it is started again.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use super::RestartPolicy;

/// How a container is looked after, besides being started again as its pod says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, CborLen)]
pub struct Care {
    /// Tells that it is to be started anew.
    #[n(0)]
    pub liveness: Option<Probe>,
    /// Tells whether it counts as ready.
    #[n(1)]
    pub readiness: Option<Probe>,
    /// Tells when it has started; until then the others are not asked.
    #[n(2)]
    pub startup: Option<Probe>,
    /// What is done when it was started.
    #[n(3)]
    pub post_start: Option<Action>,
    /// What is done before it is told to end.
    #[n(4)]
    pub pre_stop: Option<Action>,
    /// Its own restart policy; `None`: that of the pod.
    #[n(5)]
    pub restart: Option<RestartPolicy>,
    /// Exit codes for which that policy does not count; the first that matches decides.
    #[n(6)]
    #[cbor(default)]
    pub restart_rules: Vec<RestartRule>,
}

/// A question that is asked again and again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Probe {
    /// How it is asked.
    #[n(0)]
    pub action: Action,
    /// How long after the container's start it is asked first.
    #[n(1)]
    pub initial_delay_seconds: u32,
    /// How often it is asked.
    #[n(2)]
    pub period_seconds: u32,
    /// How long an answer may take.
    #[n(3)]
    pub timeout_seconds: u32,
    /// So many good answers in a row are believed.
    #[n(4)]
    pub success_threshold: u32,
    /// So many bad answers in a row are believed.
    #[n(5)]
    pub failure_threshold: u32,
    /// How long the container may take to end when it is stopped because of this probe; `None`: as the pod says.
    #[n(6)]
    pub grace_seconds: Option<u32>,
}

/// Something done with a container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Action {
    /// A command in it. Nothing of it is expanded on the device.
    #[n(0)]
    Exec(#[n(0)] Vec<String>),
    /// A request to it.
    #[n(1)]
    Http(#[n(0)] HttpGet),
    /// A connection to it.
    #[n(2)]
    Tcp(#[n(0)] TcpSocket),
    /// Its gRPC health service.
    #[n(3)]
    Grpc(#[n(0)] GrpcHealth),
    /// Nothing, for so many seconds.
    #[n(4)]
    Sleep(#[n(0)] u32),
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct HttpGet {
    /// Whether it goes over TLS. No certificate is checked.
    #[n(0)]
    #[cbor(default)]
    pub https: bool,
    /// The host; `None`: the pod.
    #[n(1)]
    pub host: Option<String>,
    /// The port.
    #[n(2)]
    pub port: u16,
    /// The path, with the query.
    #[n(3)]
    pub path: String,
    /// Headers, in order; a name may come again.
    #[n(4)]
    #[cbor(default)]
    pub headers: Vec<Header>,
}

/// A header of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Header {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its value.
    #[n(1)]
    pub value: String,
}

/// A TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct TcpSocket {
    /// The host; `None`: the pod.
    #[n(0)]
    pub host: Option<String>,
    /// The port.
    #[n(1)]
    pub port: u16,
}

/// A question to a gRPC health service of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct GrpcHealth {
    /// The port.
    #[n(0)]
    pub port: u16,
    /// The service asked about; empty: the server as a whole.
    #[n(1)]
    pub service: String,
}

/// What is done for some exit codes, whatever the restart policy says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct RestartRule {
    /// Exit codes.
    #[n(0)]
    pub codes: Vec<i32>,
    /// Whether it holds for all others instead.
    #[n(1)]
    #[cbor(default)]
    pub not_in: bool,
    /// What is started again.
    #[n(2)]
    pub action: RestartAction,
}

/// What is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum RestartAction {
    /// The container.
    #[n(0)]
    Container,
    /// All containers of the pod, from the first init container on.
    #[n(1)]
    Pod,
}

impl RestartRule {
    /// Whether it holds for this exit code.
    pub fn matches(&self, code: i32) -> bool {
        self.codes.contains(&code) != self.not_in
    }
}
