//! Events: told by the controllers, written by one task, so that no controller waits for an Event.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::Clock;

/// Enough for the burst of a large rollout; when it is full the Event is dropped and counted in the log, because an
/// Event is an aid for people and must never hold up the controller that tells it.
const CAPACITY: usize = 1024;

/// How many different Events are remembered for counting repetitions.
const REMEMBERED: usize = 1024;

/// Whether something went as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Debug, Clone)]
struct Told {
    component: &'static str,
    about: ObjectReference,
    kind: EventKind,
    reason: &'static str,
    message: String,
}

impl Told {
    /// Events with the same identity are one Event with a count.
    fn identity(&self) -> Identity {
        (self.component, self.about.uid.clone(), self.about.name.clone(), self.reason, self.message.clone())
    }
}

type Identity = (&'static str, Option<String>, Option<String>, &'static str, String);

/// Where controllers tell Events.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Told>,
}

impl Recorder {
    pub(crate) fn new() -> (Self, EventWriter) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self { sender }, EventWriter { receiver, known: BTreeMap::new(), sequence: 0 })
    }

    /// Tells an Event about an object, in the name of the controller `component`.
    pub(crate) fn tell<K: Resource<DynamicType = ()>>(
        &self,
        component: &'static str,
        about: &K,
        kind: EventKind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut about = about.object_ref(&());
        // A node's Events carry its name as UID; kubectl describe looks for that.
        if about.kind.as_deref() == Some("Node") {
            about.uid = about.name.clone();
        }
        about.resource_version = None;
        let told = Told { component, about, kind, reason, message: message.into() };
        if self.sender.try_send(told).is_err() {
            warn!(component, reason, "event dropped: too many are waiting to be written");
        }
    }
}

/// The task that writes Events.
#[derive(Debug)]
pub(crate) struct EventWriter {
    receiver: mpsc::Receiver<Told>,
    known: BTreeMap<Identity, Known>,
    sequence: u64,
}

#[derive(Debug)]
struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Timestamp,
}

impl EventWriter {
    /// Writes until `stop`.
    pub(crate) async fn run(mut self, client: Client, clock: Clock, stop: CancellationToken) {
        loop {
            let told = tokio::select! {
                // Cancel-safe: waiting for a token holds nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: `recv` gives out an item only when it returns it.
                told = self.receiver.recv() => match told {
                    Some(told) => told,
                    None => return,
                },
            };
            let write = self.write(&client, told, clock.now());
            if stop.run_until_cancelled(write).await.is_none() {
                return;
            }
        }
    }

    async fn write(&mut self, client: &Client, told: Told, now: Timestamp) {
        let identity = told.identity();
        if let Some(known) = self.known.get_mut(&identity) {
            known.count = known.count.saturating_add(1);
            known.last = now;
            let api: Api<Event> = Api::namespaced(client.clone(), &known.namespace);
            let patch = json!({ "count": known.count, "lastTimestamp": Time(now) });
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return,
                // Expired or deleted: written anew below.
                Err(error) => debug!(%error, "event to count up is gone"),
            }
        }
        let event = self.event(&told, now);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => self.remember(identity, Known { namespace, name, count: 1, last: now }),
            // The namespace is being deleted, or the API server is away: an Event is not worth more than a line.
            Err(error) => debug!(reason = told.reason, %error, "event not written"),
        }
    }

    fn event(&mut self, told: &Told, now: Timestamp) -> Event {
        self.sequence = self.sequence.wrapping_add(1);
        let about = told.about.clone();
        let stamp = u64::try_from(now.as_nanosecond()).unwrap_or_default().wrapping_add(self.sequence);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{stamp:x}", about.name.as_deref().unwrap_or_default())),
                // Events about cluster-scoped objects live in the default namespace.
                namespace: Some(about.namespace.clone().filter(|name| !name.is_empty()).unwrap_or("default".into())),
                ..ObjectMeta::default()
            },
            involved_object: about,
            type_: Some(told.kind.as_str().into()),
            reason: Some(told.reason.into()),
            message: Some(told.message.clone()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(told.component.into()), host: None }),
            reporting_component: Some(told.component.into()),
            reporting_instance: Some(String::new()),
            ..Event::default()
        }
    }

    fn remember(&mut self, identity: Identity, known: Known) {
        if self.known.len() >= REMEMBERED {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last).map(|(identity, _)| identity.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(identity, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn an_event_about_a_node_is_found_by_describe() {
        let (recorder, mut writer) = Recorder::new();
        recorder.tell("node-controller", &samples::node("n1"), EventKind::Warning, "NodeNotReady", "gone");
        let told = writer.receiver.try_recv().expect("told");
        let event = writer.event(&told, Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.involved_object.uid.as_deref(), Some("n1"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }

    #[test]
    fn two_events_in_the_same_moment_have_two_names() {
        let (recorder, mut writer) = Recorder::new();
        recorder.tell("x", &samples::pod("a"), EventKind::Normal, "One", "1");
        let told = writer.receiver.try_recv().expect("told");
        let (one, two) = (writer.event(&told, Timestamp::UNIX_EPOCH), writer.event(&told, Timestamp::UNIX_EPOCH));
        assert_ne!(one.metadata.name, two.metadata.name);
    }

    #[test]
    fn a_full_channel_drops_instead_of_waiting() {
        let (recorder, mut writer) = Recorder::new();
        for _ in 0..CAPACITY + 5 {
            recorder.tell("x", &samples::pod("a"), EventKind::Normal, "One", "1");
        }
        let mut got = 0;
        while writer.receiver.try_recv().is_ok() {
            got += 1;
        }
        assert_eq!(got, CAPACITY);
    }

    #[test]
    fn the_memory_of_repetitions_is_bounded() {
        let (_recorder, mut writer) = Recorder::new();
        for index in 0..REMEMBERED + 3 {
            let last = crate::clock::after_seconds(Timestamp::UNIX_EPOCH, i64::try_from(index).expect("small"));
            let known = Known { namespace: String::new(), name: String::new(), count: 1, last };
            writer.remember(("x", None, None, "One", index.to_string()), known);
        }
        assert_eq!(writer.known.len(), REMEMBERED);
        assert!(!writer.known.contains_key(&("x", None, None, "One", "0".into())), "the oldest goes first");
    }
}
