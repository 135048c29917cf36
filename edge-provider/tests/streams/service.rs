//! What the streams of these tests talk to on the device: programs that never were.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use device_agent::streams::service::{Connection, Log, Process, Service, failed, not_found};
use hawser_wire::stream::{
    AttachRequest, ContainerStats, ExecRequest, LogMark, LogPosition, LogsRequest, PodStats, Stats, StreamRefusal,
    Usage,
};
use hawser_wire::{DeviceTime, PodUid};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

/// Clones are the same device.
#[derive(Clone)]
pub(crate) struct Programs {
    /// How many bytes any program has written.
    pub(crate) written: Arc<AtomicU64>,
    /// How many programs and connections there are.
    pub(crate) alive: Arc<AtomicUsize>,
    /// How many lines the log has.
    pub(crate) lines: watch::Sender<u64>,
    /// How often a log was opened.
    pub(crate) logs: Arc<AtomicUsize>,
    /// The last size of any terminal.
    pub(crate) size: watch::Sender<(u16, u16)>,
    pub(crate) pod: Arc<watch::Sender<Option<PodUid>>>,
}

/// Counts one program for as long as it is there.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(crate) fn line(number: u64) -> String {
    format!("line {number} {}\n", "-".repeat((number % 60) as usize))
}

/// A line with its time: one a second.
pub(crate) fn stamped(number: u64) -> String {
    let at = jiff::Timestamp::new(1_767_225_600 + number as i64, 5).expect("a time");
    format!("{at:.9} {}", line(number))
}

impl Programs {
    pub(crate) fn new() -> Self {
        Self {
            written: Arc::default(),
            alive: Arc::default(),
            lines: watch::channel(0).0,
            logs: Arc::default(),
            size: watch::channel((0, 0)).0,
            pod: Arc::new(watch::channel(None).0),
        }
    }

    fn alive(&self) -> Alive {
        self.alive.fetch_add(1, Ordering::SeqCst);
        Alive(Arc::clone(&self.alive))
    }

    /// Writes so many bytes to its output.
    async fn write(self, total: u64, mut output: DuplexStream) -> io::Result<()> {
        let mut at = 0;
        while at < total {
            let end = total.min(at + 8 * 1024);
            let bytes: Vec<u8> = (at..end).map(byte).collect();
            output.write_all(&bytes).await?;
            self.written.fetch_add(end - at, Ordering::SeqCst);
            at = end;
        }
        Ok(())
    }

    async fn write_log(self, request: LogsRequest, mut output: DuplexStream, marks: watch::Sender<LogMark>, from: u64) {
        let (mut next, mut bytes) = (from, 0);
        let mut lines = self.lines.subscribe();
        loop {
            while next < *lines.borrow_and_update() {
                let mut text = if request.timestamps { stamped(next) } else { line(next) };
                next += 1;
                bytes += text.len() as u64;
                if let Some(over) = request.limit_bytes.and_then(|limit| bytes.checked_sub(limit)) {
                    text.truncate(text.len() - over as usize);
                    // The rest of the line was not given: it goes on before it.
                    let _ = output.write_all(text.as_bytes()).await;
                    return;
                }
                if output.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
                let position = LogPosition { position: next.to_be_bytes().to_vec() };
                marks.send_replace(LogMark { bytes, position });
            }
            if !request.follow || lines.changed().await.is_err() {
                return;
            }
        }
    }
}

fn process(
    stdin: Option<WriteHalf<DuplexStream>>,
    stdout: DuplexStream,
    exit: impl Future<Output = Result<i32, String>> + Send + 'static,
) -> Process {
    Process {
        stdin: stdin.map(|stdin| Box::pin(stdin) as _),
        stdout: Some(Box::pin(stdout)),
        stderr: None,
        resize: None,
        exit: Box::pin(exit),
    }
}

/// Gives back what it is given, and its end.
async fn echo(mut input: ReadHalf<DuplexStream>, mut output: impl tokio::io::AsyncWrite + Unpin) -> io::Result<u64> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        match input.read(&mut buffer).await? {
            0 => return Ok(total),
            count => output.write_all(&buffer[..count]).await?,
        }
        total += 1;
    }
}

impl Service for Programs {
    async fn logs(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        self.logs.fetch_add(1, Ordering::SeqCst);
        let from = match &request.from {
            Some(LogPosition { position }) => {
                u64::from_be_bytes(position.as_slice().try_into().map_err(|_| failed("?"))?)
            }
            None => request.tail.map_or(0, |tail| self.lines.borrow().saturating_sub(tail)),
        };
        let lines = *self.lines.borrow();
        let newest = |most: u64| {
            let sizes = (0..lines).rev().scan(0, |size, number| {
                *size += stamped(number).len() as u64;
                Some(*size)
            });
            lines - sizes.take_while(|size| *size <= most).count() as u64
        };
        let from = from.max(request.newest.map_or(0, newest));
        let (output, writer) = tokio::io::duplex(16 * 1024);
        let position = LogPosition { position: from.to_be_bytes().to_vec() };
        let (marks_in, marks) = watch::channel(LogMark { bytes: 0, position });
        tokio::spawn(self.clone().write_log(request, writer, marks_in, from));
        Ok(Log { output: Box::pin(output), marks: Some(marks) })
    }

    async fn exec(&self, request: ExecRequest) -> Result<Process, StreamRefusal> {
        let alive = self.alive();
        let (stdout, mut writer) = tokio::io::duplex(16 * 1024);
        let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
        match words[..] {
            ["write", total] => {
                let total = total.parse().map_err(|_| failed("not a number"))?;
                let writing = tokio::spawn(self.clone().write(total, writer));
                Ok(process(None, stdout, async move {
                    let _alive = alive;
                    writing.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                    Ok(3)
                }))
            }
            ["echo"] => {
                let (stdin, program) = tokio::io::duplex(4096);
                let (input, _) = tokio::io::split(program);
                let (_, stdin) = tokio::io::split(stdin);
                Ok(process(Some(stdin), stdout, async move {
                    let _alive = alive;
                    echo(input, &mut writer).await.map_err(|error| error.to_string())?;
                    writer.write_all(b"bye").await.map_err(|error| error.to_string())?;
                    Ok(0)
                }))
            }
            ["hang"] => Ok(process(None, stdout, async move {
                let _both = (alive, writer);
                std::future::pending().await
            })),
            ["fail"] => Ok(process(None, stdout, async { Err("the container was killed".to_owned()) })),
            ["terminal"] => {
                let (resize, mut sizes) = mpsc::channel(1);
                let told = self.size.clone();
                let exit = async move {
                    let _both = (alive, writer);
                    while let Some(size) = sizes.recv().await {
                        let size: device_agent::streams::service::TerminalSize = size;
                        told.send_replace((size.columns, size.rows));
                    }
                    Ok(0)
                };
                Ok(Process { resize: Some(resize), ..process(None, stdout, exit) })
            }
            _ => Err(not_found(format!("there is no program {words:?}"))),
        }
    }

    async fn attach(&self, request: AttachRequest) -> Result<Process, StreamRefusal> {
        let AttachRequest { pod, container, channels } = request;
        self.exec(ExecRequest { pod, container, command: vec!["echo".to_owned()], channels }).await
    }

    async fn port_forward(&self, _: PodUid, port: u16) -> Result<Connection, StreamRefusal> {
        if port != 80 {
            return Err(device_agent::streams::service::not_possible(format!("nobody listens on port {port}")));
        }
        let alive = self.alive();
        let (client, server) = tokio::io::duplex(4096);
        let (input, mut output) = tokio::io::split(server);
        tokio::spawn(async move {
            let _alive = alive;
            if echo(input, &mut output).await.is_ok() {
                // A server that answers after the client has said everything.
                let _ = output.write_all(b"that was all").await;
                let _ = output.shutdown().await;
            }
        });
        let (output, input) = tokio::io::split(client);
        Ok(Connection { output: Box::pin(output), input: Box::pin(input) })
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        let usage = Usage { cpu_nanoseconds: Some(5), memory_working_set_bytes: Some(6), ..Usage::default() };
        let container = ContainerStats { name: "main".to_owned(), started: None, usage };
        let pods = self.pod.borrow().clone().into_iter();
        let pods = pods.map(|pod| PodStats { pod, started: None, containers: vec![container.clone()] });
        let stranger = PodUid::new("nobody-knows-me").map_err(|_| failed("?"))?;
        let stranger = PodStats { pod: stranger, started: None, containers: Vec::new() };
        Ok(Stats { at: DeviceTime(7), node: usage, started: None, pods: pods.chain([stranger]).collect(), disk: None })
    }
}
