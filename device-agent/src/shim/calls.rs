//! The calls that a shim takes while its container runs: commands to run beside the program, and clients that attach to it.
//!
//! See [`call`](super::call) for the words. A client that does not read slows the program down, as a terminal would, but
//! not for ever: after [`STUCK`] without progress it is cut off. It never keeps the program from ending.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::call::{self, ATTACH, Answer, END_OF_STDIN, EXEC, SOCKET, STDERR, STDIN, STDOUT};
use super::files::Launch;
use super::identity::since_boot;

/// How many clients may be attached, and how many callers may not have said what they want.
const MAX_ATTACHED: usize = 16;
const MAX_NEWCOMERS: usize = 16;
/// How much may wait for a client at the end of the program, when nobody can be made to wait.
const MAX_PENDING: usize = 1024 * 1024;
/// How long the program waits for a client that does not read.
const STUCK: Duration = Duration::from_secs(10);
/// How long clients that are behind are waited for when the program has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The program's stdin, as far as clients may have it.
#[derive(Debug)]
pub(super) enum Stdin {
    None,
    /// The writing end. `once`: it is closed when the first client that had it goes.
    Pipe {
        end: OwnedFd,
        once: bool,
    },
    /// The program's terminal. `input`: clients may write to it.
    Terminal {
        terminal: OwnedFd,
        input: bool,
    },
}

/// Everybody who talks to this container.
pub(super) struct Calls {
    listener: UnixListener,
    /// The container's [`Launch`], for helpers.
    launch: OwnedFd,
    stdin: Stdin,
    newcomers: Vec<UnixStream>,
    attached: Vec<Attached>,
}

/// A client that sees what the program writes.
struct Attached {
    client: UnixStream,
    outputs: [Option<File>; 2],
    /// What could not be written yet.
    pending: [Vec<u8>; 2],
    has_stdin: bool,
    /// Since when nothing could be written.
    stuck: Option<Duration>,
}

impl Calls {
    /// Listens in the attempt's directory.
    pub(super) fn listen(dir: &Path, launch: &Launch) -> io::Result<Self> {
        let directory = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let _ = std::fs::remove_file(dir.join(SOCKET));
        let listener = UnixListener::bind(call::address(directory.as_fd()))?;
        listener.set_nonblocking(true)?;
        let mut bytes = Vec::new();
        ciborium::into_writer(launch, &mut bytes).map_err(io::Error::other)?;
        // In memory: secrets in the environment never touch the disk.
        let file = rustix::fs::memfd_create("launch", MemfdFlags::CLOEXEC)?;
        let mut file = File::from(file);
        file.write_all(&bytes)?;
        Ok(Self { listener, launch: file.into(), stdin: Stdin::None, newcomers: Vec::new(), attached: Vec::new() })
    }

    /// The program has this stdin.
    pub(super) fn set_stdin(&mut self, stdin: Stdin) {
        self.stdin = stdin;
    }

    /// What to wait for, besides the program's own affairs.
    pub(super) fn watched(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        if self.newcomers.len() < MAX_NEWCOMERS {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        fds.extend(self.newcomers.iter().map(|newcomer| PollFd::new(newcomer, PollFlags::IN)));
        for attached in &self.attached {
            fds.push(PollFd::new(&attached.client, PollFlags::IN));
            fds.extend(attached.behind().map(|output| PollFd::new(output, PollFlags::OUT)));
        }
        fds
    }

    /// Whether somebody has to read before the program may go on writing.
    pub(super) fn are_behind(&self) -> bool {
        self.attached.iter().any(|attached| attached.behind().next().is_some())
    }

    /// How long to wait at most.
    pub(super) fn patience(&self) -> Option<Duration> {
        let since = self.attached.iter().filter_map(|attached| attached.stuck).min()?;
        Some((since + STUCK).saturating_sub(since_boot()))
    }

    /// Does whatever can be done at once.
    pub(super) fn serve(&mut self) {
        while self.newcomers.len() < MAX_NEWCOMERS {
            match self.listener.accept() {
                Ok((caller, _)) if caller.set_nonblocking(true).is_ok() => self.newcomers.push(caller),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        for caller in std::mem::take(&mut self.newcomers) {
            let (mut bytes, mut fds) = ([0; 2], Vec::new());
            match call::receive(&caller, &mut bytes, &mut fds) {
                Ok(2) if bytes[0] == EXEC => self.exec(caller),
                Ok(2) if bytes[0] == ATTACH => self.attach(caller, bytes[1], fds),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.newcomers.push(caller),
                // It has gone, or is none of ours.
                _ => {}
            }
        }
        let now = since_boot();
        for at in (0..self.attached.len()).rev() {
            let attached = &mut self.attached[at];
            let gone = attached.listen(&mut self.stdin) || !attached.flush(now);
            if gone || attached.is_stuck(now) {
                let attached = self.attached.swap_remove(at);
                if !gone {
                    let _ = (&attached.client).write_all(&Answer::Cut.line());
                }
                self.leave(&attached);
            }
        }
    }

    /// Copies to the clients what the program has written.
    pub(super) fn show(&mut self, stream: usize, bytes: &[u8]) {
        let now = since_boot();
        for attached in &mut self.attached {
            if attached.pending[stream].len() > MAX_PENDING {
                attached.outputs[stream] = None;
            }
            if attached.outputs[stream].is_some() {
                attached.pending[stream].extend_from_slice(bytes);
                // One that has gone is found gone at the next look.
                let _ = attached.flush(now);
            }
        }
    }

    /// The program writes nothing more to this stream.
    pub(super) fn close(&mut self, stream: usize) {
        for attached in &mut self.attached {
            if attached.pending[stream].is_empty() {
                attached.outputs[stream] = None;
            }
        }
    }

    /// The program has ended: clients get what they have not got yet, unless they are too slow.
    pub(super) fn finish(&mut self) {
        let deadline = since_boot() + LAST_WORDS;
        while self.are_behind() {
            let left = deadline.saturating_sub(since_boot());
            if left.is_zero() {
                break;
            }
            let mut fds: Vec<PollFd<'_>> = self.attached.iter().flat_map(Attached::behind).map(writable).collect();
            let _ = poll(&mut fds, Some(&timespec(left)));
            drop(fds);
            self.attached.retain_mut(|attached| attached.flush(since_boot()));
        }
        self.attached.clear();
    }

    /// The helper takes over the connection. It is a child of ours, and so is swept up in the end.
    fn exec(&mut self, caller: UnixStream) {
        let Ok(launch) = self.launch.try_clone() else { return };
        if caller.set_nonblocking(false).is_err() {
            return;
        }
        let mut command = Command::new("/proc/self/exe");
        command.args(["shim", "exec"]).env_clear().stdin(launch).stdout(OwnedFd::from(caller)).stderr(Stdio::null());
        // The caller sees the end of the connection if this fails. The child is reaped like all others.
        drop(command.spawn());
    }

    fn attach(&mut self, client: UnixStream, wanted: u8, fds: Vec<OwnedFd>) {
        if self.attached.len() >= MAX_ATTACHED {
            return;
        }
        let mut fds = fds.into_iter().map(File::from);
        let mut take = |stream: u8| if wanted & stream != 0 { fds.next() } else { None };
        let outputs = [take(STDOUT), take(STDERR)];
        for output in outputs.iter().flatten() {
            if rustix::fs::fcntl_setfl(output, OFlags::NONBLOCK).is_err() {
                return;
            }
        }
        let wants_stdin = wanted & STDIN != 0;
        let (has_stdin, tty, end) = match &self.stdin {
            Stdin::Pipe { end, .. } => (wants_stdin, false, Some(end).filter(|_| wants_stdin)),
            Stdin::Terminal { terminal, input } => (wants_stdin && *input, true, Some(terminal)),
            Stdin::None => (false, false, None),
        };
        let answer = Answer::Attached { stdin: has_stdin, tty };
        let end: Vec<_> = end.iter().map(AsFd::as_fd).collect();
        let line = answer.line();
        if call::send(&client, &line, &end).is_ok_and(|sent| sent == line.len()) {
            let pending = [Vec::new(), Vec::new()];
            self.attached.push(Attached { client, outputs, pending, has_stdin, stuck: None });
        }
    }

    fn leave(&mut self, attached: &Attached) {
        if attached.has_stdin && matches!(self.stdin, Stdin::Pipe { once: true, .. }) {
            self.stdin = Stdin::None;
        }
    }
}

impl Attached {
    /// The outputs for which something waits.
    fn behind(&self) -> impl Iterator<Item = &File> {
        let waits = self.outputs.iter().zip(&self.pending).filter(|(_, pending)| !pending.is_empty());
        waits.filter_map(|(output, _)| output.as_ref())
    }

    /// Whether the client has gone.
    fn listen(&mut self, stdin: &mut Stdin) -> bool {
        let (mut bytes, mut fds) = ([0; 16], Vec::new());
        match call::receive(&self.client, &mut bytes, &mut fds) {
            Ok(0) => true,
            Ok(received) => {
                let ended = bytes[..received].contains(&END_OF_STDIN);
                if ended && self.has_stdin && matches!(stdin, Stdin::Pipe { once: true, .. }) {
                    *stdin = Stdin::None;
                }
                false
            }
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// Writes what can be written; whether there is still somebody who reads.
    fn flush(&mut self, now: Duration) -> bool {
        let mut wrote = false;
        for (output, pending) in self.outputs.iter_mut().zip(&mut self.pending) {
            let Some(file) = output else {
                pending.clear();
                continue;
            };
            while !pending.is_empty() {
                match file.write(pending) {
                    Ok(written) if written > 0 => {
                        pending.drain(..written);
                        wrote = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    _ => {
                        // This output is not read any more; the other one may be.
                        *output = None;
                        pending.clear();
                        break;
                    }
                }
            }
        }
        let behind = self.behind().next().is_some();
        self.stuck = match (behind, wrote) {
            (false, _) => None,
            (true, true) => Some(now),
            (true, false) => self.stuck.or(Some(now)),
        };
        true
    }

    fn is_stuck(&self, now: Duration) -> bool {
        self.stuck.is_some_and(|since| now >= since + STUCK)
    }
}

fn writable(output: &File) -> PollFd<'_> {
    PollFd::new(output, PollFlags::OUT)
}

pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}
