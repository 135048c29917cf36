//! A connection over a transport: the driver, which moves the bytes, and the handle, which opens and accepts streams.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::decode::{Decoder, Event};
use crate::error::Ended;
use crate::frame::{Limits, Role};
use crate::headers::Headers;
use crate::state::Shared;
use crate::stream::{Incoming, Stream};

/// How much is read at once.
const READ: usize = 16 << 10;
/// How long the peer may take to hear the last words, and again to hang up. Hanging up before it has read them could
/// lose them: a closed socket that is sent more answers with a reset.
const FAREWELL: Duration = Duration::from_secs(2);

/// Speaks as the client over a transport that has been upgraded.
pub fn connect<T>(transport: T, limits: Limits) -> (Handle, Driver<T>) {
    connection(transport, Role::Client, limits)
}

/// Speaks as the server over a transport that has been upgraded.
pub fn serve<T>(transport: T, limits: Limits) -> (Handle, Driver<T>) {
    connection(transport, Role::Server, limits)
}

fn connection<T>(transport: T, role: Role, limits: Limits) -> (Handle, Driver<T>) {
    let shared = Arc::new(Shared::new(role, limits));
    let decoder = Decoder::new(&limits);
    let driver = Driver { transport, decoder, input: BytesMut::new(), held: None, shared: Arc::clone(&shared) };
    (Handle { shared }, driver)
}

/// Opens, accepts, asks, closes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Opens a stream. The peer has not taken it yet: see [`Stream::replied`].
    pub fn open(&self, headers: &Headers) -> Result<Stream, Ended> {
        let id = self.shared.lock().open(headers)?;
        Ok(Stream::opened(Arc::clone(&self.shared), id))
    }

    /// The next stream that the peer opens. Cancel-safe. Only one task at a time may wait for it.
    pub async fn accept(&self) -> Result<Incoming, Ended> {
        let (id, headers) = poll_fn(|cx| self.shared.lock().poll_incoming(cx.waker())).await?;
        Ok(Incoming::new(Arc::clone(&self.shared), id, headers))
    }

    /// Asks the peer whether it is alive, and waits for its answer.
    pub async fn ping(&self) -> Result<(), Ended> {
        struct Asked<'a>(&'a Shared, u32);
        impl Drop for Asked<'_> {
            fn drop(&mut self) {
                self.0.lock().forget_ping(self.1);
            }
        }
        let id = self.shared.lock().ping()?;
        let asked = Asked(&self.shared, id);
        poll_fn(|cx| asked.0.lock().poll_pong(id, cx.waker())).await
    }

    /// Takes and opens no more streams. The connection ends when the last of those that there are has ended.
    pub fn close(&self) {
        self.shared.lock().close();
    }

    /// How many streams are held, by us or by the peer.
    pub fn streams(&self) -> usize {
        self.shared.lock().streams()
    }
}

/// Moves bytes between the transport and the streams. Somebody must run it; dropping it ends everything.
#[derive(Debug)]
pub struct Driver<T> {
    transport: T,
    decoder: Decoder,
    input: BytesMut,
    /// Data that did not fit in its stream. Nothing is read while there is some.
    held: Option<Event>,
    shared: Arc<Shared>,
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.shared.lock().end(Ended::Closed);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Runs until one side has closed, or the connection has failed.
    pub async fn run(mut self) -> Result<(), Ended> {
        let ended = poll_fn(|cx| self.poll(cx)).await;
        let last_words = async {
            poll_fn(|cx| self.poll_send(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.transport).poll_shutdown(cx)).await
        };
        match ended {
            Ended::PeerClosed => {
                // It may only have stopped sending; what we had to say is worth one attempt.
                let _ = tokio::time::timeout(FAREWELL, last_words).await;
                Ok(())
            }
            Ended::Failed(..) => Err(ended),
            _ => {
                let told = tokio::time::timeout(FAREWELL, last_words).await;
                self.shared.lock().end(ended.clone());
                if matches!(told, Ok(Ok(()))) {
                    let _ = tokio::time::timeout(FAREWELL, self.drain()).await;
                }
                if ended == Ended::Closed { Ok(()) } else { Err(ended) }
            }
        }
    }

    async fn drain(&mut self) {
        self.held = None;
        loop {
            self.input.clear();
            match self.transport.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            // Before anything is looked at: what is written after that, on another thread, wakes us.
            self.shared.lock().driver_waits(cx.waker());
            let sending = self.poll_send(cx);
            if let Poll::Ready(Err(error)) = sending {
                return Poll::Ready(self.failed(&error));
            }
            {
                let state = self.shared.lock();
                if let Some(ended) = state.ended() {
                    return Poll::Ready(ended.clone());
                }
                if state.is_done() {
                    return Poll::Ready(Ended::Closed);
                }
            }
            ready!(self.poll_receive(cx));
        }
    }

    /// Ready when all is with the transport.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        while !state.out.is_empty() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, &state.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => state.sent(count),
            }
        }
        drop(state);
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Ready when something was received or changed, so that there may be something to send.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(event) = self.held.take() {
            self.take(event);
            if self.held.is_some() {
                return Poll::Pending;
            }
            return Poll::Ready(());
        }
        loop {
            if self.shared.lock().is_choked() {
                return Poll::Pending;
            }
            match self.decoder.decode(&mut self.input) {
                Ok(Some(event)) => {
                    self.take(event);
                    return Poll::Ready(());
                }
                Ok(None) => {}
                Err(fault) => {
                    self.shared.lock().end_by_fault(fault);
                    return Poll::Ready(());
                }
            }
            self.input.reserve(READ);
            match ready!(pin!(self.transport.read_buf(&mut self.input)).poll(cx)) {
                Ok(0) => {
                    self.shared.lock().end(Ended::PeerClosed);
                    return Poll::Ready(());
                }
                Ok(_) => {}
                Err(error) => {
                    self.failed(&error);
                    return Poll::Ready(());
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        let mut state = self.shared.lock();
        match state.receive(event) {
            Ok(held) => self.held = held,
            Err(fault) => state.end_by_fault(fault),
        }
    }

    fn failed(&self, error: &io::Error) -> Ended {
        let ended = Ended::Failed(error.kind(), error.to_string());
        self.shared.lock().end(ended.clone());
        ended
    }
}
