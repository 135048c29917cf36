//! One stream, held.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use hawser_wire::stream::mux::{End, Woken};
use hawser_wire::stream::{LogMark, LogPosition, StreamRefusal};

use crate::{Reader, Shared, Writer};

/// One stream. It ends when nobody holds it, or a [`Reader`] or [`Writer`] of it, any more.
#[derive(Clone)]
pub struct Stream(pub(crate) Arc<Hold>);

pub(crate) struct Hold {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: u32,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.release(self.id);
    }
}

/// The stream has ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", sentence(.0))]
pub struct Ended(pub End);

fn sentence(end: &End) -> &str {
    match end {
        End::Finished(_) => "the stream has ended",
        End::Refused(refusal) => &refusal.message,
        End::Aborted(why) | End::Lost(why) => why,
    }
}

impl Stream {
    pub(crate) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self(Arc::new(Hold { shared, id }))
    }

    /// What comes on a channel. One reader per channel.
    pub fn reader(&self, channel: u8) -> Reader {
        Reader::new(Arc::clone(&self.0), channel)
    }

    /// What goes out on a channel. One writer per channel.
    pub fn writer(&self, channel: u8) -> Writer {
        Writer::new(Arc::clone(&self.0), channel)
    }

    /// Bridge: waits for the answer. Cancel-safe.
    pub async fn opened(&self) -> Result<(), End> {
        let Hold { shared, id } = &*self.0;
        let open = |context: &mut std::task::Context<'_>| {
            let open = shared.poll(*id, Woken::Life, context.waker(), |mux| mux.is_open(*id));
            open.map_or(Poll::Pending, Poll::Ready)
        };
        poll_fn(open).await
    }

    /// Waits for the end. Cancel-safe.
    pub async fn ended(&self) -> End {
        let Hold { shared, id } = &*self.0;
        let ended = |context: &mut std::task::Context<'_>| {
            let ended = shared.poll(*id, Woken::Life, context.waker(), |mux| mux.ended(*id));
            ended.map_or(Poll::Pending, Poll::Ready)
        };
        poll_fn(ended).await
    }

    /// Device: waits for another size of the terminal: columns, rows. Cancel-safe.
    pub async fn resized(&self) -> (u16, u16) {
        let Hold { shared, id } = &*self.0;
        let resized = |context: &mut std::task::Context<'_>| {
            let resized = shared.poll(*id, Woken::Life, context.waker(), |mux| mux.resized(*id));
            resized.map_or(Poll::Pending, Poll::Ready)
        };
        poll_fn(resized).await
    }

    /// Device: opens the stream.
    pub fn accept(&self) {
        self.0.shared.with(|mux, _| mux.accept(self.0.id));
    }

    /// Device: does not.
    pub fn refuse(&self, refusal: StreamRefusal) {
        self.0.shared.with(|mux, _| mux.refuse(self.0.id, refusal));
    }

    /// Device: the process has ended and its outputs are written. Wait for [`Stream::ended`] before letting go.
    pub fn exit(&self, code: i32) {
        self.0.shared.with(|mux, _| mux.exit(self.0.id, code));
    }

    /// Device: from where the log can be continued.
    pub fn mark(&self, mark: LogMark) {
        self.0.shared.with(|mux, _| mux.mark(self.0.id, mark));
    }

    /// Bridge: the place at which the device began to read the log.
    pub fn begins(&self) -> Option<LogPosition> {
        self.0.shared.with(|mux, _| mux.begins(self.0.id))
    }

    /// Bridge: the last place from which the log can be continued, and how many bytes have come in all.
    pub fn last_mark(&self) -> (Option<LogMark>, u64) {
        self.0.shared.with(|mux, _| mux.last_mark(self.0.id))
    }

    /// Bridge: the terminal has another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.0.shared.with(|mux, _| mux.resize(self.0.id, columns, rows));
    }

    /// Ends the stream before its end.
    pub fn abort(&self, why: &str) {
        self.0.shared.with(|mux, _| mux.abort(self.0.id, why));
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.0.id).finish_non_exhaustive()
    }
}
