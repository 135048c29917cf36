//! Commands beside a container's program, for probes and hooks: the container's shim runs them (see
//! [`shim`](crate::shim)), and ends them when the call is dropped.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::Process;
use crate::runtime::{ContainerId, ExecError, Executed, MAX_EXEC_OUTPUT, RuntimeError};
use crate::shim::call::{Answer, ExecCall, STDERR, STDOUT};
use crate::shim::line::{Line, NoShim};

impl Process {
    pub(super) async fn execute(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<Executed, ExecError> {
        let dir = self.attempt_dir(id);
        let work = async {
            let mut line = Line::open(&dir).await.map_err(|NoShim(error)| error)?;
            run(&mut line, command).await
        };
        let result = match limit {
            Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| ExecError::TimedOut)?,
            None => work.await,
        };
        result.map_err(|source| ExecError::Failed(RuntimeError { operation: format!("run a command in {id}"), source }))
    }
}

async fn run(line: &mut Line, command: Vec<String>) -> io::Result<Executed> {
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    let second = writer.try_clone()?;
    let theirs: [OwnedFd; 2] = [writer.into(), second.into()];
    let answer = line.exec(&ExecCall { command, streams: STDOUT | STDERR, tty: false }, &theirs).await?;
    drop(theirs);
    match answer {
        Some(Answer::Started) => {}
        Some(Answer::NotStarted { code, message }) => return Ok(Executed { code, output: message.into_bytes() }),
        _ => return Err(io::Error::other("the container ends")),
    }
    let (mut output, mut open) = (Vec::new(), true);
    loop {
        let mut bytes = [0; 4096];
        // Cancel-safe: what was received of an answer is kept, and a read that was not done has taken nothing.
        tokio::select! {
            read = reader.read(&mut bytes), if open => {
                let read = read?;
                open = read > 0;
                keep(&mut output, &bytes[..read]);
            }
            answer = line.answer() => {
                // What it left in the background may hold the pipe open for ever.
                while let Ok(read @ 1..) = reader.try_read(&mut bytes) {
                    keep(&mut output, &bytes[..read]);
                }
                return match answer? {
                    Some(Answer::Exit { code }) => Ok(Executed { code, output }),
                    _ => Err(io::Error::other("nobody saw how the command ended")),
                };
            }
        }
    }
}

fn keep(output: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_EXEC_OUTPUT - output.len();
    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
