//! The watch of the metadata of one kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Shared;
use super::graph::{Item, Uid, uid_of};
use super::kinds::KindId;

/// Keeps the graph up to date about one kind until `stop`; `listed` is told of the first complete list.
pub(super) async fn run(
    shared: Arc<Shared>,
    kind: KindId,
    resource: ApiResource,
    listed: oneshot::Sender<()>,
    stop: CancellationToken,
) -> KindId {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(shared.cluster.client.clone(), &resource);
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let (mut listed, mut seen) = (Some(listed), BTreeSet::<Uid>::new());
    loop {
        let event = tokio::select! {
            // Cancel-safe: waiting for a token holds nothing.
            () = stop.cancelled() => return kind,
            // Cancel-safe: `next` of a stream gives out an item only when it returns it.
            event = stream.next() => event,
        };
        let dirty = match event {
            None => return kind,
            Some(Err(error)) => {
                debug!(%kind, %error, "watch failed, will be retried");
                continue;
            }
            Some(Ok(Event::Init)) => {
                seen.clear();
                continue;
            }
            Some(Ok(Event::InitApply(object))) => {
                seen.insert(uid_of(&object.metadata));
                shared.graph().observe(&uid_of(&object.metadata), Item::of(&kind, &object.metadata))
            }
            Some(Ok(Event::Apply(object))) => {
                shared.graph().observe(&uid_of(&object.metadata), Item::of(&kind, &object.metadata))
            }
            Some(Ok(Event::Delete(object))) => shared.graph().forget(&uid_of(&object.metadata)),
            Some(Ok(Event::InitDone)) => {
                let dirty = shared.graph().relisted(&kind, &std::mem::take(&mut seen));
                if let Some(listed) = listed.take() {
                    // Nobody waits any more when the first lists took too long.
                    let _ = listed.send(());
                }
                dirty
            }
        };
        shared.look_at(dirty);
    }
}
