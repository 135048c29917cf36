//! Starts the lab's API server and waits for Ctrl-C: `cargo run -p hawser-lab-kube-api --example serve [kubeconfig [data]]`.

use std::path::PathBuf;

use lab_kube_api::{Config, KubeApi};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let kubeconfig = arguments.next().map_or_else(|| PathBuf::from("./hawser.kubeconfig"), PathBuf::from);
    let data_dir = arguments.next().map(PathBuf::from);
    let api = KubeApi::start(Config { data_dir, ..Config::default() }).await?;
    api.write_kubeconfig(&kubeconfig)?;
    println!("An API server in memory, not a cluster: {}", api.url());
    println!("Try: kubectl --kubeconfig {} get namespaces", kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    api.stop().await;
    Ok(())
}
