//! Reads the log of one container for as long as there is one, as far as the budget goes.

use std::time::Duration;

use hawser_streams::{Ended, Reader, Stream};
use hawser_wire::stream::mux::End;
use hawser_wire::stream::{LogPosition, LogsRequest, StreamRequest};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use virtual_node::NodeName;

use super::bell::Turn;
use super::budget::Budget;
use super::shelf::Opened;
use super::{Kept, Key};
use crate::fleet::task::FleetHandle;

/// How much is read at once.
const PIECE: usize = 4 * 1024;
/// When it is tried again if nothing new was heard of the device: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A device that does not know how to count bytes from the end gets lines, of about so many bytes.
const LINE: u64 = 64;

/// What is known of the container from elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// As it was last reported.
    pub(super) turn: Option<Turn>,
    /// Grows with each new session of the device.
    pub(super) news: u64,
}

/// What a follower is made of.
pub(super) struct Follower {
    pub(super) fleet: FleetHandle,
    pub(super) kept: Kept,
    pub(super) node: NodeName,
    pub(super) key: Key,
    /// How much is kept.
    pub(super) bytes: u64,
    pub(super) seen: watch::Receiver<Seen>,
}

/// From where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    position: LogPosition,
    /// So many bytes after it are kept already.
    kept: u64,
}

/// What became of a reading.
enum Outcome {
    /// As much as may be read at once was read, or the connection was lost: it goes on from there, if that is known.
    Interrupted(Option<Place>),
    /// The device says that it cannot be read, or not from there.
    Refused,
    /// The device is not there, or has no room.
    Away,
    /// The run has ended, and all of its log was read.
    Ended,
}

impl Follower {
    /// Never ends: the container's end is somebody else's to know.
    pub(super) async fn run(mut self) {
        let start = now();
        let mut budget = Budget::new(self.bytes, start.elapsed());
        let mut place: Option<Place> = None;
        let mut pause = PAUSE.0;
        loop {
            if let Some(until) = budget.wait(start.elapsed()) {
                tokio::time::sleep_until(start + until).await;
                continue;
            }
            let seen = *self.seen.borrow_and_update();
            let (read, outcome) = self.read(place.as_ref()).await;
            budget.spend(read, start.elapsed());
            match outcome {
                Outcome::Interrupted(next) => {
                    place = next;
                    pause = if read > 0 { PAUSE.0 } else { self.pause(pause).await };
                }
                Outcome::Away => pause = self.pause(pause).await,
                // The run is no longer there: another one may be.
                Outcome::Refused if place.is_some() => place = None,
                // Not started yet, or not to be had: that it is different now will be told.
                Outcome::Refused => drop(self.seen.changed().await),
                Outcome::Ended => {
                    self.kept.with(|shelf| shelf.end(&self.key));
                    place = None;
                    self.wait_for_another_run(seen.turn).await;
                }
            }
        }
    }

    /// Reads at most as much as is kept. Answers how much that was.
    async fn read(&self, from: Option<&Place>) -> (u64, Outcome) {
        let Ok(reach) = self.fleet.reach(&self.node, None).await else { return (0, Outcome::Away) };
        let Key { pod, container, .. } = self.key.clone();
        let request = LogsRequest {
            pod,
            container,
            follow: true,
            previous: false,
            timestamps: true,
            tail: from.is_none().then_some(self.bytes / LINE),
            since: None,
            limit_bytes: Some(self.bytes),
            from: from.map(|place| place.position.clone()),
            newest: Some(self.bytes),
        };
        let Ok(stream) = reach.streams.open(StreamRequest::Logs(request)) else { return (0, Outcome::Away) };
        match stream.opened().await {
            Ok(()) => {}
            Err(End::Refused(_)) => return (0, Outcome::Refused),
            Err(_) => return (0, Outcome::Away),
        }
        let mut reading =
            Reading { follower: self, reader: stream.reader(1), from, ahead: reach.ahead, stream, read: 0 };
        let outcome = reading.go_on().await;
        (reading.read, outcome)
    }

    /// Waits a while, or until there is something new. Answers how long to wait the next time.
    async fn pause(&mut self, pause: Duration) -> Duration {
        match tokio::time::timeout(pause, self.seen.changed()).await {
            Ok(_) => PAUSE.0,
            Err(_) => (pause * 2).min(PAUSE.1),
        }
    }

    async fn wait_for_another_run(&mut self, read: Option<Turn>) {
        let restarts = read.map(|turn| turn.restarts);
        let another = |seen: &Seen| seen.turn.is_some_and(|turn| Some(turn.restarts) != restarts);
        if self.seen.wait_for(another).await.is_err() {
            std::future::pending().await
        }
    }
}

/// One reading.
struct Reading<'a> {
    follower: &'a Follower,
    stream: Stream,
    reader: Reader,
    from: Option<&'a Place>,
    ahead: i64,
    read: u64,
}

impl Reading<'_> {
    async fn go_on(&mut self) -> Outcome {
        let Follower { kept, key, bytes, .. } = self.follower;
        let mut skip = None;
        let mut piece = vec![0; PIECE];
        loop {
            let read = match self.reader.read(&mut piece).await {
                Ok(read) => read,
                Err(error) => {
                    let ended = error.get_ref().and_then(|error| error.downcast_ref::<Ended>());
                    return match ended {
                        Some(Ended(End::Refused(_))) => Outcome::Refused,
                        _ => Outcome::Interrupted(self.place(skip)),
                    };
                }
            };
            let skip = match &mut skip {
                Some(skip) => skip,
                none => {
                    let opened = self.how_it_begins();
                    kept.with(|shelf| shelf.open(key, opened, self.ahead));
                    none.insert(self.from.filter(|_| opened == Opened::GoesOn).map_or(0, |from| from.kept))
                }
            };
            if read == 0 && self.read < *bytes {
                return Outcome::Ended;
            }
            if read == 0 {
                return Outcome::Interrupted(self.place(Some(*skip)));
            }
            self.read += read as u64;
            kept.metrics.on_kept_read(read as u64);
            let skipped = usize::try_from(*skip).unwrap_or(read).min(read);
            *skip -= skipped as u64;
            kept.with(|shelf| shelf.push(key, &piece[skipped..read]));
        }
    }

    /// The device tells where it begins before it sends the first byte.
    fn how_it_begins(&self) -> Opened {
        let Some(from) = self.from else { return Opened::Anew };
        if self.stream.begins().as_ref() == Some(&from.position) { Opened::GoesOn } else { Opened::Later }
    }

    /// From where the log can be continued. `skip`: what is still to be skipped of it, once something has come.
    fn place(&self, skip: Option<u64>) -> Option<Place> {
        // Lost before anything came: it is where it was.
        let Some(skip) = skip else { return self.from.cloned() };
        let (mark, received) = self.stream.last_mark();
        mark.map(|mark| Place { kept: received - mark.bytes + skip, position: mark.position })
    }
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: what is read is measured on this clock")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
