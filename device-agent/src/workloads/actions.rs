//! Carries out what probes and hooks ask for: commands in containers, requests and connections to them.
//!
//! Nothing here decides: [`lifecycle`](super::lifecycle) says what is due, and what follows from an answer. An answer's
//! words are a kubelet's, because people and tools look for them.

use std::io;
use std::time::Duration;

use hawser_wire::deployment::Action;
use tokio::net::TcpStream;
use tracing::debug;

use super::lifecycle::{HookCall, HookEnd, ProbeAnswer, ProbeCall};
use crate::runtime::{ContainerId, ExecError, Runtime};

mod grpc;
mod http;
#[cfg(test)]
mod tests;

/// How often a probe that could not be asked is tried before that is said.
const TRIES: usize = 3;
/// How much of what a container said travels in an event.
const MAX_WORDS: usize = 1024;
/// Programs know by this name that they are probed.
const PROBE_AGENT: &str = "kube-probe/1.36";
const HOOK_AGENT: &str = "kube-lifecycle/1.36";

/// Asks a probe once, within its own time.
pub(super) async fn ask<R: Runtime>(runtime: &R, call: &ProbeCall) -> ProbeAnswer {
    let Some(probe) = call.probe() else { return ProbeAnswer::Unclear("the pod has no such probe".to_owned()) };
    let limit = Duration::from_secs(u64::from(probe.timeout_seconds.max(1)));
    let mut answer = ProbeAnswer::Good;
    for _ in 0..TRIES {
        answer = ask_once(runtime, &call.id, &probe.action, &call.host, limit).await;
        if !matches!(answer, ProbeAnswer::Unclear(_)) {
            break;
        }
    }
    match answer {
        ProbeAnswer::Good => ProbeAnswer::Good,
        ProbeAnswer::Warning(words) => ProbeAnswer::Warning(cut(words)),
        ProbeAnswer::Bad(words) => ProbeAnswer::Bad(cut(words)),
        ProbeAnswer::Unclear(words) => ProbeAnswer::Unclear(cut(words)),
    }
}

async fn ask_once<R: Runtime>(
    runtime: &R,
    id: &ContainerId,
    action: &Action,
    host: &str,
    limit: Duration,
) -> ProbeAnswer {
    match action {
        Action::Exec(command) => match runtime.exec(id.clone(), command.clone(), Some(limit)).await {
            Ok(executed) if executed.code == 0 => ProbeAnswer::Good,
            Ok(executed) => ProbeAnswer::Bad(String::from_utf8_lossy(&executed.output).into_owned()),
            Err(ExecError::TimedOut) => {
                let command = command.join(" ");
                ProbeAnswer::Bad(format!("command timed out: {command:?} timed out after {}s", limit.as_secs()))
            }
            Err(ExecError::Failed(error)) => ProbeAnswer::Unclear(error.line()),
        },
        Action::Http(get) => http::probe(get, host, limit).await,
        Action::Tcp(socket) => {
            let host = socket.host.as_deref().unwrap_or(host);
            match tokio::time::timeout(limit, connect(host, socket.port)).await {
                Ok(Ok(_)) => ProbeAnswer::Good,
                Ok(Err(words)) => ProbeAnswer::Bad(words),
                Err(_) => ProbeAnswer::Bad(format!("dial tcp {}: i/o timeout", address(host, socket.port))),
            }
        }
        Action::Grpc(health) => grpc::probe(health, host, limit).await,
        Action::Sleep(_) => ProbeAnswer::Unclear("missing probe handler".to_owned()),
    }
}

/// Carries out a hook, within its time if that is bounded.
pub(super) async fn carry_out<R: Runtime>(runtime: &R, call: &HookCall) -> HookEnd {
    let done = async {
        match call.action() {
            Some(action) => hook(runtime, call, action).await,
            None => Ok(()),
        }
    };
    let done = match call.limit {
        Some(limit) => tokio::time::timeout(limit, done).await,
        None => Ok(done.await),
    };
    match done {
        Ok(Ok(())) => HookEnd::Done,
        Ok(Err(why)) => {
            debug!(container = call.id.name, kind = ?call.kind, why, "a hook failed");
            HookEnd::Failed
        }
        Err(_) => HookEnd::Cut,
    }
}

async fn hook<R: Runtime>(runtime: &R, call: &HookCall, action: &Action) -> Result<(), String> {
    match action {
        Action::Exec(command) => match runtime.exec(call.id.clone(), command.clone(), None).await {
            Ok(executed) if executed.code == 0 => Ok(()),
            Ok(executed) => Err(format!("exit code {}", executed.code)),
            Err(ExecError::TimedOut) => Err("it took too long".to_owned()),
            Err(ExecError::Failed(error)) => Err(error.line()),
        },
        Action::Http(get) => http::hook(get, &call.host).await,
        Action::Sleep(seconds) => {
            tokio::time::sleep(Duration::from_secs(u64::from(*seconds))).await;
            Ok(())
        }
        // The API has it, and kubelets fail it.
        Action::Tcp(_) | Action::Grpc(_) => Err("invalid handler".to_owned()),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|error| format!("dial tcp {}: connect: {}", address(host, port), words(&error)))
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `connection refused`: what an error says, without numbers of the operating system.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_WORDS));
    text
}
