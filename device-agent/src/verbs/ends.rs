//! The agent's ends of the streams of a command or a container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::termios::{self, LocalModes, SpecialCodeIndex, Winsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use super::pulled::asynchronous;
use crate::shim::ends::open_terminal;
use crate::streams::service::{Output, TerminalSize};

/// A pipe to read from, and its other end.
pub(super) fn output() -> io::Result<(Output, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((Box::pin(pipe::Receiver::from_owned_fd(reader.into())?), writer.into()))
}

/// A pipe to write to, and its other end.
pub(super) fn input() -> io::Result<(PipeInput, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((PipeInput::new(writer.into())?, reader.into()))
}

/// The writing end of a pipe, which is closed by `shutdown`.
#[derive(Debug)]
pub(super) struct PipeInput(Option<pipe::Sender>);

impl PipeInput {
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        Ok(Self(Some(pipe::Sender::from_owned_fd(end)?)))
    }
}

impl AsyncWrite for PipeInput {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// Our end of a terminal.
#[derive(Debug, Clone)]
pub(super) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// A new one, and the program's end.
    pub(super) fn open() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = open_terminal()?;
        Ok((Self::new(ours)?, theirs))
    }

    /// One that does not block.
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(asynchronous(end)?)))
    }

    /// Tells the program the new size.
    pub(super) fn resize(&self, size: TerminalSize) {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal that nobody has open any more has no size.
        let _ = termios::tcsetwinsize(self.0.get_ref(), size);
    }

    /// The character that stands for the end of the input, if the program takes lines.
    fn end_of_file(&self) -> Option<u8> {
        let modes = termios::tcgetattr(self.0.get_ref()).ok()?;
        modes.local_modes.contains(LocalModes::ICANON).then(|| modes.special_codes[SpecialCodeIndex::VEOF])
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the terminal open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// Writes to a terminal. Its end cannot be closed without hanging up, so `shutdown` says it as a person would.
#[derive(Debug)]
pub(super) struct TerminalInput {
    terminal: Terminal,
    /// In the middle of a line an end of file only ends the line, so it takes two.
    in_line: bool,
}

impl TerminalInput {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { terminal, in_line: false }
    }

    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.terminal.0.poll_write_ready(context))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.as_fd(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TerminalInput {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_send(context, bytes))?;
        if let Some(last) = bytes[..written].last() {
            self.in_line = !matches!(last, b'\n' | b'\r');
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.terminal.end_of_file() {
            let count = if self.in_line { 2 } else { 1 };
            // A program that has gone needs no end of its input.
            let _ = ready!(self.poll_send(context, &[end; 2][..count]));
        }
        Poll::Ready(Ok(()))
    }
}
