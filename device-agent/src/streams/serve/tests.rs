use super::*;

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Context;

use hawser_wire::PodUid;
use hawser_wire::stream::mux::{End, Limits, Side};
use hawser_wire::stream::{AttachRequest, Channels, ExecRequest, LogsRequest, Stats};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::super::service::not_supported;

const LIMITS: Limits = Limits { streams: 8, budget: 1 << 20 };

/// What was taken from a command, in order.
type Taken = Arc<Mutex<Vec<&'static str>>>;

/// Says that it was dropped.
struct Held(Taken, &'static str);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1);
    }
}

/// An input that takes everything, and says when it ends.
struct Stdin(Held);

impl AsyncWrite for Stdin {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.0.lock().unwrap().push("told the end of the input");
        Poll::Ready(Ok(()))
    }
}

/// Commands that greet and then never end.
struct Shells(Taken);

impl Service for Shells {
    async fn logs(&self, _: LogsRequest) -> Result<Log, StreamRefusal> {
        Err(not_supported("no logs"))
    }

    async fn exec(&self, _: ExecRequest) -> Result<Process, StreamRefusal> {
        let command = Held(Arc::clone(&self.0), "the command");
        let exit = Box::pin(async move {
            let _command = command;
            std::future::pending().await
        });
        let stdin = Some(Box::pin(Stdin(Held(Arc::clone(&self.0), "its input"))) as Input);
        let stdout = Some(Box::pin(tokio::io::AsyncReadExt::chain(&b"$"[..], Endless)) as Output);
        Ok(Process { exit, stdin, stdout, stderr: None, resize: None })
    }

    async fn attach(&self, _: AttachRequest) -> Result<Process, StreamRefusal> {
        Err(not_supported("no attach"))
    }

    async fn port_forward(&self, _: PodUid, _: u16) -> Result<Connection, StreamRefusal> {
        Err(not_supported("no port-forward"))
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        Err(not_supported("no stats"))
    }
}

/// Has nothing to say, and does not end.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// The bridge's end, and the task that carries the frames and serves the other.
struct Pair {
    bridge: Streams,
    tasks: JoinSet<()>,
}

impl Pair {
    fn new(service: Shells) -> Self {
        let bell = Arc::new(tokio::sync::Notify::new());
        let end = |side| {
            let bell = Arc::clone(&bell);
            let streams = Streams::new(side, LIMITS, move || bell.notify_one());
            streams.begin();
            streams
        };
        let (bridge, device) = (end(Side::Bridge), end(Side::Device));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(device.clone(), Arc::new(service), CancellationToken::new()));
        let near = bridge.clone();
        tasks.spawn(async move {
            loop {
                let (down, up) = (near.transmit(), device.transmit());
                if down.is_none() && up.is_none() {
                    bell.notified().await;
                }
                down.into_iter().for_each(|frame| device.receive(frame));
                up.into_iter().for_each(|frame| near.receive(frame));
            }
        });
        Self { bridge, tasks }
    }

    /// A command that runs: it has greeted.
    async fn exec(&self) -> Stream {
        let channels = Channels { stdin: true, stdout: true, stderr: false, tty: false };
        let pod = PodUid::new("u").unwrap();
        let request = ExecRequest { pod, container: "c".into(), command: vec!["sh".into()], channels };
        let stream = self.bridge.open(StreamRequest::Exec(request)).unwrap();
        stream.opened().await.unwrap();
        stream.reader(1).read_exact(&mut [0]).await.unwrap();
        stream
    }
}

async fn all_taken(taken: &Taken) -> Vec<&'static str> {
    while taken.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    std::mem::take(&mut *taken.lock().unwrap())
}

/// How often an order is tried that is a matter of luck if nobody sees to it.
const OFTEN: usize = 64;

#[tokio::test]
async fn a_command_whose_client_has_gone_is_let_go_before_its_input() {
    let taken = Taken::default();
    let pair = Pair::new(Shells(Arc::clone(&taken)));
    for _ in 0..OFTEN {
        drop(pair.exec().await);
        assert_eq!(all_taken(&taken).await, ["the command", "its input"]);
    }
    drop(pair.tasks);
}

#[tokio::test]
async fn a_command_whose_bridge_was_lost_is_let_go_before_its_input() {
    for _ in 0..OFTEN {
        let taken = Taken::default();
        let pair = Pair::new(Shells(Arc::clone(&taken)));
        let stream = pair.exec().await;
        pair.bridge.interrupt("the bridge stops");
        assert!(matches!(stream.ended().await, End::Lost(_)));
        assert_eq!(all_taken(&taken).await, ["the command", "its input"]);
    }
}

#[tokio::test]
async fn the_end_of_the_input_is_told_and_the_command_goes_on() {
    let taken = Taken::default();
    let pair = Pair::new(Shells(Arc::clone(&taken)));
    let stream = pair.exec().await;
    let mut stdin = stream.writer(0);
    stdin.write_all(b"exit").await.unwrap();
    stdin.shutdown().await.unwrap();
    while taken.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(std::mem::take(&mut *taken.lock().unwrap()), ["told the end of the input"]);
    drop((stdin, stream));
    assert_eq!(all_taken(&taken).await, ["the command", "its input"]);
}
