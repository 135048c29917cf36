//! Running the suite against the one node of a cluster.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::report::Run;
use crate::specs::Specs;

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) specs: Specs,
    /// A regular expression over names; `None`: all.
    pub(crate) focus: Option<&'a str>,
    /// How many specs at once.
    pub(crate) processes: u32,
}

/// Runs the chosen specs. What they say goes to the terminal, and into `folder`.
pub(crate) async fn run(programs: &Path, kubeconfig: &Path, folder: &Path, choice: &Choice<'_>) -> Result<Run> {
    std::fs::create_dir_all(folder)?;
    let report = folder.join("report.json");
    let _ = std::fs::remove_file(&report);
    let mut ginkgo = Command::new(programs.join("ginkgo"));
    ginkgo.args(["--no-color", "--silence-skips", "--timeout=3h"]);
    ginkgo.args(choice.specs.labels().map(|labels| format!("--label-filter={labels}")));
    ginkgo.args(choice.specs.names(choice.focus).map(|names| format!("--focus={names}")));
    ginkgo.args([&format!("--procs={}", choice.processes), "--json-report=report.json"]);
    ginkgo.arg(format!("--output-dir={}", folder.display()));
    ginkgo.arg(programs.join("conformance.test")).arg("--");
    ginkgo.arg(format!("--kubeconfig={}", kubeconfig.display()));
    // No cloud, one node, and no pods of a cluster that would have to be waited for.
    ginkgo.args(["--provider=skeleton", "--num-nodes=1", "--minStartupPods=0", "--allowed-not-ready-nodes=0"]);
    ginkgo.args(["--disable-log-dump", "--dump-logs-on-failure=false", "--e2e-verify-service-account=true"]);
    ginkgo.stdin(Stdio::null()).kill_on_drop(true);
    let status = ginkgo.status().await.context("ginkgo cannot be started")?;
    // A failed spec is a result. That there is none is what the report then lacks.
    Run::read(&report).with_context(|| format!("the suite ended with {status}"))
}
