//! Answers streams: what the service gives is pumped through the session until both sides are done.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use hawser_streams::{Reader, Stream, Streams, Writer};
use hawser_wire::encode;
use hawser_wire::stream::{CHUNK, LogMark, StreamRefusal, StreamRequest};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::service::{Connection, Input, Log, Output, Process, Service, TerminalSize};

/// Marks of a log are told no more often than this: each costs a frame, and saves only what would be read once more.
const MARK_EVERY: Duration = Duration::from_secs(2);

/// Serves streams until stopped. Then they all end, and the commands with them.
pub(crate) async fn serve<S: Service>(streams: Streams, service: Arc<S>, stop: CancellationToken) {
    // As many tasks as there are streams, which the streams themselves bound. Dropped with this one.
    let mut tasks = JoinSet::new();
    loop {
        // All arms are cancel-safe: a token, a queue that is only taken from when this arm runs, ended tasks.
        tokio::select! {
            () = stop.cancelled() => return,
            (stream, request) = streams.asked() => {
                let service = Arc::clone(&service);
                tasks.spawn(async move { one(&stream, request, &*service).await });
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a stream broke down; the others go on");
                }
            }
        }
    }
}

/// The life of one stream. Whatever the service gave is dropped at its end.
async fn one<S: Service>(stream: &Stream, request: StreamRequest, service: &S) {
    // Both arms are cancel-safe, or need not be: with the stream everything about it is over.
    tokio::select! {
        _ = stream.ended() => {}
        refused = answer(stream, request, service) => match refused {
            Ok(()) => drop(stream.ended().await),
            Err(refusal) => stream.refuse(refusal),
        },
    }
}

async fn answer<S: Service>(stream: &Stream, request: StreamRequest, service: &S) -> Result<(), StreamRefusal> {
    match request {
        StreamRequest::Logs(request) => {
            let log = service.logs(request).await?;
            stream.accept();
            give_log(stream, log).await;
        }
        StreamRequest::Exec(request) => {
            let process = service.exec(request).await?;
            stream.accept();
            talk(stream, process).await;
        }
        StreamRequest::Attach(request) => {
            let process = service.attach(request).await?;
            stream.accept();
            talk(stream, process).await;
        }
        StreamRequest::PortForward(pod, port) => {
            let Connection { output, mut input } = service.port_forward(pod, port).await?;
            stream.accept();
            let mut writer = stream.writer(1);
            let given = async move { give(stream, output, &mut writer).await };
            tokio::join!(given, take(stream.reader(0), &mut input));
        }
        StreamRequest::Stats => {
            let stats = encode(&service.stats().await?);
            stream.accept();
            // A failure is the end of the stream, which is waited for next.
            let _ = stream.writer(1).write_all(&stats).await;
        }
    }
    Ok(())
}

async fn give_log(stream: &Stream, log: Log) {
    let mut writer = stream.writer(1);
    let Some(mut marks) = log.marks else { return give(stream, log.output, &mut writer).await };
    // Before any byte, so that every byte has a mark before it.
    stream.mark(marks.borrow_and_update().clone());
    let last = marks.clone();
    tokio::select! {
        // Both may be cancelled: when one is done the other is of no use.
        () = give(stream, log.output, &mut writer) => {}
        () = tell_marks(stream, marks) => {}
    }
    // Before the end, so that whoever wanted no more at once goes on from there.
    let last = last.borrow().clone();
    stream.mark(last);
}

/// Never ends by itself.
async fn tell_marks(stream: &Stream, mut marks: watch::Receiver<LogMark>) {
    loop {
        tokio::time::sleep(MARK_EVERY).await;
        if marks.changed().await.is_err() {
            return std::future::pending().await;
        }
        let mark = marks.borrow_and_update().clone();
        stream.mark(mark);
    }
}

async fn talk(stream: &Stream, process: Process) {
    let Process { stdin, stdout, stderr, resize, exit } = process;
    let said = async {
        let stdout = give_if_there(stream, stdout, 1);
        let stderr = give_if_there(stream, stderr, 2);
        let (code, (), ()) = tokio::join!(exit, stdout, stderr);
        code
    };
    let heard = async {
        let mut stdin = stdin;
        if let Some(stdin) = &mut stdin {
            take(stream.reader(0), stdin).await;
        }
        // Kept until `exit` has gone: a command must not take the going of its client for the end of its input.
        std::future::pending().await
    };
    let resized = async {
        let Some(resize) = resize else { return std::future::pending().await };
        loop {
            let (columns, rows) = stream.resized().await;
            // Full: a newer size is on its way to it already. Closed: the process has ended.
            let _ = resize.try_send(TerminalSize { columns, rows });
        }
    };
    tokio::select! {
        code = said => match code {
            Ok(code) => stream.exit(code),
            Err(why) => stream.abort(&why),
        },
        // These two never end by themselves; with the process they are of no use any more.
        () = heard => {}
        () = resized => {}
    }
}

async fn give_if_there(stream: &Stream, output: Option<Output>, channel: u8) {
    if let Some(output) = output {
        give(stream, output, &mut stream.writer(channel)).await;
    }
}

/// Sends an output until its end. Reads only what the other end has room for.
async fn give(stream: &Stream, mut output: Output, writer: &mut Writer) {
    while let Ok(room) = writer.room().await {
        match read_some(&mut output, room).await {
            Ok(bytes) if bytes.is_empty() => return,
            Ok(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Err(error) => return stream.abort(&error.to_string()),
        }
    }
}

/// Passes on what comes, and its end. If nobody takes it any more, the rest is thrown away.
async fn take(mut reader: Reader, input: &mut Input) {
    loop {
        match read_some(&mut reader, CHUNK).await {
            Ok(bytes) if bytes.is_empty() => {
                // Whoever does not take the end has gone.
                let _ = input.shutdown().await;
                return;
            }
            Ok(bytes) => {
                if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
            // The stream is over.
            Err(_) => return,
        }
    }
}

/// Reads at most `most` bytes; none: the end. While there is nothing to read, it holds no buffer: most streams are idle.
async fn read_some(from: &mut (impl AsyncRead + Unpin), most: usize) -> std::io::Result<Vec<u8>> {
    poll_fn(|context| {
        let mut space = [MaybeUninit::<u8>::uninit(); CHUNK];
        let mut buffer = ReadBuf::uninit(&mut space[..most.min(CHUNK)]);
        ready!(std::pin::Pin::new(&mut *from).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().to_vec()))
    })
    .await
}

#[cfg(test)]
mod tests;
