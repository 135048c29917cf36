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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::{Value, json};

    /// An API server that answers what it was told to, one request after another, and writes down what it was asked.
    struct Script {
        answers: Mutex<VecDeque<(u16, String)>>,
        asked: Mutex<Vec<String>>,
    }

    /// Follows with these answers; gives the news, as words, and what was asked for.
    async fn play(list_first: bool, answers: Vec<(u16, String)>) -> (Vec<String>, Vec<String>) {
        let script = Arc::new(Script { answers: Mutex::new(answers.into()), asked: Mutex::default() });
        let stop = CancellationToken::new();
        let served = Arc::clone(&script);
        let end = stop.clone();
        let client = kube::Client::new(
            tower::service_fn(move |request: http::Request<Body>| {
                served.asked.lock().unwrap().push(request.uri().query().unwrap_or_default().to_owned());
                let answer = served.answers.lock().unwrap().pop_front();
                let end = end.clone();
                async move {
                    let Some((code, body)) = answer else {
                        end.cancel();
                        return std::future::pending().await;
                    };
                    let response = http::Response::builder().status(code).body(Body::from(body.into_bytes()));
                    Ok::<_, std::convert::Infallible>(response.unwrap())
                }
            }),
            "default",
        );
        let (sender, mut receiver) = mpsc::channel(NEWS);
        let scope = Scope { fields: "spec.nodeName!=".into(), list_first, ..Scope::default() };
        follow("pods", Api::<Pod>::all(client), scope, sender, Metrics::default(), stop).await;
        let mut news = Vec::new();
        while let Some(piece) = receiver.recv().await {
            let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
            news.push(match piece {
                News::ListStarted => "started".to_owned(),
                News::ListPage(pods) => format!("page {}", pods.iter().map(name).collect::<Vec<_>>().join(" ")),
                News::ListDone(revision) => format!("done {}", revision.0),
                News::Applied(pod) => format!("applied {}", name(&pod)),
                News::Deleted(pod) => format!("deleted {}", name(&pod)),
                News::Progress(revision) => format!("progress {}", revision.0),
            });
        }
        let asked = std::mem::take(&mut *script.asked.lock().unwrap());
        (news, asked)
    }

    fn pod(name: &str, version: u64) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": version.to_string()}})
    }

    fn page(version: u64, more: &str, names: &[&str]) -> (u16, String) {
        let items: Vec<Value> = names.iter().map(|name| pod(name, version)).collect();
        let metadata = json!({"resourceVersion": version.to_string(), "continue": more});
        (200, json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items}).to_string())
    }

    fn events(events: &[(&str, Value)]) -> (u16, String) {
        let line = |(kind, object): &(&str, Value)| format!("{}\n", json!({"type": kind, "object": object}));
        (200, events.iter().map(line).collect())
    }

    fn failure(code: u16, reason: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "m"})
    }

    fn refusal(code: u16, reason: &str) -> (u16, String) {
        (code, failure(code, reason).to_string())
    }

    fn at(asked: &str) -> Option<&str> {
        asked.split('&').find_map(|part| part.strip_prefix("resourceVersion="))
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_watch_goes_on_where_it_ended() {
        let bookmark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "9"}});
        let (news, asked) = play(
            false,
            vec![
                page(5, "", &[]),
                events(&[("ADDED", pod("a", 6)), ("MODIFIED", pod("a", 7)), ("DELETED", pod("a", 8))]),
                events(&[("BOOKMARK", bookmark)]),
            ],
        )
        .await;
        assert_eq!(news, ["progress 5", "applied a", "applied a", "deleted a", "progress 9"]);
        assert_eq!(asked[1..].iter().map(|q| at(q)).collect::<Vec<_>>(), [Some("5"), Some("8"), Some("9")]);
        assert!(asked[0].contains("limit=1") && asked.iter().all(|q| q.contains("fieldSelector=spec.nodeName")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_position_means_a_list_of_everything() {
        let by_status = refusal(410, "Expired");
        let by_event = events(&[("ADDED", pod("b", 12)), ("ERROR", failure(410, "Expired"))]);
        for lost in [by_status, by_event] {
            let (news, asked) = play(false, vec![page(5, "", &[]), lost, page(20, "", &["c"])]).await;
            let (tail, end) = (&news[news.len() - 3..], asked.last().unwrap());
            assert_eq!(tail, ["started", "page c", "done 20"]);
            assert_eq!(at(end), Some("20"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_broken_off_is_begun_again_and_never_done() {
        for broken in
            [refusal(500, "InternalError"), refusal(410, "Expired"), refusal(403, "Forbidden"), (200, "{".to_owned())]
        {
            let (news, _) =
                play(true, vec![page(5, "more", &["a"]), broken, page(6, "more", &["a"]), page(6, "", &["b"])]).await;
            assert_eq!(news, ["started", "page a", "started", "page a", "page b", "done 6"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_faults_keep_the_position() {
        for fault in
            [refusal(500, "InternalError"), refusal(429, "TooManyRequests"), events(&[("ERROR", failure(500, ""))])]
        {
            let (news, asked) = play(false, vec![page(5, "", &[]), fault, events(&[("ADDED", pod("a", 6))])]).await;
            assert_eq!(news, ["progress 5", "applied a"]);
            assert_eq!((at(&asked[1]), at(&asked[2])), (Some("5"), Some("5")));
        }
    }
}
