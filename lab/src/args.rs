//! The command line of the lab.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  hawser-lab                               three devices and a small workload, until Ctrl-C
  hawser-lab --devices 10 --no-demo        ten devices and nothing on them
  hawser-lab --data ~/hawser-lab           keeps everything between runs
  hawser-lab --check                       runs the demo to Ready, deletes it, stops; for scripts

Exit codes: 0 stopped as told, or the check passed; 1 something failed; 2 wrong arguments.";

/// Hawser on one machine, in one process: a Kubernetes API in memory, a hub, the bridge, devices. A lab, not a cluster.
#[derive(Debug, Clone, Parser)]
#[command(name = "hawser-lab", version, about, after_help = EXAMPLES)]
pub struct Args {
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub devices: u16,
    /// What runs the workloads on the devices
    #[arg(long, value_enum, default_value_t = Runtime::Process)]
    pub runtime: Runtime,
    /// Apply no demo workload
    #[arg(long, conflicts_with = "check")]
    pub no_demo: bool,
    /// Run the demo to Ready, delete it, stop, and say whether all of it worked
    #[arg(long)]
    pub check: bool,
    /// Where the kubeconfig is written
    #[arg(long, value_name = "FILE", default_value = "./hawser.kubeconfig")]
    pub kubeconfig: PathBuf,
    /// Keep everything here and go on from it next time [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The port of the API server on 127.0.0.1; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// What is logged, as RUST_LOG takes it
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "warn")]
    pub log: String,
}

/// What runs the workloads on the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// Real processes of this machine
    Process,
    /// Nothing real: containers that only claim to run
    Scripted,
}
