//! The connection against a hub of a few lines, which does as the test says.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tracing::subscriber::DefaultGuard;

use super::*;

const CONNECT: u8 = 1;
const SUBSCRIBE: u8 = 8;
const PING: u8 = 12;
const GRANTED: u8 = 1;
const REFUSED: u8 = 0x80;

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines_with(&self, text: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        let text = text.to_owned();
        String::from_utf8(bytes).unwrap().lines().filter(|line| line.contains(&text)).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A client that runs, and what it says.
struct Running {
    metrics: Metrics,
    log: Log,
    from_hub: mpsc::Receiver<FromHub>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _guard: DefaultGuard,
}

impl Running {
    fn start(hub: SocketAddr) -> Self {
        let (log, guard) = Log::capture();
        let metrics = Metrics::default();
        let address = HubAddress { host: hub.ip().to_string(), port: hub.port(), tls: false };
        let access = HubAccess { address, tls: None, username: "bridge".to_owned(), password: "p".to_owned() };
        let (_, mut client) = HubClient::new(access, Root::default(), [7; 8], metrics.clone());
        // The shortest there is: a subscription that was refused is asked for again at this pace.
        client.connection.mqtt_options.set_keep_alive(Duration::from_secs(1));
        let (sender, from_hub) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let task = tokio::spawn(client.run(sender, stop.clone()));
        Self { metrics, log, from_hub, stop, task, _guard: guard }
    }

    async fn connected(&mut self) {
        assert!(matches!(self.from_hub.recv().await, Some(FromHub::Connected)));
        assert_eq!(self.metrics.readiness(), Ok(()));
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The kind of the next packet, and its identifier if it has one.
async fn packet(stream: &mut TcpStream) -> Option<(u8, [u8; 2])> {
    let kind = stream.read_u8().await.ok()? >> 4;
    let length = stream.read_u8().await.ok()?;
    assert!(length < 128, "longer than anything that the client sends here");
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, [body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0)]))
}

/// Lets the bridge in, and answers its subscriptions with these codes, one list after the other; returns the connection
/// after the last.
async fn serve(listener: &TcpListener, answers: &[[u8; 3]]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut answers = answers.iter();
    loop {
        let (kind, id) = packet(&mut stream).await.expect("the client stays");
        match kind {
            CONNECT => stream.write_all(&[0x20, 2, 0, 0]).await.unwrap(),
            PING => stream.write_all(&[0xd0, 0]).await.unwrap(),
            SUBSCRIBE => {
                let [one, two, three] = answers.next().expect("asked too often");
                stream.write_all(&[0x90, 5, id[0], id[1], *one, *two, *three]).await.unwrap();
                if answers.len() == 0 {
                    return stream;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_hub_that_is_away_is_told_once_each_time_and_found_without_a_restart() {
    // A port on which nobody listens.
    let address = listen().await.local_addr().unwrap();
    let mut running = Running::start(address);
    running.until(|running| !running.log.lines_with("no connection to the hub").is_empty()).await;
    assert_eq!(running.metrics.readiness(), Err("not connected to the hub"));

    // It comes, but not at once for good.
    let listener = TcpListener::bind(address).await.unwrap();
    for _ in 0..2 {
        drop(listener.accept().await.unwrap());
    }
    let stream = serve(&listener, &[[GRANTED; 3]]).await;
    running.connected().await;
    let told = running.log.lines_with("no connection to the hub");
    // Once for each cause: nobody listened, and then somebody hung up.
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains(&address.to_string()) && told[0].contains("check --hub"), "{told:?}");
    assert!(told[1].contains(&address.to_string()) && told[1].contains("look into the hub's log"), "{told:?}");

    // It goes away again.
    drop(stream);
    running.until(|running| running.metrics.readiness().is_err()).await;
    drop(listener.accept().await.unwrap());
    let _stream = serve(&listener, &[[GRANTED; 3]]).await;
    running.connected().await;
    assert_eq!(running.log.lines_with("no connection to the hub").len(), 3);
    assert_eq!(running.log.lines_with("connected to the hub").len(), 2);
    running.end().await;
}

#[tokio::test]
async fn a_hub_that_refuses_the_subscription_is_told_once_shown_and_asked_again() {
    let listener = listen().await;
    let mut running = Running::start(listener.local_addr().unwrap());
    let answers = [[REFUSED, GRANTED, REFUSED], [REFUSED, GRANTED, REFUSED], [GRANTED; 3]];
    let serving = serve(&listener, &answers);
    let seen = async {
        running.until(|running| running.metrics.hub_refused.get() == 2).await;
        let readiness = running.metrics.readiness();
        running.connected().await;
        readiness
    };
    let (_stream, readiness) = tokio::join!(serving, seen);
    assert!(readiness.unwrap_err().contains("access list"));
    let told = running.log.lines_with("does not let the bridge subscribe");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("`hawser/+/up`, `hawser/+/presence`"), "{told:?}");
    assert_eq!(running.metrics.hub_refused.get(), 0);
    running.end().await;
}

#[tokio::test]
async fn a_hub_that_refuses_only_presence_carries_everything_else() {
    let listener = listen().await;
    let mut running = Running::start(listener.local_addr().unwrap());
    let (_stream, ()) =
        tokio::join!(serve(&listener, &[[GRANTED, GRANTED, REFUSED], [GRANTED; 3]]), running.connected());
    assert_eq!(running.log.lines_with("does not let the bridge subscribe").len(), 1);
    running.until(|running| running.metrics.hub_refused.get() == 0).await;
    assert_eq!(running.log.lines_with("connected to the hub").len(), 1, "there was one connection");
    running.end().await;
}
