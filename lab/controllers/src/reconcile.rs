//! How every controller runs: take a dirty key, reconcile it, put it back when it failed or asked for another look.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::{Failure, FailureKind};
use crate::identity::ObjectKey;
use crate::queue::{Outcome, WorkQueue};

/// Keys of one controller that are worked on at the same time: enough to hide the latency of the API server, few enough
/// not to flood it.
const WORKERS: usize = 5;

/// Longer than any reconcile needs; after it the key is retried, so one stuck request does not hold it for ever.
const LONGEST_RECONCILE: Duration = Duration::from_secs(60);

/// What requests under way get when the controllers stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// When to look at a key again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes.
    OnChange,
    /// After this time at the latest.
    After(Duration),
}

impl Next {
    /// The earlier of two wishes.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(left), Self::After(right)) => Self::After(left.min(right)),
            (Self::After(wait), Self::OnChange) | (Self::OnChange, Self::After(wait)) => Self::After(wait),
            (Self::OnChange, Self::OnChange) => Self::OnChange,
        }
    }

    pub(crate) fn after(wait: Option<Duration>) -> Self {
        wait.map_or(Self::OnChange, Self::After)
    }
}

/// One controller: reads the caches, makes a plan, carries it out.
///
/// `reconcile` is level-triggered: it is told which object to look at, not what happened, and must bear being called at
/// any time, any number of times. It may be dropped at any await when the controllers stop.
pub(crate) trait Reconciler: Send + Sync {
    /// The name in logs.
    const NAME: &'static str;

    /// Looks at one object and does what is needed now.
    fn reconcile(&self, key: &ObjectKey) -> impl Future<Output = Result<Next, Failure>> + Send;
}

/// Works on the queue until `stop`; then finishes what is under way.
pub(crate) async fn run<R: Reconciler>(reconciler: R, queue: &WorkQueue<ObjectKey>, stop: CancellationToken) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: waiting for a token holds nothing.
            () = stop.cancelled() => break,
            // Cancel-safe: `next` of a stream gives out an item only when it returns it.
            Some((key, result)) = running.next(), if !running.is_empty() => {
                queue.settle(&key, outcome(R::NAME, &key, result));
            }
            // Cancel-safe: see `WorkQueue::next`.
            key = queue.next(), if running.len() < WORKERS => {
                running.push(one(&reconciler, key));
            }
        }
    }
    let rest = async { while running.next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, rest).await.is_err() {
        debug!(controller = R::NAME, "stopped with requests under way");
    }
}

async fn one<R: Reconciler>(reconciler: &R, key: ObjectKey) -> (ObjectKey, Result<Next, Failure>) {
    let result = match tokio::time::timeout(LONGEST_RECONCILE, Box::pin(reconciler.reconcile(&key))).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TooLong(LONGEST_RECONCILE)),
    };
    (key, result)
}

fn outcome(controller: &str, key: &ObjectKey, result: Result<Next, Failure>) -> Outcome {
    match result {
        Ok(Next::OnChange) => Outcome::Done,
        Ok(Next::After(wait)) => Outcome::Again(wait),
        // Somebody else wrote, or the object or its namespace went away: the next look will see it.
        Err(failure) if matches!(failure.kind(), FailureKind::Conflict | FailureKind::NotFound) => {
            debug!(controller, %key, error = %failure, "retry after a change by somebody else");
            Outcome::Failed
        }
        Err(failure) => {
            warn!(controller, %key, error = %failure, cause = failure.cause(), "reconcile failed");
            Outcome::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_wish_wins() {
        let (short, long) = (Next::After(Duration::from_secs(1)), Next::After(Duration::from_secs(2)));
        assert_eq!(short.or(long), short);
        assert_eq!(Next::OnChange.or(long), long);
        assert_eq!(long.or(Next::OnChange), long);
        assert_eq!(Next::OnChange.or(Next::OnChange), Next::OnChange);
    }
}
