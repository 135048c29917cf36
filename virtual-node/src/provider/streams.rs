//! What `kubectl logs`, `exec`, `attach` and `port-forward` ask of a provider, and the pipes that carry the answer.
//!
//! # How bytes flow
//!
//! A provider answers with plain readers and writers. They push back: a provider makes them of bounded pipes, so that a
//! slow client slows the container and costs no memory. End of file on a reader is the end of that output; `shutdown` of a
//! writer is the end of the input (half-close). Dropping everything means that the client is gone: the provider ends the
//! command it started, and leaves the container alone.
//!
//! # Who checks what
//!
//! The library has authenticated and authorised the client, has found the pod and knows that it has a container of that
//! name. Whether the container runs, has a log, or can be reached is the provider's to know, and it answers with a
//! [`StreamError`] that says so.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Bytes that come from a container.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// Bytes that go to a container.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Which part of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Go on as the log grows, until the container has ended.
    pub follow: bool,
    /// Of the container's previous run.
    pub previous: bool,
    /// Each line begins with its time (RFC 3339, with nanoseconds) and a space.
    pub timestamps: bool,
    /// The last so many lines.
    pub tail: Option<u64>,
    /// Lines not older than this.
    pub since: Option<Timestamp>,
    /// So many bytes at most.
    pub limit_bytes: Option<u64>,
}

/// Which of stdin, stdout and stderr a client wants, and whether they are a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Channels {
    /// stdin.
    pub stdin: bool,
    /// stdout.
    pub stdout: bool,
    /// stderr; never with a terminal, which has one output only.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// A command in a container, or a container's own process, that a client talks to.
pub struct Process {
    /// There if it was asked for and can be had.
    pub stdin: Option<Input>,
    /// There if it was asked for.
    pub stdout: Option<Output>,
    /// There if it was asked for and there is no terminal.
    pub stderr: Option<Output>,
    /// There if there is a terminal. Only the last of several sizes matters, so a full channel loses nothing.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// How it ended: the exit code of a command; of an attached container, or one whose end nobody saw, whatever is true.
    /// It may resolve before the outputs have been read to their ends; they stay readable.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, StreamError>> + Send>>,
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
    /// What the port sends. A reader that fails says why in its error.
    pub output: Output,
    /// What the port is sent.
    pub input: Input,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// Why a stream was not opened, or ended before its end. The message is a sentence for the person at the terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// There is no such thing: no log of a previous run, no such container on the machine.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done in the state things are in: the container does not run, nobody listens on the port.
    #[error("{0}")]
    NotPossible(String),
    /// This provider or machine cannot do it at all.
    #[error("{0}")]
    NotSupported(String),
    /// The machine is not heard at present, or was lost while the stream was open.
    #[error("{0}")]
    Unreachable(String),
    /// Too many streams.
    #[error("{0}")]
    TooMany(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}
