//! Carries out what was planned for a pod or a node's view: one call to the provider or the API server each, with a time
//! limit, and a typed word on how it ended. Nothing is decided here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Preconditions, VersionMatch};

use super::index::{Document, NotKept, Record};
use crate::api::{self, CallError, Kind};
use crate::clock;
use crate::ids::{NodeName, PodRef, Revision};
use crate::metrics::Metrics;
use crate::provider::{Applied, NotApplied, Provider};

/// A call to the provider that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the provider did not answer in time")]
    TimedOut,
    #[error("the provider panicked")]
    Panicked,
}

/// What every call needs.
pub(crate) struct Caller<P> {
    pub(crate) provider: Arc<P>,
    pub(crate) client: kube::Client,
    pub(crate) metrics: Metrics,
    pub(crate) limit: Duration,
}

impl<P> Clone for Caller<P> {
    fn clone(&self) -> Self {
        Self {
            provider: Arc::clone(&self.provider),
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            limit: self.limit,
        }
    }
}

impl<P: Provider> Caller<P> {
    pub(crate) async fn apply(self, document: Document, at: Revision) -> Result<Applied, NotApplied> {
        let begun = clock::instant();
        let pod = Arc::new(document.pod());
        let answer = self.within(async { self.provider.apply(pod, at).await }).await;
        let answer = answer.unwrap_or_else(|none| Err(NotApplied::Unavailable { message: none.to_string() }));
        let result = match &answer {
            Ok(Applied::Settled) => "settled",
            Ok(Applied::Again(_)) => "again",
            Err(NotApplied::Waiting(_)) => "waiting",
            Err(NotApplied::Refused { .. }) => "refused",
            Err(NotApplied::Unavailable { .. }) => "unavailable",
        };
        self.metrics.provider_call("apply", result, clock::instant() - begun);
        answer
    }

    pub(crate) async fn stop(self, node: NodeName, pod: PodRef, grace: Duration, at: Revision) -> Result<(), NoAnswer> {
        self.counted("stop", async { self.provider.stop(&node, &pod, grace, at).await }).await
    }

    pub(crate) async fn forget(self, node: NodeName, pod: PodRef, at: Revision) -> Result<(), NoAnswer> {
        self.counted("forget", async { self.provider.forget(&node, &pod, at).await }).await
    }

    pub(crate) async fn synced(self, node: NodeName, pod_ranges: Vec<String>, at: Revision) -> Result<(), NoAnswer> {
        self.counted("synced", async { self.provider.synced(&node, pod_ranges, at).await }).await
    }

    async fn counted(&self, call: &'static str, future: impl Future<Output = ()>) -> Result<(), NoAnswer> {
        let begun = clock::instant();
        let answer = self.within(future).await;
        self.metrics.provider_call(call, if answer.is_ok() { "done" } else { "failed" }, clock::instant() - begun);
        answer
    }

    /// A provider that hangs or panics must not take the other pods with it.
    async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, NoAnswer> {
        match tokio::time::timeout(self.limit, AssertUnwindSafe(future).catch_unwind()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(NoAnswer::Panicked),
            Err(_) => Err(NoAnswer::TimedOut),
        }
    }

    /// Removes the object. A namesake is never touched: the UID is a precondition.
    pub(crate) async fn delete(self, pod: PodRef) -> Result<(), CallError> {
        let api: Api<Pod> = Api::namespaced(self.client, &pod.namespace);
        let precondition = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(precondition);
        let error = match api::call(api.delete(&pod.name, &params)).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match error.kind() {
            Kind::NotFound => Ok(()),
            // Replaced by a namesake, perhaps; a conflict alone does not say so.
            Kind::Conflict => match api::call(api.get_metadata(&pod.name)).await {
                Ok(found) if found.metadata.uid.as_deref() == Some(pod.uid.as_str()) => Err(error),
                Ok(_) => Ok(()),
                Err(error) if error.kind() == Kind::NotFound => Ok(()),
                Err(error) => Err(error),
            },
            _ => Err(error),
        }
    }

    /// The pods on a node, in a view not older than `at`.
    pub(crate) async fn list(self, node: NodeName, at: Revision) -> Result<Vec<Result<Record, NotKept>>, CallError> {
        let api: Api<Pod> = Api::all(self.client);
        let mut params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        // Served from the API server's cache, which has an index by node; a list of the very latest may cost it a scan of
        // all pods, once per node. What the watch has shown already is in it, and what comes later the watch will show.
        if at != Revision::default() {
            params = params.at(&at.0.to_string()).matching(VersionMatch::NotOlderThan);
        }
        let pods = api::call(api.list(&params)).await?;
        Ok(pods.items.into_iter().map(Record::reduce).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;

    /// Panics or hangs, by the name of the pod.
    struct Broken;

    impl Provider for Broken {
        async fn apply(&self, pod: Arc<Pod>, _: Revision) -> Result<Applied, NotApplied> {
            match pod.metadata.name.as_deref() {
                Some("panics") => panic!("as ordered"),
                Some("hangs") => std::future::pending().await,
                _ => Ok(Applied::Settled),
            }
        }
        async fn stop(&self, _: &NodeName, _: &PodRef, _: Duration, _: Revision) {
            panic!("as ordered")
        }
        async fn forget(&self, _: &NodeName, _: &PodRef, _: Revision) {
            std::future::pending().await
        }
        async fn synced(&self, _: &NodeName, _: Vec<String>, _: Revision) {}
    }

    fn caller() -> Caller<Broken> {
        let nobody = tower::service_fn(|_: http::Request<Body>| async { Err::<http::Response<Body>, _>("no server") });
        Caller {
            provider: Arc::new(Broken),
            client: kube::Client::new(nobody, "default"),
            metrics: Metrics::default(),
            limit: Duration::from_secs(60),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_panics_or_hangs_is_a_passing_fault() {
        let node = NodeName::new("gw-1").unwrap();
        for (name, fault) in [
            ("panics", Some("the provider panicked")),
            ("hangs", Some("the provider did not answer in time")),
            ("works", None),
        ] {
            let pod = serde_json::json!({"metadata": {"name": name, "namespace": "shop", "uid": "u1"},
                "spec": {"nodeName": "gw-1", "containers": []}});
            let record = Record::reduce(serde_json::from_value(pod).unwrap()).unwrap();
            let expected =
                fault.map_or(Ok(Applied::Settled), |fault| Err(NotApplied::Unavailable { message: fault.to_owned() }));
            assert_eq!(caller().apply(record.document(), Revision(1)).await, expected, "{name}");
            let stopped = caller().stop(node.clone(), record.pod.clone(), Duration::ZERO, Revision(1)).await;
            assert_eq!(stopped, Err(NoAnswer::Panicked));
            assert_eq!(caller().forget(node.clone(), record.pod, Revision(1)).await, Err(NoAnswer::TimedOut));
        }
        assert_eq!(caller().synced(node, Vec::new(), Revision(1)).await, Ok(()));
    }
}
