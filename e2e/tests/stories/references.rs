//! ConfigMaps and Secrets: missing, created, changed; and services.

use anyhow::Result;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

fn waiting_reason(pod: &Pod) -> Option<(&str, &str)> {
    let main = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = main.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_config_map_is_waited_for() -> Result<()> {
    let world = World::start("configmap", 1).await?;
    let seen = world.witness("seen");
    let more = json!({ "containers": [{
        "name": "main", "image": "host",
        "command": ["sh", "-c", format!("echo $COLOUR >> {}; exec sleep 1000", seen.path())],
        "env": [{ "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "paint", "key": "colour" } } }],
    }] });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "", more)).await?;
    let shown = world
        .pod_until(&pod, "waits for the ConfigMap", |pod| {
            waiting_reason(pod).is_some_and(|(reason, _)| reason == "CreateContainerConfigError")
        })
        .await?;
    assert_eq!(waiting_reason(&shown).expect("waiting").1, r#"configmap "paint" not found"#);
    let event = world.event("web", "Failed").await?;
    assert_eq!(event.message.as_deref(), Some(r#"Error: configmap "paint" not found"#));

    let maps = world.api::<ConfigMap>();
    maps.create(&PostParams::default(), &recipes::config_map("paint", json!({ "colour": "green" }))).await?;
    world.pod_ready(&pod).await?;
    eventually("it sees the colour", SOON, || async { lines_are(&seen, &["green"]) }).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_secret_is_not_waited_for() -> Result<()> {
    let world = World::start("optional-secret", 1).await?;
    let more = json!({ "containers": [{
        "name": "main", "image": "host", "command": ["sh", "-c", "test -z \"$KEY\" && exec sleep 1000"],
        "env": [{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k", "optional": true } } }],
    }] });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_waited_for() -> Result<()> {
    let world = World::start("secret", 1).await?;
    let more = json!({ "containers": [{
        "name": "main", "image": "host", "command": ["sh", "-c", "test \"$KEY\" = open && exec sleep 1000"],
        "env": [{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "safe", "key": "k" } } }],
    }] });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "", more)).await?;
    let shown = world
        .pod_until(&pod, "waits for the Secret", |pod| {
            waiting_reason(pod).is_some_and(|(reason, _)| reason == "CreateContainerConfigError")
        })
        .await?;
    assert_eq!(waiting_reason(&shown).expect("waiting").1, r#"secret "safe" not found"#);
    let event = world.event("web", "Failed").await?;
    assert_eq!(event.message.as_deref(), Some(r#"Error: secret "safe" not found"#));

    let secret: Secret =
        serde_json::from_value(json!({ "metadata": { "name": "safe" }, "stringData": { "k": "open" } }))?;
    world.api::<Secret>().create(&PostParams::default(), &secret).await?;
    world.pod_ready(&pod).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_config_map_is_not_waited_for() -> Result<()> {
    let world = World::start("optional-config", 1).await?;
    let from = json!({ "configMapKeyRef": { "name": "none", "key": "k", "optional": true } });
    let more = json!({
        "containers": [{
            "name": "main", "image": "host",
            "command": ["sh", "-c", "test -z \"$KEY\" && test -z \"$(ls etc/none)\" && exec sleep 1000"],
            "env": [{ "name": "KEY", "valueFrom": from }],
            "volumeMounts": [{ "name": "none", "mountPath": "/etc/none" }],
        }],
        "volumes": [{ "name": "none", "configMap": { "name": "none", "optional": true } }],
    });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_config_map_reaches_the_running_container() -> Result<()> {
    let world = World::start("live-update", 1).await?;
    let maps = world.api::<ConfigMap>();
    maps.create(&PostParams::default(), &recipes::config_map("site", json!({ "page": "old" }))).await?;
    let secret: Secret =
        serde_json::from_value(json!({ "metadata": { "name": "key" }, "stringData": { "k": "s3cr3t" } }))?;
    world.api::<Secret>().create(&PostParams::default(), &secret).await?;
    let seen = world.witness("seen");
    let script = format!(
        "last=; while :; do now=$(cat etc/site/page)/$(cat etc/key/k); [ \"$now\" = \"$last\" ] || echo $now >> {}; last=$now; sleep 0.2; done",
        seen.path()
    );
    let more = json!({
        "containers": [{
            "name": "main", "image": "host", "command": ["sh", "-c", script],
            "volumeMounts": [
                { "name": "site", "mountPath": "/etc/site" },
                { "name": "key", "mountPath": "/etc/key", "readOnly": true },
            ],
        }],
        "volumes": [
            { "name": "site", "configMap": { "name": "site" } },
            { "name": "key", "secret": { "secretName": "key" } },
        ],
    });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    eventually("the first page", SOON, || async { lines_are(&seen, &["old/s3cr3t"]) }).await?;
    let change = json!({ "data": { "page": "new" } });
    maps.patch("site", &PatchParams::default(), &Patch::Merge(change)).await?;
    eventually("the new page", SOON, || async { lines_are(&seen, &["old/s3cr3t", "new/s3cr3t"]) }).await?;
    let pod = world.pods().get("web").await?;
    assert_eq!(pod.status.and_then(|s| s.container_statuses).expect("status")[0].restart_count, 0);
    world.end().await
}

fn lines_are(witness: &hawser_e2e::world::Witness, expected: &[&str]) -> Result<(), Vec<String>> {
    let lines = witness.lines().unwrap_or_default();
    if lines == expected { Ok(()) } else { Err(lines) }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_hear_of_the_services_of_their_namespace() -> Result<()> {
    let world = World::start("services", 1).await?;
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "paint-shop" },
        "spec": { "clusterIP": "10.96.7.7", "ports": [{ "name": "http", "port": 8080 }] },
    }))?;
    world.api::<Service>().create(&PostParams::default(), &service).await?;
    let seen = world.witness("seen");
    // As with a kubelet, the pod may be seen before the service: then the container ends, and hears of it when it is
    // started again. The reference has the bridge look at the pod again and again.
    let more = json!({ "containers": [{
        "name": "main", "image": "host",
        "command": ["sh", "-c", format!("test -n \"$PAINT_SHOP_SERVICE_HOST\" && echo $URL >> {} && exec sleep 1000", seen.path())],
        "env": [
            { "name": "URL", "value": "$(PAINT_SHOP_SERVICE_HOST):$(PAINT_SHOP_SERVICE_PORT_HTTP) $(PAINT_SHOP_PORT)" },
            { "name": "NONE", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "k", "optional": true } } },
        ],
    }] });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), "", more)).await?;
    world.pod_ready(&pod).await?;
    let places = ["10.96.7.7:8080 tcp://10.96.7.7:8080"];
    eventually("it sees the service", SOON, || async { lines_are(&seen, &places) }).await?;
    world.end().await
}
