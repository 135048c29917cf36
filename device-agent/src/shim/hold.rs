//! Holds one container from its start to its end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, Signal, WaitStatus};

use super::calls::{Calls, timespec};
use super::cgroup::Cgroup;
use super::ends::Ends;
use super::files::{
    self, CONTROL, ExitFile, Interactive, KILL, LOCK, Launch, Reply, STATE, Spec, StateFile, TERM, Termination,
    draft_exit, write_exit,
};
use super::identity::{Identity, boot_id, since_boot};
use super::launch::Failure;
use super::log::{Lines, LogFile, Stream, wall};
use super::start::Launcher;
use super::sweep::{Reaped, kill_children, reap};
use crate::runtime::ExitCause;
use crate::runtime::volumes::beneath::Beneath;

/// A specification is one container; no honest one is longer.
const MAX_SPEC: u64 = 8 * 1024 * 1024;
/// A termination message is at most this long, as for a kubelet.
const MAX_TERMINATION: u64 = 4096;
/// How long the sweep waits for processes that do not even die of KILL, because the kernel holds them.
const SWEEP: Duration = Duration::from_secs(10);
/// How often, a second apart, writing the exit is tried.
const EXIT_TRIES: u32 = 60;

pub(super) fn main(dir: &Path) -> ExitCode {
    let reply = match hold(dir) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Refused::Taken) => Reply::Taken,
        Err(Refused::NotStarted(failure)) => Reply::NotStarted { code: failure.code, message: failure.message },
        Err(Refused::Failed(what, error)) => Reply::Failed { message: format!("{what}: {error}") },
    };
    say(&reply);
    ExitCode::FAILURE
}

/// Why nothing is held.
enum Refused {
    Taken,
    NotStarted(Failure),
    Failed(&'static str, io::Error),
}

trait OrRefuse<T> {
    fn or_refuse(self, what: &'static str) -> Result<T, Refused>;
}

impl<T, E: Into<io::Error>> OrRefuse<T> for Result<T, E> {
    fn or_refuse(self, what: &'static str) -> Result<T, Refused> {
        self.map_err(|error| Refused::Failed(what, error.into()))
    }
}

/// One line to the agent, if it still listens.
fn say(reply: &Reply) {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    let _ = io::stdout().write_all(&line);
    let _ = io::stdout().flush();
}

fn hold(dir: &Path) -> Result<(), Refused> {
    // A session of our own: nothing that happens to the agent's terminal or process group reaches us.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).or_refuse("become the subreaper")?;
    let signals = catch_signals().or_refuse("catch signals")?;
    // When memory is short the program goes first; the shim has to tell. It takes a privilege, and is not essential.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");

    let mut bytes = Vec::new();
    io::stdin().take(MAX_SPEC).read_to_end(&mut bytes).or_refuse("read the specification")?;
    let spec: Spec = ciborium::from_reader(&bytes[..]).map_err(io::Error::other).or_refuse("read the specification")?;
    drop(bytes);

    let _lock = lock(dir)?;
    if dir.join(STATE).exists() || dir.join(files::EXIT).exists() {
        return Err(Refused::Taken);
    }
    let control = open_control(dir).or_refuse("make the control fifo")?;
    draft_exit(dir).or_refuse("take the space for the exit")?;
    let log = LogFile::open(&spec.log, spec.log_max_bytes, spec.log_max_files).or_refuse("open the log")?;
    let cgroup = spec.cgroup.as_ref().map(Cgroup::make).unwrap_or_default();
    let held = launch(dir, spec.image, spec.launch, spec.interactive, &cgroup);
    let Held { pid, started, outputs, calls } = match held {
        Err(Refused::NotStarted(failure)) => {
            finish_unstarted(dir, &failure);
            cgroup.remove();
            return Err(Refused::NotStarted(failure));
        }
        Err(other) => {
            kill_children();
            cgroup.remove();
            // The attempt was not made, so it may be made again.
            let _ = std::fs::remove_file(dir.join(STATE));
            return Err(other);
        }
        Ok(held) => held,
    };
    say(&Reply::Started { not_enforced: cgroup.not_enforced().to_vec() });
    let_go_of_streams();

    let mut output =
        Output { log, streams: outputs, lines: [Lines::new(Stream::Stdout), Lines::new(Stream::Stderr)], calls };
    let status = watch(pid, &signals, &control, &mut output);
    sweep(&signals);
    output.drain();
    output.calls.finish();
    let mut exit = ending(status, &cgroup);
    exit.started = Some(started);
    exit.message =
        termination_message(spec.termination.as_ref(), spec.termination_from_logs && exit.code != 0, &output.log);
    cgroup.remove();
    for _ in 0..EXIT_TRIES {
        if write_exit(dir, &exit).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// SIGCHLD becomes readable. What asks processes to end is for the program and does not end us: somebody has to see how
/// it takes it.
pub(super) fn catch_signals() -> io::Result<UnixStream> {
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGCHLD, write)?;
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(read)
}

/// Held until we end.
fn lock(dir: &Path) -> Result<File, Refused> {
    let file = File::options().read(true).write(true).open(dir.join(LOCK)).or_refuse("open the lock")?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Refused::Taken),
        Err(error) => Err(Refused::Failed("take the lock", error.into())),
    }
}

/// Opened for both directions, so that it does not end when a writer goes.
fn open_control(dir: &Path) -> io::Result<OwnedFd> {
    let path = dir.join(CONTROL);
    let _ = std::fs::remove_file(&path);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600))?;
    Ok(rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

struct Held {
    pid: Pid,
    started: Duration,
    outputs: [Option<File>; 2],
    calls: Calls,
}

fn launch(
    dir: &Path,
    image: String,
    mut spec: Launch,
    interactive: Interactive,
    cgroup: &Cgroup,
) -> Result<Held, Refused> {
    spec.cgroup_procs = cgroup.procs();
    spec.tty = interactive.tty;
    let mut calls = Calls::listen(dir, &spec).or_refuse("listen for calls")?;
    let Ends { outputs, stdin, theirs } = Ends::make(interactive).or_refuse("make the program's streams")?;
    calls.set_stdin(stdin);
    let launcher = Launcher::spawn(theirs.stdout, theirs.stderr, spec.tty).or_refuse("start the launcher")?;
    let pid = launcher.pid;
    let started = since_boot();
    let state = StateFile {
        boot: boot_id(),
        shim: Identity::of(rustix::process::getpid()).or_refuse("read /proc")?,
        program: Identity::of(pid).or_refuse("read /proc")?,
        started,
        image: Some(image),
        cgroups: cgroup.dirs().to_vec(),
    };
    // Before the program is one: whoever finds a program running also finds whose it is.
    files::write(&dir.join(STATE), &state).or_refuse("write the state")?;

    match launcher.launch(&spec, theirs.stdin.as_ref().map(AsFd::as_fd)).or_refuse("start the program")? {
        None => Ok(Held { pid, started, outputs, calls }),
        Some(failure) => Err(Refused::NotStarted(failure)),
    }
}

fn finish_unstarted(dir: &Path, failure: &Failure) {
    let now = Some(since_boot());
    let exit = ExitFile {
        boot: boot_id(),
        code: failure.code,
        signal: None,
        cause: ExitCause::Start,
        message: Some(failure.message.clone()),
        started: now,
        finished: now,
    };
    // The agent hears it from the reply as well.
    let _ = write_exit(dir, &exit);
}

/// From here on nobody is at the other end.
pub(super) fn let_go_of_streams() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// The program's output on its way to the log.
struct Output {
    log: LogFile,
    streams: [Option<File>; 2],
    lines: [Lines; 2],
    /// Whoever sees it besides.
    calls: Calls,
}

impl Output {
    /// Moves what one read gives; closes the stream at its end.
    fn pump(&mut self, at: usize, buffer: &mut [u8]) {
        let Some(stream) = &mut self.streams[at] else { return };
        let (mut records, now) = (Vec::new(), wall());
        match stream.read(buffer) {
            Ok(0) => {
                self.lines[at].finish(now, &mut records);
                self.close(at);
            }
            Ok(read) => {
                self.lines[at].push(now, &buffer[..read], &mut records);
                self.calls.show(at, &buffer[..read]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // So a terminal says that nobody has it open any more.
            Err(_) => self.close(at),
        }
        self.log.write(now, &records);
    }

    fn close(&mut self, at: usize) {
        self.streams[at] = None;
        self.calls.close(at);
    }

    /// Takes what is left. Somebody outside the container may hold a pipe open, so this does not wait for its end.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        for at in 0..2 {
            while let Some(stream) = &self.streams[at] {
                let mut fds = [PollFd::new(stream, PollFlags::IN)];
                match poll(&mut fds, Some(&Timespec::default())) {
                    Ok(1..) => self.pump(at, &mut buffer),
                    _ => break,
                }
            }
            let (mut records, now) = (Vec::new(), wall());
            self.lines[at].finish(now, &mut records);
            self.log.write(now, &records);
        }
    }
}

/// Until the program has ended. Sleeps in `poll` unless there is something to do.
fn watch(program: Pid, signals: &UnixStream, control: &OwnedFd, output: &mut Output) -> Option<WaitStatus> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // The state before the first sleep counts too: the program may have ended already.
        match reap() {
            Ok(Reaped::Child(pid, status)) if pid == program => return Some(status),
            Ok(Reaped::Child(..)) => continue,
            Ok(Reaped::NoneYet) => {}
            Ok(Reaped::NoChildren) | Err(_) => return None,
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        let behind = output.calls.are_behind();
        let open: Vec<usize> = (0..2).filter(|at| !behind && output.streams[*at].is_some()).collect();
        fds.extend(open.iter().filter_map(|at| output.streams[*at].as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)));
        let own = fds.len();
        fds.extend(output.calls.watched());
        match poll(&mut fds, output.calls.patience().map(timespec).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let called = ready.drain(own..).any(|ready| ready);
        if called || behind {
            output.calls.serve();
        }
        if ready[0] {
            clear(signals);
        }
        if ready[1] {
            pass_on(program, control);
        }
        for (at, ready) in open.into_iter().zip(&ready[2..]) {
            if *ready {
                output.pump(at, &mut buffer);
            }
        }
    }
}

pub(super) fn clear(mut signals: &UnixStream) {
    let mut bytes = [0; 64];
    while matches!(signals.read(&mut bytes), Ok(1..)) {}
}

/// Sends on what the agent asked for. The program was not waited for yet, so its pid is still its own.
fn pass_on(program: Pid, control: &OwnedFd) {
    let mut bytes = [0; 16];
    let Ok(read) = rustix::io::read(control.as_fd(), &mut bytes) else { return };
    for byte in &bytes[..read] {
        let signal = match *byte {
            TERM => Signal::TERM,
            KILL => Signal::KILL,
            _ => continue,
        };
        let _ = rustix::process::kill_process_group(program, signal);
    }
}

/// The program has ended; whatever it started ends with it.
pub(super) fn sweep(signals: &UnixStream) {
    let deadline = since_boot() + SWEEP;
    loop {
        match reap() {
            Ok(Reaped::Child(..)) => continue,
            Ok(Reaped::NoneYet) if since_boot() < deadline => {}
            _ => return,
        }
        kill_children();
        let mut fds = [PollFd::new(signals, PollFlags::IN)];
        let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let _ = poll(&mut fds, Some(&pause));
        clear(signals);
    }
}

fn ending(status: Option<WaitStatus>, cgroup: &Cgroup) -> ExitFile {
    let signal = status.and_then(WaitStatus::terminating_signal);
    let code = status.map_or(137, exit_code);
    let cause = match status {
        None => ExitCause::Lost,
        Some(_) if code != 0 && cgroup.out_of_memory() => ExitCause::OutOfMemory,
        Some(_) => ExitCause::Own,
    };
    ExitFile { boot: boot_id(), code, signal, cause, message: None, started: None, finished: Some(since_boot()) }
}

/// As a shell has it: the exit code, or 128 and the signal.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(137)
}

fn termination_message(path: Option<&Termination>, from_logs: bool, log: &LogFile) -> Option<String> {
    let written = path.and_then(|path| read_termination(path).ok()).filter(|message| !message.is_empty());
    written.or_else(|| from_logs.then(|| log.tail().ok()).flatten().filter(|tail| !tail.is_empty()))
}

/// The program owns these directories and may have put anything into them: links are not followed, a fifo is not waited
/// for.
fn read_termination(termination: &Termination) -> io::Result<String> {
    let file = Beneath::open(&termination.root)?.read_file(&termination.path)?;
    let mut bytes = Vec::new();
    file.take(MAX_TERMINATION).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
