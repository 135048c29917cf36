//! The program `hawser-lab`: start, show, wait, stop.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use hawser_lab::args::Args;
use hawser_lab::demo::Demo;
use hawser_lab::lab::Lab;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    // The workloads' shims are this same program.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
        return device_agent::shim::main(arguments);
    }
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&args.log))
        .with_writer(std::io::stderr)
        .init();
    match tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    // Before anything is started: told in the middle of that, it stops what it has started.
    let mut told = Told::listen()?;
    println!(
        "Hawser's lab: a Kubernetes API in memory, a hub, the bridge and {} devices. Not a cluster.\n",
        args.devices
    );
    let mut lab = Lab::start(args).await?;
    // Cancel-safe: the first arm is not waited for again, and the others only wait for an end.
    let outcome = tokio::select! {
        outcome = show(args, lab.client(), lab.devices(), lab.url()) => outcome,
        broken = lab.broken() => Err(broken),
        () = told.wait() => {
            if args.check { Err(anyhow::anyhow!("told to stop before the check was done")) } else { Ok(()) }
        }
    };
    println!("\nStopping …");
    lab.stop().await;
    println!("Stopped; nothing is left running.");
    if outcome.is_ok() && args.check {
        println!("The check passed.");
    }
    outcome
}

async fn show(args: &Args, client: kube::Client, devices: usize, url: String) -> Result<()> {
    let demo = Demo::new(client, devices);
    if !args.no_demo && devices > 0 {
        demo.run().await?;
        println!("\nAll is ready.");
    }
    if args.check {
        println!("Deleting the demo …");
        return demo.delete().await;
    }
    println!(
        "\nThe API is at {url}. In another terminal:\n\n  export KUBECONFIG={}\n  kubectl get nodes\n  kubectl get pods -o wide\n  kubectl scale deployment/hello --replicas=5\n  kubectl describe node lab-1\n\nCtrl-C stops everything.",
        args.kubeconfig.canonicalize().unwrap_or_else(|_| args.kubeconfig.clone()).display()
    );
    std::future::pending().await
}

/// Ctrl-C and SIGTERM.
struct Told {
    interrupt: Signal,
    terminate: Signal,
}

impl Told {
    /// From now on a signal is heard, also one that nobody waits for yet.
    fn listen() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves when a signal has come.
    async fn wait(&mut self) {
        // Cancel-safe: a signal not taken here is taken by the next `recv`.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
