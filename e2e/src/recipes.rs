//! The objects that stories are told with.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodTemplateSpec};
use serde_json::{Value, json};

fn made<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a recipe is well-formed")
}

/// A pod spec with one container `main` that runs `script` on a device.
pub fn spec(script: &str) -> Value {
    json!({
        "containers": [{ "name": "main", "image": "host", "command": ["sh", "-c", script] }],
        "tolerations": [{ "key": "hawser.dev/device", "operator": "Exists" }],
        "terminationGracePeriodSeconds": 5,
    })
}

/// A pod bound to a device.
pub fn pod(name: &str, device: &str, script: &str) -> Pod {
    pod_with(name, device, script, json!({}))
}

/// As [`pod`], with further fields of the spec.
pub fn pod_with(name: &str, device: &str, script: &str, more: Value) -> Pod {
    let mut spec = spec(script);
    spec["nodeName"] = json!(device);
    merge(&mut spec, more);
    made(json!({ "metadata": { "name": name }, "spec": spec }))
}

/// A template whose pods go to the devices of one world only.
fn template(app: &str, world: &str, script: &str) -> Value {
    let mut spec = spec(script);
    spec["nodeSelector"] = json!({ "e2e.hawser.dev/world": world });
    json!({ "metadata": { "labels": { "app": app } }, "spec": spec })
}

/// A pod template as an object.
pub fn pod_template(app: &str, world: &str, script: &str) -> PodTemplateSpec {
    made(template(app, world, script))
}

/// A Deployment.
pub fn deployment(app: &str, world: &str, replicas: u32, script: &str) -> Deployment {
    made(json!({
        "metadata": { "name": app },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": app } },
            "template": template(app, world, script),
        },
    }))
}

/// A DaemonSet.
pub fn daemon_set(app: &str, world: &str, script: &str) -> DaemonSet {
    made(json!({
        "metadata": { "name": app },
        "spec": { "selector": { "matchLabels": { "app": app } }, "template": template(app, world, script) },
    }))
}

/// A Job that may fail so often.
pub fn job(name: &str, world: &str, backoff_limit: u32, script: &str) -> Job {
    let mut template = template(name, world, script);
    template["spec"]["restartPolicy"] = json!("Never");
    made(json!({ "metadata": { "name": name }, "spec": { "backoffLimit": backoff_limit, "template": template } }))
}

/// A ConfigMap.
pub fn config_map(name: &str, data: Value) -> ConfigMap {
    made(json!({ "metadata": { "name": name }, "data": data }))
}

/// The same object with the image that the engines of worlds have, where it has a program of the host.
pub fn contained<T: serde::Serialize + serde::de::DeserializeOwned>(object: &T) -> T {
    let mut value = serde_json::to_value(object).expect("a recipe is an object");
    replace_images(&mut value, crate::engine::BOX);
    made(value)
}

fn replace_images(value: &mut Value, image: &str) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "image" {
                    *value = json!(image);
                } else {
                    replace_images(value, image);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace_images(item, image)),
        _ => {}
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
