//! The two ends of a program's standard streams.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;

use super::calls::Stdin;
use super::files::Interactive;

/// Both ends, before the program has its own.
pub(super) struct Ends {
    /// What the program writes: stdout and stderr. A terminal is one stream.
    pub(super) outputs: [Option<File>; 2],
    /// Where what it reads comes from.
    pub(super) stdin: Stdin,
    pub(super) theirs: Theirs,
}

/// The program's ends.
pub(super) struct Theirs {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Ends {
    pub(super) fn make(interactive: Interactive) -> io::Result<Self> {
        if interactive.tty { Self::terminal(interactive) } else { Self::pipes(interactive) }
    }

    fn pipes(interactive: Interactive) -> io::Result<Self> {
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        let (stdin, stdin_end) = if interactive.stdin {
            let (end, ours) = io::pipe()?;
            let end = OwnedFd::from(end);
            let ours = OwnedFd::from(ours);
            // Whoever gets it writes without waiting; the program's end stays as programs expect it.
            rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            (Stdin::Pipe { end: ours, once: interactive.once }, Some(end))
        } else {
            (Stdin::None, None)
        };
        Ok(Self {
            outputs: [Some(File::from(OwnedFd::from(stdout))), Some(File::from(OwnedFd::from(stderr)))],
            stdin,
            theirs: Theirs { stdin: stdin_end, stdout: stdout_end.into(), stderr: stderr_end.into() },
        })
    }

    fn terminal(interactive: Interactive) -> io::Result<Self> {
        let (ours, theirs) = open_terminal()?;
        let theirs = Theirs { stdout: theirs.try_clone()?, stderr: theirs.try_clone()?, stdin: Some(theirs) };
        let stdin = Stdin::Terminal { terminal: ours.try_clone()?, input: interactive.stdin };
        Ok(Self { outputs: [Some(File::from(ours)), None], stdin, theirs })
    }
}

/// A terminal: our end, which does not block, and the program's.
pub(crate) fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    // Not by its name: that of another mount of devpts would be somebody else's.
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}
