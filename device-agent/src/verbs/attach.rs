//! `kubectl attach`: a client at the streams of a container's own program.
//!
//! The shim copies to it what the program writes from now on, and hands over the end of stdin or the terminal, if the
//! container has one. A slow client slows the program down, up to a point, and is cut off there.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use hawser_wire::stream::{Channels, StreamRefusal};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::ends::{PipeInput, Terminal, TerminalInput, output};
use crate::shim::call::{ATTACH, Answer, END_OF_STDIN, STDERR, STDIN, STDOUT};
use crate::shim::line::{Line, NoShim, Speaker};
use crate::streams::service::{Input, Process, failed};

/// How many sizes of a terminal may wait. The last one matters, and they are taken at once.
const SIZES: usize = 4;

/// Attaches to the container whose shim has this directory. `ended` resolves with its exit code.
pub(super) async fn attach(
    dir: &Path,
    channels: Channels,
    ended: impl Future<Output = i32> + Send + 'static,
) -> Result<Result<Process, StreamRefusal>, NoShim> {
    let line = Line::open(dir).await?;
    Ok(attach_by(line, channels, ended).await.map_err(|error| failed(format!("attach to the container: {error}"))))
}

async fn attach_by(
    mut line: Line,
    channels: Channels,
    ended: impl Future<Output = i32> + Send + 'static,
) -> io::Result<Process> {
    let mut wanted = if channels.stdin { STDIN } else { 0 };
    let (mut outputs, mut theirs) = ([None, None], Vec::new());
    for (slot, asked, bit) in [(0, channels.stdout, STDOUT), (1, channels.stderr && !channels.tty, STDERR)] {
        if asked {
            let (reader, end) = output()?;
            outputs[slot] = Some(reader);
            theirs.push(end);
            wanted |= bit;
        }
    }
    let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
    line.say(&[ATTACH, wanted], &fds).await?;
    drop(theirs);
    let Some(Answer::Attached { stdin: has_stdin, tty }) = line.answer().await? else {
        return Err(io::Error::other("it ends, or too many clients are attached to it"));
    };
    let mut stdin: Option<Input> = None;
    let mut terminal = None;
    match line.take_fd() {
        Some(end) if tty => {
            let end = Terminal::new(end)?;
            if has_stdin {
                stdin = Some(Box::pin(TerminalInput::new(end.clone())));
            }
            terminal = Some(end);
        }
        Some(end) if has_stdin => {
            stdin = Some(Box::pin(PipeAndWord { pipe: PipeInput::new(end)?, speaker: line.speaker() }));
        }
        _ => {}
    }
    let (resize, mut sizes) = mpsc::channel(SIZES);
    let has_terminal = terminal.is_some();
    let exit = async move {
        loop {
            // Cancel-safe: what was received of an answer is kept, and a size is used as soon as it is received.
            tokio::select! {
                answer = line.answer() => match answer {
                    Ok(Some(Answer::Cut)) => {
                        return Err("the client did not read for too long and was cut off".to_owned());
                    }
                    _ => return Ok(ended.await),
                },
                Some(size) = sizes.recv(), if has_terminal => {
                    if let Some(terminal) = &terminal {
                        terminal.resize(size);
                    }
                }
            }
        }
    };
    let [stdout, stderr] = outputs;
    Ok(Process { stdin, stdout, stderr, resize: has_terminal.then_some(resize), exit: Box::pin(exit) })
}

/// The writing end of a container's stdin, of which the shim has another: it has to be told to close that.
struct PipeAndWord {
    pipe: PipeInput,
    speaker: Speaker,
}

impl AsyncWrite for PipeAndWord {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.pipe).poll_shutdown(context);
        self.speaker.mention(END_OF_STDIN);
        closed
    }
}
