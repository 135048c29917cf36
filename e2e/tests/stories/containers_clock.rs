//! The wall clock of a device jumps while its agent runs containers.

use anyhow::Result;
use hawser_e2e::recipes::{self, contained};
use hawser_e2e::wait::SOON;
use hawser_e2e::world::World;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::DeleteParams;
use serde_json::json;

fn containers(pod: &Pod) -> Vec<ContainerStatus> {
    pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_years_restarts_nothing_and_loses_no_end() -> Result<()> {
    let Some(world) = World::start_with_containers("clock", 1).await? else { return Ok(()) };
    world.kill_agent(0).await?;
    let clock = world.start_agent_with_clock(0, "+0")?;
    // A probe that a jump could make fail, and a deadline that a jump could bring about.
    let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1, "failureThreshold": 1 });
    let mut steady = contained(&recipes::pod("steady", world.device(0), "exec sleep 1000"));
    let spec = steady.spec.as_mut().expect("a spec");
    spec.active_deadline_seconds = Some(3600);
    spec.containers[0].liveness_probe = Some(serde_json::from_value(probe)?);
    let steady = world.create_pod(&steady).await?;
    let before = containers(&world.pod_ready(&steady).await?);
    let Some(clock) = clock else { return world.end().await };
    for (number, jump) in ["+3650d", "@1970-01-01 00:01:00"].into_iter().enumerate() {
        clock.set(jump)?;
        let name = format!("job-{number}");
        let job = json!({ "restartPolicy": "Never" });
        let job = contained(&recipes::pod_with(&name, world.device(0), "sleep 1; exit 42", job));
        let job = world.create_pod(&job).await?;
        let created = job.metadata.creation_timestamp.clone().expect("it was created").0;
        let ended = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed");
        let job = world.pod_until(&job, "failed", ended).await?;
        let end = containers(&job)[0].state.clone().and_then(|state| state.terminated).expect("it ended");
        assert_eq!((end.exit_code, end.reason.as_deref()), (42, Some("Error")), "{jump}");
        let (started, finished) = (end.started_at.expect("a start").0, end.finished_at.expect("an end").0);
        assert!(started <= finished, "{jump}: {started} {finished}");
        for time in [started, finished] {
            let late = time.duration_since(created).as_secs();
            assert!((-5..=SOON.as_secs() as i64 * 2).contains(&late), "{jump}: {time} and not about {created}");
        }
        // A grace period ends, and not in ten years.
        let script = "trap '' TERM; while :; do sleep 0.1; done";
        let slow =
            world.create_pod(&contained(&recipes::pod(&format!("slow-{number}"), world.device(0), script))).await?;
        let slow = world.pod_ready(&slow).await?;
        world.pods().delete(slow.metadata.name.as_deref().unwrap_or_default(), &DeleteParams::default()).await?;
        world.pod_gone(&slow).await?;
        let now = containers(&world.pod_ready(&steady).await?);
        assert_eq!(now, before, "{jump}");
    }
    world.node_until("ClockSkewed", 0, "said", |condition| condition.status == "True").await?;
    // An agent that starts with such a clock finds the same containers.
    world.kill_agent(0).await?;
    world.start_agent_with_clock(0, "+3650d")?;
    world.node_ready(0).await?;
    assert_eq!(containers(&world.pod_ready(&steady).await?), before);
    world.end().await
}
