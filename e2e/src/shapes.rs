//! Shapes of pods whose statuses are compared with what a kubelet writes, and what is left of a status when everything is
//! gone that no two runs have in common.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::engine::BOX;
use crate::wait::{SOON, eventually};

/// A pod, and when its status says what is to be compared.
pub struct Shape {
    /// Its name, and that of the file with a kubelet's status.
    pub name: &'static str,
    /// What is not said by [`pod`](Self::pod).
    spec: Value,
    settled: fn(&PodStatus) -> bool,
    /// What is done to it once it runs; what is compared comes after.
    then: Then,
}

/// What is done to a pod that runs.
enum Then {
    Nothing,
    /// It is deleted.
    Delete,
    /// This container is added, as `kubectl debug` does.
    Add(Value),
}

/// A container of the box that runs this.
fn container(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": BOX, "command": ["sh", "-c", script] })
}

/// The same with further fields.
fn with(mut container: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut container, more) {
        fields.extend(more);
    }
    container
}

const FOREVER: &str = "exec sleep 1000";

fn all(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten()
}

/// Whether there are containers and this is so of each.
fn each(status: &PodStatus, holds: impl Fn(&ContainerStatus) -> bool) -> bool {
    all(status).next().is_some() && all(status).all(holds)
}

/// Whether this is so of the container that was added.
fn added(status: &PodStatus, holds: impl Fn(&ContainerStatus) -> bool) -> bool {
    status.ephemeral_container_statuses.iter().flatten().any(holds)
}

fn phase_is(status: &PodStatus, phase: &str) -> bool {
    status.phase.as_deref() == Some(phase)
}

/// Whether a container has ended or waits for this reason.
fn is(status: &ContainerStatus, reason: &str) -> bool {
    let state = status.state.clone().unwrap_or_default();
    let waits = state.waiting.and_then(|waiting| waiting.reason);
    let ended = state.terminated.and_then(|terminated| terminated.reason);
    waits.as_deref() == Some(reason) || ended.as_deref() == Some(reason)
}

fn runs(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn condition(status: &PodStatus, kind: &str, value: &str) -> bool {
    status.conditions.iter().flatten().any(|found| found.type_ == kind && found.status == value)
}

/// All shapes.
pub fn shapes() -> Vec<Shape> {
    let ready: fn(&PodStatus) -> bool = |status| condition(status, "Ready", "True");
    let never = "Never";
    let shape = |name, spec, settled| Shape { name, spec, settled, then: Then::Nothing };
    let probe = |script: &str| json!({ "exec": { "command": ["sh", "-c", script] }, "periodSeconds": 1, "failureThreshold": 1 });
    // Started is who has come so far that it hears TERM.
    let leaving = |name: &str, trap: &str| {
        let main = container(name, &format!("trap '{trap}' TERM; touch /up; while :; do sleep 0.1; done"));
        let up = json!({ "exec": { "command": ["sh", "-c", "until [ -e /up ]; do sleep 0.05; done"] } });
        with(main, json!({ "lifecycle": { "postStart": up } }))
    };
    vec![
        shape("running", json!({ "containers": [container("main", FOREVER), container("other", FOREVER)] }), ready),
        shape(
            "limited",
            json!({ "containers": [with(container("main", FOREVER), json!({ "resources": {
                "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": { "cpu": "500m", "memory": "64Mi" } } }))] }),
            ready,
        ),
        shape("crash-looping", json!({ "containers": [container("main", "exit 7")] }), |status| {
            each(status, |main| main.restart_count == 1 && is(main, "CrashLoopBackOff"))
        }),
        shape(
            "completed",
            json!({ "restartPolicy": never, "initContainers": [container("first", "true")],
                "containers": [container("main", "echo done >/dev/termination-log")] }),
            |status| phase_is(status, "Succeeded"),
        ),
        shape(
            "failed",
            json!({ "restartPolicy": never,
                "containers": [container("main", "exit 3"), container("other", "sleep 1")] }),
            |status| phase_is(status, "Failed"),
        ),
        shape(
            "failed-init",
            json!({ "restartPolicy": never,
                "initContainers": [container("first", "true"), container("second", "exit 5"), container("third", "true")],
                "containers": [container("main", FOREVER)] }),
            |status| phase_is(status, "Failed"),
        ),
        shape(
            "looping-init",
            json!({ "initContainers": [container("first", "exit 5")], "containers": [container("main", FOREVER)] }),
            |status| all(status).any(|first| first.restart_count == 1 && is(first, "CrashLoopBackOff")),
        ),
        shape(
            "image-never-there",
            json!({ "containers": [
                { "name": "main", "image": "hawser.test/nothing:1", "imagePullPolicy": "Never" }] }),
            |status| each(status, |main| is(main, "ErrImageNeverPull")),
        ),
        shape(
            "no-such-program",
            json!({ "restartPolicy": never,
                "containers": [{ "name": "main", "image": BOX, "command": ["/no/such/program"] }] }),
            |status| phase_is(status, "Failed"),
        ),
        shape(
            "out-of-memory",
            json!({ "restartPolicy": never, "containers": [{
                "name": "main", "image": BOX, "command": ["tail", "/dev/zero"],
                "resources": { "limits": { "memory": "16Mi" } } }] }),
            |status| phase_is(status, "Failed"),
        ),
        shape(
            "not-ready",
            json!({ "containers": [with(container("main", FOREVER), json!({ "readinessProbe": probe("exit 1") }))] }),
            |status| each(status, runs) && condition(status, "PodReadyToStartContainers", "True"),
        ),
        shape(
            "not-alive",
            json!({ "terminationGracePeriodSeconds": 1,
                "containers": [with(container("main", FOREVER), json!({ "livenessProbe": probe("exit 1") }))] }),
            |status| each(status, |main| main.restart_count == 1 && runs(main)),
        ),
        shape(
            "not-started",
            json!({ "containers": [with(container("main", FOREVER), json!({ "startupProbe": {
                "exec": { "command": ["false"] }, "failureThreshold": 1000 } }))] }),
            |status| each(status, runs) && condition(status, "PodReadyToStartContainers", "True"),
        ),
        shape(
            "evicted",
            json!({ "volumes": [{ "name": "scratch", "emptyDir": { "sizeLimit": "1Mi" } }],
                "containers": [with(container("main", "dd if=/dev/zero of=/scratch/x bs=1M count=3; exec sleep 1000"),
                    json!({ "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }] }))] }),
            |status| phase_is(status, "Failed"),
        ),
        shape(
            "deadline",
            json!({ "activeDeadlineSeconds": 20, "containers": [container("main", FOREVER)] }),
            |status| phase_is(status, "Failed") && each(status, |main| !runs(main)),
        ),
        shape(
            "sidecar",
            json!({ "initContainers": [with(container("beside", FOREVER), json!({ "restartPolicy": "Always" }))],
                "containers": [container("main", FOREVER)] }),
            ready,
        ),
        shape(
            "sidecar-completed",
            json!({ "restartPolicy": never,
                "initContainers": [with(leaving("beside", "exit 0"), json!({ "restartPolicy": "Always" }))],
                "containers": [container("main", "sleep 1")] }),
            |status| phase_is(status, "Succeeded") && each(status, |container| !runs(container)),
        ),
        Shape {
            name: "terminating",
            spec: json!({ "terminationGracePeriodSeconds": 120,
                "containers": [leaving("polite", "exit 0"), leaving("deaf", "")] }),
            // The deletion is a second generation of the pod. A kubelet tells that, and the ends of containers later.
            settled: |status| {
                status.observed_generation == Some(2) || all(status).any(|polite| is(polite, "Completed"))
            },
            then: Then::Delete,
        },
        looked_at("added-running", container("look", FOREVER), |status| added(status, runs)),
        looked_at("added-ended", container("look", "echo seen >/dev/termination-log; exit 3"), |status| {
            added(status, |look| is(look, "Error"))
        }),
        // Nobody listens there.
        looked_at("added-without-image", json!({ "name": "look", "image": "127.0.0.1:1/nothing:1" }), |status| {
            added(status, |look| is(look, "ImagePullBackOff"))
        }),
    ]
}

/// A pod that runs, to which this container is added.
fn looked_at(name: &'static str, look: Value, settled: fn(&PodStatus) -> bool) -> Shape {
    Shape { name, spec: json!({ "containers": [container("main", FOREVER)] }), settled, then: Then::Add(look) }
}

impl Shape {
    /// The pod, bound to a node.
    pub fn pod(&self, node: &str) -> Pod {
        let mut spec = json!({
            "nodeName": node,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{ "key": "hawser.dev/device", "operator": "Exists" }],
        });
        if let (Value::Object(spec), Value::Object(own)) = (&mut spec, self.spec.clone()) {
            spec.extend(own);
        }
        let pod = json!({ "metadata": { "name": self.name }, "spec": spec });
        serde_json::from_value(pod).expect("a shape is a pod")
    }

    /// Runs the pod on a node, and returns what is left of its status once it has settled. The pod goes afterwards.
    pub async fn observe(&self, pods: &Api<Pod>, node: &str) -> Result<Value> {
        let made = pods.create(&PostParams::default(), &self.pod(node)).await?;
        if !matches!(self.then, Then::Nothing) {
            self.until(pods, |status| condition(status, "Ready", "True")).await?;
        }
        match &self.then {
            Then::Nothing => {}
            Then::Delete => drop(pods.delete(self.name, &DeleteParams::default()).await?),
            Then::Add(container) => {
                let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
                pods.patch_subresource("ephemeralcontainers", self.name, &PatchParams::default(), &patch).await?;
            }
        }
        let pod = self.until(pods, self.settled).await;
        let gone = pods.delete(self.name, &DeleteParams::default().grace_period(0)).await;
        let pod = pod?;
        gone?;
        Ok(normalised(&pod, &made.namespace().unwrap_or_default()))
    }

    async fn until(&self, pods: &Api<Pod>, settled: impl Fn(&PodStatus) -> bool) -> Result<Pod> {
        eventually(&format!("the pod {} settles", self.name), SOON * 2, || async {
            let pod = pods.get(self.name).await.map_err(|error| error.to_string())?;
            let status = pod.status.clone().unwrap_or_default();
            if settled(&status) { Ok(pod) } else { Err(serde_json::to_string(&status).unwrap_or_default()) }
        })
        .await
    }
}

/// The status of a pod without what differs from run to run: times, identities, addresses.
fn normalised(pod: &Pod, namespace: &str) -> Value {
    let mut status = pod.status.clone().unwrap_or_default();
    let mut names = BTreeMap::new();
    names.insert(pod.uid().unwrap_or_default(), "UID");
    names.insert(namespace.to_owned(), "NAMESPACE");
    // A node may have addresses of a second family, which is no matter of its kubelet.
    status.host_ips.iter_mut().for_each(|addresses| addresses.truncate(1));
    status.pod_ips.iter_mut().for_each(|addresses| addresses.truncate(1));
    let addresses = [(status.pod_ip.clone(), "POD-IP"), (status.host_ip.clone(), "HOST-IP")];
    names.extend(addresses.into_iter().filter_map(|(address, name)| Some((address?, name))));
    names.retain(|name, _| !name.is_empty());
    let mut value = serde_json::to_value(&status).unwrap_or_default();
    strip(&mut value, &names);
    if let Some(Value::Array(conditions)) = value.get_mut("conditions") {
        conditions.sort_by_key(|condition| condition["type"].to_string());
    }
    value
}

fn strip(value: &mut Value, names: &BTreeMap<String, &str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match (key.as_str(), &value) {
                    (_, Value::String(time)) if time.parse::<jiff::Timestamp>().is_ok() => *value = json!("TIME"),
                    ("containerID", Value::String(id)) => {
                        *value = json!(id.split_once("://").map(|(scheme, _)| format!("{scheme}://ID")));
                    }
                    ("imageID", Value::String(id)) => {
                        *value =
                            json!(id.split_once("sha256:").map_or(id.clone(), |(name, _)| format!("{name}sha256:ID")));
                    }
                    _ => strip(value, names),
                }
            }
            fields.retain(|_, value| !value.is_null());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, names)),
        Value::String(text) => {
            for (name, word) in names {
                *text = text.replace(name, word);
            }
        }
        _ => {}
    }
}

/// Every place where two statuses differ: the path, then both values.
pub fn differences(kubelet: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(String::new(), kubelet, ours, &mut found);
    found
}

fn compare(path: String, kubelet: &Value, ours: &Value, found: &mut Vec<String>) {
    match (kubelet, ours) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let side = |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or(Value::Null);
                compare(format!("{path}.{key}"), &side(left), &side(right), found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (left, right) in left.iter().zip(right) {
                // By what it is, not by where it stands: a list that grows must not rename the rest.
                let name = ["type", "name"].iter().find_map(|key| left.get(key)?.as_str()).unwrap_or_default();
                compare(format!("{path}[{name}]"), left, right, found);
            }
        }
        (left, right) if left == right => {}
        (left, right) => found.push(format!("{path}: a kubelet says {left}, a device {right}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_runs_is_taken_away_and_nothing_else() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "uid": "1-2", "namespace": "space" },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2", "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Initialized", "status": "True" }],
                "containerStatuses": [{
                    "name": "main", "image": "box:1", "imageID": "box@sha256:77", "containerID": "containerd://99", "ready": true,
                    "restartCount": 1,
                    "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "pod=web_space(1-2)" } },
                }],
            },
        }))
        .unwrap();
        let expected = json!({
            "phase": "Running", "podIP": "POD-IP", "hostIP": "HOST-IP", "startTime": "TIME",
            "conditions": [{ "type": "Initialized", "status": "True" }, { "type": "Ready", "status": "True" }],
            "containerStatuses": [{
                "name": "main", "image": "box:1", "imageID": "box@sha256:ID", "containerID": "containerd://ID", "ready": true,
                "restartCount": 1,
                "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "pod=web_NAMESPACE(UID)" } },
            }],
        });
        assert_eq!(normalised(&pod, "space"), expected);
    }

    #[test]
    fn differences_name_their_place() {
        let kubelet = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
        let ours = json!({ "conditions": [{ "type": "Ready", "status": "False" }], "reason": "X" });
        let expected = [
            r#".conditions[Ready].status: a kubelet says "True", a device "False""#,
            r#".phase: a kubelet says "Running", a device null"#,
            r#".reason: a kubelet says null, a device "X""#,
        ];
        assert_eq!(differences(&kubelet, &ours), expected);
        assert!(differences(&kubelet, &kubelet).is_empty());
    }
}
