//! From `kubectl apply` to Ready, and from `kubectl delete` to gone, as a watch sees it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt};
use hawser_e2e::recipes;
use hawser_e2e::world::World;
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};

const ONE_BY_ONE: u32 = 60;
const BURST: u32 = 20;
const BURSTS: u32 = 5;

pub(crate) async fn run() -> Result<()> {
    let world = World::start("bench-latency", 1).await?;
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for number in 0..ONE_BY_ONE {
        // A phase of its own for each pod, or everything locks onto somebody's tick.
        tokio::time::sleep(Duration::from_millis(u64::from(number * 137 % 500))).await;
        let name = format!("one-{number}");
        ready.push(until_ready(&world, std::slice::from_ref(&name)).await?);
        gone.push(until_gone(&world, &[name]).await?);
    }
    print("created → Ready, one after another", &mut ready);
    print("deleted → gone, one after another", &mut gone);
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for burst in 0..BURSTS {
        let names: Vec<_> = (0..BURST).map(|number| format!("burst-{burst}-{number}")).collect();
        ready.push(until_ready(&world, &names).await?);
        gone.push(until_gone(&world, &names).await?);
    }
    print(&format!("created → all Ready, burst of {BURST}"), &mut ready);
    print(&format!("deleted → all gone, burst of {BURST}"), &mut gone);
    world.end().await
}

async fn watch(world: &World) -> Result<impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin> {
    Ok(world.pods().watch(&WatchParams::default(), "0").await?.boxed())
}

pub(crate) async fn until_ready(world: &World, names: &[String]) -> Result<Duration> {
    let mut events = watch(world).await?;
    let start = now();
    for name in names {
        let pod = recipes::pod(name, world.device(0), "exec sleep 1000");
        world.pods().create(&PostParams::default(), &pod).await?;
    }
    let mut waiting: Vec<_> = names.to_vec();
    while !waiting.is_empty() {
        match next(&mut events).await? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) if pod_is_ready(&pod) => {
                waiting.retain(|name| *name != pod.name_any());
            }
            _ => {}
        }
    }
    Ok(start.elapsed())
}

async fn until_gone(world: &World, names: &[String]) -> Result<Duration> {
    let mut events = watch(world).await?;
    let start = now();
    for name in names {
        world.pods().delete(name, &DeleteParams::default()).await?;
    }
    let mut waiting: Vec<_> = names.to_vec();
    while !waiting.is_empty() {
        if let WatchEvent::Deleted(pod) = next(&mut events).await? {
            waiting.retain(|name| *name != pod.name_any());
        }
    }
    Ok(start.elapsed())
}

async fn next(events: &mut (impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin)) -> Result<WatchEvent<Pod>> {
    match tokio::time::timeout(Duration::from_secs(60), events.next()).await {
        Ok(event) => Ok(event.context("the watch ended")??),
        Err(_) => bail!("nothing happened for a minute"),
    }
}

fn print(what: &str, samples: &mut [Duration]) {
    samples.sort();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    println!("{what}: p50 {:.3} s, p95 {:.3} s ({} samples)", at(0.5), at(0.95), samples.len());
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}
