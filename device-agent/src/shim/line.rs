//! The agent's end of a call to a shim. Dropping it ends the call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::call::{self, Answer, EXEC, ExecCall, MAX_EXEC};

/// No answer is longer.
const MAX_ANSWER: usize = 64 * 1024;

/// A call to the shim of a container.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Arc<UnixStream>,
    /// What has come and was not looked at yet.
    heard: Vec<u8>,
    /// The descriptors that came with it.
    fds: Vec<OwnedFd>,
}

impl Line {
    /// Calls the shim that has this directory.
    pub(crate) async fn open(dir: &Path) -> Result<Self, NoShim> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| NoShim(error.into()))?;
        let socket = UnixStream::connect(call::address(dir.as_fd())).await.map_err(NoShim)?;
        Ok(Self { socket: Arc::new(socket), heard: Vec::new(), fds: Vec::new() })
    }

    /// Says something; the descriptors go with the first byte.
    pub(crate) async fn say(&self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.socket.writable().await?;
            match self.socket.try_io(Interest::WRITABLE, || call::send(&*self.socket, bytes, fds)) {
                Ok(sent) => (bytes, fds) = (&bytes[sent..], &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks for a command; the descriptors are its streams. The first answer says whether it runs.
    pub(crate) async fn exec(&mut self, call: &ExecCall, streams: &[OwnedFd]) -> io::Result<Option<Answer>> {
        let mut bytes = Vec::new();
        ciborium::into_writer(call, &mut bytes).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_EXEC);
        let length = length.ok_or_else(|| io::Error::other(format!("it is longer than {MAX_EXEC} bytes")))?;
        let fds: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        self.say(&[EXEC, 0], &[]).await?;
        self.say(&length.to_le_bytes(), &fds).await?;
        self.say(&bytes, &[]).await?;
        self.answer().await
    }

    /// Somebody else who may say something in this call.
    pub(crate) fn speaker(&self) -> Speaker {
        Speaker(self.socket.clone())
    }

    /// The next answer; `None`: there is nobody any more. Cancel-safe: what has come is kept.
    pub(crate) async fn answer(&mut self) -> io::Result<Option<Answer>> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.heard.len() > MAX_ANSWER {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.socket.readable().await?;
            let mut bytes = [0; 4096];
            match self.socket.try_io(Interest::READABLE, || call::receive(&*self.socket, &mut bytes, &mut self.fds)) {
                Ok(0) => return Ok(None),
                Ok(received) => self.heard.extend_from_slice(&bytes[..received]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptor that came with an answer.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop()
    }
}

/// Says something in a call.
#[derive(Debug)]
pub(crate) struct Speaker(Arc<UnixStream>);

impl Speaker {
    /// Says one byte if that can be done at once, which it can unless the shim is dead.
    pub(crate) fn mention(&self, byte: u8) {
        let _ = self.0.try_write(&[byte]);
    }
}

/// The shim does not take the call.
#[derive(Debug)]
pub(crate) struct NoShim(pub(crate) io::Error);
