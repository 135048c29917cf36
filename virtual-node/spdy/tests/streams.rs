//! Two honest ends.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hawser_spdy::{Ended, Handle, Headers, Limits, ResetStatus, Stream, connect, serve};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;

struct Pair {
    client: Handle,
    server: Handle,
    drivers: [JoinHandle<Result<(), Ended>>; 2],
}

fn pair(limits: Limits) -> Pair {
    let (here, there) = tokio::io::duplex(8192);
    let (client, one) = connect(here, limits);
    let (server, other) = serve(there, limits);
    Pair { client, server, drivers: [tokio::spawn(one.run()), tokio::spawn(other.run())] }
}

async fn stream(from: &Handle, to: &Handle) -> (Stream, Stream) {
    let ours = from.open(&Headers::default()).unwrap();
    let (_, theirs) = to.accept().await.unwrap().accept(&Headers::default()).unwrap();
    (ours, theirs)
}

async fn text(mut from: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<String> {
    let mut text = String::new();
    from.read_to_string(&mut text).await.map(|_| text)
}

fn some_bytes(count: usize, seed: u32) -> Vec<u8> {
    (0..count as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn streams_go_both_ways_at_once_with_headers() {
    let pair = pair(Limits::default());
    let kind = Headers::from_iter([("streamType", "data"), ("port", "80")]);
    let ours = pair.client.open(&kind).unwrap();
    let incoming = pair.server.accept().await.unwrap();
    assert_eq!(incoming.headers(), &kind);
    let (_, theirs) = incoming.accept(&Headers::from_iter([("welcome", "yes")])).unwrap();
    assert_eq!(ours.replied().await.unwrap().get("Welcome"), Some("yes"));
    assert_eq!((ours.id(), theirs.id()), (1, 1));
    let (_, back) = stream(&pair.server, &pair.client).await;
    assert_eq!(back.id(), 2);

    let (up, down) = (some_bytes(3 << 20, 1), some_bytes(2 << 20, 2));
    let ((mut read, mut write), (mut their_read, mut their_write)) = (ours.split(), theirs.split());
    let send = async {
        write.write_all(&up).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reply = async {
        their_write.write_all(&down).await.unwrap();
        their_write.shutdown().await.unwrap();
    };
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (_, _, up_end, down_end) =
        tokio::join!(send, reply, their_read.read_to_end(&mut got_up), read.read_to_end(&mut got_down));
    up_end.unwrap();
    down_end.unwrap();
    assert!(got_up == up && got_down == down);
}

/// A transport in whose next flush something else happens, as it may on another thread.
struct Meanwhile(DuplexStream, Arc<Mutex<Option<Stream>>>);

impl AsyncRead for Meanwhile {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Meanwhile {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(stream) = self.1.lock().unwrap().as_mut() {
            let written = Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), b"late");
            assert!(matches!(written, Poll::Ready(Ok(4))));
        }
        *self.1.lock().unwrap() = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_the_driver_looks_elsewhere_is_sent() {
    let (here, there) = tokio::io::duplex(8192);
    let (meanwhile, limits) = (Arc::new(Mutex::new(None)), Limits::default());
    let (client, one) = connect(Meanwhile(here, Arc::clone(&meanwhile)), limits);
    let (server, other) = serve(there, limits);
    let _drivers = [tokio::spawn(one.run()), tokio::spawn(other.run())];
    let (ours, mut theirs) = stream(&client, &server).await;
    ours.replied().await.unwrap();
    *meanwhile.lock().unwrap() = Some(ours);
    // Wakes the driver, so that it flushes.
    let _another = client.open(&Headers::default()).unwrap();
    // The stream is dropped after its write, and therefore reset.
    let mut heard = [0; 4];
    let soon = tokio::time::timeout(Duration::from_secs(60), theirs.read_exact(&mut heard));
    soon.await.expect("it is sent").unwrap();
    assert_eq!(&heard, b"late");
}

#[tokio::test(start_paused = true)]
async fn half_closed_still_answers() {
    let pair = pair(Limits::default());
    let (mut ours, mut theirs) = stream(&pair.client, &pair.server).await;
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    ours.shutdown().await.unwrap();
    assert!(ours.write_all(b"more").await.is_err());
    assert_eq!(text(&mut theirs).await.unwrap(), "question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    assert_eq!(text(&mut ours).await.unwrap(), "answer");
    drop((ours, theirs));
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_peer_has_taken_the_stream() {
    let pair = pair(Limits::default());
    let mut ours = pair.client.open(&Headers::default()).unwrap();
    let early = tokio::time::timeout(Duration::from_secs(1), ours.write_all(b"early")).await;
    assert!(early.is_err(), "peers drop what comes before their reply");
    let _theirs = pair.server.accept().await.unwrap().accept(&Headers::default()).unwrap();
    ours.write_all(b"now").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_both_ways_on_both_ends_after_what_came_before() {
    let pair = pair(Limits::default());
    let (mut ours, mut theirs) = stream(&pair.client, &pair.server).await;
    ours.write_all(b"last").await.unwrap();
    ours.reset(ResetStatus::INTERNAL_ERROR);
    let mut bytes = [0; 4];
    theirs.read_exact(&mut bytes).await.unwrap();
    let error = theirs.read(&mut bytes).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (std::io::ErrorKind::ConnectionReset, "the stream was reset (status 6)".into())
    );
    assert!(theirs.write_all(b"x").await.is_err());

    let ours = pair.client.open(&Headers::default()).unwrap();
    pair.server.accept().await.unwrap().refuse(ResetStatus::REFUSED);
    assert_eq!(ours.replied().await.unwrap_err().to_string(), "the stream was reset (status 3)");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_reset_and_a_dropped_reader_stalls_nobody() {
    let pair = pair(Limits { stream_buffer: 1024, ..Limits::default() });
    let (ours, mut theirs) = stream(&pair.client, &pair.server).await;
    drop(ours);
    assert!(theirs.read_u8().await.is_err());
    let (mut ours, theirs) = stream(&pair.client, &pair.server).await;
    let (read, mut write) = theirs.split();
    drop(read);
    ours.write_all(&[0; 100_000]).await.unwrap();
    ours.shutdown().await.unwrap();
    write.write_all(b"still here").await.unwrap();
    write.shutdown().await.unwrap();
    assert_eq!(text(ours).await.unwrap(), "still here");
}

#[tokio::test(start_paused = true)]
async fn many_writers_share_the_connection() {
    let pair = pair(Limits { send_buffer: 4096, ..Limits::default() });
    let mut done = Vec::new();
    for n in 0..20 {
        let (mut ours, theirs) = stream(&pair.client, &pair.server).await;
        done.push(tokio::spawn(async move {
            let bytes = some_bytes(100_000, n);
            let sent = bytes.clone();
            let send = tokio::spawn(async move {
                ours.write_all(&sent).await.unwrap();
                ours.shutdown().await.unwrap();
                ours
            });
            let mut got = Vec::new();
            let (mut read, _write) = theirs.split();
            read.read_to_end(&mut got).await.unwrap();
            send.await.unwrap();
            assert!(got == bytes);
        }));
    }
    for task in done {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_both_ways_and_fail_with_the_connection() {
    let pair = pair(Limits::default());
    tokio::try_join!(pair.client.ping(), pair.server.ping(), pair.client.ping()).unwrap();
    let [one, other] = pair.drivers;
    other.abort();
    assert!(other.await.unwrap_err().is_cancelled());
    assert_eq!(one.await.unwrap(), Ok(()));
    assert_eq!(pair.client.ping().await, Err(Ended::PeerClosed));
    assert_eq!(pair.server.ping().await, Err(Ended::Closed));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_driver_is_the_end_of_its_streams() {
    let pair = pair(Limits::default());
    let (mut ours, mut theirs) = stream(&pair.client, &pair.server).await;
    theirs.write_all(b"before").await.unwrap();
    let mut bytes = [0; 6];
    ours.read_exact(&mut bytes).await.unwrap();
    pair.drivers[0].abort();
    assert_eq!(ours.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    assert_eq!(theirs.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    assert_eq!(ours.write_all(b"x").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_the_streams_and_refuses_new_ones() {
    let pair = pair(Limits::default());
    let (mut ours, theirs) = stream(&pair.client, &pair.server).await;
    pair.server.close();
    assert_eq!(pair.server.open(&Headers::default()).unwrap_err(), Ended::Closed);
    assert_eq!(pair.server.accept().await.unwrap_err(), Ended::Closed);
    pair.client.ping().await.unwrap();
    assert_eq!(pair.client.open(&Headers::default()).unwrap_err(), Ended::GoingAway);
    let (read, mut write) = theirs.split();
    write.write_all(b"bye").await.unwrap();
    write.shutdown().await.unwrap();
    drop((read, write));
    let mut bytes = Vec::new();
    ours.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"bye");
    for driver in pair.drivers {
        assert_eq!(driver.await.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_the_end_arrives_though_the_peer_was_still_sending() {
    let pair = pair(Limits::default());
    let (ours, theirs) = stream(&pair.client, &pair.server).await;
    let (read, mut write) = ours.split();
    let sender = tokio::spawn(async move { while write.write_all(&[0; 1000]).await.is_ok() {} });
    let (_unread, mut status) = theirs.split();
    status.write_all(b"exit 0").await.unwrap();
    status.shutdown().await.unwrap();
    drop((_unread, status));
    pair.server.close();
    assert_eq!(text(read).await.unwrap(), "exit 0");
    sender.await.unwrap();
}
