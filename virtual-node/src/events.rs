//! Events, as a kubelet sends them: repeated ones are counted instead of repeated, and nobody floods the cluster.
//!
//! They are written as core/v1 Events, like a kubelet's, since that is the form with a count, a source and a field path
//! that tools show. [`Book`] is pure and decides what becomes of each; the task around it writes one after another, so
//! that a count never overtakes its Event. Nothing ever waits for it: what does not fit into the channel is dropped and
//! counted.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{self, CallError, Kind};
use crate::clock;
use crate::ids::NodeName;
use crate::metrics::Metrics;
use crate::provider::{EventReport, Receipt, Subject};
use crate::queue::Backoff;

/// How many Events may wait: a burst over a few hundred pods, while the API server takes them one by one.
const WAITING: usize = 1024;
/// How many different Events and subjects are remembered for counting and limiting.
const REMEMBERED: usize = 4096;
/// A kubelet's limits per subject: a burst, then one every five minutes.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// An Event not seen again for this long starts a new count.
const COUNTED_FOR: Duration = Duration::from_secs(600);
const ATTEMPTS: u32 = 12;
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(10) };
/// The API server limits the message.
const MESSAGE: usize = 1024;

/// An Event on its way.
#[derive(Debug)]
struct Waiting {
    /// The node that it comes from, as far as it is known.
    node: Option<NodeName>,
    event: EventReport,
    receipt: Option<oneshot::Sender<Receipt>>,
}

/// The sending end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Waiting>,
    metrics: Metrics,
}

impl Events {
    /// Sends an Event unless too many wait. A dropped one answers `Obsolete`: it will never be written.
    pub(crate) fn send(&self, node: Option<NodeName>, event: EventReport, receipt: Option<oneshot::Sender<Receipt>>) {
        if let Err(error) = self.sender.try_send(Waiting { node, event, receipt }) {
            self.metrics.event("dropped");
            let (mpsc::error::TrySendError::Full(waiting) | mpsc::error::TrySendError::Closed(waiting)) = error;
            answer(waiting.receipt, Receipt::Obsolete);
        }
    }
}

fn answer(receipt: Option<oneshot::Sender<Receipt>>, with: Receipt) {
    if let Some(receipt) = receipt {
        // Nobody waits for it any more: fine.
        let _ = receipt.send(with);
    }
}

/// Makes the sending end and the task that writes. The task ends when all senders are gone, or soon after `stop`, and
/// says how many Events it left unwritten.
pub(crate) fn events(
    client: kube::Client,
    component: String,
    metrics: Metrics,
    stop: CancellationToken,
) -> (Events, impl Future<Output = usize>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let task = write_all(client, component, metrics.clone(), receiver, stop);
    (Events { sender, metrics }, task)
}

async fn write_all(
    client: kube::Client,
    component: String,
    metrics: Metrics,
    mut receiver: mpsc::Receiver<Waiting>,
    stop: CancellationToken,
) -> usize {
    let mut book = Book::new(component);
    loop {
        // Cancel-safe: `recv` loses nothing, the token stays cancelled.
        let waiting = tokio::select! {
            waiting = receiver.recv() => waiting,
            () = stop.cancelled() => {
                receiver.close();
                return receiver.len();
            }
        };
        let Some(Waiting { node, event, receipt }) = waiting else { return 0 };
        // Cancel-safe: an Event cut off by the stop counts as unwritten.
        let outcome = tokio::select! {
            outcome = write_one(&client, &mut book, node.as_ref(), &event) => outcome,
            () = stop.cancelled() => {
                receiver.close();
                return receiver.len() + 1;
            }
        };
        metrics.event(outcome);
        answer(receipt, if outcome == "sent" { Receipt::Accepted } else { Receipt::Obsolete });
    }
}

async fn write_one(
    client: &kube::Client,
    book: &mut Book,
    node: Option<&NodeName>,
    event: &EventReport,
) -> &'static str {
    for attempt in 1..=ATTEMPTS {
        let error = match book.decide(node, event, clock::instant()) {
            Decision::Limited => return "limited",
            Decision::Create(new) => match create(client, &new).await {
                Ok(()) => {
                    book.created(event, &new, clock::instant());
                    return "sent";
                }
                Err(error) => error,
            },
            Decision::Count { namespace, name, count } => match bump(client, &namespace, &name, count, event).await {
                Ok(()) => {
                    book.counted(event, count, clock::instant());
                    return "sent";
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    // It has expired; begin anew at once.
                    book.forget(event);
                    continue;
                }
                Err(error) => error,
            },
        };
        if error.kind() != Kind::Unavailable {
            tracing::debug!(reason = %event.reason, %error, "an event was not accepted");
            return "refused";
        }
        tokio::time::sleep(BACKOFF.delay(attempt, clock::jitter())).await;
    }
    "given_up"
}

async fn create(client: &kube::Client, event: &Event) -> Result<(), CallError> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    match api::call(api.create(&PostParams::default(), event)).await {
        // A retry of one that did arrive.
        Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

async fn bump(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    count: u32,
    event: &EventReport,
) -> Result<(), CallError> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"count": count, "lastTimestamp": Time(to_the_second(event.at))});
    api::call(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

#[derive(Debug, PartialEq)]
enum Decision {
    Limited,
    Create(Box<Event>),
    Count { namespace: String, name: String, count: u32 },
}

/// What makes two Events the same.
type Key = (String, bool, String, String);

/// Remembers what was sent, to count repetitions and to limit subjects.
#[derive(Debug)]
struct Book {
    component: String,
    sent: Bounded<Key, Sent>,
    buckets: Bounded<String, Bucket>,
}

#[derive(Debug)]
struct Sent {
    namespace: String,
    name: String,
    count: u32,
    last: Instant,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    /// The Event that took the last token: a retry of it takes none.
    paid: Option<(Key, Timestamp)>,
}

impl Book {
    fn new(component: String) -> Self {
        Self { component, sent: Bounded::default(), buckets: Bounded::default() }
    }

    fn decide(&mut self, node: Option<&NodeName>, event: &EventReport, now: Instant) -> Decision {
        let key = key(event);
        if !self.pay(&key, event.at, now) {
            return Decision::Limited;
        }
        match self.sent.get(&key) {
            Some(sent) if now.duration_since(sent.last) < COUNTED_FOR => Decision::Count {
                namespace: sent.namespace.clone(),
                name: sent.name.clone(),
                count: sent.count.saturating_add(event.count.max(1)),
            },
            _ => Decision::Create(Box::new(new_event(&self.component, node, event))),
        }
    }

    fn pay(&mut self, key: &Key, at: Timestamp, now: Instant) -> bool {
        let bucket = self.buckets.get_or(key.0.clone(), || Bucket { tokens: BURST, at: now, paid: None });
        if bucket.paid.as_ref().is_some_and(|paid| paid.0 == *key && paid.1 == at) {
            return true;
        }
        let refilled = now.duration_since(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
        (bucket.tokens, bucket.at) = ((bucket.tokens + refilled).min(BURST), now);
        let affordable = bucket.tokens >= 1.0;
        if affordable {
            bucket.tokens -= 1.0;
            bucket.paid = Some((key.clone(), at));
        }
        affordable
    }

    fn created(&mut self, event: &EventReport, as_event: &Event, now: Instant) {
        let meta = &as_event.metadata;
        let sent = Sent {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            count: event.count.max(1),
            last: now,
        };
        self.sent.insert(key(event), sent);
    }

    fn counted(&mut self, event: &EventReport, count: u32, now: Instant) {
        if let Some(sent) = self.sent.get_mut(&key(event)) {
            (sent.count, sent.last) = (count, now);
        }
    }

    fn forget(&mut self, event: &EventReport) {
        self.sent.remove(&key(event));
    }
}

fn key(event: &EventReport) -> Key {
    let subject = match &event.subject {
        Subject::Node(node) => format!("node/{node}"),
        Subject::Pod(pod) => format!("pod/{}", pod.uid),
        Subject::Container { pod, field_path } => format!("pod/{}/{field_path}", pod.uid),
    };
    (subject, event.warning, event.reason.clone(), event.message.clone())
}

/// API objects have no more.
fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_nanosecond().div_euclid(1_000_000_000) as i64).unwrap_or(at)
}

fn new_event(component: &str, node: Option<&NodeName>, event: &EventReport) -> Event {
    let object =
        |kind: &str, namespace: Option<&str>, name: &str, uid: &str, field_path: Option<&String>| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            field_path: field_path.cloned(),
            ..ObjectReference::default()
        };
    let (namespace, involved_object) = match &event.subject {
        // By the name instead of the UID, as kubelets do and `kubectl describe node` expects.
        Subject::Node(node) => ("default", object("Node", None, node.as_str(), node.as_str(), None)),
        Subject::Pod(pod) => {
            (pod.namespace.as_str(), object("Pod", Some(&pod.namespace), &pod.name, pod.uid.as_str(), None))
        }
        Subject::Container { pod, field_path } => {
            (pod.namespace.as_str(), object("Pod", Some(&pod.namespace), &pod.name, pod.uid.as_str(), Some(field_path)))
        }
    };
    let subject = involved_object.name.clone().unwrap_or_default();
    let stem: String = subject.chars().take(220).collect();
    // The same Event has the same name, so that a retry of one that did arrive is told by the API server. And names are the
    // order in which a list gives what happened within one second, which `kubectl describe` keeps: time goes first.
    let mut unique = std::hash::DefaultHasher::new();
    (key(event), event.at).hash(&mut unique);
    let unique = unique.finish() >> 32;
    let nanos = u64::try_from(event.at.as_nanosecond()).unwrap_or(0);
    let shown = Time(to_the_second(event.at));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{nanos:016x}{unique:08x}", stem.trim_end_matches(['.', '-']))),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object,
        reason: Some(event.reason.clone()),
        message: Some(event.message.chars().take(MESSAGE).collect()),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(i32::try_from(event.count.max(1)).unwrap_or(i32::MAX)),
        first_timestamp: Some(shown.clone()),
        last_timestamp: Some(shown),
        source: Some(EventSource { component: Some(component.to_owned()), host: node.map(ToString::to_string) }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: node.map(ToString::to_string),
        ..Event::default()
    }
}

/// A map that forgets what was not used for longest when it is full.
#[derive(Debug)]
struct Bounded<K, V> {
    entries: HashMap<K, (u64, V)>,
    tick: u64,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), tick: 0 }
    }
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.1)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.tick += 1;
        let entry = self.entries.get_mut(key)?;
        entry.0 = self.tick;
        Some(&mut entry.1)
    }

    fn get_or(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.make_room(&key);
        self.tick += 1;
        let entry = self.entries.entry(key).or_insert_with(|| (0, make()));
        entry.0 = self.tick;
        &mut entry.1
    }

    fn insert(&mut self, key: K, value: V) {
        self.make_room(&key);
        self.tick += 1;
        self.entries.insert(key, (self.tick, value));
    }

    fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Drops the older half when full, so that the cost of looking for what is old is paid rarely.
    fn make_room(&mut self, key: &K) {
        if self.entries.len() < REMEMBERED || self.entries.contains_key(key) {
            return;
        }
        let mut ticks: Vec<u64> = self.entries.values().map(|entry| entry.0).collect();
        let middle = ticks.len() / 2;
        let (_, &mut median, _) = ticks.select_nth_unstable(middle);
        self.entries.retain(|_, entry| entry.0 >= median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PodRef, PodUid};

    fn event(message: &str) -> EventReport {
        EventReport {
            subject: Subject::Container {
                pod: PodRef { namespace: "shop".into(), name: "web".into(), uid: PodUid::new("u1") },
                field_path: "spec.containers{c}".into(),
            },
            warning: true,
            reason: "Failed".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
            count: 1,
        }
    }

    fn node() -> NodeName {
        NodeName::new("gw-1").unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to begin from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn later(event: EventReport, seconds: i64) -> EventReport {
        EventReport { at: Timestamp::from_second(seconds).unwrap(), ..event }
    }

    #[test]
    fn a_first_event_looks_like_a_kubelets() {
        let Decision::Create(made) = Book::new("hawser".into()).decide(Some(&node()), &event("no"), start()) else {
            panic!("a first event is created")
        };
        assert_eq!(made.metadata.namespace.as_deref(), Some("shop"));
        assert!(made.metadata.name.unwrap().starts_with("web."));
        assert_eq!(made.involved_object.field_path.as_deref(), Some("spec.containers{c}"));
        assert_eq!(made.type_.as_deref(), Some("Warning"));
        assert_eq!(made.count, Some(1));
        let source = made.source.unwrap();
        assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("hawser"), Some("gw-1")));
    }

    #[test]
    fn what_happened_within_a_second_is_listed_in_its_order() {
        let reasons = ["Pulled", "Created", "Started", "Killing", "BackOff"];
        let names: Vec<_> = (0..)
            .zip(reasons)
            .map(|(nanos, reason)| {
                let at = Timestamp::from_nanosecond(1_790_000_000_250_000_000 + nanos).unwrap();
                let made = new_event("hawser", None, &EventReport { at, reason: reason.into(), ..event("x") });
                let shown = made.last_timestamp.unwrap().0;
                assert_eq!((shown.as_second(), shown.subsec_nanosecond()), (1_790_000_000, 0));
                made.metadata.name.unwrap()
            })
            .collect();
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn the_same_again_is_counted_and_another_message_is_another_event() {
        let (mut book, now) = (Book::new("hawser".into()), start());
        let Decision::Create(made) = book.decide(Some(&node()), &event("no"), now) else { panic!("created") };
        book.created(&event("no"), &made, now);
        let again = EventReport { count: 3, ..later(event("no"), 5) };
        let Decision::Count { name, count, .. } = book.decide(Some(&node()), &again, now) else { panic!("counted") };
        assert_eq!((Some(name), count), (made.metadata.name.clone(), 4));
        assert!(matches!(book.decide(Some(&node()), &later(event("other"), 6), now), Decision::Create(_)));
        let much_later = now + COUNTED_FOR;
        assert!(matches!(book.decide(Some(&node()), &later(event("no"), 999), much_later), Decision::Create(_)));
    }

    #[test]
    fn a_subject_that_talks_too_much_is_limited_and_a_retry_is_free() {
        let (mut book, now) = (Book::new("hawser".into()), start());
        for second in 0..25 {
            let event = later(event("no"), second);
            assert_ne!(book.decide(Some(&node()), &event, now), Decision::Limited, "{second}");
            assert_ne!(book.decide(Some(&node()), &event, now), Decision::Limited, "retry of {second}");
        }
        assert_eq!(book.decide(Some(&node()), &later(event("no"), 25), now), Decision::Limited);
        let other = EventReport { subject: Subject::Node(node()), ..event("no") };
        assert_ne!(book.decide(Some(&node()), &other, now), Decision::Limited, "others are not");
        assert_ne!(book.decide(Some(&node()), &later(event("no"), 26), now + REFILL), Decision::Limited);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut book, now) = (Book::new("hawser".into()), start());
        for n in 0..3 * REMEMBERED {
            let event = event(&n.to_string());
            let made = new_event("hawser", Some(&node()), &event);
            book.created(&event, &made, now);
        }
        assert!(book.sent.entries.len() <= REMEMBERED);
        assert!(book.sent.get(&key(&event(&(3 * REMEMBERED - 1).to_string()))).is_some());
        assert!(book.sent.get(&key(&event("0"))).is_none());
    }
}
