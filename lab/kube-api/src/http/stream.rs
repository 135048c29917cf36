//! The body of a watch: events as they come, bookmarks while it is quiet, an end in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};

use super::reply::Body;
use crate::operations::watch::Watch;
use crate::server::Shared;

/// The longest a watch lasts when the client does not say.
const LONGEST: Duration = Duration::from_secs(3600);

struct Running {
    shared: Arc<Shared>,
    watch: Watch,
    /// Events that are ready to be sent.
    ready: VecDeque<Value>,
    bookmark: Interval,
    end: std::pin::Pin<Box<tokio::time::Sleep>>,
}

/// The body of a watch.
pub(crate) fn body(shared: Arc<Shared>, mut watch: Watch, timeout: Option<u64>) -> Body {
    let mut ready = VecDeque::new();
    let subscription = &mut watch.subscription;
    for object in std::mem::take(&mut subscription.initial) {
        ready.extend(watch.viewer.initial(&object));
    }
    for change in std::mem::take(&mut subscription.missed) {
        ready.extend(watch.viewer.change(&change));
    }
    if watch.marks_initial_end {
        ready.push_back(watch.viewer.bookmark(subscription.version, true));
    }
    let mut bookmark = interval(shared.bookmark_every);
    bookmark.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let timeout =
        timeout.filter(|seconds| *seconds > 0).map_or(LONGEST, |seconds| Duration::from_secs(seconds).min(LONGEST));
    let running = Running { shared, watch, ready, bookmark, end: Box::pin(sleep(timeout)) };
    let events = stream::unfold(running, |mut running| async move {
        let event = running.next().await?;
        let mut line = event.to_string();
        line.push('\n');
        Some((Ok::<_, hyper::Error>(Frame::data(Bytes::from(line))), running))
    });
    StreamBody::new(events).boxed_unsync()
}

#[expect(clippy::disallowed_methods, reason = "the first bookmark is due one period from now")]
fn interval(period: Duration) -> Interval {
    interval_at(Instant::now() + period, period)
}

impl Running {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            tokio::select! {
                biased;
                // Cancel-safe: `cancelled` and a pinned sleep keep nothing.
                () = self.shared.stop.cancelled() => return None,
                () = &mut self.end => return None,
                // Cancel-safe: `recv` takes nothing unless it returns. None: this watcher was dropped for being slow, or
                // watches were cut.
                change = self.watch.subscription.changes.recv() => {
                    let change = change?;
                    self.ready.extend(self.watch.viewer.change(&change));
                }
                // Cancel-safe: a tick that is not returned stays due.
                _ = self.bookmark.tick(), if self.watch.bookmarks => {
                    // Changes reach the queue under the store's lock, so once the queue is drained after reading the
                    // version, everything up to that version has been told.
                    let version = self.shared.store.version();
                    while let Ok(change) = self.watch.subscription.changes.try_recv() {
                        self.ready.extend(self.watch.viewer.change(&change));
                    }
                    let newest = self.ready.back().and_then(|event| event["object"]["metadata"]["resourceVersion"].as_str()?.parse().ok());
                    self.ready.push_back(self.watch.viewer.bookmark(newest.unwrap_or(0).max(version), false));
                }
            }
        }
    }
}
