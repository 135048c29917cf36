//! A process that is held by a file descriptor: the kernel tells when it ends, and from Linux 6.15 on how it ended, also to
//! who is not its parent and after its parent has heard.
//!
//! The kernel gives the answer through an `ioctl`, which is the only unsafe code of all crates here; it is why this one is a
//! crate of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process, whichever pid it has by now. The descriptor is readable when the process has ended.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has this pid now.
    pub fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// How the process ended; `None`: it runs, or its parent has not heard of its end yet. A kernel older than 6.15 knows no
    /// more of a process of whose end its parent has heard, and that is the error.
    pub fn exit_status(&self) -> io::Result<Option<ExitStatus>> {
        let mut info = Info { mask: WITH_EXIT, ..Info::default() };
        tell(self, &mut info)?;
        // The kernel sets what it has filled in.
        Ok((info.mask & WITH_EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code)))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The first form of the kernel's `struct pidfd_info`. It is never written beyond the size that the request carries.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    /// Its pids, users and groups.
    ids: [u32; 11],
    /// As `wait` tells it.
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`.
const WITH_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`.
const GET_INFO: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Info>(0xFF, 11);

#[expect(unsafe_code, reason = "there is no safe form of this call")]
fn tell(process: &Process, info: &mut Info) -> io::Result<()> {
    // SAFETY: the descriptor is a pidfd, for which this number means what is wanted; the number has the size of `Info`, beyond
    // which the kernel does not write, and all bits are valid in each of its fields.
    unsafe {
        let request = rustix::ioctl::Updater::<GET_INFO, Info>::new(info);
        rustix::ioctl::ioctl(process, request)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A program that ends when its input does, and its process.
    fn waits(and: &str) -> (Child, Process) {
        let script = format!("read line; {and}");
        let child = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::open(Pid::from_child(&child)).unwrap();
        (child, process)
    }

    fn kernel_tells() -> bool {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
    }

    #[test]
    fn an_end_of_which_its_parent_has_heard_is_told_as_the_parent_heard_it() {
        for (script, signal) in [("exit 42", false), ("exit 0", false), ("exit 1", true)] {
            let (mut child, process) = waits(script);
            assert!(!matches!(process.exit_status(), Ok(Some(_))), "{script}: it runs");
            if signal {
                child.kill().unwrap();
            }
            drop(child.stdin.take());
            let heard = child.wait().unwrap();
            assert_eq!(process.exit_status().ok(), kernel_tells().then_some(Some(heard)), "{script}");
        }
    }

    #[test]
    fn the_form_of_the_answer_is_the_kernels() {
        assert_eq!(size_of::<Info>(), 64);
        assert_eq!(std::mem::offset_of!(Info, exit_code), 60);
    }
}
