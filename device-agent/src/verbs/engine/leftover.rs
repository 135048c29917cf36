//! Commands whose clients have gone.
//!
//! An engine that loses the client of a command lets the command run on, for ever if it likes, and offers no way to end it.
//! So the agent does: it notes which process the command is when it is started, and if the client goes before the command,
//! it kills that process and what came from it.
//!
//! The engine does not say which process a command is. It is the one that is new in the container without having come from
//! a process of the container, and that has the command's words. Commands are started one after another in each container,
//! so that none is taken for another; where that leaves a doubt, nothing is killed and a line in the log says so.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::task::JoinSet;

use super::command::Line;
use crate::shim::identity::{Stat, since_boot};

/// Pauses between two looks for the process of a command: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(80));
/// How long it is looked for. A slow card may have to load the program first.
const LOOK_FOR: Duration = Duration::from_secs(20);
/// Who is alone in the container with the program for so long is the command: an engine's own helpers and probes are quicker.
const STEADY: Duration = Duration::from_secs(1);
/// How often what comes from a command is looked for until all of it is dead.
const KILLS: u32 = 10;

/// The commands of all containers, each watched by a task.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// As many as there are commands, and those whose client has just gone. Dropped with the service.
    tasks: Mutex<JoinSet<()>>,
    /// Who is just being started, by container.
    starting: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// A command that is about to be started.
pub(super) struct Arrival {
    container: String,
    command: Vec<String>,
    /// Who was in the container before.
    before: BTreeSet<Known>,
    /// Nobody else is started there meanwhile.
    _alone: OwnedMutexGuard<()>,
}

/// Whoever watches a command. Dropped without a word it says that the client has gone.
#[derive(Debug)]
pub(super) struct Watch(oneshot::Sender<()>);

impl Watch {
    /// The command has ended, or was never started.
    pub(super) fn ended(self) {
        // Whoever watches it has been cut off.
        let _ = self.0.send(());
    }
}

impl Leftovers {
    /// Notes who is in the container before the command. Waits until the one before it was seen.
    pub(super) async fn expect(&self, container: &str, command: &[String]) -> Arrival {
        let door = {
            let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
            starting.retain(|_, door| door.strong_count() > 0);
            let door = starting.get(container).and_then(Weak::upgrade).unwrap_or_default();
            starting.insert(container.to_owned(), Arc::downgrade(&door));
            door
        };
        let alone = door.lock_owned().await;
        let before = heads(container.to_owned()).await.into_iter().map(|head| head.known).collect();
        Arrival { container: container.to_owned(), command: command.to_vec(), before, _alone: alone }
    }

    /// Watches the command now that it is being started. The line is held until whoever has to be dead is: an engine tells
    /// a command that its input has ended when the line is gone.
    pub(super) fn watch(&self, arrival: Arrival, line: Arc<Line>) -> Watch {
        let (watch, over) = oneshot::channel();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "watching a command broke down; the others go on");
            }
        }
        tasks.spawn(attend(arrival, over, line));
        Watch(watch)
    }
}

async fn attend(arrival: Arrival, mut over: oneshot::Receiver<()>, line: Arc<Line>) {
    let mut gone = false;
    let until = since_boot() + LOOK_FOR;
    let mut pause = PAUSE.0;
    let mut perhaps: Option<(Known, Duration)> = None;
    let found = loop {
        let now = since_boot();
        let heads = heads(arrival.container.clone()).await;
        let new = heads.into_iter().filter(|head| !arrival.before.contains(&head.known)).collect();
        match choose(new, &arrival.command) {
            Choice::It(found) => break Some(found),
            Choice::Perhaps(found) => {
                let since = perhaps.filter(|(known, _)| *known == found.known).map_or(now, |(_, since)| since);
                if now >= since + STEADY {
                    break Some(found);
                }
                perhaps = Some((found.known, since));
            }
            Choice::Nobody => perhaps = None,
        }
        if now >= until {
            break None;
        }
        // Both arms are cancel-safe. What comes of the first is written down at once.
        tokio::select! {
            told = &mut over, if !gone => match told {
                Ok(()) => return,
                Err(_) => gone = true,
            },
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    };
    let Arrival { container, .. } = arrival;
    if !gone && over.await.is_ok() {
        return;
    }
    match found {
        Some(found) => {
            let killing = tokio::task::spawn_blocking(move || kill(&container, &found));
            // It does not panic; if the asynchronous runtime shuts down, it is as if the agent had died.
            let _ = killing.await;
        }
        None => tracing::warn!(container, "a command without a client may run on: its process could not be told"),
    }
    drop(line);
}

/// One process for all its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    pid: i32,
    start: u64,
}

/// A process that was put into a container from outside.
#[derive(Debug)]
struct Head {
    known: Known,
    /// Its words as they are now.
    words: Vec<String>,
    /// Kernels before 5.3 have none.
    process: Option<OwnedFd>,
}

/// Everything that was put into the container from outside: its own program, and commands.
async fn heads(container: String) -> Vec<Head> {
    let looking = tokio::task::spawn_blocking(move || {
        let members = members(&container);
        let inside: BTreeSet<i32> = members.iter().map(|stat| stat.pid).collect();
        let heads = members.into_iter().filter(|stat| !stat.zombie && !inside.contains(&stat.parent));
        heads.filter_map(|stat| head(stat, &container)).collect()
    });
    looking.await.unwrap_or_default()
}

fn head(stat: Stat, container: &str) -> Option<Head> {
    let process = Pid::from_raw(stat.pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    // While it is held its number is its own, so this look is not too early.
    if !is_in(stat.pid, container) {
        return None;
    }
    let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).ok()?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    Some(Head { known: Known { pid: stat.pid, start: stat.start }, words, process })
}

/// Which of those that are new is the command.
enum Choice {
    It(Head),
    /// One with other words: the command has changed them, or it is somebody else.
    Perhaps(Head),
    Nobody,
}

fn choose(new: Vec<Head>, command: &[String]) -> Choice {
    let (mut named, mut others): (Vec<Head>, Vec<Head>) = new.into_iter().partition(|head| says(&head.words, command));
    match (named.pop(), others.pop()) {
        (Some(it), _) if named.is_empty() => Choice::It(it),
        (None, Some(it)) if others.is_empty() => Choice::Perhaps(it),
        _ => Choice::Nobody,
    }
}

/// Whether these are the words of that command: the same, or those of a script with its interpreter in front.
fn says(words: &[String], command: &[String]) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    if words == command {
        return true;
    }
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let Some(front) = words.strip_suffix(arguments) else { return false };
    matches!(front, [_, script] | [_, _, script] if name(script) == name(program))
}

/// Kills a command and all that came from it.
fn kill(container: &str, head: &Head) {
    let mut known = BTreeSet::from([head.known.pid]);
    for _ in 0..KILLS {
        let members = members(container);
        let is_still = members.iter().any(|stat| stat.pid == head.known.pid && stat.start == head.known.start);
        // A session keeps the number of its first process, and nobody else gets that while the session has anybody in it.
        let mut came: BTreeSet<i32> =
            members.iter().filter(|stat| stat.session == head.known.pid).map(|stat| stat.pid).collect();
        if is_still {
            came.insert(head.known.pid);
        }
        came.extend(descendants(&members, &known));
        came.retain(|pid| {
            members.iter().any(|stat| stat.pid == *pid && !stat.zombie && stat.start >= head.known.start)
        });
        if came.is_empty() {
            return;
        }
        // Who waits for another must not find it dead and go on.
        for pid in parents_first(&members, &came) {
            match &head.process {
                Some(process) if pid == head.known.pid => {
                    // It may have ended by itself.
                    let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
                }
                _ => send_kill(pid, container),
            }
        }
        known.extend(came);
        std::thread::sleep(Duration::from_millis(10));
    }
    tracing::warn!(container, "not everything that came from a command without a client has ended");
}

/// These processes, each after those that it came from.
fn parents_first(members: &[Stat], of: &BTreeSet<i32>) -> Vec<i32> {
    let of: Vec<&Stat> = members.iter().filter(|stat| of.contains(&stat.pid)).collect();
    let is_first = |stat: &&&Stat| !of.iter().any(|other| other.pid == stat.parent);
    let mut order: Vec<i32> = of.iter().filter(is_first).map(|stat| stat.pid).collect();
    let mut at = 0;
    while let Some(parent) = order.get(at).copied() {
        order.extend(of.iter().filter(|stat| stat.parent == parent).map(|stat| stat.pid));
        at += 1;
    }
    order
}

/// Those of the members that have one of these as an ancestor.
fn descendants(members: &[Stat], of: &BTreeSet<i32>) -> BTreeSet<i32> {
    let mut found = of.clone();
    loop {
        let before = found.len();
        found.extend(
            members.iter().filter(|stat| found.contains(&stat.parent)).map(|stat| stat.pid).collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found.difference(of).copied().collect();
        }
    }
}

fn send_kill(pid: i32, container: &str) {
    let Some(number) = Pid::from_raw(pid) else { return };
    let held = rustix::process::pidfd_open(number, PidfdFlags::empty()).ok();
    // The number may have changed hands before it was held.
    if is_in(pid, container) {
        // It may have ended by itself.
        let _ = match held {
            Some(process) => rustix::process::pidfd_send_signal(process, Signal::KILL),
            None => rustix::process::kill_process(number, Signal::KILL),
        };
    }
}

/// The processes in a container. Engines put its name into that of its cgroup.
fn members(container: &str) -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_in(*pid, container)).filter_map(|pid| Stat::read(pid).ok()).collect()
}

fn is_in(pid: i32, container: &str) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    !container.is_empty() && cgroups.is_ok_and(|cgroups| cgroups.contains(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_known_by_its_words_also_behind_an_interpreter() {
        for (seen, command, expected) in [
            ("sleep 5", "sleep 5", true),
            ("sleep 6", "sleep 5", false),
            ("sleep 5 6", "sleep 5", false),
            ("/bin/sh /bin/backup --all", "backup --all", true),
            ("/usr/bin/env -S /opt/backup --all", "./backup --all", true),
            ("/bin/sh /bin/restore --all", "backup --all", false),
            ("runc init", "sleep 5", false),
            ("a b c backup --all", "backup --all", false),
            ("/bin/sh /bin/top", "top", true),
        ] {
            assert_eq!(says(&words(seen), &words(command)), expected, "{seen} / {command}");
        }
        assert!(!says(&words("x"), &[]));
    }

    #[test]
    fn of_two_that_might_be_it_none_is_taken() {
        let head = |pid: i32, text: &str| Head { known: Known { pid, start: 1 }, words: words(text), process: None };
        let command = words("cat /tmp/x");
        let chosen = |new: &[(i32, &str)]| {
            let new = new.iter().map(|(pid, text)| head(*pid, text)).collect();
            match choose(new, &command) {
                Choice::It(head) => head.known.pid,
                Choice::Perhaps(head) => -head.known.pid,
                Choice::Nobody => 0,
            }
        };
        assert_eq!(chosen(&[(7, "cat /tmp/x"), (8, "probe")]), 7);
        assert_eq!(chosen(&[(7, "cat /tmp/x"), (8, "cat /tmp/x")]), 0);
        assert_eq!(chosen(&[(7, "cat /tmp/x"), (8, "cat /tmp/x"), (9, "probe")]), 0);
        assert_eq!(chosen(&[(7, "renamed itself")]), -7);
        assert_eq!(chosen(&[(7, "one"), (8, "other")]), 0);
        assert_eq!(chosen(&[]), 0);
    }

    #[test]
    fn descendants_are_found_however_deep() {
        let stat = |pid: i32, parent: i32| Stat {
            pid,
            parent,
            group: 0,
            session: 0,
            start: 0,
            zombie: false,
            ticks: 0,
            waited_ticks: 0,
        };
        let all = [stat(4, 3), stat(3, 2), stat(2, 1), stat(9, 8), stat(5, 2)];
        assert_eq!(descendants(&all, &BTreeSet::from([2])), BTreeSet::from([3, 4, 5]));
        assert_eq!(parents_first(&all, &BTreeSet::from([2, 3, 4, 9])), [2, 9, 3, 4]);
    }
}
