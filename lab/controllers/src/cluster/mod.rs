//! The cluster as the controllers see it: one cache per kind, one client, one writer of Events.
//!
//! Every write goes through [`Cluster`], because only so does its result reach the cache before anybody decides again.

mod claim;
mod events;
mod kinds;
mod routes;
mod store;
mod watch;

use std::error::Error as _;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Client, ResourceExt};
use serde_json::Value;
use thiserror::Error;

pub(crate) use events::{EventKind, Recorder};
pub(crate) use kinds::{Kind, NODE_LEASES, Stores};
pub(crate) use routes::{Queues, sweep};
pub(crate) use store::Change;
pub(crate) use watch::watch;

use crate::identity::{self, ObjectKey};
use crate::{Config, pods};

/// A request to the API server that did not do what it should.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The API server refused, or could not be reached.
    #[error("cannot {operation} {target}")]
    Request {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        target: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The whole reconcile took too long.
    #[error("not finished after {0:?}")]
    TooLong(Duration),
}

/// What a failure means for the one who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The object changed or was replaced since it was read.
    Conflict,
    /// There is no such object.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The API server will not accept this object, however often it is sent.
    Refused,
    /// Anything that may pass.
    Unavailable,
}

impl Failure {
    pub(crate) fn request(operation: &'static str, target: impl ToString, source: kube::Error) -> Self {
        Self::Request { operation, target: target.to_string(), source: Box::new(source) }
    }

    pub(crate) fn kind(&self) -> FailureKind {
        let Self::Request { source, .. } = self else { return FailureKind::Unavailable };
        let kube::Error::Api(status) = source.as_ref() else { return FailureKind::Unavailable };
        match status.code {
            404 => FailureKind::NotFound,
            409 if status.reason == "AlreadyExists" => FailureKind::AlreadyExists,
            409 => FailureKind::Conflict,
            400 | 403 | 422 => FailureKind::Refused,
            _ => FailureKind::Unavailable,
        }
    }

    /// The API server's own words, or the chain of causes.
    pub(crate) fn cause(&self) -> String {
        if let Self::Request { source, .. } = self
            && let kube::Error::Api(status) = source.as_ref()
        {
            return status.message.clone();
        }
        let mut text = String::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// How to delete an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// As the kind does by default, dependents in the background.
    Graceful,
    /// At once, without waiting for whoever runs it.
    Forced,
    /// After the dependents.
    Foreground,
}

/// See the module.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) queues: Queues,
    pub(crate) recorder: Recorder,
    pub(crate) config: Config,
}

impl Cluster {
    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.config.clock.now()
    }

    /// Passes a change of a cache on to the controllers that it concerns.
    pub(crate) fn route<K: Kind>(&self, change: Option<Change<K>>) {
        if let Some(change) = change {
            K::route(&self.queues, &self.stores, &change);
        }
    }

    fn keep<K: Kind>(&self, object: K) -> Arc<K> {
        let kept = Arc::new(object.clone());
        self.route(K::store(&self.stores).wrote(object, self.config.clock.instant()));
        kept
    }

    pub(crate) async fn create<K: Kind>(&self, object: &K) -> Result<Arc<K>, Failure> {
        let namespace = object.namespace().unwrap_or_default();
        let api = K::api(self.client.clone(), &namespace);
        let name = object.meta().name.clone().or_else(|| object.meta().generate_name.clone()).unwrap_or_default();
        let created = api.create(&PostParams::default(), object).await;
        let created = created.map_err(|error| {
            Failure::request("create", format!("{} {}", K::kind(&()), ObjectKey::new(&namespace, &name)), error)
        })?;
        Ok(self.keep(created))
    }

    /// Creates `count` objects in growing batches (1, 2, 4, …) and stops at the first refusal: when a quota or an
    /// admission rule refuses one, it would refuse the other hundreds too.
    pub(crate) async fn create_gently<K: Kind>(
        &self,
        count: usize,
        object: impl Fn(usize) -> K,
        created: impl Fn(&K),
    ) -> Result<(), Failure> {
        let (mut done, mut batch) = (0, 1);
        while done < count {
            let until = (done + batch).min(count);
            let objects: Vec<K> = (done..until).map(&object).collect();
            let results = join_all(objects.iter().map(|object| self.create(object))).await;
            let mut failed = None;
            for result in results {
                match result {
                    Ok(object) => created(&object),
                    Err(failure) => failed = Some(failure),
                }
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
            (done, batch) = (until, batch.saturating_mul(2));
        }
        Ok(())
    }

    /// Writes the object back; fails with a conflict if it changed since it was read.
    pub(crate) async fn replace<K: Kind>(&self, object: &K) -> Result<Arc<K>, Failure> {
        let key = ObjectKey::of(object.meta());
        let api = K::api(self.client.clone(), &key.namespace);
        let replaced = api.replace(&key.name, &PostParams::default(), object).await;
        let replaced = replaced.map_err(|error| Failure::request("update", described::<K>(&key), error))?;
        Ok(self.keep(replaced))
    }

    /// Writes the status back; fails with a conflict if the object changed since it was read.
    pub(crate) async fn replace_status<K: Kind>(&self, object: &K) -> Result<Arc<K>, Failure> {
        let key = ObjectKey::of(object.meta());
        let api = K::api(self.client.clone(), &key.namespace);
        let replaced = api.replace_status(&key.name, &PostParams::default(), object).await;
        let replaced =
            replaced.map_err(|error| Failure::request("update the status of", described::<K>(&key), error))?;
        Ok(self.keep(replaced))
    }

    /// A merge patch; `patch` should name the UID or resource version it is meant for.
    pub(crate) async fn patch<K: Kind>(&self, key: &ObjectKey, patch: &Value) -> Result<Arc<K>, Failure> {
        let api = K::api(self.client.clone(), &key.namespace);
        let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let patched = patched.map_err(|error| Failure::request("patch", described::<K>(key), error))?;
        Ok(self.keep_or_drop(key, patched))
    }

    /// A patch that takes away the last finalizer of a deleted object answers with an object that is gone.
    fn keep_or_drop<K: Kind>(&self, key: &ObjectKey, object: K) -> Arc<K> {
        let meta = object.meta();
        let finished = meta.deletion_timestamp.is_some()
            && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
            && meta.deletion_grace_period_seconds.unwrap_or(0) == 0;
        if !finished {
            return self.keep(object);
        }
        let uid = identity::uid(meta).to_owned();
        self.route(K::store(&self.stores).removed(key, &uid, self.config.clock.instant()));
        Arc::new(object)
    }

    /// Deletes the object if it still is the one that was looked at. That it is gone already is a success.
    pub(crate) async fn delete<K: Kind>(&self, meta: &ObjectMeta, how: Deletion) -> Result<(), Failure> {
        let key = ObjectKey::of(meta);
        let uid = identity::uid(meta);
        let params = DeleteParams {
            grace_period_seconds: (how == Deletion::Forced).then_some(0),
            propagation_policy: Some(match how {
                Deletion::Foreground => PropagationPolicy::Foreground,
                Deletion::Graceful | Deletion::Forced => PropagationPolicy::Background,
            }),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            dry_run: false,
        };
        let api = K::api(self.client.clone(), &key.namespace);
        let answer = api.delete(&key.name, &params).await.map(|answer| answer.either(Some, |_status| None));
        match answer {
            Ok(Some(object)) => {
                // A grace period of zero answers with the object as it was last; whether it is gone the watch will say.
                if how == Deletion::Forced && object.meta().finalizers.as_ref().is_none_or(Vec::is_empty) {
                    self.route(K::store(&self.stores).removed(&key, uid, self.config.clock.instant()));
                } else {
                    self.keep_or_drop(&key, object);
                }
                Ok(())
            }
            Ok(None) => {
                self.route(K::store(&self.stores).removed(&key, uid, self.config.clock.instant()));
                Ok(())
            }
            Err(error) => {
                let failure = Failure::request("delete", described::<K>(&key), error);
                // A conflict here means that the name now belongs to another object.
                if !matches!(failure.kind(), FailureKind::NotFound | FailureKind::Conflict) {
                    return Err(failure);
                }
                self.route(K::store(&self.stores).removed(&key, uid, self.config.clock.instant()));
                Ok(())
            }
        }
    }

    /// Reads past the cache, for decisions that a stale cache would make dangerous.
    pub(crate) async fn get_live<K: Kind>(&self, key: &ObjectKey) -> Result<Option<K>, Failure> {
        let api = K::api(self.client.clone(), &key.namespace);
        api.get_opt(&key.name).await.map_err(|error| Failure::request("read", described::<K>(key), error))
    }

    /// Sets a condition of a pod, and its phase if one is given, in one write; nothing is written if nothing changes.
    pub(crate) async fn mark(
        &self,
        pod: &Arc<Pod>,
        condition: PodCondition,
        phase: Option<&str>,
    ) -> Result<Arc<Pod>, Failure> {
        let mut marked = Pod::clone(pod);
        let status = marked.status.get_or_insert_default();
        pods::set_condition(status.conditions.get_or_insert_default(), condition, self.now());
        if let Some(phase) = phase {
            status.phase = Some(phase.to_owned());
        }
        if marked == **pod { Ok(pod.clone()) } else { self.replace_status(&marked).await }
    }

    /// Binds a pod to a node. The answer carries no pod, so the cache is told what it must look like now.
    pub(crate) async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Failure> {
        let key = ObjectKey::of(&pod.metadata);
        let binding = Binding {
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api = Pod::api(self.client.clone(), &key.namespace);
        let bound: Result<Value, _> =
            api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await;
        bound.map_err(|error| Failure::request("bind", described::<Pod>(&key), error))?;
        let mut assumed = self.stores.pods.get(&key).map_or_else(|| pod.clone(), |current| Pod::clone(&current));
        assumed.spec.get_or_insert_default().node_name = Some(node.to_owned());
        self.route(self.stores.pods.assumed(assumed));
        Ok(())
    }
}

fn described<K: Kind>(key: &ObjectKey) -> String {
    format!("{} {key}", K::kind(&()))
}
