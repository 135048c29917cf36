//! Nothing of a container stays when it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::files::StateFile;
use super::identity::Stat;

/// How often what a dead shim left is looked for; whoever still is there then does not die of KILL.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How much of an environment is read. Programs' own are far smaller.
const MAX_ENVIRONMENT: u64 = 1024 * 1024;
/// How many processes are held at once while they are sent a signal.
const HELD: usize = 64;

/// Kills everything that a dead shim left behind. `marks` are variables that, together, only the container was started
/// with.
///
/// The program itself dies with the shim; these are its children. They are known by their cgroup, by their environment,
/// or by session and group, since those numbers are not used again while anybody is left in them. But if nobody was
/// left, they may be: then whoever is in them now is a stranger, and is not touched.
pub(crate) fn sweep_left(left: &StateFile, marks: &[String]) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let found = || {
        let mut pids: BTreeSet<i32> = left.cgroups.iter().flat_map(|dir| members(dir)).collect();
        let numbers_are_ours = !left.shim.is_replaced() && !left.program.is_replaced();
        for stat in Stat::all().into_iter().filter(|stat| !stat.zombie && stat.start >= left.shim.start) {
            // Both: a daemon is often left in a session and a group of one number, whose first owner has gone.
            let in_session = stat.session == left.shim.pid && stat.group == left.program.pid;
            if numbers_are_ours && in_session || is_marked(stat.pid, marks) {
                pids.insert(stat.pid);
            }
        }
        pids.remove(&own);
        pids
    };
    for _ in 0..LOOKS {
        if send(Signal::KILL, found) == 0 {
            break;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    for dir in &left.cgroups {
        // With somebody in it, it stays.
        let _ = fs::remove_dir(dir);
    }
}

/// The processes in a cgroup.
fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a process was given all these variables.
fn is_marked(pid: i32, marks: &[String]) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return false };
    let mut environment = Vec::new();
    // What was read up to an error counts too.
    let _ = file.take(MAX_ENVIRONMENT).read_to_end(&mut environment);
    marks.iter().all(|mark| environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
}

/// Sends a signal to all that `find` finds; how many there were. Each is held while it is looked for once more, so that a
/// process that got a pid meanwhile is not hit.
fn send(signal: Signal, find: impl Fn() -> BTreeSet<i32>) -> usize {
    let found: Vec<i32> = find().into_iter().collect();
    for pids in found.chunks(HELD) {
        let held: Vec<(Pid, Option<OwnedFd>)> = pids.iter().filter_map(|pid| hold(*pid)).collect();
        let still = find();
        for (pid, pidfd) in held.into_iter().filter(|(pid, _)| still.contains(&pid.as_raw_nonzero().get())) {
            // It may have ended by itself.
            let _ = match pidfd {
                Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal),
                None => rustix::process::kill_process(pid, signal),
            };
        }
    }
    found.len()
}

/// `None`: it has ended. Without a descriptor: the kernel (before 5.3) has none.
fn hold(pid: i32) -> Option<(Pid, Option<OwnedFd>)> {
    let pid = Pid::from_raw(pid)?;
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => None,
        pidfd => Some((pid, pidfd.ok())),
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// How often descendants are looked for that are not stopped yet.
const STOPS: u32 = 32;

/// Kills all children and what comes from them. Whatever forks faster than it is killed is stopped first.
///
/// What they leave behind becomes ours, since we are the subreaper, and is killed next time.
pub(super) fn kill_children() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    match fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(children) if children.is_empty() => return,
        // They were not waited for, so their pids are theirs.
        Ok(children) => children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).for_each(kill),
        // Not every kernel has the list.
        Err(_) => Stat::all().iter().filter(|stat| stat.parent == own).for_each(|stat| kill(stat.pid)),
    }
    let mut stopped = BTreeSet::new();
    for _ in 0..STOPS {
        let new = || descendants(own).difference(&stopped).copied().collect::<BTreeSet<i32>>();
        let now = new();
        if now.is_empty() {
            break;
        }
        send(Signal::STOP, new);
        stopped.extend(now);
    }
    send(Signal::KILL, || descendants(own));
}

/// Everybody who comes from a process and lives.
fn descendants(of: i32) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<Stat>> = BTreeMap::new();
    for stat in Stat::all() {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = BTreeSet::new();
    let mut parents = vec![of];
    // Each list is taken once, so this ends whatever the kernel says.
    while let Some(parent) = parents.pop() {
        for stat in children.remove(&parent).unwrap_or_default() {
            parents.push(stat.pid);
            if !stat.zombie {
                found.insert(stat.pid);
            }
        }
    }
    found
}

/// A child that has ended, and how.
pub(super) enum Reaped {
    Child(Pid, rustix::process::WaitStatus),
    /// There are children, and all of them run.
    NoneYet,
    NoChildren,
}

pub(super) fn reap() -> io::Result<Reaped> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => return Ok(Reaped::Child(pid, status)),
            Ok(None) => return Ok(Reaped::NoneYet),
            Err(rustix::io::Errno::CHILD) => return Ok(Reaped::NoChildren),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
