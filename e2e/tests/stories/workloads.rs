//! Deployments, DaemonSets and Jobs: what controllers make of pods on devices.

use anyhow::Result;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::World;
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_scales_rolls_and_rolls_back() -> Result<()> {
    let world = World::start("deployment", 2).await?;
    let (one, two) = (world.witness("one"), world.witness("two"));
    let deployments = world.api::<Deployment>();
    let script = format!("{} exec sleep 1000", one.sign());
    deployments.create(&PostParams::default(), &recipes::deployment("web", world.name(), 2, &script)).await?;
    rolled_out(&world, 2).await?;
    one.until_alive(2).await?;

    let scale = json!({ "spec": { "replicas": 4 } });
    deployments.patch_scale("web", &PatchParams::default(), &Patch::Merge(scale)).await?;
    rolled_out(&world, 4).await?;
    one.until_alive(4).await?;

    let command = |script: String| {
        let container = json!({ "name": "main", "command": ["sh", "-c", script] });
        Patch::Strategic(json!({ "spec": { "template": { "spec": { "containers": [container] } } } }))
    };
    let next = command(format!("{} exec sleep 1000", two.sign()));
    deployments.patch("web", &PatchParams::default(), &next).await?;
    rolled_out(&world, 4).await?;
    one.until_dead().await?;
    two.until_alive(4).await?;

    // What `kubectl rollout undo` does: the old template becomes the newest revision.
    deployments.patch("web", &PatchParams::default(), &command(script)).await?;
    rolled_out(&world, 4).await?;
    two.until_dead().await?;
    one.until_alive(4).await?;

    deployments.delete("web", &Default::default()).await?;
    one.until_dead().await?;
    world.end().await
}

async fn rolled_out(world: &World, replicas: i32) -> Result<()> {
    eventually(&format!("the deployment has {replicas} ready"), SOON * 2, || async {
        let web = world.api::<Deployment>().get("web").await.map_err(|error| error.to_string())?;
        let status = web.status.clone().unwrap_or_default();
        let current = status.observed_generation == web.metadata.generation;
        let counts = [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas];
        if current && counts.iter().all(|count| *count == Some(replicas)) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_lands_on_every_device() -> Result<()> {
    let world = World::start("daemonset", 3).await?;
    let ran = world.witness("ran");
    let daemon_sets = world.api::<DaemonSet>();
    let script = format!("{} exec sleep 1000", ran.sign());
    daemon_sets.create(&PostParams::default(), &recipes::daemon_set("probe", world.name(), &script)).await?;
    let pods = world
        .pods_until("three are ready", SOON, |pods| pods.iter().filter(|pod| pod_is_ready(pod)).count() == 3)
        .await?;
    let mut nodes: Vec<_> = pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
    nodes.sort();
    assert_eq!(nodes, [world.device(0), world.device(1), world.device(2)]);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes() -> Result<()> {
    let world = World::start("job-completes", 1).await?;
    let jobs = world.api::<Job>();
    jobs.create(&PostParams::default(), &recipes::job("sum", world.name(), 0, "echo $((20 + 22))")).await?;
    let job = job_with(&world, "sum", "Complete").await?;
    assert_eq!(job.status.and_then(|status| status.succeeded), Some(1));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fails_at_its_back_off_limit() -> Result<()> {
    let world = World::start("job-fails", 1).await?;
    let jobs = world.api::<Job>();
    jobs.create(&PostParams::default(), &recipes::job("broken", world.name(), 1, "exit 3")).await?;
    let job = job_with(&world, "broken", "Failed").await?;
    let status = job.status.unwrap_or_default();
    let failed = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Failed").expect("Failed");
    assert_eq!(failed.reason.as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(status.failed, Some(2));
    world.end().await
}

async fn job_with(world: &World, name: &str, condition: &str) -> Result<Job> {
    eventually(&format!("job {name} is {condition}"), SOON * 2, || async {
        let job = world.api::<Job>().get(name).await.map_err(|error| error.to_string())?;
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        let holds = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == condition && c.status == "True"));
        if holds { Ok(job) } else { Err(format!("{:?}", job.status)) }
    })
    .await
}
