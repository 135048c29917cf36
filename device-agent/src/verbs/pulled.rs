//! An [`AsyncRead`] over a source that gives its bytes in pieces.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, ReadBuf};

/// Gives bytes piece by piece.
pub(super) trait Source: Send + Sized + 'static {
    /// Puts what comes next into `piece`, which is empty; leaves it empty at the end. Dropping the future ends the source.
    fn next(self, piece: Vec<u8>) -> impl Future<Output = io::Result<(Self, Vec<u8>)>> + Send + 'static;
}

type Next<S> = Pin<Box<dyn Future<Output = io::Result<(S, Vec<u8>)>> + Send>>;

/// A reader of a source. It asks for the next piece when the one before has been read, and for nothing when nobody reads.
pub(super) struct Pulled<S> {
    piece: Vec<u8>,
    read: usize,
    state: State<S>,
}

enum State<S> {
    Idle(S),
    Asked(Next<S>),
    Over,
}

impl<S: Source> Pulled<S> {
    pub(super) fn new(source: S) -> Self {
        Self { piece: Vec::new(), read: 0, state: State::Idle(source) }
    }
}

impl<S: Source + Unpin> AsyncRead for Pulled<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read == this.piece.len() {
            match std::mem::replace(&mut this.state, State::Over) {
                State::Over => return Poll::Ready(Ok(())),
                State::Idle(source) => {
                    let mut piece = std::mem::take(&mut this.piece);
                    piece.clear();
                    this.read = 0;
                    this.state = State::Asked(Box::pin(source.next(piece)));
                }
                State::Asked(mut next) => {
                    let Poll::Ready(given) = next.as_mut().poll(context) else {
                        this.state = State::Asked(next);
                        return Poll::Pending;
                    };
                    let (source, piece) = given?;
                    if piece.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    (this.piece, this.read) = (piece, 0);
                    this.state = State::Idle(source);
                }
            }
        }
        let length = buffer.remaining().min(this.piece.len() - this.read);
        buffer.put_slice(&this.piece[this.read..this.read + length]);
        this.read += length;
        Poll::Ready(Ok(()))
    }
}

/// A descriptor that tells when it is ready. It has to be non-blocking.
#[expect(deprecated, reason = "unsound only for types whose `as_raw_fd` is not their own; the replacement is unsafe")]
pub(super) fn asynchronous(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
