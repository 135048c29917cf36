//! What the other end of a stream talks to on the device.
//!
//! # Expected flow
//!
//! The bridge opens a stream, the agent calls the method of its verb, and pumps bytes between what that returns and the
//! session until both sides are done.
//!
//! # Guarantees
//!
//! - Everything is read and written by one task per stream, with back-pressure: an output is not read while the client is
//!   slow, and no more than [`CREDIT`](hawser_wire::stream::CREDIT) bytes of a channel wait anywhere.
//! - Dropping everything that a method returned (or its future, before it has returned) means that the client is gone: the
//!   service ends the command that it started, and leaves the container alone.
//! - `shutdown` of an [`Input`] is the end of what the client sends.
//!
//! # Assumptions
//!
//! - A method answers within [`OPEN_WITHIN`](hawser_wire::stream::OPEN_WITHIN), or the client has gone.
//! - Nobody has looked at the request but the codec: that the pod and the container exist and run is the service's to check.
//!   It answers with a [`StreamRefusal`], by [`refusal`] and its sisters.
//! - The outputs of a command end when it has ended, whoever has inherited them: its exit code goes out after them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hawser_wire::PodUid;
use hawser_wire::stream::{AttachRequest, ExecRequest, LogMark, LogsRequest, Stats, StreamRefusal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use crate::desired::DesiredSet;
use crate::workloads::Clock;

/// What the other end of a stream talks to on the device.
pub trait Service: Send + Sync + 'static {
    /// Reads a container's log.
    ///
    /// With [`LogsRequest::from`] the log goes on from a position that this service told in a mark, `tail` and `since` have
    /// been served already, and only `limit_bytes` still counts; a position that is no longer there is refused with 410.
    fn logs(&self, request: LogsRequest) -> impl Future<Output = Result<Log, StreamRefusal>> + Send;

    /// Starts a command in a running container.
    fn exec(&self, request: ExecRequest) -> impl Future<Output = Result<Process, StreamRefusal>> + Send;

    /// Connects to the process of a running container.
    fn attach(&self, request: AttachRequest) -> impl Future<Output = Result<Process, StreamRefusal>> + Send;

    /// Connects to a port of a pod.
    fn port_forward(&self, pod: PodUid, port: u16) -> impl Future<Output = Result<Connection, StreamRefusal>> + Send;

    /// Measures what the device and its pods use.
    fn stats(&self) -> impl Future<Output = Result<Stats, StreamRefusal>> + Send;
}

/// A runtime whose containers can be talked to.
pub trait Served {
    /// What talks to them.
    type Service: Service;

    /// Makes it.
    fn service(&self, sight: Sight) -> Self::Service;
}

/// What a service sees of the agent.
#[derive(Clone)]
pub struct Sight {
    /// What the device is to run.
    pub desired: watch::Receiver<Arc<DesiredSet>>,
    /// The device's timeline.
    pub clock: Clock,
    /// Why a container waits to be started.
    pub waits: Waits,
}

/// Why a container of a pod waits to be started, as it was last reported: a CamelCase word.
pub type Waits = Arc<dyn Fn(&PodUid, &str) -> Option<String> + Send + Sync>;

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sight")
    }
}

/// A service that offers nothing.
#[derive(Debug, Clone, Copy)]
pub struct NotServed;

impl Service for NotServed {
    async fn logs(&self, _: LogsRequest) -> Result<Log, StreamRefusal> {
        Err(not_supported("this device does not support logs"))
    }

    async fn exec(&self, _: ExecRequest) -> Result<Process, StreamRefusal> {
        Err(not_supported("this device does not support exec"))
    }

    async fn attach(&self, _: AttachRequest) -> Result<Process, StreamRefusal> {
        Err(not_supported("this device does not support attach"))
    }

    async fn port_forward(&self, _: PodUid, _: u16) -> Result<Connection, StreamRefusal> {
        Err(not_supported("this device does not support port-forward"))
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        Err(not_supported("this device does not support stats"))
    }
}

/// Bytes that come from a container.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// Bytes that go to a container.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// A container's log.
pub struct Log {
    /// Its bytes; the end of file is the end of the log.
    pub output: Output,
    /// From where the log can be continued if the connection is lost, or `None` if it cannot. There is a mark at 0 from the
    /// beginning; a new one is put after every few lines. A mark may be ahead of what has been read from `output`.
    pub marks: Option<watch::Receiver<LogMark>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("marks", &self.marks).finish_non_exhaustive()
    }
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// A command in a container, or a container's own process.
pub struct Process {
    /// Its exit code, or a sentence why it is not known. It may come before the outputs have been read to their ends. Of an
    /// attached container that is left alone it may never come.
    /// It goes first when all of this is dropped: a command whose client has gone must not take the end of its input for
    /// the client's last word.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, String>> + Send>>,
    /// There if it was asked for and can be had.
    pub stdin: Option<Input>,
    /// There if it was asked for.
    pub stdout: Option<Output>,
    /// There if it was asked for and there is no terminal.
    pub stderr: Option<Output>,
    /// There if there is a terminal. Only the last of several sizes matters: what finds no room is dropped.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

/// One connection to a port of a pod.
pub struct Connection {
    /// What the port sends.
    pub output: Output,
    /// What the port is sent.
    pub input: Input,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// 404: there is no such pod, container, or previous run here.
pub fn not_found(message: impl Into<String>) -> StreamRefusal {
    refusal(404, message)
}

/// 409: not in the state that things are in; the container does not run, nobody listens on the port.
pub fn not_possible(message: impl Into<String>) -> StreamRefusal {
    refusal(409, message)
}

/// 501: this device cannot do that at all.
pub fn not_supported(message: impl Into<String>) -> StreamRefusal {
    refusal(501, message)
}

/// 500: it was tried and failed.
pub fn failed(message: impl Into<String>) -> StreamRefusal {
    refusal(500, message)
}

/// Any other status.
pub fn refusal(status: u16, message: impl Into<String>) -> StreamRefusal {
    StreamRefusal { status, message: message.into() }
}
