//! Probes and hooks: what `kubectl get pod` and Events show of them.

use anyhow::Result;
use hawser_e2e::kubectl::Kubectl;
use hawser_e2e::recipes;
use hawser_e2e::world::World;
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::DeleteParams;
use serde_json::{Value, json};

/// A pod whose container `main` runs this script and is looked after like this.
fn cared_for(name: &str, device: &str, script: &str, care: Value) -> Pod {
    let mut main = json!({ "name": "main", "image": "host", "command": ["sh", "-c", script] });
    main.as_object_mut().expect("an object").extend(care.as_object().expect("an object").clone());
    recipes::pod_with(name, device, script, json!({ "containers": [main] }))
}

fn command(script: &str) -> Value {
    json!({ "command": ["sh", "-c", script] })
}

fn main_of(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readiness_probe_takes_a_pod_out_and_puts_it_back_in() -> Result<()> {
    let world = World::start("readiness", 1).await?;
    let door = world.witness("door");
    let probe = json!({ "readinessProbe": {
        "exec": command(&format!("test -e {} || {{ echo closed; exit 1; }}", door.path())),
        "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 30,
    } });
    let shop = world.create_pod(&cared_for("shop", world.device(0), "exec sleep 1000", probe)).await?;
    let closed = |pod: &Pod| main_of(pod).is_some_and(|main| main.started == Some(true) && !main.ready);
    let shown = world.pod_until(&shop, "running and not ready", closed).await?;
    let conditions = shown.status.and_then(|status| status.conditions).unwrap_or_default();
    for kind in ["Ready", "ContainersReady"] {
        let condition = conditions.iter().find(|condition| condition.type_ == kind).expect(kind);
        assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("ContainersNotReady")));
        assert_eq!(condition.message.as_deref(), Some("containers with unready status: [main]"));
    }
    let event = world.event("shop", "Unhealthy").await?;
    assert_eq!(event.message.as_deref().map(str::trim), Some("Readiness probe failed: closed"));

    let kubectl = Kubectl::of(&world);
    let shows = async |ready: &str| -> Result<()> {
        let Some(kubectl) = &kubectl else { return Ok(()) };
        let line = kubectl.says(&["get", "pod", "shop", "--no-headers"]).await?;
        assert!(line.contains(ready) && line.contains("Running"), "{line}");
        Ok(())
    };
    shows("0/1").await?;
    door.write("open")?;
    world.pod_ready(&shop).await?;
    shows("1/1").await?;
    std::fs::remove_file(door.path())?;
    let shown = world.pod_until(&shop, "not ready any more", |pod| !pod_is_ready(pod)).await?;
    shows("0/1").await?;
    assert_eq!(main_of(&shown).map(|main| main.restart_count), Some(0), "it takes no restart");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_hangs_is_started_anew_by_its_liveness_probe() -> Result<()> {
    let world = World::start("liveness", 1).await?;
    let ran = world.witness("ran");
    let probe = json!({ "livenessProbe": {
        "exec": command("echo it hangs; exit 1"), "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 30,
    } });
    let script = format!("{} exec sleep 1000", ran.sign());
    let pod = world.create_pod(&cared_for("hangs", world.device(0), &script, probe)).await?;
    let restarted = |pod: &Pod| main_of(pod).is_some_and(|main| main.restart_count >= 1);
    let shown = world.pod_until(&pod, "started anew", restarted).await?;
    let last =
        main_of(&shown).and_then(|main| main.last_state.clone()).and_then(|last| last.terminated).expect("an end");
    assert_eq!((last.exit_code, last.reason.as_deref()), (143, Some("Error")), "{last:?}");
    let unhealthy = world.event("hangs", "Unhealthy").await?;
    assert_eq!(unhealthy.message.as_deref().map(str::trim), Some("Liveness probe failed: it hangs"));
    assert_eq!(unhealthy.type_.as_deref(), Some("Warning"));
    let killing = world.event("hangs", "Killing").await?;
    assert_eq!(killing.message.as_deref(), Some("Container main failed liveness probe, will be restarted"));
    assert_eq!(killing.involved_object.field_path.as_deref(), Some("spec.containers{main}"));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_done_after_the_start_and_before_term() -> Result<()> {
    let world = World::start("hooks", 1).await?;
    let (story, listens) = (world.witness("story"), world.witness("listens"));
    let hooks = json!({ "lifecycle": {
        "postStart": { "exec": command(&story.note("hello")) },
        "preStop": { "exec": command(&story.note("bye")) },
    } });
    let script = format!("trap '{}; exit 0' TERM; {} while :; do sleep 0.1; done", story.note("term"), listens.sign());
    let pod = world.create_pod(&cared_for("polite", world.device(0), &script, hooks)).await?;
    world.pod_ready(&pod).await?;
    listens.until_alive(1).await?;
    assert_eq!(story.lines()?, ["hello"]);
    world.pods().delete("polite", &DeleteParams::default()).await?;
    world.pod_gone(&pod).await?;
    assert_eq!(story.lines()?, ["hello", "bye", "term"]);
    world.end().await
}
