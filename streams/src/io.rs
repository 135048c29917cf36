//! Channels of a stream as tokio's readers and writers.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hawser_wire::stream::mux::{End, Moved, Woken};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Ended;
use crate::stream::Hold;

/// What comes on a channel. Fails with [`Ended`] if the stream ends before its end. Dropped: the rest is thrown away.
pub struct Reader {
    hold: Arc<Hold>,
    channel: u8,
}

/// What goes out on a channel. Dropped or shut down: the other end sees the end of the channel.
pub struct Writer {
    hold: Arc<Hold>,
    channel: u8,
}

impl Reader {
    pub(crate) fn new(hold: Arc<Hold>, channel: u8) -> Self {
        Self { hold, channel }
    }
}

impl Writer {
    pub(crate) fn new(hold: Arc<Hold>, channel: u8) -> Self {
        Self { hold, channel }
    }

    /// Waits until something can be written: how much. Whoever reads no more than this from elsewhere holds nothing back.
    /// Cancel-safe.
    pub async fn room(&self) -> Result<usize, Ended> {
        let Hold { shared, id } = &*self.hold;
        poll_fn(|context| {
            let moved = shared.poll(*id, Woken::Writer(self.channel), context.waker(), |mux| {
                Some(mux.writable(*id, self.channel)).filter(|moved| *moved != Moved::Wait)
            });
            match moved {
                Some(Moved::Bytes(room)) => Poll::Ready(Ok(room)),
                Some(Moved::Over(end)) => Poll::Ready(Err(Ended(end))),
                Some(Moved::Ended) => Poll::Ready(Err(Ended(End::Aborted("the channel was closed".to_owned())))),
                Some(Moved::Wait) | None => Poll::Pending,
            }
        })
        .await
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Hold { shared, id } = &*self.hold;
        let channel = self.channel;
        let moved = shared.poll(*id, Woken::Reader(channel), context.waker(), |mux| {
            Some(mux.read(*id, channel, buffer.initialize_unfilled())).filter(|moved| *moved != Moved::Wait)
        });
        match moved {
            Some(Moved::Bytes(count)) => {
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            Some(Moved::Ended) => Poll::Ready(Ok(())),
            Some(Moved::Over(end)) => Poll::Ready(Err(io::Error::other(Ended(end)))),
            Some(Moved::Wait) | None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Hold { shared, id } = &*self.hold;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let channel = self.channel;
        let moved = shared.poll(*id, Woken::Writer(channel), context.waker(), |mux| {
            Some(mux.write(*id, channel, bytes)).filter(|moved| *moved != Moved::Wait)
        });
        match moved {
            Some(Moved::Bytes(count)) => Poll::Ready(Ok(count)),
            Some(Moved::Ended) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Moved::Over(end)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, Ended(end)))),
            Some(Moved::Wait) | None => Poll::Pending,
        }
    }

    /// What is written goes out by itself as soon as it may.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hold.shared.with(|mux, _| mux.half_close(self.hold.id, self.channel));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hold.shared.with(|mux, _| mux.discard(self.hold.id, self.channel));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.hold.shared.with(|mux, _| mux.half_close(self.hold.id, self.channel));
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("channel", &self.channel).finish_non_exhaustive()
    }
}
