//! Following a collection: one stream of news about its objects, which survives disconnects and expired positions.
//!
//! The task that runs [`follow`] holds the position (a resourceVersion) and nothing else; the objects go to the owner of
//! the view through a bounded channel. When the position is lost everything is listed again between
//! [`News::ListStarted`] and [`News::ListDone`]: only a list that came to its end says anything about what is gone, so a
//! list broken off in the middle is simply followed by another `ListStarted`.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{self, CallError, Kind};
use crate::clock;
use crate::ids::Revision;
use crate::metrics::Metrics;
use crate::queue::Backoff;

/// How many pieces of news may wait for the owner of the view. It only updates memory, so this is rarely filled; when it
/// is, the watch is read more slowly, and the API server buffers or closes it. A decoded pod costs tens of kilobytes.
pub(crate) const NEWS: usize = 128;

const PAGE: u32 = 250;
/// API servers send a bookmark about once a minute. A stream silent for longer may be a dead connection; following again
/// from the same position costs one request.
const SILENCE: Duration = Duration::from_secs(90);
const LONG_ENOUGH: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };

/// What happened to the collection.
#[derive(Debug)]
pub(crate) enum News<K> {
    /// Everything is listed anew from here on. What an earlier, unfinished list brought is void.
    ListStarted,
    /// Some of the objects.
    ListPage(Vec<K>),
    /// These were all, as of this revision.
    ListDone(Revision),
    /// The object was created or changed.
    Applied(Box<K>),
    /// The object is gone; this was its last form.
    Deleted(Box<K>),
    /// The view is complete up to this revision.
    Progress(Revision),
}

/// Which part of the collection, and how to begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// A field selector, or empty.
    pub(crate) fields: String,
    /// A label selector, or empty.
    pub(crate) labels: String,
    /// Begin with a list of everything. Otherwise the first news is the position, as `Progress`, and the owner lists what
    /// it needs.
    pub(crate) list_first: bool,
}

enum End {
    /// The stream ended in good order, or fell silent: follow on from the position.
    Closed,
    /// The position is too old.
    Expired,
    /// Anything else.
    Failed(CallError),
    /// The owner or the engine has stopped.
    Stopped,
}

/// Follows the collection until `stop`, or until nobody listens any more.
pub(crate) async fn follow<K>(
    what: &'static str,
    api: Api<K>,
    scope: Scope,
    news: mpsc::Sender<News<K>>,
    metrics: Metrics,
    stop: CancellationToken,
) where
    K: Clone + Debug + DeserializeOwned + kube::Resource + Send + 'static,
{
    let mut follower =
        Follower { what, api, scope, news, metrics, position: None, begun: false, fruitful: false, failures: 0 };
    // Cancel-safe: giving up in the middle of a list or a watch loses only a position, and the process ends anyway.
    tokio::select! {
        () = stop.cancelled() => {}
        () = follower.run() => {}
    }
}

struct Follower<K> {
    what: &'static str,
    api: Api<K>,
    scope: Scope,
    news: mpsc::Sender<News<K>>,
    metrics: Metrics,
    position: Option<String>,
    begun: bool,
    /// The last list or watch brought something.
    fruitful: bool,
    failures: u32,
}

impl<K> Follower<K>
where
    K: Clone + Debug + DeserializeOwned + kube::Resource + Send + 'static,
{
    async fn run(&mut self) {
        loop {
            let since = clock::instant();
            let end = match self.position.clone() {
                None => self.begin().await,
                Some(position) => self.watch(position).await,
            };
            match end {
                End::Closed if self.fruitful || clock::instant() - since > LONG_ENOUGH => self.failures = 0,
                // A stream that ends as soon as it began is a fault too, however politely it ends.
                End::Closed => self.pause().await,
                End::Stopped => return,
                End::Expired => {
                    tracing::info!(what = self.what, "the watch lost its position; listing again");
                    self.position = None;
                    self.metrics.watch_restarted(self.what);
                    self.pause().await;
                }
                End::Failed(error) => {
                    tracing::warn!(what = self.what, %error, "cannot follow the API server; trying again");
                    self.metrics.watch_restarted(self.what);
                    self.pause().await;
                }
            }
        }
    }

    async fn pause(&mut self) {
        self.fruitful = false;
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(BACKOFF.delay(self.failures, clock::jitter())).await;
    }

    async fn begin(&mut self) -> End {
        if self.begun || self.scope.list_first { self.list().await } else { self.find_position().await }
    }

    async fn find_position(&mut self) -> End {
        match api::call(self.api.list(&self.list_params().limit(1))).await {
            Err(error) => End::Failed(error),
            Ok(page) => {
                let version = page.metadata.resource_version.unwrap_or_default();
                self.arrive(version, News::Progress).await
            }
        }
    }

    async fn list(&mut self) -> End {
        if self.news.send(News::ListStarted).await.is_err() {
            return End::Stopped;
        }
        let mut params = self.list_params().limit(PAGE);
        loop {
            let page = match api::call(self.api.list(&params)).await {
                Ok(page) => page,
                Err(error) if error.kind() == Kind::Expired => return End::Expired,
                Err(error) => return End::Failed(error),
            };
            if self.news.send(News::ListPage(page.items)).await.is_err() {
                return End::Stopped;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return self.arrive(page.metadata.resource_version.unwrap_or_default(), News::ListDone).await,
            }
        }
    }

    async fn arrive(&mut self, version: String, news: fn(Revision) -> News<K>) -> End {
        let revision = Revision::parse(&version).unwrap_or_default();
        self.position = Some(version);
        self.begun = true;
        self.fruitful = true;
        match self.news.send(news(revision)).await {
            Ok(()) => End::Closed,
            Err(_) => End::Stopped,
        }
    }

    async fn watch(&mut self, position: String) -> End {
        self.fruitful = false;
        let params = WatchParams {
            field_selector: some(&self.scope.fields),
            label_selector: some(&self.scope.labels),
            ..WatchParams::default()
        };
        let stream = match api::call(self.api.watch(&params, &position)).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == Kind::Expired => return End::Expired,
            Err(error) => return End::Failed(error),
        };
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = match tokio::time::timeout(SILENCE, stream.next()).await {
                Err(_) | Ok(None) => return End::Closed,
                Ok(Some(Err(error))) if api::kind(&error) == Kind::Expired => return End::Expired,
                Ok(Some(Err(error))) => return End::Failed(CallError::Kube(error)),
                Ok(Some(Ok(event))) => event,
            };
            let news = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.moved_to(object.meta().resource_version.clone());
                    News::Applied(Box::new(object))
                }
                WatchEvent::Deleted(object) => {
                    self.moved_to(object.meta().resource_version.clone());
                    News::Deleted(Box::new(object))
                }
                WatchEvent::Bookmark(bookmark) => {
                    let version = bookmark.metadata.resource_version;
                    let revision = Revision::parse(&version).unwrap_or_default();
                    self.moved_to(Some(version));
                    News::Progress(revision)
                }
                WatchEvent::Error(status) if api::kind_of(status.code, &status.reason) == Kind::Expired => {
                    return End::Expired;
                }
                WatchEvent::Error(status) => return End::Failed(CallError::Kube(kube::Error::Api(status))),
            };
            self.fruitful = true;
            self.failures = 0;
            if self.news.send(news).await.is_err() {
                return End::Stopped;
            }
        }
    }

    fn moved_to(&mut self, version: Option<String>) {
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.position = Some(version);
        }
    }

    fn list_params(&self) -> ListParams {
        ListParams {
            field_selector: some(&self.scope.fields),
            label_selector: some(&self.scope.labels),
            ..ListParams::default()
        }
    }
}

fn some(selector: &str) -> Option<String> {
    (!selector.is_empty()).then(|| selector.to_owned())
}
