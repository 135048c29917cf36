//! From `kubectl apply` to Ready, and from `kubectl delete` to gone, as a watch sees it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt};
use hawser_e2e::recipes;
use hawser_e2e::world::World;
use hawser_lab::table::pod_is_ready;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};

const ONE_BY_ONE: u32 = 60;
const BURST: u32 = 20;
const BURSTS: u32 = 5;

pub(crate) async fn run() -> Result<()> {
    let world = World::start("bench-latency", 1).await?;
    let place = Place::processes(&world);
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for number in 0..ONE_BY_ONE {
        // A phase of its own for each pod, or everything locks onto somebody's tick.
        tokio::time::sleep(Duration::from_millis(u64::from(number * 137 % 500))).await;
        let name = format!("one-{number}");
        ready.push(place.until_ready(std::slice::from_ref(&name)).await?);
        gone.push(place.until_gone(&[name]).await?);
    }
    print("created → Ready, one after another", &mut ready);
    print("deleted → gone, one after another", &mut gone);
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for burst in 0..BURSTS {
        let names: Vec<_> = (0..BURST).map(|number| format!("burst-{burst}-{number}")).collect();
        ready.push(place.until_ready(&names).await?);
        gone.push(place.until_gone(&names).await?);
    }
    print(&format!("created → all Ready, burst of {BURST}"), &mut ready);
    print(&format!("deleted → all gone, burst of {BURST}"), &mut gone);
    world.end().await
}

/// Where pods go, and what they are.
pub(crate) struct Place {
    pub(crate) pods: Api<Pod>,
    pub(crate) pod: Box<dyn Fn(&str) -> Pod>,
}

impl Place {
    /// Processes on the only device of a world.
    pub(crate) fn processes(world: &World) -> Self {
        let device = world.device(0).to_owned();
        Self { pods: world.pods(), pod: Box::new(move |name| recipes::pod(name, &device, "exec sleep 1000")) }
    }

    async fn watch(&self) -> Result<impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin + use<>> {
        Ok(self.pods.watch(&WatchParams::default(), "0").await?.boxed())
    }

    /// Creates pods; how long until all are ready.
    pub(crate) async fn until_ready(&self, names: &[String]) -> Result<Duration> {
        let mut events = self.watch().await?;
        let start = now();
        for name in names {
            self.pods.create(&PostParams::default(), &(self.pod)(name)).await?;
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

    /// Deletes pods; how long until all are gone.
    pub(crate) async fn until_gone(&self, names: &[String]) -> Result<Duration> {
        let mut events = self.watch().await?;
        let start = now();
        for name in names {
            self.pods.delete(name, &DeleteParams::default()).await?;
        }
        let mut waiting: Vec<_> = names.to_vec();
        while !waiting.is_empty() {
            if let WatchEvent::Deleted(pod) = next(&mut events).await? {
                waiting.retain(|name| *name != pod.name_any());
            }
        }
        Ok(start.elapsed())
    }
}

async fn next(events: &mut (impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin)) -> Result<WatchEvent<Pod>> {
    match tokio::time::timeout(Duration::from_secs(60), events.next()).await {
        Ok(event) => Ok(event.context("the watch ended")??),
        Err(_) => bail!("nothing happened for a minute"),
    }
}

pub(crate) fn print(what: &str, samples: &mut [Duration]) {
    samples.sort();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    println!("{what}: p50 {:.3} s, p95 {:.3} s ({} samples)", at(0.5), at(0.95), samples.len());
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}
