//! A command in a container that runs: `hawser-agent shim exec`.
//!
//! A child of the container's shim, so that the command is swept up with the container, whatever happens to the agent. It
//! gets the container's [`Launch`] on stdin and the call as stdout, starts the command with the streams that come with the
//! call, and says how it ended. If the caller goes before that, the command is asked to end, then killed, with everything
//! that it started. What a command leaves in the background when it ends by itself lives on with the container.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitStatus};

use super::call::{Answer, ExecCall, MAX_EXEC, STDERR, STDIN, STDOUT, receive};
use super::calls::timespec;
use super::files::Launch;
use super::hold::{catch_signals, clear, exit_code, let_go_of_streams, sweep};
use super::identity::since_boot;
use super::start::Launcher;
use super::sweep::{Reaped, reap};

/// How long a command whose caller has gone may take to end after TERM.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // The caller sees the end of the connection.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    // Without the shim nobody would end us.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = catch_signals()?;
    let launch = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    let mut caller = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdout().as_fd(), 3)?);
    let_go_of_streams();

    let launch: Launch = read_launch(&launch)?;
    let (call, streams) = read_call(&mut caller)?;
    let answer = match start(call, launch, streams) {
        Ok(Ok(pid)) => return look_after(pid, &signals, caller),
        Ok(Err(answer)) => answer,
        Err(error) => Answer::NotStarted { code: 128, message: format!("start the command: {error}") },
    };
    caller.write_all(&answer.line())
}

/// Until the command has ended, or the caller has gone, who may do so at any moment.
fn look_after(command: Pid, signals: &UnixStream, mut caller: UnixStream) -> io::Result<()> {
    let told = caller.write_all(&Answer::Started.line()).is_ok();
    let (status, gone) = if told { watch(command, signals, &caller)? } else { (None, true) };
    if let (Some(status), false) = (status, gone)
        && caller.write_all(&Answer::Exit { code: exit_code(status) }.line()).is_ok()
    {
        return Ok(());
    }
    if status.is_none() {
        end(command, signals);
    }
    sweep(signals);
    Ok(())
}

/// The shim's file is shared with other helpers, so its position says nothing.
fn read_launch(file: &File) -> io::Result<Launch> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    ciborium::from_reader(&bytes[..]).map_err(io::Error::other)
}

fn read_call(caller: &mut UnixStream) -> io::Result<(ExecCall, Vec<OwnedFd>)> {
    let (mut length, mut streams) = ([0; 4], Vec::new());
    let received = receive(&*caller, &mut length, &mut streams)?;
    caller.read_exact(&mut length[received..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_EXEC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    caller.read_exact(&mut bytes)?;
    Ok((ciborium::from_reader(&bytes[..]).map_err(io::Error::other)?, streams))
}

/// The pid of the command, or why there is none.
fn start(call: ExecCall, mut launch: Launch, streams: Vec<OwnedFd>) -> io::Result<Result<Pid, Answer>> {
    launch.command = call.command;
    launch.tty = call.tty;
    let mut streams = streams.into_iter();
    let mut take = |wanted: u8| if call.streams & wanted != 0 { streams.next() } else { None };
    let (stdin, stdout, stderr) = if call.tty {
        let terminal = take(call.streams).ok_or(io::ErrorKind::InvalidData)?;
        let (second, third) = (terminal.try_clone()?, terminal.try_clone()?);
        (Some(terminal), Some(second), Some(third))
    } else {
        (take(STDIN), take(STDOUT), take(STDERR))
    };
    let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    let launcher = Launcher::spawn(stdio(stdout), stdio(stderr), call.tty)?;
    let pid = launcher.pid;
    let failure = launcher.launch(&launch, stdin.as_ref().map(AsFd::as_fd))?;
    Ok(match failure {
        None => Ok(pid),
        Some(failure) => Err(Answer::NotStarted { code: failure.code, message: failure.message }),
    })
}

/// How the command ended, and whether the caller has gone: perhaps before it, which may have ended just because of that.
fn watch(command: Pid, signals: &UnixStream, caller: &UnixStream) -> io::Result<(Option<WaitStatus>, bool)> {
    let mut pause = None;
    loop {
        let status = ended(command)?;
        if status.is_some() {
            pause = Some(Timespec::default());
        }
        // A caller says nothing more; readable means gone.
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(caller, PollFlags::IN)];
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) if status.is_none() => continue,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let gone = !fds[1].revents().is_empty();
        clear(signals);
        if gone || status.is_some() {
            return Ok((status, gone));
        }
    }
}

fn ended(command: Pid) -> io::Result<Option<WaitStatus>> {
    loop {
        match reap()? {
            Reaped::Child(pid, status) if pid == command => return Ok(Some(status)),
            Reaped::Child(..) => {}
            Reaped::NoneYet => return Ok(None),
            Reaped::NoChildren => return Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Nobody waits for the command any more: it is asked to end, and killed if it does not.
fn end(command: Pid, signals: &UnixStream) {
    let deadline = since_boot() + GRACE;
    let mut asked = false;
    // While it was not waited for, its pid is its own.
    while matches!(ended(command), Ok(None)) {
        let left = deadline.saturating_sub(since_boot());
        if left.is_zero() {
            let _ = rustix::process::kill_process_group(command, Signal::KILL);
            return;
        }
        if !asked {
            let _ = rustix::process::kill_process_group(command, Signal::TERM);
            asked = true;
        }
        let mut fds = [PollFd::new(signals, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(left)));
        clear(signals);
    }
}
