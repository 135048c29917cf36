//! Streams of a device as readers and writers, for both ends.
//!
//! [`Streams`] puts tasks around the pure [`Mux`]: whoever owns the session gives it the frames that come and takes those that
//! are to go; everybody else holds a [`Stream`] and its [`Reader`]s and [`Writer`]s. Behind them is one lock around one `Mux`,
//! held for as long as it takes to copy a chunk and never across an await. A task and channels per stream would hold
//! every byte twice, and the owner of the session must be able to give and take without waiting.

mod io;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use hawser_wire::stream::mux::{Counts, Limits, Mux, NotOpened, Side, Woken};
use hawser_wire::stream::{StreamFrame, StreamRequest};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use io::{Reader, Writer};
pub use stream::{Ended, Stream};

/// The streams of one device. Clones are the same streams.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Called when there may be something to transmit, or a deadline is another. Must not call back.
    ready: Box<dyn Fn() + Send + Sync>,
    /// Device: something was asked.
    asked: Notify,
    since: Instant,
}

struct Inner {
    mux: Mux,
    /// Few wait for the same thing: one, except for the end of a stream.
    wakers: HashMap<(u32, Woken), Vec<Waker>>,
}

impl Streams {
    /// Without a session. `ready` is called whenever [`Streams::transmit`] may have something; it must not call back.
    pub fn new(side: Side, limits: Limits, ready: impl Fn() + Send + Sync + 'static) -> Self {
        let inner = Mutex::new(Inner { mux: Mux::new(side, limits), wakers: HashMap::new() });
        Self(Arc::new(Shared { inner, ready: Box::new(ready), asked: Notify::new(), since: now() }))
    }

    // --- for the owner of the session

    /// A session begins. What was open in the one before is over.
    pub fn begin(&self) {
        self.0.with(|mux, now| mux.begin(now));
    }

    /// The session is over.
    pub fn end(&self, why: &str) {
        self.0.with(|mux, _| mux.end(why));
    }

    /// The streams end, though the session stays: the other end is not heard any more, or we are leaving.
    pub fn interrupt(&self, why: &str) {
        self.0.with(|mux, _| mux.interrupt(why));
    }

    /// A frame came, sealed in this session.
    pub fn receive(&self, frame: StreamFrame) {
        let asked = self.0.with(|mux, now| {
            mux.receive(frame, now);
            mux.has_asked()
        });
        if asked {
            self.0.asked.notify_one();
        }
    }

    /// The next frame to seal in this session and publish.
    pub fn transmit(&self) -> Option<StreamFrame> {
        self.0.with(|mux, now| {
            mux.tick(now);
            mux.transmit(now)
        })
    }

    /// When [`Streams::transmit`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = self.0.lock().mux.deadline()?;
        Some(self.0.since + Duration::from_millis(deadline))
    }

    /// Whether nobody but the owner of the session holds these.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && self.is_empty()
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.0.lock().mux.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.lock().mux.is_empty()
    }

    /// What has happened since the beginning.
    pub fn counts(&self) -> Counts {
        self.0.lock().mux.counts()
    }

    // --- for the application

    /// Bridge: opens a stream. [`Stream::opened`] tells the answer.
    pub fn open(&self, request: StreamRequest) -> Result<Stream, NotOpened> {
        let id = self.0.with(|mux, now| mux.open(request, now))?;
        Ok(Stream::new(Arc::clone(&self.0), id))
    }

    /// Device: the next stream that was asked for. Cancel-safe.
    pub async fn asked(&self) -> (Stream, StreamRequest) {
        loop {
            let asked = self.0.with(|mux, _| mux.asked());
            if let Some((id, request)) = asked {
                return (Stream::new(Arc::clone(&self.0), id), request);
            }
            self.0.asked.notified().await;
        }
    }
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock is a mistake of ours in pure code; the streams end one way or another.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does something with the streams, and wakes whom it concerns.
    fn with<T>(&self, act: impl FnOnce(&mut Mux, u64) -> T) -> T {
        let millis = u64::try_from(now().duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        let result = act(&mut inner.mux, millis);
        let news = inner.mux.has_news();
        let woken = inner.mux.woken();
        let wakers: Vec<_> = woken.iter().filter_map(|woken| inner.wakers.remove(woken)).flatten().collect();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        if news {
            (self.ready)();
        }
        result
    }

    /// As [`Shared::with`]; if there is nothing yet, `waker` is called when there may be.
    fn poll<T>(&self, id: u32, what: Woken, waker: &Waker, act: impl FnOnce(&mut Mux) -> Option<T>) -> Option<T> {
        let mut inner = self.lock();
        let result = act(&mut inner.mux);
        if result.is_none() {
            let waiting = inner.wakers.entry((id, what)).or_default();
            if !waiting.iter().any(|known| known.will_wake(waker)) {
                waiting.push(waker.clone());
            }
        }
        let news = inner.mux.has_news();
        drop(inner);
        if news {
            (self.ready)();
        }
        result
    }

    /// Nobody holds the stream any more.
    fn release(&self, id: u32) {
        self.with(|mux, _| mux.release(id));
        self.lock().wakers.retain(|(of, _), _| *of != id);
    }
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: keep-alive and pace are measured on this clock")]
fn now() -> Instant {
    Instant::now()
}
