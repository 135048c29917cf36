//! Measures and prints, for `docs/benchmarks.md`. Asserts nothing about speed or size.
//!
//! `cargo run --release -p hawser-e2e --bin bench [latency] [agent] [wire] [bridge] [sizes]`; without a name, all of them.

mod latency;
mod memory;
mod simulated;
mod sizes;

use anyhow::{Result, bail};

const ALL: [&str; 5] = ["latency", "agent", "wire", "bridge", "sizes"];

#[tokio::main]
async fn main() -> Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted = ALL.map(str::to_owned).to_vec();
    }
    for name in wanted {
        println!("\n## {name}\n");
        match name.as_str() {
            "latency" => latency::run().await?,
            "agent" => memory::agent().await?,
            "wire" => memory::wire().await?,
            "bridge" => memory::bridge().await?,
            "sizes" => sizes::run(),
            other => bail!("there is no bench `{other}`; there are {}", ALL.join(", ")),
        }
    }
    Ok(())
}
