//! Manifests of the tests: every pod goes to a node of its own test.

use serde_json::{Value, json};

/// A pod template; the image says what becomes of the pod.
pub(crate) fn template(test: &str, app: &str, image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "nodeSelector": { "test": test },
            "containers": [{ "name": "main", "image": image }],
        },
    })
}

pub(crate) fn deployment(test: &str, name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 1 } },
            "template": template(test, name, image),
        },
    })
}

pub(crate) fn daemon_set(test: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": template(test, name, image) },
    })
}

pub(crate) fn job(test: &str, name: &str, image: &str, spec: Value) -> Value {
    let mut template = template(test, name, image);
    template["spec"]["restartPolicy"] = json!("Never");
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": { "template": template },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

pub(crate) fn pod(test: &str, name: &str, image: &str, spec: Value) -> Value {
    let mut pod = template(test, name, image);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}
