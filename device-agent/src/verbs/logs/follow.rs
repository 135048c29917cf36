//! A log as bytes that come: reads on a thread that may block, and waits for more without looking again and again.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::reader::{Reader, Step};
use crate::verbs::pulled::{Source, asynchronous};

/// How long to wait before looking again, where the kernel does not tell: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long an engine may take to write down what it has in hand when it was told of a new file.
const SETTLE: Duration = Duration::from_millis(500);

/// Resolves when nobody writes to the log any more.
pub(super) type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A log that is being read.
pub(super) struct Following {
    reader: Reader,
    /// `None`: it has ended, or is not followed.
    ended: Option<Ended>,
    changes: Changes,
}

impl Following {
    /// Reads to the end of the log.
    pub(super) fn to_the_end(reader: Reader) -> Self {
        Self { reader, ended: None, changes: Changes::Unknown(PAUSE.0) }
    }

    /// Reads on until `ended`. `changes` must have been made before the reader.
    pub(super) fn on(reader: Reader, ended: Ended, changes: Changes) -> Self {
        Self { reader, ended: Some(ended), changes }
    }
}

impl Source for Following {
    async fn next(mut self, mut piece: Vec<u8>) -> io::Result<(Self, Vec<u8>)> {
        loop {
            let (reader, read, step) = read(self.reader, piece).await?;
            (self.reader, piece) = (reader, read);
            if !piece.is_empty() || step == Step::End {
                self.changes.forget_pause();
                return Ok((self, piece));
            }
            if step == Step::Unsettled {
                tokio::time::sleep(SETTLE).await;
                self.reader.settle();
                continue;
            }
            let Some(ended) = &mut self.ended else {
                self.reader.end();
                continue;
            };
            // Cancel-safe: an end that was seen is written down at once, and changes only say to look again.
            tokio::select! {
                () = ended => self.ended = None,
                () = self.changes.next() => {}
            }
        }
    }
}

/// Reads until there is something to show, or nothing to read.
async fn read(mut reader: Reader, mut piece: Vec<u8>) -> io::Result<(Reader, Vec<u8>, Step)> {
    let reading = tokio::task::spawn_blocking(move || {
        loop {
            let step = reader.step(&mut piece)?;
            if step != Step::More || !piece.is_empty() {
                return Ok((reader, piece, step));
            }
        }
    });
    reading.await.map_err(io::Error::other)?
}

/// Says when to look at a log again.
pub(super) enum Changes {
    /// The kernel says so.
    Told(AsyncFd<OwnedFd>),
    /// The kernel cannot (there is a limit on how many may ask): after this pause.
    Unknown(Duration),
}

impl Changes {
    /// Of the log at this path, whatever file that is.
    pub(super) fn of(log: &Path) -> Self {
        watch(log).map_or(Self::Unknown(PAUSE.0), Self::Told)
    }

    /// Resolves when something has changed since the last time.
    async fn next(&mut self) {
        match self {
            Self::Told(inotify) => {
                let Ok(mut ready) = inotify.readable().await else { return };
                // What has happened does not matter, only that it has.
                let mut events = [0; 4096];
                while rustix::io::read(inotify.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
                ready.clear_ready();
            }
            Self::Unknown(pause) => {
                tokio::time::sleep(*pause).await;
                *pause = (*pause * 2).min(PAUSE.1);
            }
        }
    }

    /// There was something: the next may come soon.
    fn forget_pause(&mut self) {
        if let Self::Unknown(pause) = self {
            *pause = PAUSE.0;
        }
    }
}

/// Of the directory, because the log itself is renamed and made anew.
fn watch(log: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let dir = log.parent().ok_or(io::ErrorKind::NotFound)?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&inotify, dir, flags)?;
    asynchronous(inotify)
}
