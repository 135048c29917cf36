//! Starts a program that is no child of ours before it is ready: by way of the [launcher](super::launch).

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitOptions};

use super::call;
use super::files::Launch;
use super::launch::Failure;

/// A process that waits to be told which program to become.
pub(super) struct Launcher {
    pub(super) pid: Pid,
    socket: UnixStream,
}

impl Launcher {
    /// Its stdout and stderr are the program's. Unless it is to lead a session it leads a process group.
    pub(super) fn spawn(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, session: bool) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["shim", "launch"]).env_clear();
        if !session {
            command.process_group(0);
        }
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(stdout).stderr(stderr).spawn()?;
        // `command` goes here, and with it our copies of the program's ends.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::Error::other("no pid"))?;
        Ok(Self { pid, socket })
    }

    /// Makes it the program, with this stdin; `Some`: it could not, and has ended.
    pub(super) fn launch(mut self, launch: &Launch, stdin: Option<BorrowedFd<'_>>) -> io::Result<Option<Failure>> {
        let mut bytes = Vec::new();
        ciborium::into_writer(launch, &mut bytes).map_err(io::Error::other)?;
        let sent = call::send(self.socket.as_fd(), &bytes, stdin.as_slice())?;
        self.socket.write_all(&bytes[sent..])?;
        self.socket.shutdown(std::net::Shutdown::Write)?;
        let mut reply = Vec::new();
        io::Read::read_to_end(&mut self.socket, &mut reply)?;
        if reply.is_empty() {
            return Ok(None);
        }
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
        ciborium::from_reader(&reply[..]).map(Some).map_err(io::Error::other)
    }
}
