//! Measures and prints, for `docs/benchmarks.md`. Asserts nothing about speed or size.
//!
//! `cargo run --release -p hawser-e2e --bin bench [latency] [agent] [wire] [streams] [bridge] [sizes] [containers]
//! [verbs]`; without a name, all of them. `containers` and `verbs` need what `e2e/cluster/bench` starts before them.
//! `bridge:10000` is the bridge with so many devices.

mod bridge;
mod containers;
mod latency;
mod memory;
mod pair;
mod simulated;
mod sizes;
mod streams;

use anyhow::{Context, Result, bail};

const ALL: [&str; 8] = ["latency", "agent", "wire", "streams", "bridge", "sizes", "containers", "verbs"];

#[tokio::main]
async fn main() -> Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted = ALL.map(str::to_owned).to_vec();
    }
    for name in wanted {
        println!("\n## {name}\n");
        let (name, devices) = match name.split_once(':') {
            Some((name, devices)) => (name, devices.parse().context("after `:` goes a number of devices")?),
            None => (name.as_str(), 1000),
        };
        match name {
            "latency" => latency::run().await?,
            "agent" => memory::agent().await?,
            "wire" => memory::wire().await?,
            "streams" => streams::run().await?,
            "bridge" => bridge::run(devices).await?,
            "sizes" => sizes::run(),
            "containers" => containers::run().await?,
            "verbs" => Box::pin(streams::beside_a_kubelet()).await?,
            other => bail!("there is no bench `{other}`; there are {}", ALL.join(", ")),
        }
    }
    Ok(())
}
