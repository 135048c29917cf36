//! The real kubectl, at the keyboard of a story.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::wait::SOON;
use crate::world::World;

/// How long one command may take. Some move tens of megabytes through a debug build.
const PATIENCE: Duration = Duration::from_secs(180);

/// kubectl, for the namespace of a world.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
    environment: Vec<(&'static str, &'static str)>,
}

impl Kubectl {
    /// `None`, with a word about it, where kubectl is missing.
    pub fn of(world: &World) -> Option<Self> {
        let found = in_path("kubectl");
        if found.is_none() {
            println!("NOT TESTED: kubectl is not in PATH");
        }
        Some(Self::running(found?, world))
    }

    /// That of an older release, such as `1.28`. `None`, with a word about it, where it is missing.
    pub fn of_release(world: &World, release: &str) -> Option<Self> {
        let name = format!("kubectl{release}");
        let found = in_path(&name);
        if found.is_none() {
            println!("NOT TESTED: {name} is not in PATH (e2e/cluster/build kubectls)");
        }
        Some(Self::running(found?, world))
    }

    fn running(program: PathBuf, world: &World) -> Self {
        let (kubeconfig, namespace) = (world.kubeconfig(), world.namespace().to_owned());
        Self { program, kubeconfig, namespace, environment: Vec::new() }
    }

    /// As one from before Kubernetes 1.30, which speaks SPDY and no WebSocket.
    #[must_use]
    pub fn without_websockets(&self) -> Self {
        let mut old = self.clone();
        old.environment.push(("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"));
        old.environment.push(("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"));
        old
    }

    /// The command line that kubectl is run with, for a shell.
    pub fn line(&self, arguments: &str) -> String {
        let (program, kubeconfig) = (self.program.display(), self.kubeconfig.display());
        format!("{program} --kubeconfig {kubeconfig} -n {} {arguments}", self.namespace)
    }

    /// kubectl with these arguments; nothing to read from.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["-n", &self.namespace]).args(arguments);
        command.envs(self.environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        finished(self.command(arguments), Vec::new()).await
    }

    /// Runs it with this to read.
    pub async fn feed(&self, arguments: &[&str], input: impl Into<Vec<u8>>) -> Result<Output> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        finished(command, input.into()).await
    }

    /// What it prints when it succeeds, which it must.
    pub async fn says(&self, arguments: &[&str]) -> Result<String> {
        said(arguments, self.run(arguments).await?)
    }

    /// As [`says`](Self::says), with this to read.
    pub async fn answers(&self, arguments: &[&str], input: impl Into<Vec<u8>>) -> Result<String> {
        said(arguments, self.feed(arguments, input).await?)
    }

    /// Its exit code and what it complains about when it fails, which it must.
    pub async fn fails(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.run(arguments).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => bail!("kubectl {arguments:?} succeeds: {}", String::from_utf8_lossy(&output.stdout)),
            Some(code) => Ok((code, told)),
            None => bail!("kubectl {arguments:?}: {:?}: {told}", output.status),
        }
    }

    /// Starts it, to be read line by line.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("kubectl {arguments:?}"))?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Running { child, lines })
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// A kubectl that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next line; `None` at the end.
    pub async fn line(&mut self) -> Result<Option<String>> {
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await;
        line.with_context(|| format!("no line within {SOON:?}"))?.context("reading from kubectl")
    }

    /// Types something.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("its input is closed already")?;
        stdin.write_all(bytes).await?;
        Ok(stdin.flush().await?)
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// SIGKILL, as by somebody who closes the terminal.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Waits for its end: the exit code, the lines that were left, and its complaints.
    pub async fn end(mut self) -> Result<(Option<i32>, Vec<String>, String)> {
        let ended = tokio::time::timeout(PATIENCE, async {
            let mut left = Vec::new();
            while let Some(line) = self.lines.next_line().await? {
                left.push(line);
            }
            let output = self.child.wait_with_output().await?;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::Ok((output.status.code(), left, told))
        });
        ended.await.with_context(|| format!("kubectl does not end within {PATIENCE:?}"))?
    }
}

fn said(arguments: &[&str], output: Output) -> Result<String> {
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("kubectl {arguments:?}: {:?}: {told}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(told)
}

/// Runs a command to its end, with this to read.
pub async fn finished(mut command: Command, input: Vec<u8>) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input may already be gone.
            let _ = stdin.write_all(&input).await;
        }
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, both).await;
    Ok(output.with_context(|| format!("no end after {PATIENCE:?}: {command:?}"))??)
}
