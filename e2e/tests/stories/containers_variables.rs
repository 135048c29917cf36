//! Variables from files that init containers write (`fileKeyRef`).

use anyhow::Result;
use hawser_e2e::engine::BOX;
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::world::World;
use serde_json::{Value, json};

use crate::containers::waiting;

/// A pod whose init container writes a token, and whose container wants this key of the file.
fn with_token(name: &str, world: &World, key: &str) -> Value {
    let write = "echo \"TOKEN='open sesame'\" > /out/login.env";
    let mount = json!([{ "name": "out", "mountPath": "/out" }]);
    let file = |key: &str, optional: bool| json!({ "fileKeyRef": { "volumeName": "out", "path": "login.env", "key": key, "optional": optional } });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "nodeName": world.device(0),
            "initContainers": [
                { "name": "login", "image": BOX, "command": ["sh", "-c", write], "volumeMounts": mount },
            ],
            "containers": [{
                "name": "main", "image": BOX, "command": ["sh", "-c", "echo \"$SAID, ${NOT_THERE-unset}\"; exec sleep 1000"],
                "env": [
                    { "name": "TOKEN", "valueFrom": file(key, false) },
                    { "name": "NOT_THERE", "valueFrom": file("OTHER", true) },
                    { "name": "SAID", "value": "<$(TOKEN)>" },
                ],
            }],
            "volumes": [{ "name": "out", "emptyDir": {} }],
            "tolerations": [{ "key": "hawser.dev/device", "operator": "Exists" }],
            "terminationGracePeriodSeconds": 1,
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_init_container_writes_is_a_variable_of_the_next() -> Result<()> {
    let Some(world) = World::start_with_containers("file-key", 1).await? else { return Ok(()) };
    let Some(kubectl) = Kubectl::of(&world) else { return world.end().await };
    kubectl.answers(&["create", "-f", "-"], with_token("reader", &world, "TOKEN").to_string()).await?;
    kubectl.says(&["wait", "--for=condition=Ready", "--timeout=120s", "pod/reader"]).await?;
    assert_eq!(
        kubectl.says(&["exec", "reader", "-c", "main", "--", "sh", "-c", "echo $TOKEN"]).await?,
        "open sesame\n"
    );
    assert_eq!(kubectl.says(&["logs", "reader", "-c", "main"]).await?, "<open sesame>, unset\n");

    kubectl.answers(&["create", "-f", "-"], with_token("lost", &world, "KEY").to_string()).await?;
    let lost = world.pods().get("lost").await?;
    let lost = world.pod_until(&lost, "is told why", |pod| waiting(pod).0 == "CreateContainerConfigError").await?;
    let why = "environment variable key \"KEY\" not found in file \"login.env\" of volume out";
    assert_eq!(waiting(&lost).1, why);
    let event = world.event("lost", "Failed").await?.message.unwrap_or_default();
    assert_eq!(event, format!("Error: {why}"));
    world.end().await
}
