//! What the agent says to a shim while a container runs, and descriptors that travel with it.
//!
//! The shim listens on a socket in the attempt's directory. A connection is one call: two bytes say what is wanted, a line
//! of JSON answers, and the end of the connection is the end of the call. Bytes of the program never pass through it: they
//! go through pipes and terminals whose descriptors are handed over, so that a slow reader costs nobody memory.
//!
//! - [`EXEC`]: the shim starts a [helper](super::exec) that takes over the connection; see there.
//! - [`ATTACH`]: descriptors for the wanted outputs come along, and the shim copies to them what the program writes from
//!   then on. The answer brings the writing end of the program's stdin, or its terminal, if the program has one. A byte
//!   [`END_OF_STDIN`] says that the client has nothing more to write.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};

/// The socket's name in the attempt's directory.
pub(crate) const SOCKET: &str = "socket";

/// The first byte of a call.
pub(crate) const EXEC: u8 = b'E';
pub(crate) const ATTACH: u8 = b'A';
/// What an attached client says when its stdin has ended.
pub(crate) const END_OF_STDIN: u8 = b'e';

/// The second byte of a call: which of the standard streams are wanted.
pub(crate) const STDIN: u8 = 1;
pub(crate) const STDOUT: u8 = 2;
pub(crate) const STDERR: u8 = 4;

/// More descriptors than any call carries.
const MAX_DESCRIPTORS: usize = 3;
/// The longest command. The kernel takes hardly more.
pub(crate) const MAX_EXEC: u32 = 1024 * 1024;

/// A command to run in a container. Follows the two bytes as a length of four bytes, little endian, and CBOR; with the
/// length travel the descriptors of the wanted streams, or that of the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecCall {
    pub(crate) command: Vec<String>,
    /// Which streams are wanted; the descriptors come in the order of the bits.
    pub(crate) streams: u8,
    /// There is one descriptor, a terminal, for all streams.
    pub(crate) tty: bool,
}

/// A line that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The command runs.
    Started,
    /// It does not, and why.
    NotStarted {
        /// 127: there is no such program; 126: it cannot be executed; 128: anything else.
        code: i32,
        message: String,
    },
    /// It has ended.
    Exit { code: i32 },
    /// The outputs are connected. With it travels the descriptor of stdin or of the terminal, if there is one.
    Attached { stdin: bool, tty: bool },
    /// The client did not read for too long.
    Cut,
}

impl Answer {
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// A name of the socket that is short enough for a socket address, as long as `dir` is open.
pub(crate) fn address(dir: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(SOCKET)
}

/// Sends bytes, and descriptors along with the first of them; how many bytes were sent.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes, and the descriptors that come with them; 0 bytes are the end.
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(received.bytes)
}

/// Receives everything up to the end; the descriptors come with the first bytes.
pub(crate) fn receive_to_end(
    socket: &mut std::os::unix::net::UnixStream,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let received = receive(&*socket, &mut bytes, fds)?;
    bytes.truncate(received);
    if received > 0 {
        socket.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_travel_with_the_bytes() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let text = vec![7; 100_000];
        let sending = std::thread::spawn(move || {
            let sent = send(&here, &text, &[writer.as_fd()]).unwrap();
            (&here).write_all(&text[sent..]).unwrap();
        });
        let mut fds = Vec::new();
        let received = receive_to_end(&mut there, &mut fds).unwrap();
        sending.join().unwrap();
        assert_eq!((received.len(), fds.len()), (100_000, 1));
        std::fs::File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }
}
