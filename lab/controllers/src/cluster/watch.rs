//! One watch per kind, feeding its cache.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Cluster, Kind};

/// How often writes that the watch never showed are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// Keeps the cache of `K` until `stop`. Errors of the watch are retried with back-off for ever: the controllers decide
/// on what they last knew, as long as the API server is away.
pub(crate) async fn watch<K: Kind>(cluster: Arc<Cluster>, stop: CancellationToken) {
    let stream = watcher(K::everywhere(cluster.client.clone()), watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut expire = tokio::time::interval(EXPIRE_EVERY);
    let store = K::store(&cluster.stores);
    loop {
        let changes = tokio::select! {
            // Cancel-safe: waiting for a token holds nothing.
            () = stop.cancelled() => return,
            // Cancel-safe: an interval remembers its next tick.
            _ = expire.tick() => store.expire(cluster.config.clock.instant()),
            // Cancel-safe: `next` of a stream gives out an item only when it returns it.
            event = stream.next() => match event {
                Some(Ok(event)) => store.watched(event.modify(|object| object.managed_fields_mut().clear())),
                Some(Err(error)) => {
                    warn!(kind = %K::kind(&()), %error, "watch failed, will be retried");
                    continue;
                }
                // The watcher never ends by itself; if it did, the owner of this task reports that it has ended.
                None => return,
            },
        };
        for change in changes {
            cluster.route(Some(change));
        }
    }
}
