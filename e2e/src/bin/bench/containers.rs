//! How long containers take to come and go on a device and on a kubelet, in turns.

use std::time::Duration;

use anyhow::{Context, Result};
use hawser_e2e::recipes::{self, contained};
use kube::Api;

use crate::latency::{Place, print};
use crate::memory::{mib, pss_kib};
use crate::pair::Pair;

const ONE_BY_ONE: u32 = 30;
const BURST: u32 = 20;
const BURSTS: u32 = 3;
/// Until what is only busy at first has calmed down.
const CALM: Duration = Duration::from_secs(20);
/// Ends when it is asked to.
const SCRIPT: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

struct Side {
    name: &'static str,
    place: Place,
    pid: u32,
    /// Ready one by one, gone one by one, ready in bursts, gone in bursts.
    samples: [Vec<Duration>; 4],
}

impl Side {
    fn new(name: &'static str, client: kube::Client, namespace: &str, node: &str, pid: u32) -> Self {
        let node = node.to_owned();
        let pod = Box::new(move |name: &str| contained(&recipes::pod(name, &node, SCRIPT)));
        Self { name, place: Place { pods: Api::namespaced(client, namespace), pod }, pid, samples: Default::default() }
    }

    fn names(&self, round: &str, count: u32) -> Vec<String> {
        (0..count).map(|number| format!("{}-{round}-{number}", self.name)).collect()
    }

    async fn measure(&mut self, into: usize, names: &[String]) -> Result<()> {
        self.samples[into].push(self.place.until_ready(names).await?);
        self.samples[into + 1].push(self.place.until_gone(names).await?);
        Ok(())
    }
}

pub(crate) async fn run() -> Result<()> {
    let Some(pair) = Pair::start("bench-containers").await? else { return Ok(()) };
    let Pair { world, kubelet } = &pair;
    let agent = world.agent_pid(0).context("the agent runs")?;
    let pid = kubelet.pid().context("the kubelet runs")?;
    let mut sides = [
        Side::new("device", world.client(), world.namespace(), world.device(0), agent),
        Side::new("kubelet", kubelet.client(), world.namespace(), kubelet.name(), pid),
    ];
    tokio::time::sleep(CALM).await;
    for side in &sides {
        println!("{}, idle: {:.1} MiB PSS", side.name, mib(pss_kib(side.pid)?));
        // What only the first pod waits for.
        let names = side.names("first", 1);
        side.place.until_ready(&names).await?;
        side.place.until_gone(&names).await?;
    }
    for number in 0..ONE_BY_ONE {
        for side in &mut sides {
            // A phase of its own for each pod, or everything locks onto somebody's tick.
            tokio::time::sleep(Duration::from_millis(u64::from(number * 137 % 500))).await;
            let names = side.names(&format!("one-{number}"), 1);
            side.measure(0, &names).await?;
        }
    }
    for number in 0..BURSTS {
        for side in &mut sides {
            let names = side.names(&format!("burst-{number}"), BURST);
            side.measure(2, &names).await?;
        }
    }
    for side in &mut sides {
        let names = side.names("kept", BURST);
        side.place.until_ready(&names).await?;
        tokio::time::sleep(CALM).await;
        println!("{}, {BURST} pods: {:.1} MiB PSS", side.name, mib(pss_kib(side.pid)?));
        side.place.until_gone(&names).await?;
    }
    let bridge = world.bridge_pid().context("the bridge runs")?;
    println!("bridge with the hub in it: {:.1} MiB PSS", mib(pss_kib(bridge)?));
    let one = "one after another";
    let burst = format!("burst of {BURST}");
    for (index, what, how) in [
        (0, "created → Ready", one),
        (1, "deleted → gone", one),
        (2, "created → all Ready", &burst),
        (3, "deleted → all gone", &burst),
    ] {
        for side in &mut sides {
            print(&format!("{}: {what}, {how}", side.name), &mut side.samples[index]);
        }
    }
    pair.end().await
}
