//! Small objects that the tests of the plans are built from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};

use crate::clock::after_seconds;

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn selector(app: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(&[("app", app)])), match_expressions: None }
}

pub(crate) fn container(image: &str) -> Container {
    Container { name: "main".into(), image: Some(image.into()), ..Container::default() }
}

pub(crate) fn template(app: &str, image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(&[("app", app)])), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container(image)], ..PodSpec::default() }),
    }
}

pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("default".into()),
        uid: Some(format!("uid-{name}")),
        creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
        generation: Some(1),
        resource_version: Some("1".into()),
        ..ObjectMeta::default()
    }
}

/// A pending pod without a node.
pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        metadata: ObjectMeta { labels: Some(labels(&[("app", "app")])), ..meta(name) },
        spec: Some(PodSpec { containers: vec![container("busybox")], ..PodSpec::default() }),
        status: Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() }),
    }
}

/// A running pod, ready since `since`.
pub(crate) fn ready_pod(name: &str, node: &str, since: Timestamp) -> Pod {
    let mut pod = pod(name);
    pod.spec.get_or_insert_default().node_name = Some(node.into());
    pod.status = Some(PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(since)),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    });
    pod
}

pub(crate) fn with_phase(mut pod: Pod, phase: &str) -> Pod {
    pod.status.get_or_insert_default().phase = Some(phase.into());
    pod
}

/// A ready node with 4 CPUs, 8 GiB and room for 110 pods.
pub(crate) fn node(name: &str) -> Node {
    let quantities = [("cpu", "4"), ("memory", "8Gi"), ("ephemeral-storage", "10Gi"), ("pods", "110")];
    Node {
        metadata: ObjectMeta {
            namespace: None,
            labels: Some(labels(&[("kubernetes.io/hostname", name)])),
            ..meta(name)
        },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            allocatable: Some(
                quantities.iter().map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned()))).collect(),
            ),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                last_heartbeat_time: Some(Time(after_seconds(Timestamp::UNIX_EPOCH, 1_000))),
                last_transition_time: Some(Time(after_seconds(Timestamp::UNIX_EPOCH, 1_000))),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
    }
}
