//! As much of systemd's manager as keeping slices takes: make one with limits, change them, end one.
//!
//! Every request has a connection of its own, so that nothing has to be mended after systemd or the bus was restarted.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use self::message::{Answer, Call, Encoder, Values};
use crate::cgroup::{Limits, weight_of};

mod conversation;
mod message;

/// Where systemd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Systemd {
    /// In the order in which they are tried; `true`: a bus, where one says hello first.
    sockets: Vec<(PathBuf, bool)>,
}

/// A request that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// Nobody was reached, or what came was not an answer.
    #[error("systemd does not answer: {0}")]
    Unreachable(#[from] io::Error),
    /// systemd says why not.
    #[error("systemd refuses: {text} ({name})")]
    Refused {
        /// The kind of error, in the words of D-Bus.
        name: String,
        /// For people.
        text: String,
    },
}

/// What systemd says of a unit that is there already, and of one that is not.
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const ABSENT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// As long as D-Bus waits for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

impl Systemd {
    /// The one of this device: on the bus of the system, or directly, as root may, where there is no bus.
    pub(crate) fn here() -> Self {
        let sockets = [("/run/dbus/system_bus_socket", true), ("/run/systemd/private", false)];
        Self { sockets: sockets.map(|(path, bus)| (path.into(), bus)).into() }
    }

    /// One that is reached directly at this socket.
    #[cfg(test)]
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self { sockets: vec![(socket, false)] }
    }

    /// Makes a slice with these limits, or gives them to the one that is there. It has them before anything is put into it
    /// later on: systemd does one thing after the other.
    pub(crate) fn keep_slice(&self, name: &str, what: &str, limits: &Limits) -> Result<(), Failed> {
        if self.make_slice(name, what, limits)? { Ok(()) } else { self.change_slice(name, limits) }
    }

    /// Makes a slice with these limits, unless there is one of this name: then nothing happens, and the answer is no.
    pub(crate) fn make_slice(&self, name: &str, what: &str, limits: &Limits) -> Result<bool, Failed> {
        let made = self.ask(&Call::new("StartTransientUnit", "ssa(sv)a(sa(sv))"), |body| {
            body.text(name);
            body.text("replace");
            body.properties(|values| {
                values.text("Description", what);
                // Not ended with the first things at a shutdown, but with the last.
                values.flag("DefaultDependencies", false);
                for accounting in ["CPUAccounting", "MemoryAccounting", "TasksAccounting"] {
                    values.flag(accounting, true);
                }
                put(limits, values);
            });
            body.nothing_beside();
        });
        match made {
            Err(Failed::Refused { name: kind, .. }) if kind == EXISTS => Ok(false),
            made => made.map(|()| true),
        }
    }

    /// Changes the limits of a slice, until the device is started again.
    pub(crate) fn change_slice(&self, name: &str, limits: &Limits) -> Result<(), Failed> {
        self.ask(&Call::new("SetUnitProperties", "sba(sv)"), |body| {
            body.text(name);
            body.flag(true);
            body.properties(|values| put(limits, values));
        })
    }

    /// Ends a slice and whatever is in it. It goes some time after.
    pub(crate) fn end_slice(&self, name: &str) -> Result<(), Failed> {
        let ended = self.ask(&Call::new("StopUnit", "ss"), |body| {
            body.text(name);
            body.text("replace");
        });
        match ended {
            Err(Failed::Refused { name: kind, .. }) if kind == ABSENT => Ok(()),
            ended => ended,
        }
    }

    fn ask(&self, call: &Call, body: impl FnOnce(&mut Encoder)) -> Result<(), Failed> {
        let message = call.with(body);
        let (mut stream, bus) = self.connect()?;
        let uid = rustix::process::geteuid().as_raw();
        match conversation::hold(&mut stream, uid, bus, &message)? {
            Answer::Done => Ok(()),
            Answer::Error { name, text } => Err(Failed::Refused { name, text }),
        }
    }

    fn connect(&self) -> io::Result<(UnixStream, bool)> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for (path, bus) in &self.sockets {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok((stream, *bus));
                }
                Err(error) => last = io::Error::new(error.kind(), format!("{}: {error}", path.display())),
            }
        }
        Err(last)
    }
}

/// systemd keeps quotas as percents.
const QUOTA_STEP: u64 = 10_000;

/// The limits in systemd's words. It writes them for either version of cgroups.
fn put(limits: &Limits, values: &mut Values<'_>) {
    if let Some(shares) = limits.cpu_shares {
        values.number("CPUWeight", weight_of(shares));
    }
    if let Some(millis) = limits.cpu_millis {
        // Rounded up, in microseconds per second.
        values
            .number("CPUQuotaPerSecUSec", millis.saturating_mul(1_000).div_ceil(QUOTA_STEP).saturating_mul(QUOTA_STEP));
    }
    if let Some(bytes) = limits.memory_bytes {
        values.number("MemoryMax", bytes);
    }
    if let Some(most) = limits.pids {
        values.number("TasksMax", most);
    }
}

#[cfg(test)]
pub(crate) mod played {
    //! systemd as far as tests of what asks it need one.

    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use super::message::{self, CALL_SERIAL, HEAD, samples};
    use super::{EXISTS, Systemd};

    /// What it says to a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Says {
        Done,
        Exists,
    }

    /// Hears as many requests as it has answers, and tells at the end what they were.
    pub(crate) fn play(answers: Vec<Says>) -> (tempfile::TempDir, Systemd, JoinHandle<Vec<Vec<u8>>>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("systemd");
        let listener = UnixListener::bind(&socket).unwrap();
        let player = std::thread::spawn(move || {
            let hear = |says| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut byte = [0];
                while byte != [b'\n'] {
                    stream.read_exact(&mut byte).unwrap();
                }
                stream.write_all(b"OK 0\r\n").unwrap();
                let mut next = |many: usize| {
                    let mut heard = vec![0; many];
                    stream.read_exact(&mut heard).unwrap();
                    heard
                };
                next(b"BEGIN\r\n".len());
                let mut message = next(HEAD);
                let whole = message::whole(message.first_chunk().unwrap()).unwrap();
                message.extend(next(whole - HEAD));
                let answer = match says {
                    Says::Done => samples::success(CALL_SERIAL),
                    Says::Exists => samples::failure(CALL_SERIAL, EXISTS, "it is there"),
                };
                stream.write_all(&answer).unwrap();
                message
            };
            answers.into_iter().map(hear).collect()
        });
        (dir, Systemd::at(socket), player)
    }

    /// Whether a request names this.
    pub(crate) fn names(request: &[u8], text: &str) -> bool {
        let text = [text.as_bytes(), b"\0"].concat();
        request.windows(text.len()).any(|part| part == text)
    }

    /// The number that a request gives a property.
    pub(crate) fn number(request: &[u8], property: &str) -> Option<u64> {
        let name = [property.as_bytes(), b"\0\x01t\0"].concat();
        let at = request.windows(name.len()).position(|part| part == name)? + name.len();
        request.get(at.next_multiple_of(8)..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}
