//! `kubectl exec`: a command beside a container's program.
//!
//! The container's shim starts it (see [`shim`](crate::shim)), with the container's environment, directory, user and cgroup,
//! and ends it with the container. Its streams are pipes, or a terminal, between it and the agent. When the client goes, the
//! call to the shim is dropped, and the command is ended with all that it started.

use std::io::{self, Cursor};
use std::os::fd::OwnedFd;
use std::path::Path;

use hawser_wire::stream::{Channels, ExecRequest, StreamRefusal};
use tokio::sync::mpsc;

use super::ends::{Terminal, TerminalInput, input, output};
use crate::shim::call::{Answer, ExecCall, STDERR, STDIN, STDOUT};
use crate::shim::line::{Line, NoShim};
use crate::streams::service::{Input, Output, Process, TerminalSize, failed, refusal};

/// How many sizes of a terminal may wait. The last one matters, and they are taken at once.
const SIZES: usize = 4;

/// What the agent has in hand of a command's streams.
#[derive(Default)]
struct Ours {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<Terminal>,
}

/// Starts a command in the container whose shim has this directory.
pub(super) async fn exec(dir: &Path, request: ExecRequest) -> Result<Result<Process, StreamRefusal>, NoShim> {
    if request.command.is_empty() {
        return Ok(Err(refusal(400, "you must specify at least 1 command for the container")));
    }
    let line = Line::open(dir).await?;
    Ok(exec_by(line, request).await.map_err(|error| failed(format!("the command was not started: {error}"))))
}

async fn exec_by(line: Line, request: ExecRequest) -> io::Result<Process> {
    let channels = request.channels;
    let (streams, ours, theirs) = streams(channels)?;
    // If this is dropped half way, the line goes before the streams, as it does in a `Process`.
    let mut line = line;
    let call = ExecCall { command: request.command, streams, tty: channels.tty };
    let answer = line.exec(&call, &theirs).await?;
    // The command has its own copies; while we hold ours no stream would ever end.
    drop(theirs);
    match answer {
        Some(Answer::Started) => Ok(process(ours, line)),
        Some(Answer::NotStarted { code, message }) => Ok(stillborn(channels, code, &message)),
        _ => Err(io::Error::other("the container ends")),
    }
}

/// The streams that a client asks for: as bits, our ends, and the command's.
fn streams(channels: Channels) -> io::Result<(u8, Ours, Vec<OwnedFd>)> {
    let mut ours = Ours::default();
    if channels.tty {
        let (terminal, end) = Terminal::open()?;
        if channels.stdin {
            ours.stdin = Some(Box::pin(TerminalInput::new(terminal.clone())));
        }
        if channels.stdout {
            ours.stdout = Some(Box::pin(terminal.clone()));
        }
        ours.terminal = Some(terminal);
        return Ok((STDIN | STDOUT, ours, vec![end]));
    }
    let (mut streams, mut theirs) = (0, Vec::new());
    if channels.stdin {
        let (stdin, end) = input()?;
        ours.stdin = Some(Box::pin(stdin));
        streams |= STDIN;
        theirs.push(end);
    }
    for (wanted, bit, slot) in
        [(channels.stdout, STDOUT, &mut ours.stdout), (channels.stderr, STDERR, &mut ours.stderr)]
    {
        if wanted {
            let (reader, end) = output()?;
            (*slot, streams) = (Some(reader), streams | bit);
            theirs.push(end);
        }
    }
    Ok((streams, ours, theirs))
}

fn process(ours: Ours, mut line: Line) -> Process {
    let Ours { stdin, stdout, stderr, terminal } = ours;
    let (resize, mut sizes) = mpsc::channel(SIZES);
    let has_terminal = terminal.is_some();
    let exit = async move {
        loop {
            // Cancel-safe: what was received of an answer is kept, and a size is used as soon as it is received.
            tokio::select! {
                answer = line.answer() => return exit(answer),
                Some(size) = sizes.recv(), if has_terminal => {
                    if let Some(terminal) = &terminal {
                        terminal.resize(size);
                    }
                }
            }
        }
    };
    let resize: Option<mpsc::Sender<TerminalSize>> = has_terminal.then_some(resize);
    Process { stdin, stdout, stderr, resize, exit: Box::pin(exit) }
}

fn exit(answer: io::Result<Option<Answer>>) -> Result<i32, String> {
    match answer {
        Ok(Some(Answer::Exit { code })) => Ok(code),
        // The container has ended, and the command with it, by KILL.
        Ok(None) => Ok(137),
        Ok(Some(other)) => Err(format!("the shim says {other:?}")),
        Err(error) => Err(format!("nobody saw how the command ended: {error}")),
    }
}

/// A command that could not be started ends at once, as it would in a shell: with a word, and an exit code that tells why.
fn stillborn(channels: Channels, code: i32, message: &str) -> Process {
    let text = |end: &str| -> Output { Box::pin(Cursor::new(format!("error: {message}{end}").into_bytes())) };
    let nothing = || -> Output { Box::pin(tokio::io::empty()) };
    let (resize, _) = mpsc::channel(SIZES);
    let said_on_stdout = channels.tty && channels.stdout;
    Process {
        stdin: channels.stdin.then(|| Box::pin(tokio::io::sink()) as Input),
        stdout: channels.stdout.then(|| if said_on_stdout { text("\r\n") } else { nothing() }),
        stderr: (channels.stderr && !channels.tty).then(|| text("\n")),
        resize: channels.tty.then_some(resize),
        exit: Box::pin(std::future::ready(Ok(code))),
    }
}
