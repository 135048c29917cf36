//! Pods in containers: the runtime `cri` on a containerd of the story's own.

use anyhow::Result;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_a_container_an_image_and_an_address_of_its_own() -> Result<()> {
    let Some(world) = World::start_with_containers("contained", 1).await? else { return Ok(()) };
    let pod = world.create_pod(&contained(&recipes::pod("web", world.device(0), "exec sleep 1000"))).await?;
    let status = world.pod_ready(&pod).await?.status.unwrap_or_default();
    assert_eq!((status.phase.as_deref(), status.qos_class.as_deref()), (Some("Running"), Some("BestEffort")));
    let address = status.pod_ip.clone().expect("an address");
    assert_eq!(status.pod_ips.expect("addresses")[0].ip, address);
    assert_ne!(Some(&address), status.host_ip.as_ref());
    let main = &status.container_statuses.expect("one status")[0];
    assert!(main.container_id.as_deref().is_some_and(|id| id.starts_with("containerd://")), "{main:#?}");
    assert!(main.image_id.contains("sha256:") && main.image.contains("hawser.test/box"), "{main:#?}");
    for reason in ["Pulled", "Created", "Started"] {
        world.event("web", reason).await?;
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_from_containers_to_containers() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-roll", 1).await? else { return Ok(()) };
    let deployments = world.api::<Deployment>();
    let first = contained(&recipes::deployment("web", world.name(), 2, "echo one; exec sleep 1000"));
    deployments.create(&PostParams::default(), &first).await?;
    let old = containers_of(&world, 2).await?;
    let container = json!({ "name": "main", "command": ["sh", "-c", "echo two; exec sleep 1000"] });
    let second = json!({ "spec": { "template": { "spec": { "containers": [container] } } } });
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(second)).await?;
    eventually("the deployment has rolled", SOON * 2, || async {
        let new = containers_of(&world, 2).await.map_err(|error| error.to_string())?;
        if new.iter().all(|id| !old.contains(id)) { Ok(()) } else { Err(format!("{old:?} {new:?}")) }
    })
    .await?;
    // What is gone from the API runs no more.
    let left = world.engine().ctr(&["tasks", "ls", "-q"])?;
    assert!(old.iter().all(|id| !left.contains(id.trim_start_matches("containerd://"))), "{old:?} in {left}");
    world.end().await
}

/// The containers of the story's pods, once so many are ready and no others are there.
async fn containers_of(world: &World, count: usize) -> Result<Vec<String>> {
    let settled = |pods: &[Pod]| pods.len() == count && pods.iter().all(hawser_lab::table::pod_is_ready);
    let pods = world.pods_until(&format!("{count} pods are ready"), SOON * 2, settled).await?;
    Ok(pods.iter().filter_map(|pod| main_of(pod)?.container_id.clone()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_containers_completes() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-job", 1).await? else { return Ok(()) };
    let jobs = world.api::<Job>();
    let job = recipes::job("sum", world.name(), 0, "test $((20 + 22)) = 42");
    jobs.create(&PostParams::default(), &contained(&job)).await?;
    eventually("the job completes", SOON, || async {
        let status = jobs.get("sum").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.succeeded == Some(1) && status.completion_time.is_some() {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await?;
    let pods =
        world.pods_until("its pod has succeeded", SOON, |pods| pods.iter().all(|p| phase(p) == "Succeeded")).await?;
    let state = main_of(&pods[0]).and_then(|main| main.state.as_ref()?.terminated.clone()).expect("it ended");
    assert_eq!((state.exit_code, state.reason.as_deref()), (0, Some("Completed")));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_its_config_map_change() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-config", 1).await? else { return Ok(()) };
    let maps = world.api::<ConfigMap>();
    maps.create(&PostParams::default(), &recipes::config_map("settings", json!({ "colour": "red" }))).await?;
    let script =
        "grep -q red /etc/settings/colour || exit 3; until grep -q blue /etc/settings/colour; do sleep 0.1; done";
    let mut spec = recipes::spec(script);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "settings", "mountPath": "/etc/settings" }]);
    let more = json!({
        "restartPolicy": "Never",
        "containers": spec["containers"],
        "volumes": [{ "name": "settings", "configMap": { "name": "settings" } }],
    });
    let pod = world.create_pod(&contained(&recipes::pod_with("reader", world.device(0), script, more))).await?;
    world.pod_ready(&pod).await?;
    let change = Patch::Merge(json!({ "data": { "colour": "blue" } }));
    maps.patch("settings", &PatchParams::default(), &change).await?;
    world.pod_until(&pod, "succeeded", |pod| phase(pod) == "Succeeded").await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_container_backs_off_with_the_kubelets_words() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-crash", 1).await? else { return Ok(()) };
    let pod = world.create_pod(&contained(&recipes::pod("crash", world.device(0), "exit 7"))).await?;
    let backing_off =
        |pod: &Pod| waiting(pod).0 == "CrashLoopBackOff" && main_of(pod).is_some_and(|m| m.restart_count >= 1);
    let pod = world.pod_until(&pod, "backing off", backing_off).await?;
    let said = waiting(&pod).1;
    assert!(said.starts_with("back-off ") && said.contains(" restarting failed container=main pod=crash_"), "{said}");
    let last = main_of(&pod).and_then(|main| main.last_state.as_ref()?.terminated.clone()).expect("it ended");
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    assert!(last.started_at.is_some() && last.finished_at.is_some(), "{last:?}");
    world.event("crash", "BackOff").await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_adopted_after_the_agent_was_killed() -> Result<()> {
    let Some(world) = World::start_with_containers("contained-adopted", 1).await? else { return Ok(()) };
    let server = contained(&recipes::pod("server", world.device(0), "exec sleep 1000"));
    let server = world.create_pod(&server).await?;
    // Ready is who has come so far that it hears TERM.
    let script = "trap 'exit 42' TERM; touch /up; while :; do sleep 0.1; done";
    let main = json!({
        "name": "main", "image": "host", "command": ["sh", "-c", script],
        "readinessProbe": { "exec": { "command": ["test", "-e", "/up"] }, "periodSeconds": 1 },
    });
    let never = json!({ "restartPolicy": "Never", "containers": [main] });
    let job = contained(&recipes::pod_with("job", world.device(0), "", never));
    let job = world.create_pod(&job).await?;
    let before = main_of(&world.pod_ready(&server).await?).cloned();
    let running = world.pod_ready(&job).await?;
    world.kill_agent(0).await?;
    // An end that only the engine sees.
    let id = main_of(&running).and_then(|main| main.container_id.clone()).unwrap_or_default();
    world.engine().ctr(&["tasks", "kill", "--signal", "SIGTERM", id.trim_start_matches("containerd://")])?;
    world.start_agent(0).await?;
    let failed = world.pod_until(&job, "failed", |pod| phase(pod) == "Failed").await?;
    let end = main_of(&failed).and_then(|main| main.state.as_ref()?.terminated.clone()).expect("it ended");
    assert_eq!((end.exit_code, end.reason.as_deref()), (42, Some("Error")));
    assert_eq!(main_of(&world.pod_ready(&server).await?).cloned(), before, "the same container");
    world.end().await
}

fn main_of(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == "main")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Why the container `main` waits, and what is said about it.
pub(crate) fn waiting(pod: &Pod) -> (String, String) {
    let waiting = main_of(pod).and_then(|main| main.state.as_ref()?.waiting.clone()).unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}
