//! One stream: two directions, each of which ends by itself, or both at once by a reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::Ended;
use crate::frame::{ResetStatus, StreamId};
use crate::headers::Headers;
use crate::state::{NotWritten, Read, Shared};

/// A stream that the peer has opened and that nobody has taken yet. Dropping it resets it.
#[derive(Debug)]
pub struct Incoming {
    stream: Held,
    headers: Headers,
}

impl Incoming {
    pub(crate) fn new(shared: Arc<Shared>, id: StreamId, headers: Headers) -> Self {
        Self { stream: Held { shared, id }, headers }
    }

    /// What the peer says that it is for.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Takes it. Gives its headers back with it.
    pub fn accept(self, reply: &Headers) -> Result<(Headers, Stream), Ended> {
        self.stream.shared.lock().reply(self.stream.id, reply)?;
        Ok((self.headers, Stream::new(self.stream)))
    }

    /// Refuses it.
    pub fn refuse(self, status: ResetStatus) {
        self.stream.shared.lock().reset(self.stream.id, status);
    }
}

/// An open stream. `shutdown` ends our direction; dropping it before both directions have ended resets it.
#[derive(Debug)]
pub struct Stream {
    reader: Reader,
    writer: Writer,
}

/// What the peer sends. Dropping it throws away what still comes.
#[derive(Debug)]
pub struct Reader(Arc<Held>);

/// What the peer is sent. Before the peer has taken the stream, writing waits. A write is done when the bytes are on
/// their way, bounded by [`Limits::send_buffer`](crate::Limits::send_buffer); flushing adds nothing.
#[derive(Debug)]
pub struct Writer(Arc<Held>);

/// The last one to go resets the stream, unless it is over.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    id: StreamId,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.lock().dropped(self.id);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.shared.lock().unread(self.0.id);
    }
}

impl Stream {
    pub(crate) fn opened(shared: Arc<Shared>, id: StreamId) -> Self {
        Self::new(Held { shared, id })
    }

    fn new(held: Held) -> Self {
        let held = Arc::new(held);
        Self { reader: Reader(Arc::clone(&held)), writer: Writer(held) }
    }

    /// Its number.
    pub fn id(&self) -> StreamId {
        self.writer.0.id
    }

    /// Waits until the peer has taken the stream; gives the headers of its answer.
    pub async fn replied(&self) -> io::Result<Headers> {
        let held = &self.writer.0;
        std::future::poll_fn(|cx| held.shared.lock().poll_reply(held.id, cx.waker())).await.map_err(not_written)
    }

    /// The two directions, for two tasks.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// Ends both directions at once.
    pub fn reset(self, status: ResetStatus) {
        self.writer.reset(status);
    }
}

impl Writer {
    /// Ends both directions at once.
    pub fn reset(&self, status: ResetStatus) {
        self.0.shared.lock().reset(self.0.id, status);
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let take = |waiting: &[u8]| {
            let count = waiting.len().min(into.remaining());
            into.put_slice(&waiting[..count]);
            count
        };
        self.0.shared.lock().poll_read(self.0.id, cx.waker(), take).map(|read| match read {
            Read::Bytes | Read::End => Ok(()),
            Read::Reset(status) => Err(was_reset(status)),
            Read::Ended(ended) => Err(ended.into()),
        })
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.shared.lock().poll_write(self.0.id, cx.waker(), bytes).map_err(not_written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shared.lock().poll_finish(self.0.id, cx.waker()).map_err(not_written)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

fn not_written(why: NotWritten) -> io::Error {
    match why {
        NotWritten::Finished => io::Error::new(io::ErrorKind::BrokenPipe, "this direction of the stream has ended"),
        NotWritten::Reset(status) => was_reset(status),
        NotWritten::Ended(ended) => ended.into(),
    }
}

fn was_reset(status: u32) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, format!("the stream was reset (status {status})"))
}
