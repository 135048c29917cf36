//! A pod's life and death.

use std::time::Duration;

use anyhow::Result;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually, never};
use hawser_e2e::world::World;
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::{Pod, VolumeMount};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_says_so() -> Result<()> {
    let world = World::start("pod-runs", 1).await?;
    let ran = world.witness("runs");
    let device = world.device(0);
    let pod = world.create_pod(&recipes::pod("web", device, &format!("{} exec sleep 1000", ran.sign()))).await?;
    let pod = world.pod_ready(&pod).await?;

    let status = pod.status.unwrap_or_default();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(status.start_time.is_some() && status.host_ip.is_some(), "{status:#?}");
    let main = &status.container_statuses.expect("one status")[0];
    assert_eq!((main.name.as_str(), main.ready, main.started, main.restart_count), ("main", true, Some(true), 0));
    assert!(main.container_id.as_deref().is_some_and(|id| id.starts_with("process://")), "{main:#?}");
    let conditions: Vec<_> = status.conditions.unwrap_or_default().into_iter().map(|c| (c.type_, c.status)).collect();
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert!(conditions.contains(&(kind.to_owned(), "True".to_owned())), "{kind} in {conditions:?}");
    }
    ran.until_alive(1).await?;
    world.event("web", "Started").await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_first_and_in_order() -> Result<()> {
    let world = World::start("init-order", 1).await?;
    let order = world.witness("order");
    let step = |name: &str| json!({ "name": name, "image": "host", "command": ["sh", "-c", order.note(name)] });
    let script = format!("{}; exec sleep 1000", order.note("main"));
    let more = json!({ "initContainers": [step("first"), step("second")] });
    let pod = world.create_pod(&recipes::pod_with("web", world.device(0), &script, more)).await?;
    world.pod_ready(&pod).await?;
    let in_order = || async {
        match order.lines() {
            Ok(lines) if lines == ["first", "second", "main"] => Ok(()),
            other => Err(other),
        }
    };
    eventually("they ran in order", SOON, in_order).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_container_is_started_again_with_its_exit_code_in_last_state() -> Result<()> {
    let world = World::start("crash-loop", 1).await?;
    let pod = world.create_pod(&recipes::pod("crash", world.device(0), "exit 7")).await?;
    let pod = world
        .pod_until(&pod, "restarted and backing off", |pod| {
            main_status(pod).is_some_and(|main| {
                main.restart_count >= 1
                    && main.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref())
                        == Some("CrashLoopBackOff")
            })
        })
        .await?;
    let last = main_status(&pod).and_then(|main| main.last_state.clone()).and_then(|s| s.terminated).expect("it ended");
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    assert!(last.started_at.is_some() && last.finished_at.is_some(), "{last:?}");
    world.event("crash", "BackOff").await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_gives_the_grace_that_was_promised() -> Result<()> {
    let world = World::start("delete-grace", 1).await?;
    let trace = world.witness("trace");
    let script = format!(
        "trap '{}; sleep 1; {}; exit 0' TERM; {} while :; do sleep 0.1; done",
        trace.note("asked"),
        trace.note("done"),
        trace.sign(),
    );
    let pod = world.create_pod(&recipes::pod("polite", world.device(0), &script)).await?;
    world.pod_ready(&pod).await?;
    trace.until_alive(1).await?;
    world.pods().delete("polite", &DeleteParams::default()).await?;
    world.pod_gone(&pod).await?;
    let lines = trace.lines()?;
    assert_eq!(lines[lines.len() - 2..], ["asked", "done"], "{lines:?}");
    assert_eq!(trace.alive()?, 0, "nothing is left behind");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_is_killed_after_the_grace() -> Result<()> {
    let world = World::start("delete-kill", 1).await?;
    let trace = world.witness("trace");
    let script = format!("trap '' TERM; {} while :; do sleep 0.1; done", trace.sign());
    let pod = world.create_pod(&recipes::pod("deaf", world.device(0), &script)).await?;
    world.pod_ready(&pod).await?;
    trace.until_alive(1).await?;
    world.pods().delete("deaf", &DeleteParams::default().grace_period(1)).await?;
    world.pod_gone(&pod).await?;
    assert_eq!(trace.alive()?, 0);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_delete_is_obeyed_on_the_device() -> Result<()> {
    let world = World::start("delete-force", 1).await?;
    let trace = world.witness("trace");
    let pod =
        world.create_pod(&recipes::pod("web", world.device(0), &format!("{} exec sleep 1000", trace.sign()))).await?;
    world.pod_ready(&pod).await?;
    trace.until_alive(1).await?;
    world.pods().delete("web", &DeleteParams::default().grace_period(0)).await?;
    trace.until_dead().await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_created_again_is_another_pod() -> Result<()> {
    let world = World::start("recreated", 1).await?;
    let (old, new) = (world.witness("old"), world.witness("new"));
    let recipe = |witness: &hawser_e2e::world::Witness| {
        recipes::pod("web", world.device(0), &format!("{} exec sleep 1000", witness.sign()))
    };
    let first = world.create_pod(&recipe(&old)).await?;
    world.pod_ready(&first).await?;
    old.until_alive(1).await?;
    world.pods().delete("web", &DeleteParams::default().grace_period(0)).await?;
    let second = world.create_pod(&recipe(&new)).await?;
    assert_ne!(first.metadata.uid, second.metadata.uid);
    world.pod_ready(&second).await?;
    old.until_dead().await?;
    new.until_alive(1).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_pod() -> Result<()> {
    let world = World::start("deadline", 1).await?;
    let more = json!({ "activeDeadlineSeconds": 2, "restartPolicy": "Never" });
    let pod = world.create_pod(&recipes::pod_with("late", world.device(0), "exec sleep 1000", more)).await?;
    let pod = world.pod_until(&pod, "failed", |pod| phase(pod) == "Failed").await?;
    assert_eq!(pod.status.and_then(|status| status.reason).as_deref(), Some("DeadlineExceeded"));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_pod_is_not_run_again_by_any_restart() -> Result<()> {
    let world = World::start("completed", 1).await?;
    let ran = world.witness("ran");
    let more = json!({ "restartPolicy": "Never" });
    let pod = world.create_pod(&recipes::pod_with("once", world.device(0), &ran.note("ran"), more)).await?;
    world.pod_until(&pod, "succeeded", |pod| phase(pod) == "Succeeded").await?;
    world.kill_agent(0).await?;
    world.kill_bridge().await?;
    world.start_bridge().await?;
    world.start_agent(0).await?;
    world.node_ready(0).await?;
    never("the pod runs again", Duration::from_secs(3), || async { ran.lines().ok().filter(|lines| lines.len() > 1) })
        .await?;
    let pod = world.pods().get("once").await?;
    assert_eq!(phase(&pod), "Succeeded");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_at_once_all_run() -> Result<()> {
    let world = World::start("burst", 2).await?;
    for number in 0..40 {
        let pod = recipes::pod(&format!("p-{number}"), world.device(number % 2), "exec sleep 1000");
        world.pods().create(&PostParams::default(), &pod).await?;
    }
    world
        .pods_until("40 are ready", SOON * 2, |pods| pods.iter().filter(|pod| pod_is_ready(pod)).count() == 40)
        .await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_pods_at_once_those_run_for_which_there_is_room() -> Result<()> {
    /// How many a device says that it takes.
    const ROOM: usize = 110;
    const ALL: usize = 200;
    let world = World::start("two-hundred", 1).await?;
    for number in 0..ALL {
        let pod = recipes::pod(&format!("p-{number}"), world.device(0), "exec sleep 1000");
        world.pods().create(&PostParams::default(), &pod).await?;
    }
    let reason = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default();
    let pods = world
        .pods_until("all are ready or rejected", SOON * 4, |pods| {
            pods.len() == ALL && pods.iter().all(|pod| pod_is_ready(pod) || phase(pod) == "Failed")
        })
        .await?;
    let (ready, rejected): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| pod_is_ready(pod));
    assert_eq!((ready.len(), rejected.len()), (ROOM, ALL - ROOM));
    for pod in &rejected {
        let status = pod.status.clone().unwrap_or_default();
        assert_eq!(reason(pod), "OutOfpods", "{status:#?}");
        let said = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110";
        assert_eq!(status.message.as_deref(), Some(said));
    }
    // Who goes makes room for who comes, and not for who was rejected.
    world.pods().delete(&ready[0].name_any(), &DeleteParams::default()).await?;
    world.pod_gone(ready[0]).await?;
    let next = world.create_pod(&recipes::pod("next", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&next).await?;
    world.end().await
}

fn main_status(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_for_devices_is_not_evicted_because_its_device_is_away() -> Result<()> {
    if !hawser_e2e::ground::on_cluster() {
        println!("NOT TESTED: the lab's API has no MutatingAdmissionPolicy");
        return Ok(());
    }
    let world = World::start("no-eviction", 1).await?;
    let pod = world.create_pod(&recipes::pod("web", world.device(0), "exec sleep 1000")).await?;
    let tolerations = pod.spec.and_then(|spec| spec.tolerations).unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let limits: Vec<_> =
            tolerations.iter().filter(|t| t.key.as_deref() == Some(key)).map(|t| t.toleration_seconds).collect();
        assert_eq!(limits, [None], "{key} in {tolerations:#?}");
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_takes_more_of_the_disk_than_it_may_is_evicted() -> Result<()> {
    let world = World::start("evicted", 1).await?;
    let script = "dd if=/dev/zero of=scratch/big bs=1024 count=3072 2>/dev/null; exec sleep 1000";
    let mut spec = recipes::pod_with(
        "greedy",
        world.device(0),
        script,
        json!({ "volumes": [{ "name": "scratch", "emptyDir": { "sizeLimit": "1Mi" } }] }),
    );
    let mount = VolumeMount { name: "scratch".into(), mount_path: "/scratch".into(), ..VolumeMount::default() };
    spec.spec.as_mut().expect("a pod has a spec").containers[0].volume_mounts = Some(vec![mount]);
    let greedy = world.create_pod(&spec).await?;
    let modest = world.create_pod(&recipes::pod("modest", world.device(0), "exec sleep 1000")).await?;
    let evicted = world
        .pod_until(&greedy, "evicted", |pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Failed")))
        .await?;
    let status = evicted.status.unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "));
    let target = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").expect("a disruption");
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    world.event("greedy", "Evicted").await?;
    world.pod_ready(&modest).await?;
    world.end().await
}
