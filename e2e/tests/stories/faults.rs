//! Everything fails, and nothing is lost.

use std::time::Duration;

use anyhow::Result;
use hawser_e2e::recipes;
use hawser_e2e::wait::{SOON, never};
use hawser_e2e::world::World;
use hawser_lab::rope::Faults;
use k8s_openapi::api::core::v1::{NodeCondition, Pod};
use kube::api::DeleteParams;

use crate::steady::{steady_pod, undisturbed};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_leaves_and_returns_and_nothing_is_restarted() -> Result<()> {
    let world = World::start("device-leaves", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    world.cut_rope(0);
    let node = world.node_with_ready(0, "Unknown").await?;
    let ready = node.status.and_then(|s| s.conditions).unwrap_or_default().into_iter().find(|c| c.type_ == "Ready");
    assert_eq!(ready.and_then(|ready| ready.reason).as_deref(), Some("DeviceOffline"));
    assert_eq!(witness.alive()?, 1, "the device goes on alone");
    world.mend_rope(0, Faults::default());
    world.node_ready(0).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_the_device_was_away_is_told_when_it_returns() -> Result<()> {
    let world = World::start("away-end", 1).await?;
    let witness = world.witness("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.1; done; exit 9", witness.path());
    let more = serde_json::json!({ "restartPolicy": "Never" });
    let pod = world.create_pod(&recipes::pod_with("job", world.device(0), &script, more)).await?;
    world.pod_ready(&pod).await?;
    world.cut_rope(0);
    witness.write("now")?;
    world.node_with_ready(0, "Unknown").await?;
    world.mend_rope(0, Faults::default());
    let pod = world
        .pod_until(&pod, "failed", |pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed"))
        .await?;
    let main = &pod.status.and_then(|status| status.container_statuses).expect("a status")[0];
    let ended = main.state.as_ref().and_then(|state| state.terminated.as_ref()).expect("it ended");
    assert_eq!(ended.exit_code, 9);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_while_its_device_is_away_stays_until_the_device_has_stopped_it() -> Result<()> {
    let world = World::start("away-delete", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    world.cut_rope(0);
    world.pods().delete("steady", &DeleteParams::default()).await?;
    let pods = world.pods();
    never("the pod goes although nobody stopped it", Duration::from_secs(8), || async {
        pods.get_opt("steady").await.ok().filter(Option::is_none)
    })
    .await?;
    assert_eq!(witness.alive()?, 1);
    world.mend_rope(0, Faults::default());
    world.pod_gone(&pod).await?;
    assert_eq!(witness.alive()?, 0);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_is_killed_and_nothing_is_restarted_or_deleted() -> Result<()> {
    let world = World::start("bridge-killed", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    for _ in 0..3 {
        world.kill_bridge().await?;
        assert_eq!(witness.alive()?, 1);
        world.start_bridge().await?;
        world.node_ready(0).await?;
        undisturbed(&world, &pod, &witness).await?;
    }
    // And it still works.
    let next = world.create_pod(&recipes::pod("next", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&next).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_loses_everything_and_nothing_is_restarted() -> Result<()> {
    let world = World::start("hub-restarted", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    world.kill_hub().await?;
    world.start_hub().await?;
    let next = world.create_pod(&recipes::pod("next", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&next).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_and_adopts_what_runs() -> Result<()> {
    let world = World::start("agent-killed", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    for _ in 0..3 {
        world.kill_agent(0).await?;
        assert_eq!(witness.alive()?, 1, "the workload outlives its agent");
        world.start_agent(0).await?;
        world.node_ready(0).await?;
        undisturbed(&world, &pod, &witness).await?;
    }
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_without_hub_workloads_start_from_the_ledger() -> Result<()> {
    let world = World::start("reboot", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    world.cut_rope(0);
    world.kill_agent(0).await?;
    witness.kill()?;
    world.kill_shims(0)?;
    witness.until_dead().await?;
    world.start_agent_in_1970(0).await?;
    witness.until_alive(1).await?;
    world.mend_rope(0, Faults::default());
    world.node_ready(0).await?;
    world.pod_ready(&pod).await?;
    assert_eq!(witness.pids()?.len(), 2, "started once more, and no more than once");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rope_that_loses_repeats_and_reorders_delays_everything_and_breaks_nothing() -> Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    let seed = std::env::var("HAWSER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(u64::from_le_bytes(random));
    println!("replay with HAWSER_SEED={seed}");
    let world = World::start("lossy-rope", 1).await?;
    world.mend_rope(0, Faults { seed, lose: 200, repeat: 150, reorder: 150 });
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    for number in 0..6 {
        let name = format!("p-{number}");
        let other = world.create_pod(&recipes::pod(&name, world.device(0), "exec sleep 1000")).await?;
        world.pod_ready_within(&other, SOON * 2).await?;
        world.pods().delete(&name, &DeleteParams::default()).await?;
        world.pod_gone_within(&other, SOON * 2).await?;
    }
    undisturbed(&world, &pod, &witness).await?;
    println!("passed, lost, repeated, held back: {:?}", world.rope_tally(0));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_is_read_only_stops_nothing_and_is_said() -> Result<()> {
    let world = World::start("read-only", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    let going = world.create_pod(&recipes::pod("going", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&going).await?;
    world.kill_agent(0).await?;
    if !world.start_agent_on_read_only_state(0).await? {
        return world.end().await;
    }
    // The disk of whoever runs the stories may be under pressure by itself: the reason tells them apart.
    let not_writable = |condition: &NodeCondition| condition.reason.as_deref() == Some("StateNotWritable");
    world.node_until("DiskPressure", 0, "StateNotWritable", not_writable).await?;
    undisturbed(&world, &pod, &witness).await?;
    let said = world.agent_said(0);
    let line = said.lines().find(|line| line.contains("the ledger cannot be written")).expect("a line about it");
    assert!(line.contains("Read-only file system") && line.contains("make the directory writable"), "{line}");
    // What is asked of the device goes on from memory: a pod is stopped, and a new one says what it waits for.
    world.pods().delete("going", &DeleteParams::default()).await?;
    world.pod_gone(&going).await?;
    let next = world.create_pod(&recipes::pod("next", world.device(0), "exec sleep 1000")).await?;
    world.pod_until(&next, "waits, and says for what", |pod| waits_for(pod, "Read-only file system")).await?;
    undisturbed(&world, &pod, &witness).await?;
    let status = world.agent_status(0).await.unwrap_err().to_string();
    assert!(status.contains("cannot be asked") && status.contains("may write there"), "{status}");
    // The agent notices by itself that it may write again.
    world.make_state_writable(0).await?;
    world.node_until("DiskPressure", 0, "something else", |condition| !not_writable(condition)).await?;
    world.pod_ready_within(&next, SOON * 2).await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}

fn waits_for(pod: &Pod, what: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let waiting = statuses.and_then(|all| all.first()?.state.as_ref()?.waiting.as_ref());
    waiting.and_then(|waiting| waiting.message.as_deref()).is_some_and(|message| message.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_ledger_is_set_aside_and_what_runs_is_adopted() -> Result<()> {
    let world = World::start("corrupt", 1).await?;
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    world.kill_agent(0).await?;
    let ledger = world.state_of(0).join("ledger");
    let mut bytes = std::fs::read(&ledger)?;
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x55;
    std::fs::write(&ledger, bytes)?;
    world.start_agent(0).await?;
    world.node_ready(0).await?;
    let next = world.create_pod(&recipes::pod("next", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&next).await?;
    undisturbed(&world, &pod, &witness).await?;
    let said = world.agent_said(0);
    let line =
        said.lines().find(|line| line.contains("the ledger is corrupt and was set aside")).expect("a line about it");
    assert!(line.contains("ledger.corrupt-1") && line.contains("what runs goes on"), "{line}");
    assert!(world.state_of(0).join("ledger.corrupt-1").exists(), "the evidence is kept");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_nothing_and_is_said() -> Result<()> {
    let Some(world) = World::start_on_small_disks("disk-full", 1).await? else { return Ok(()) };
    let witness = world.witness("steady");
    let pod = steady_pod(&world, &witness).await?;
    let ballast = world.fill_disk(0)?;
    world.node_with("DiskPressure", 0, "True").await?;
    let next = world.create_pod(&recipes::pod("next", world.device(0), "exec sleep 1000")).await?;
    world.kill_agent(0).await?;
    world.start_agent(0).await?;
    undisturbed(&world, &pod, &witness).await?;
    std::fs::remove_file(ballast)?;
    world.pod_ready_within(&next, SOON * 2).await?;
    world.node_with("DiskPressure", 0, "False").await?;
    undisturbed(&world, &pod, &witness).await?;
    world.end().await
}
