//! Kubernetes' specs for nodes on a device, or on a kubelet, and the documents in docs from what they say.
//!
//! `e2e/conformance/run` starts the control plane and then this.

mod document;
mod images;
mod report;
mod specs;
mod statuses;
mod suite;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use document::{Column, Reasons};
use hawser_e2e::engine::Engine;
use hawser_e2e::kubelet::Kubelet;
use hawser_e2e::registry::Registry;
use hawser_e2e::world::Setting;
use report::{Outcome, Results, Run};
use specs::Specs;
use suite::Choice;
use tokio::signal::unix::{SignalKind, signal};

/// Runs Kubernetes' specs for nodes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which specs
    #[arg(long, value_enum, default_value = "node")]
    specs: Specs,
    /// On what
    #[arg(long, value_enum, default_value = "device")]
    node: Node,
    /// Only specs whose names match this regular expression; then no file is written
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// With --focus: what became of these specs is written all the same, the others stay as they are kept
    #[arg(long, requires = "focus")]
    keep: bool,
    /// Record the statuses of pods on a kubelet for e2e/statuses, instead of running specs
    #[arg(long, conflicts_with_all = ["specs", "node", "focus"])]
    record: bool,
    /// How many specs at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    processes: u32,
    /// Where the programs of `e2e/cluster/build conformance` are
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// Where logs and reports go
    #[arg(long, value_name = "DIR")]
    logs: PathBuf,
    /// The folder of the control plane's authority, for the identity of a kubelet
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Node {
    /// A device with the runtime `cri`, through hub and bridge
    Device,
    /// A kubelet
    Kubelet,
    /// Only the documents are written anew, from what is kept
    None,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Whatever is dropped ends what it started. Both kinds of signal are still there when asked again.
    let run = tokio::select! {
        run = measure(&arguments) => run?,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    };
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let reasons = std::fs::read_to_string(kept.join("reasons.txt"))?;
    let reasons = Reasons::parse(&reasons);
    if let Some(run) = run {
        tell(&run, &reasons);
        if arguments.focus.is_some() && !arguments.keep {
            return Ok(());
        }
        if let Some(file) = arguments.specs.kept(arguments.node) {
            let file = kept.join(file);
            let mut results = Results::default();
            if arguments.keep {
                results = Results::from_lines(&std::fs::read_to_string(&file)?)?;
            }
            results.0.extend(run.results.0);
            std::fs::write(file, results.lines())?;
        }
    }
    for specs in Specs::ALL {
        let column = |title: &'static str, node: Node| {
            let lines = specs.kept(node).and_then(|file| std::fs::read_to_string(kept.join(file)).ok());
            anyhow::Ok(Column { title, results: lines.map(|lines| Results::from_lines(&lines)).transpose()? })
        };
        let columns = [column("device", Node::Device)?, column("kubelet", Node::Kubelet)?];
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(specs.document());
        std::fs::write(&file, document::write(specs.introduction(), &columns, &reasons))?;
        println!("docs/{} is written", specs.document());
    }
    Ok(())
}

/// Makes the node, runs the specs, and takes the node away.
async fn measure(arguments: &Arguments) -> Result<Option<Run>> {
    if arguments.record {
        statuses::record(arguments).await?;
        return Ok(None);
    }
    if arguments.node == Node::None {
        return Ok(None);
    }
    let programs = std::path::absolute(&arguments.programs)?;
    let logs = std::path::absolute(&arguments.logs)?;
    std::fs::create_dir_all(&logs)?;
    let engine = Engine::start_with(images::PAUSE)?;
    println!("making the images");
    images::import(&engine, &programs)?;
    let registry = Registry::start(engine.folder()).context("a registry for the specs that pull")?;
    images::publish(&engine, &registry.address())?;
    let engine = Arc::new(engine);
    let choice = Choice { specs: arguments.specs, focus: arguments.focus.as_deref(), processes: arguments.processes };
    if arguments.node == Node::Kubelet {
        let kubeconfig = kubeconfig()?;
        let kubelet = start_kubelet(arguments, engine).await?;
        println!("{} is ready", kubelet.name());
        let run = suite::run(&programs, &kubeconfig, &logs, &choice).await;
        std::fs::copy(kubelet.log(), logs.join("kubelet.log"))?;
        kubelet.end().await?;
        return run.map(Some);
    }
    let world = Setting::of("conformance").devices(1).engine(engine).untainted().start().await?;
    println!("{} is ready", world.device(0));
    let run = suite::run(&programs, &world.kubeconfig(), &logs, &choice).await;
    world.keep_logs(&logs)?;
    if let Err(error) = world.end().await {
        eprintln!("the world did not end well: {error:#}");
    }
    run.map(Some)
}

fn kubeconfig() -> Result<PathBuf> {
    Ok(PathBuf::from(std::env::var_os("KUBECONFIG").context("KUBECONFIG names no cluster")?))
}

async fn start_kubelet(arguments: &Arguments, engine: Arc<Engine>) -> Result<Kubelet> {
    let program = std::path::absolute(arguments.programs.join("kubelet"))?;
    Kubelet::start(&program, &std::path::absolute(&arguments.pki)?, &kubeconfig()?, engine).await
}

/// Prints what a person wants to know.
fn tell(run: &Run, reasons: &Reasons<'_>) {
    for (name, said) in &run.failures {
        let outcome = run.results.0[name].word();
        println!("{outcome}: {name}\n    {said}\n    {}", reasons.of(name).unwrap_or("no reason is known"));
    }
    let [passed, failed, skipped] =
        [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|outcome| run.results.count(outcome));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
}
