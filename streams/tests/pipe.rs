//! Two ends in one process, with nothing between them but the frames.

use std::sync::Arc;

use hawser_streams::{Ended, Stream, Streams};
use hawser_wire::PodUid;
use hawser_wire::stream::mux::{End, Limits, Side};
use hawser_wire::stream::{Channels, ExecRequest, StreamRequest};
use peak_alloc::PeakAlloc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LIMITS: Limits = Limits { streams: 256, budget: 8 * 1024 * 1024 };

/// Both ends, and the task that carries their frames.
struct Pair {
    bridge: Streams,
    device: Streams,
    carrier: tokio::task::JoinHandle<()>,
}

impl Pair {
    fn new() -> Self {
        let bell = Arc::new(Notify::new());
        let end = |side| {
            let bell = Arc::clone(&bell);
            let streams = Streams::new(side, LIMITS, move || bell.notify_one());
            streams.begin();
            streams
        };
        let (bridge, device) = (end(Side::Bridge), end(Side::Device));
        let (down, up) = (bridge.clone(), device.clone());
        let carrier = tokio::spawn(async move {
            loop {
                let mut moved = false;
                while let Some(frame) = down.transmit() {
                    up.receive(frame);
                    moved = true;
                }
                while let Some(frame) = up.transmit() {
                    down.receive(frame);
                    moved = true;
                }
                if !moved {
                    bell.notified().await;
                }
            }
        });
        Self { bridge, device, carrier }
    }

    async fn open(&self) -> (Stream, Stream) {
        let channels = Channels { stdin: true, stdout: true, stderr: false, tty: false };
        let pod = PodUid::new("u").expect("valid");
        let request = ExecRequest { pod, container: "c".into(), command: vec!["x".into()], channels };
        let client = self.bridge.open(StreamRequest::Exec(request)).expect("room");
        let (program, _) = self.device.asked().await;
        program.accept();
        client.opened().await.expect("accepted");
        (client, program)
    }

    async fn is_empty(&self) {
        while !(self.bridge.is_empty() && self.device.is_empty()) {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

#[tokio::test]
async fn much_goes_through_little_memory() {
    const TOTAL: usize = 64 * 1024 * 1024;
    let pair = Pair::new();
    let (client, program) = pair.open().await;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let writing = tokio::spawn(async move {
        let mut writer = program.writer(1);
        let chunk = vec![7; 50_000];
        let mut left = TOTAL;
        while left > 0 {
            let now = left.min(chunk.len());
            writer.write_all(&chunk[..now]).await.expect("open");
            left -= now;
        }
        program.exit(0);
        program.ended().await
    });
    let mut reader = client.reader(1);
    let (mut buffer, mut read) = (vec![0; 64 * 1024], 0);
    loop {
        match reader.read(&mut buffer).await.expect("open") {
            0 => break,
            count => read += count,
        }
    }
    assert_eq!(read, TOTAL);
    assert_eq!(client.ended().await, End::Finished(Some(0)));
    assert_eq!(writing.await.expect("no panic"), End::Finished(Some(0)));
    let more = MEMORY.peak_usage().saturating_sub(before);
    assert!(more < 2 * 1024 * 1024, "{more} bytes of memory");
    drop((reader, client));
    pair.is_empty().await;
}

#[tokio::test]
async fn letting_go_of_everything_ends_the_stream_at_the_other_end() {
    let pair = Pair::new();
    let (client, program) = pair.open().await;
    let (reader, mut writer) = (client.reader(1), client.writer(0));
    drop(client);
    writer.write_all(b"still here").await.expect("a reader and a writer hold it");
    let mut heard = [0; 10];
    program.reader(0).read_exact(&mut heard).await.expect("open");
    assert_eq!(&heard, b"still here");
    drop((reader, writer));
    assert!(matches!(program.ended().await, End::Aborted(_)));
    drop(program);
    pair.is_empty().await;
}

#[tokio::test]
async fn an_error_says_what_happened() {
    let pair = Pair::new();
    let (client, program) = pair.open().await;
    let (mut reader, mut writer) = (client.reader(1), client.writer(0));
    let mut output = program.writer(1);
    output.write_all(b"before").await.expect("open");
    let mut text = [0; 6];
    reader.read_exact(&mut text).await.expect("what was sent before arrives");
    program.abort("the container was killed");
    let error = reader.read_to_end(&mut Vec::new()).await.expect_err("it was aborted");
    assert_eq!((&text, error.to_string().as_str()), (b"before", "the container was killed"));
    let ended = error.get_ref().and_then(|error| error.downcast_ref::<Ended>());
    assert_eq!(ended, Some(&Ended(End::Aborted("the container was killed".to_owned()))));
    let error = writer.write_all(b"x").await.expect_err("it was aborted");
    assert_eq!(error.to_string(), "the container was killed");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_wakes_everybody() {
    let pair = Pair::new();
    let (client, program) = pair.open().await;
    let mut reader = client.reader(1);
    let reading = tokio::spawn(async move { reader.read(&mut [0; 9]).await.map_err(|error| error.to_string()) });
    let ended = tokio::spawn(async move { client.ended().await });
    tokio::task::yield_now().await;
    pair.bridge.end("the device went offline");
    assert_eq!(reading.await.expect("no panic"), Err("the device went offline".to_owned()));
    assert_eq!(ended.await.expect("no panic"), End::Lost("the device went offline".to_owned()));
    // The device hears nothing more, and notices.
    while pair.device.deadline().is_some() {
        let deadline = pair.device.deadline().expect("just looked");
        tokio::time::sleep_until(deadline).await;
        while pair.device.transmit().is_some() {}
    }
    assert!(matches!(program.ended().await, End::Lost(why) if why.contains("nothing was heard")));
}
