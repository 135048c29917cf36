//! The first process of a container, held while it runs: the kernel tells when it has ended, and a newer kernel how. That is
//! told where the engine does not know, because it was away.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use hawser_cri::ContainerStatus;
use hawser_pidfd::Process;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shim::identity::since_boot;

/// The first process of a container.
#[derive(Debug)]
pub(super) struct First {
    process: AsyncFd<Process>,
    /// When it was seen to have ended, since boot.
    ended: Option<Duration>,
}

/// How the kernel says that a container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    status: ExitStatus,
    /// `None`: it was not looked at when it ended.
    ago: Option<Duration>,
}

/// What engines tell besides, of which the process is wanted.
#[derive(Deserialize)]
struct Info {
    pid: i32,
}

impl First {
    /// `told` is the container's id and what the engine says of it.
    pub(super) fn of(told: &str) -> Option<Self> {
        let (id, info) = told.split_once(' ')?;
        let Info { pid } = serde_json::from_str(info).ok()?;
        let process = Process::open(Pid::from_raw(pid)?).ok()?;
        // The pid is the engine's, which may count processes otherwise than we do, and old by now. While it is held it cannot
        // change hands, so this check is not too early.
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        if !cgroups.contains(id) {
            return None;
        }
        Some(Self { process: register(process).ok()?, ended: None })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Resolves when it has ended. Cancel-safe: it resolves at once when asked again.
    pub(super) async fn end(&mut self) {
        if self.ended.is_none() {
            // It fails when the asynchronous runtime ends; then nothing else matters.
            let _ = self.process.readable().await;
            self.ended = Some(since_boot());
        }
    }

    /// How it ended; `None`: whose child it was has not heard of it yet. A kernel that cannot tell is an error.
    pub(super) fn seen(&self) -> io::Result<Option<Seen>> {
        let ago = self.ended.map(|ended| since_boot().saturating_sub(ended));
        let status = self.process.get_ref().exit_status()?;
        Ok(status.map(|status| Seen { status, ago }))
    }
}

#[expect(deprecated, reason = "unsound only for types whose `as_raw_fd` is not their own; the replacement is unsafe")]
fn register(process: Process) -> io::Result<AsyncFd<Process>> {
    AsyncFd::with_interest(process, Interest::READABLE)
}

/// Whether the engine has not seen how the container ended. containerd says so; CRI-O says what a container may also have
/// ended with, and then the kernel says the same.
pub(super) fn is_unseen(status: &ContainerStatus) -> bool {
    matches!((status.reason.as_str(), status.exit_code), ("Unknown" | "Error", 255) | ("Error", -1))
}

/// What the engine would have said, had it seen the end. `now` is the wall clock, by which engines tell times.
pub(super) fn as_seen(unseen: &ContainerStatus, seen: Seen, now: Duration) -> ContainerStatus {
    let exit_code = match (seen.status.code(), seen.status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    let finished_at = seen
        .ago
        .map_or(unseen.finished_at, |ago| i64::try_from(now.saturating_sub(ago).as_nanos()).unwrap_or(i64::MAX));
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    ContainerStatus { exit_code, finished_at, reason: reason.to_owned(), message: String::new(), ..unseen.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str, exit_code: i32) -> ContainerStatus {
        ContainerStatus {
            reason: reason.into(),
            exit_code,
            started_at: 1_000_000_000_000,
            finished_at: 1_060_000_000_000,
            ..ContainerStatus::default()
        }
    }

    #[test]
    fn what_the_engine_has_seen_it_is_asked_for_alone() {
        for (reason, code, unseen) in [
            ("Unknown", 255, true),
            ("Error", 255, true),
            ("Error", -1, true),
            ("Error", 137, false),
            ("Completed", 0, false),
            ("OOMKilled", 137, false),
            ("StartError", 128, false),
            ("ContainerCannotRun", 127, false),
        ] {
            assert_eq!(is_unseen(&status(reason, code)), unseen, "{reason} {code}");
        }
    }

    #[test]
    fn what_the_kernel_has_seen_takes_the_place_of_what_the_engine_has_not() {
        let told = |raw, ago| {
            let seen = Seen { status: ExitStatus::from_raw(raw), ago };
            as_seen(&status("Unknown", 255), seen, Duration::from_secs(1_070))
        };
        for (raw, code, reason) in
            [(42 << 8, 42, "Error"), (0, 0, "Completed"), (9, 137, "Error"), (0x86, 134, "Error")]
        {
            let told = told(raw, Some(Duration::from_secs(63)));
            assert_eq!((told.exit_code, told.reason.as_str()), (code, reason));
            // It ended when it was seen to, and not when the engine came back.
            assert_eq!((told.started_at, told.finished_at), (1_000_000_000_000, 1_007_000_000_000));
        }
        // Nobody knows better than the engine when that was.
        assert_eq!(told(0, None).finished_at, 1_060_000_000_000);
    }
}
