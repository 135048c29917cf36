//! What an agent and the wire cost when nothing happens.

use std::time::Duration;

use anyhow::{Context, Result};
use hawser_e2e::process::processes_of;
use hawser_e2e::recipes;
use hawser_e2e::world::World;

/// The interval that devices have in the field.
pub(crate) const HEARTBEAT: u16 = 10;

/// Agent and shims, idle and with ten workloads.
pub(crate) async fn agent() -> Result<()> {
    let world = World::start_with_heartbeat("bench-agent", 1, HEARTBEAT).await?;
    let agent = world.agent_pid(0).context("the agent runs")?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    println!("agent, idle: {:.2} MiB PSS", mib(pss_kib(agent)?));
    for number in 0..10 {
        let pod = world.create_pod(&recipes::pod(&format!("w-{number}"), world.device(0), "exec sleep 1000")).await?;
        world.pod_ready(&pod).await?;
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    println!("agent, 10 workloads: {:.2} MiB PSS", mib(pss_kib(agent)?));
    let shims: Vec<_> = processes_of(world.state_of(0))
        .into_iter()
        .filter(|pid| *pid != agent && is_actor(*pid))
        .filter_map(|pid| pss_kib(pid).ok())
        .collect();
    let sum: u64 = shims.iter().sum();
    println!("{} shims: {:.2} MiB PSS together, {} KiB each", shims.len(), mib(sum), sum / shims.len().max(1) as u64);
    world.end().await
}

/// Bytes on the rope of an idle device with one workload.
pub(crate) async fn wire() -> Result<()> {
    const DURING: Duration = Duration::from_secs(180);
    let world = World::start_with_heartbeat("bench-wire", 1, HEARTBEAT).await?;
    let pod = world.create_pod(&recipes::pod("steady", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&pod).await?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = world.rope_bytes(0);
    tokio::time::sleep(DURING).await;
    let bytes = world.rope_bytes(0) - before;
    let hour = bytes * 3600 / DURING.as_secs();
    println!(
        "idle device: {hour} bytes an hour both ways with MQTT's own framing, {:.3} kbit/s ({bytes} in {DURING:?})",
        bytes as f64 * 8.0 / DURING.as_secs_f64() / 1000.0
    );
    world.end().await
}

pub(crate) fn pss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context(path)?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

pub(crate) fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn is_actor(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("hawser-actor"))
}

pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
