//! The API as the Python client `kubernetes` sees it: runs `client.py` with the interpreter named by `PYTHON`, or
//! `python3`, when that has the package.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab_kube_api::{Config, KubeApi};
use tokio::process::Command;

#[tokio::test]
async fn the_python_client_works() -> Result<()> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let mut probe = Command::new(&python);
    probe.args(["-c", "import kubernetes"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().await.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: {} has no package kubernetes: name one that has by PYTHON", python.display());
        return Ok(());
    }
    let api = KubeApi::start(Config::default()).await?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig)?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.py");
    let mut command = Command::new(&python);
    command.arg(script).env("KUBECONFIG", &kubeconfig).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    api.stop().await;
    Ok(())
}
