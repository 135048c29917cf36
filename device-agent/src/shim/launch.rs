//! The last steps before the program is the program.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{fs, io};

use rustix::fs::Mode;
use rustix::process::{Gid, Signal, Uid};
use serde::{Deserialize, Serialize};

use super::call::receive_to_end;
use super::files::Launch;

/// Why there is no program. Written to the socket on stdin; if the program runs, the socket just closes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Failure {
    fn new(code: i32, what: String, error: &io::Error) -> Self {
        Self { code, message: format!("{what}: {error}") }
    }
}

pub(super) fn main() -> ExitCode {
    // The copy closes by itself when the program takes over; that is how the shim learns of it.
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3) else { return ExitCode::FAILURE };
    let mut socket = std::os::unix::net::UnixStream::from(socket);
    let mut fds = Vec::new();
    let Ok(bytes) = receive_to_end(&mut socket, &mut fds) else { return ExitCode::FAILURE };
    let Ok(launch) = ciborium::from_reader::<Launch, _>(&bytes[..]) else { return ExitCode::FAILURE };
    drop(bytes);
    let failure = become_program(&launch, fds.pop());
    let mut reply = Vec::new();
    let _ = ciborium::into_writer(&failure, &mut reply);
    let _ = socket.write_all(&reply);
    ExitCode::from(u8::try_from(failure.code).unwrap_or(128))
}

/// Returns only if it does not work.
fn become_program(launch: &Launch, stdin: Option<OwnedFd>) -> Failure {
    match prepare(launch, stdin) {
        Ok(mut command) => {
            let error = command.exec();
            let program = launch.command.first().map(String::as_str).unwrap_or_default();
            match error.kind() {
                io::ErrorKind::NotFound => {
                    Failure { code: 127, message: format!("exec: {program:?}: executable file not found in $PATH") }
                }
                _ => Failure::new(126, format!("exec: {program:?}"), &error),
            }
        }
        Err(failure) => failure,
    }
}

fn prepare(launch: &Launch, stdin: Option<OwnedFd>) -> Result<Command, Failure> {
    let pid = rustix::process::getpid().as_raw_nonzero().to_string();
    for procs in &launch.cgroup_procs {
        fs::write(procs, &pid).map_err(|error| Failure::new(128, format!("join {}", procs.display()), &error))?;
    }
    // The shim is spared when memory is short; the program is not. Without the right to say so nothing was changed.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    leave_processes();
    if let (true, Some(terminal)) = (launch.tty, &stdin) {
        take_terminal(launch, terminal)
            .map_err(|error| Failure::new(128, "take the terminal".to_owned(), &error.into()))?;
    }
    become_user(launch).map_err(|(what, error)| Failure::new(128, what, &error.into()))?;
    if let Some(closed) = launch.to_enter.iter().find_map(|place| closed(place)) {
        let user = rustix::process::getuid().as_raw();
        let message = format!(
            "user {user} may not enter {}: let others pass (chmod o+x), or run the agent with another --state-dir or \
             --secrets-dir",
            closed.display()
        );
        return Err(Failure { code: 128, message });
    }
    // If the shim is killed, so is the program: nobody would read its output or say how it ended.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::new(128, "tie to the shim".to_owned(), &error.into()))?;
    std::env::set_current_dir(&launch.directory)
        .map_err(|error| Failure::new(128, format!("chdir to {}", launch.directory.display()), &error))?;
    let Some((program, args)) = launch.command.split_first() else {
        return Err(Failure { code: 128, message: "no command specified".to_owned() });
    };
    let mut command = Command::new(program);
    command.args(args).env_clear().stdin(stdin.map_or_else(Stdio::null, Stdio::from));
    if launch.tty {
        command.env("TERM", "xterm");
    }
    command.envs(launch.env.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// A program that forks without end leaves a quarter of what its user may have to the others, the agent among them if it
/// is the same user. (Root is not bound by this.)
fn leave_processes() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if let Some(limit) = getrlimit(Resource::Nproc).current {
        let most = Some(limit / 4 * 3);
        // Less is always allowed.
        let _ = setrlimit(Resource::Nproc, Rlimit { current: most, maximum: most });
    }
}

/// The first directory on the way that we may not enter.
fn closed(place: &Path) -> Option<&Path> {
    let way: Vec<&Path> = place.ancestors().collect();
    let denied = |path: &&&Path| {
        matches!(rustix::fs::access(**path, rustix::fs::Access::EXEC_OK), Err(rustix::io::Errno::ACCESS))
    };
    way.iter().rev().find(denied).copied()
}

/// The terminal becomes the one of a session of our own, and belongs to the user.
fn take_terminal(launch: &Launch, terminal: &OwnedFd) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(terminal)?;
    // Without the right to change users there is no other one.
    let _ = rustix::fs::fchown(terminal, launch.uid.map(Uid::from_raw), None);
    Ok(())
}

/// This process has one thread, so what is said of the thread holds for the process.
fn become_user(launch: &Launch) -> Result<(), (String, rustix::io::Errno)> {
    let root = rustix::process::geteuid().is_root();
    // On the host, group 0 is more than an image's default group: a user without a group gets one of its own number.
    let gid = launch.gid.or(launch.uid.filter(|_| root));
    if root && (gid.is_some() || !launch.groups.is_empty()) {
        let groups: Vec<Gid> = launch.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        rustix::thread::set_thread_groups(&groups).map_err(|error| ("set the groups".to_owned(), error))?;
    }
    if let Some(gid) = gid.filter(|gid| *gid != rustix::process::getegid().as_raw()) {
        let group = Gid::from_raw(gid);
        rustix::thread::set_thread_res_gid(group, group, group)
            .map_err(|error| (format!("become group {gid}"), error))?;
    }
    if let Some(uid) = launch.uid.filter(|uid| *uid != rustix::process::geteuid().as_raw()) {
        let user = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(user, user, user).map_err(|error| (format!("become user {uid}"), error))?;
    }
    Ok(())
}
