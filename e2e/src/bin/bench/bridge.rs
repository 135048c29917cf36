//! The bridge with many devices that only send heartbeats: what it costs, and whether every node stays ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use hawser_e2e::world::{HubKind, Setting, World, mosquitto};
use hawser_lab::table::node_is_ready;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use crate::memory::{HEARTBEAT, cpu_ticks, mib, pss_kib};
use crate::simulated::Fleet;

/// How long the fleet is watched once all are there: several leases, and node statuses of a good third.
const WATCHED: Duration = Duration::from_secs(120);

/// Joins so many devices and measures.
pub(crate) async fn run(count: usize) -> Result<()> {
    // The hub for more than a site. Its absence changes what the hub costs, not what the bridge does.
    let (hub, pace) = match mosquitto() {
        Some(_) => (HubKind::OpenMosquitto, Duration::from_millis(8)),
        // The embedded hub's front admits only so many connections a second from one address.
        None => (HubKind::Embedded, Duration::from_millis(25)),
    };
    let world = Setting::of("bench-bridge").heartbeat_seconds(HEARTBEAT).hub(hub).start().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pid = world.bridge_pid().context("the bridge runs")?;
    let base = pss_kib(pid)?;
    println!("hub: {hub:?}");
    println!("bridge, no device: {:.1} MiB PSS", mib(base));

    let begun = now();
    let fleet = Fleet::join(&world, count, pace).await?;
    println!("{count} devices joined, and their nodes were ready, within {:.0} s", begun.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(40)).await;

    let unready = tokio::spawn(count_unready(world.client()));
    let (bridge, all) = (cpu_ticks(pid)?, cpu_ticks(std::process::id())?);
    tokio::time::sleep(WATCHED).await;
    let share = |before: u64, after: u64| (after - before) as f64 / WATCHED.as_secs_f64();
    // 100 ticks are a second on every Linux that people run.
    println!("bridge, {count} idle devices: {:.1} % of one core", share(bridge, cpu_ticks(pid)?));
    println!(
        "API server, controllers and devices beside it: {:.1} % of one core",
        share(all, cpu_ticks(std::process::id())?)
    );
    let full = pss_kib(pid)?;
    println!(
        "bridge, {count} idle devices: {:.1} MiB PSS, {:.1} KiB per device",
        mib(full),
        full.saturating_sub(base) as f64 / count as f64
    );
    report_leases(&world, count).await?;
    report_flaps(unready).await?;
    fleet.leave(&world).await?;
    world.end().await
}

/// How old the oldest Lease is: at 40 s its node would be lost.
async fn report_leases(world: &World, count: usize) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    let listed = leases.list(&ListParams::default()).await?.items;
    let now = jiff_now();
    let age = |lease: &Lease| {
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
        Some(now.duration_since(renewed).as_secs_f64())
    };
    let mut ages: Vec<f64> = listed.iter().filter_map(age).collect();
    ages.sort_by(f64::total_cmp);
    let oldest = ages.last().copied().unwrap_or_default();
    let median = ages.get(ages.len() / 2).copied().unwrap_or_default();
    println!("{} of {count} leases; renewed {median:.1} s ago (median), {oldest:.1} s ago (oldest)", ages.len());
    Ok(())
}

async fn report_flaps(unready: JoinHandle<Result<usize>>) -> Result<()> {
    // It counts until its watch ends; what it has seen by now is what counts.
    let seen = unready.await??;
    println!("nodes that were seen not ready meanwhile: {seen}");
    Ok(())
}

/// Watches all nodes for as long as the fleet is watched, and counts the news of one that is not ready.
async fn count_unready(client: kube::Client) -> Result<usize> {
    let nodes: Api<Node> = Api::all(client);
    let at = nodes.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut events = nodes.watch(&WatchParams::default(), &at).await?.boxed();
    let (end, mut unready) = (now() + WATCHED, 0);
    loop {
        match tokio::time::timeout(end.saturating_duration_since(now()), events.next()).await {
            Ok(Some(event)) => match event? {
                WatchEvent::Added(node) | WatchEvent::Modified(node) if !node_is_ready(&node) => unready += 1,
                WatchEvent::Deleted(_) => unready += 1,
                _ => {}
            },
            Ok(None) => anyhow::bail!("the watch of the nodes ended"),
            Err(_) => return Ok(unready),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a bench compares with what the leases say")]
fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
