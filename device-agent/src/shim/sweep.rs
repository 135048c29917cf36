//! Nothing of a container stays when it has ended.

use std::fs;
use std::io;

use rustix::process::{Pid, Signal, WaitOptions};

use super::identity::{Identity, Stat};

/// Kills everything that a dead shim left behind: what is still in its session. The program itself dies with the shim;
/// these are its children.
pub(crate) fn sweep_session(shim: Identity) {
    // A new process may have got the shim's pid as its own; it is not in a session that began before it.
    for stat in Stat::all() {
        if stat.session == shim.pid && stat.start >= shim.start && stat.pid != shim.pid {
            kill(stat.pid);
        }
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Kills all children. What they leave behind becomes ours, since we are the subreaper, and is killed next time.
pub(super) fn kill_children() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    match fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(children) => children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).for_each(kill),
        // Not every kernel has the list.
        Err(_) => Stat::all().iter().filter(|stat| stat.parent == own).for_each(|stat| kill(stat.pid)),
    }
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
