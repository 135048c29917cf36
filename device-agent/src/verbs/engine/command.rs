//! A command, or a container's own program, behind the streams of the engine.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hawser_cri::command::{self, NoExit, Outcome, Reader, Rest, Size, Streams, Wanted, Writer};
use hawser_cri::streaming::Endpoint;
use hawser_wire::stream::StreamRefusal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::leftover::Watch;
use crate::streams::service::{Input, Output, Process, TerminalSize, failed};

/// How many sizes of a terminal may wait. The last one matters, and they are taken at once.
const SIZES: usize = 4;
/// What a person types to say that nothing more comes.
const END_OF_FILE: u8 = 4;

/// The connection to the engine. It is hung up when nobody holds it any more.
#[derive(Debug)]
pub(super) struct Line {
    driver: AbortHandle,
    /// So that nothing is said about streams that a client has dropped before the line itself is.
    _rest: Rest,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Streams that are open.
pub(super) struct Running {
    stdin: Option<Writer>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    size: Option<Size>,
    outcome: Outcome,
    line: Arc<Line>,
}

impl Running {
    /// Opens the streams that the engine has ready at this address.
    pub(super) async fn open(url: &str, wanted: Wanted) -> Result<Self, StreamRefusal> {
        let endpoint = Endpoint::parse(url).map_err(|error| failed(error.to_string()))?;
        let opened = command::open(&endpoint, wanted).await;
        let (Streams { stdin, stdout, stderr, size, outcome, rest }, driver) =
            opened.map_err(|error| failed(format!("the container engine gives no streams: {error}")))?;
        // It ends with the connection, and is cut off when everything that holds the line has gone.
        let driver = tokio::spawn(async move { drop(driver.await) });
        let line = Arc::new(Line { driver: driver.abort_handle(), _rest: rest });
        Ok(Self { stdin, stdout, stderr, size, outcome, line })
    }

    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// As a command, of which these streams were asked for. `watch` is told of its end, or that its client has gone.
    pub(super) fn of_command(self, asked: Wanted, watch: Watch) -> Process {
        self.process(asked, |outcome| async move {
            match outcome.wait().await {
                Ok(code) => {
                    watch.ended();
                    Ok(code)
                }
                Err(NoExit::Told(why)) => {
                    watch.ended();
                    Err(why)
                }
                Err(NoExit::Lost) => Err("the container engine has gone away: nobody saw how it ended".to_owned()),
            }
        })
    }

    /// As a container's own program. As with a kubelet, how that ends is told by its pod, not here.
    pub(super) fn of_container(self, asked: Wanted) -> Process {
        self.process(asked, |outcome| async move {
            outcome.wait().await.map_err(|error| match error {
                NoExit::Told(why) => why,
                NoExit::Lost => "the container engine has gone away: attach again".to_owned(),
            })
        })
    }

    fn process<E: Future<Output = Result<i32, String>> + Send + 'static>(
        self,
        asked: Wanted,
        end: impl FnOnce(Outcome) -> E,
    ) -> Process {
        let Self { stdin, stdout, stderr, size, outcome, line } = self;
        let held = |line: &Arc<Line>| Arc::clone(line);
        let stdin = stdin.map(|stream| -> Input {
            let stream = Held { stream, _line: held(&line) };
            if asked.tty { Box::pin(Typed { stream, in_line: false }) } else { Box::pin(stream) }
        });
        let output = |stream| -> Output { Box::pin(Held { stream, _line: held(&line) }) };
        let (stdout, stderr) = (stdout.filter(|_| asked.stdout).map(output), stderr.map(output));
        let (resize, sizes) = mpsc::channel(SIZES);
        let resize = size.is_some().then_some(resize);
        let ended = end(outcome);
        let exit = async move {
            let _line = line;
            tokio::select! {
                ended = ended => ended,
                // Never ends; with the command it is of no use any more.
                ended = resized(size, sizes) => match ended {},
            }
        };
        Process { exit: Box::pin(exit), stdin, stdout, stderr, resize }
    }
}

enum Never {}

async fn resized(size: Option<Size>, mut sizes: mpsc::Receiver<TerminalSize>) -> Never {
    if let Some(mut size) = size {
        while let Some(TerminalSize { columns, rows }) = sizes.recv().await {
            // A program that has gone has no terminal.
            if size.set(columns, rows).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

/// One of the streams, which needs the line.
struct Held<S> {
    stream: S,
    _line: Arc<Line>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // However it ends it is the end: engines hang up when they have said all, and what went wrong the outcome tells.
        Pin::new(&mut self.stream).poll_read(context, into).map(|_| Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What is typed at a terminal. If that stream were closed, engines would hang up; so its end is said as a person would.
struct Typed<S> {
    stream: S,
    /// In the middle of a line an end of file only ends the line, so it takes two.
    in_line: bool,
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Typed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if let Some(last) = bytes[..written].last() {
            self.in_line = !matches!(last, b'\n' | b'\r');
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let count = if self.in_line { 2 } else { 1 };
        // So few bytes go as a whole. A program that has gone needs no end of its input.
        let _ = ready!(Pin::new(&mut self.stream).poll_write(context, &[END_OF_FILE; 2][..count]));
        Poll::Ready(Ok(()))
    }
}
