//! How containers end, seen without asking all the time: the kernel tells when a container's first process has ended,
//! and the engine is asked then. Where it cannot tell, the engine is asked more and more rarely. An engine that was away when
//! a container ended may not know how; then the kernel is asked that, too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hawser_cri::{ContainerState, ContainerStatus, ContainerStatusResponse, ErrorKind};

use super::first::{First, as_seen, is_unseen};
use super::rotate::{self, Growth};
use super::{Cri, labels, memory_kill, place};
use crate::runtime::{ContainerId, Exit, ExitCause, Handle};
use crate::shim::log_tail;

/// The first pause between two looks.
const SOON: Duration = Duration::from_millis(10);
/// The longest pause while nothing but looking tells the end.
const BLIND: Duration = Duration::from_secs(1);
/// The pause while the kernel tells.
const TOLD: Duration = Duration::from_secs(10);

/// How long an engine may take to hear why a container has ended.
const WHY: Duration = Duration::from_secs(1);
const WHY_PAUSE: Duration = Duration::from_millis(50);

/// What engines say of a container of which the kernel has killed something for its memory.
const OOM_KILLED: &str = "OOMKilled";
const NEVER: &str = "it was never started, or all its traces are lost";

impl Cri {
    /// Resolves when the container has ended. Meanwhile its log is looked after.
    pub(super) async fn wait_for_end(&self, id: &ContainerId) -> Exit {
        let killed_before = oom_kills();
        let Some((mut status, first)) = self.watch_for_end(id, true).await else { return Exit::lost(NEVER) };
        let unseen = is_unseen(&status);
        if let Some(first) = first.filter(|_| unseen) {
            status = hear_from_kernel(&first, status).await;
        }
        // It may have been killed before it was watched, so that the count alone does not tell.
        let kills = oom_kills();
        if kills != Some(0) && self.is_killed_for_memory(&status).await {
            status.reason = OOM_KILLED.to_owned();
        } else if kills != killed_before && !unseen {
            status = self.hear_why(id, status).await;
        }
        self.exit(id, &status).await
    }

    /// Engines hear that a container has ended and that it was killed for its memory on two ways, in any order. We have asked
    /// at once, so that the second may be under way yet.
    async fn hear_why(&self, id: &ContainerId, mut status: Box<ContainerStatus>) -> Box<ContainerStatus> {
        let mut left = WHY;
        while may_be_for_memory(&status) && !left.is_zero() {
            tokio::time::sleep(WHY_PAUSE).await;
            left = left.saturating_sub(WHY_PAUSE);
            if let Look::Ended(newer) = self.look(id, &mut Some(status.id.clone()), false).await {
                status = newer;
            }
        }
        status
    }

    async fn is_killed_for_memory(&self, status: &ContainerStatus) -> bool {
        let container = status.id.clone();
        may_be_for_memory(status) && self.blocking(move || memory_kill::is_told_of(&container)).await
    }

    /// Resolves when the container has ended.
    pub(crate) async fn look_for_end(&self, id: &ContainerId) {
        drop(self.watch_for_end(id, false).await);
    }

    /// How the container ended, and its first process if that was held; `None`: there is no such container. `keeper`: the one
    /// of those who wait that looks after the log.
    async fn watch_for_end(&self, id: &ContainerId, keeper: bool) -> Option<(Box<ContainerStatus>, Option<First>)> {
        let mut engine_id: Option<String> = None;
        let mut first: Option<First> = None;
        let mut pause = SOON;
        let mut growth = Growth::default();
        loop {
            let mut log_pause = TOLD;
            match self.look(id, &mut engine_id, first.is_none()).await {
                Look::Running(answer) => {
                    if first.is_none() {
                        first = answer.as_deref().and_then(First::of);
                    }
                    if let Some(engine_id) = engine_id.as_ref().filter(|_| keeper) {
                        log_pause = rotate::if_long(self, id, engine_id, &mut growth).await;
                    }
                }
                Look::Ended(status) => return Some((status, first)),
                Look::Nothing => return None,
                // An engine that is down or does not answer has not said that anything ended.
                Look::Unknown => {}
            }
            match first.as_mut().filter(|first| !first.has_ended()) {
                Some(first) => {
                    if tokio::time::timeout(log_pause, first.end()).await.is_ok() {
                        pause = SOON;
                    }
                }
                None => {
                    tokio::time::sleep(pause.min(log_pause)).await;
                    pause = (pause * 2).min(BLIND);
                }
            }
        }
    }

    async fn look(&self, id: &ContainerId, engine_id: &mut Option<String>, verbose: bool) -> Look {
        if engine_id.is_none() {
            match self.find(id).await {
                Ok(Some(container)) => *engine_id = Some(container.id),
                Ok(None) => return Look::Nothing,
                Err(_) => return Look::Unknown,
            }
        }
        let Some(engine_id) = engine_id else { return Look::Unknown };
        match self.0.client.container_status(engine_id, verbose).await {
            Ok(ContainerStatusResponse { status: Some(status), info }) => match status.state() {
                ContainerState::Exited => Look::Ended(Box::new(status)),
                ContainerState::Created => Look::Nothing,
                ContainerState::Running | ContainerState::Unknown => {
                    Look::Running(info.get("info").map(|info| format!("{} {info}", status.id)))
                }
            },
            Err(error) if error.kind == ErrorKind::NotFound => Look::Nothing,
            Ok(_) | Err(_) => Look::Unknown,
        }
    }

    /// How a container ended, with what it said about it.
    pub(super) async fn exit(&self, id: &ContainerId, status: &ContainerStatus) -> Exit {
        let mut exit = reckon(status, wall());
        if exit.cause == ExitCause::Start {
            return exit;
        }
        let (places, id) = (self.0.places.clone(), id.clone());
        // The label says which kind of message was wanted; the deployment of that time may be gone.
        let from_logs = exit.code != 0 && status.labels.contains_key(labels::MESSAGE_FROM_LOGS);
        exit.message = self
            .blocking(move || {
                place::termination(&places, &id)
                    .or_else(|| if from_logs { log_tail(&places.log(&id)).ok() } else { None })
                    .filter(|message| !message.is_empty())
            })
            .await;
        exit
    }
}

enum Look {
    /// With the engine's own words, if they were asked for.
    Running(Option<String>),
    Ended(Box<ContainerStatus>),
    /// There is no such container, or it was never started.
    Nothing,
    Unknown,
}

/// How it ended what the engine has not seen the end of, if the kernel can tell. Whose child the process was may have to hear of
/// it first.
async fn hear_from_kernel(first: &First, status: Box<ContainerStatus>) -> Box<ContainerStatus> {
    let mut left = WHY;
    loop {
        match first.seen() {
            Ok(Some(seen)) => return Box::new(as_seen(&status, seen, wall())),
            Ok(None) if !left.is_zero() => {}
            Ok(None) | Err(_) => return status,
        }
        tokio::time::sleep(WHY_PAUSE).await;
        left = left.saturating_sub(WHY_PAUSE);
    }
}

/// Whether the engine may yet say of a container's end that it was for memory.
fn may_be_for_memory(status: &ContainerStatus) -> bool {
    status.exit_code != 0 && reckon(status, Duration::ZERO).cause == ExitCause::Own
}

/// How many processes the kernel has killed for memory since it started, in all containers and outside; `None`: it does not
/// count them.
fn oom_kills() -> Option<u64> {
    count_of_oom_kills(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

fn count_of_oom_kills(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// How a container is that the engine knows; `None`: it was never started.
pub(super) fn handle(status: &ContainerStatus) -> Handle {
    Handle { container: status.id.clone(), image: status.image_ref.clone() }
}

/// The engine's words as an exit. `now` is the wall clock, by which the engine tells times.
fn reckon(status: &ContainerStatus, now: Duration) -> Exit {
    let cause = match (status.reason.as_str(), status.exit_code) {
        (OOM_KILLED, _) => ExitCause::OutOfMemory,
        ("StartError" | "ContainerCannotRun", _) => ExitCause::Start,
        // What an engine says of a container whose end it has not seen.
        ("Unknown", 255) => ExitCause::Lost,
        _ => ExitCause::Own,
    };
    let time = |nanos: i64| u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    let (started, finished) = (time(status.started_at), time(status.finished_at));
    Exit {
        code: status.exit_code,
        signal: None,
        cause,
        message: Some(status.message.clone()).filter(|message| !message.is_empty()),
        ran: started.zip(finished).map(|(started, finished)| finished.saturating_sub(started)),
        // An end that is still to come was told by a clock that was set back since.
        ago: finished.and_then(|finished| now.checked_sub(finished)),
    }
}

#[expect(clippy::disallowed_methods, reason = "engines tell times by the wall clock; this is the IO edge")]
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str, code: i32) -> ContainerStatus {
        ContainerStatus {
            reason: reason.into(),
            exit_code: code,
            started_at: 1_000_000_000_000,
            finished_at: 1_007_000_000_000,
            ..ContainerStatus::default()
        }
    }

    #[test]
    fn an_engines_words_become_causes_and_times() {
        let now = Duration::from_secs(1_010);
        for (reason, code, cause) in [
            ("Completed", 0, ExitCause::Own),
            ("Error", 137, ExitCause::Own),
            ("OOMKilled", 137, ExitCause::OutOfMemory),
            ("StartError", 128, ExitCause::Start),
            ("ContainerCannotRun", 127, ExitCause::Start),
            ("Unknown", 255, ExitCause::Lost),
        ] {
            let exit = reckon(&status(reason, code), now);
            assert_eq!((exit.cause, exit.code), (cause, code), "{reason}");
            assert_eq!((exit.ran, exit.ago), (Some(Duration::from_secs(7)), Some(Duration::from_secs(3))));
        }
    }

    #[test]
    fn an_end_that_may_be_for_memory_is_asked_for_again() {
        for (reason, code, may) in [
            ("Error", 137, true),
            // The shell that started what was killed.
            ("Error", 1, true),
            ("Completed", 0, false),
            ("OOMKilled", 137, false),
            ("StartError", 128, false),
            ("Unknown", 255, false),
        ] {
            assert_eq!(may_be_for_memory(&status(reason, code)), may, "{reason} {code}");
        }
        assert_eq!(count_of_oom_kills("nr_free_pages 1\noom_kill 7\noom_kill_x 9\n"), Some(7));
        assert_eq!(count_of_oom_kills("nr_free_pages 1\n"), None);
    }

    #[test]
    fn a_clock_that_went_back_makes_no_time_in_the_future() {
        let exit = reckon(&status("Error", 1), Duration::from_secs(5));
        assert_eq!((exit.ran, exit.ago), (Some(Duration::from_secs(7)), None));
        let unstarted = ContainerStatus { started_at: 0, finished_at: 0, ..status("StartError", 128) };
        assert_eq!(
            (reckon(&unstarted, Duration::from_secs(5)).ran, reckon(&unstarted, Duration::ZERO).ago),
            (None, None)
        );
    }
}
