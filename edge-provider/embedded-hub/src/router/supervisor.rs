//! Keeps a router running. One task owns the current [`Generation`]; everybody else sees it through a `watch`.
//!
//! A generation is one router with everything that was attached to it. When it fails, or stops answering, it is
//! abandoned as a whole: its clients are disconnected and come back to the next one.

use super::envelope::Lane;
use super::keeper::{self, Attachment, Command, PATIENCE, Size};
use crate::config::Limits;
use crate::metrics::HubMetrics;
use std::future::pending;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often the router is asked whether it is alive. A stalled one is also woken by it.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A router that dies at once is not started in a tight loop.
const PAUSE_BEFORE_RESTART: Duration = Duration::from_millis(100);
/// Commands that wait for the keeper. Full: publishers wait, and with them their sockets are not read. Few, since each
/// may be a message of the largest size; the keeper is fast.
const COMMANDS: usize = 32;

/// One router, as seen by connections.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) commands: mpsc::Sender<Command>,
    /// Cancelled when this router is no longer to be used.
    pub(crate) gone: CancellationToken,
}

impl Generation {
    /// A place at the router that hears the lane; `None` if the router is gone.
    pub(crate) async fn attach(&self, lane: Lane) -> Option<Attachment> {
        let (reply, attached) = oneshot::channel();
        self.commands.send(Command::Attach(lane, reply)).await.ok()?;
        attached.await.ok()
    }
}

/// Handle to the task that keeps a router running.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) current: watch::Receiver<Option<Generation>>,
    restarts: mpsc::Sender<oneshot::Sender<()>>,
}

impl Supervisor {
    /// Prepares a supervisor and the future that is its task.
    pub(crate) fn new(
        limits: &Limits,
        metrics: HubMetrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let size = Size { slots: limits.devices + limits.bridges, packet_bytes: limits.packet_bytes };
        let (publish, current) = watch::channel(None);
        // A second request while one is carried out waits for its turn.
        let (restarts, requests) = mpsc::channel(1);
        (Self { current, restarts }, supervise(size, publish, requests, metrics, stop))
    }

    /// Waits for the first router.
    pub(crate) async fn started(&mut self) {
        // An error means that the supervisor has ended already: connections will be refused as unavailable.
        self.current.wait_for(Option::is_some).await.ok();
    }

    /// Throws the router away with all that is attached to it; returns when the next one runs.
    pub(crate) async fn restart(&self) {
        let (done, finished) = oneshot::channel();
        if self.restarts.send(done).await.is_ok() {
            // An error means that the hub stops: there will be no next router.
            finished.await.ok();
        }
    }
}

/// Why a generation ended.
enum End {
    Stop,
    Asked(oneshot::Sender<()>),
    Failed(String),
}

async fn supervise(
    size: Size,
    publish: watch::Sender<Option<Generation>>,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
    metrics: HubMetrics,
    stop: CancellationToken,
) {
    let mut asked: Option<oneshot::Sender<()>> = None;
    loop {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let generation = Generation { commands: commands.clone(), gone: CancellationToken::new() };
        let ended = start_keeper(size, inbox);
        publish.send_replace(Some(generation.clone()));
        if let Some(done) = asked.take() {
            // Whoever asked may have stopped waiting.
            done.send(()).ok();
        }
        let end = tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => End::Stop,
            // Cancel-safe: a oneshot; and the generation ends with this wait anyhow.
            failure = ended => End::Failed(failure),
            // Cancel-safe: no request is taken from the channel unless this arm runs.
            request = next_request(&mut requests) => End::Asked(request),
            // Dropped with the generation it probes; an unanswered probe loses nothing.
            () = stays_alive(&commands) => End::Failed(format!("no answer to a probe within {PATIENCE:?}")),
        };
        publish.send_replace(None);
        generation.gone.cancel();
        match end {
            End::Stop => return,
            End::Asked(done) => {
                metrics.on_router_restart(&"asked to");
                asked = Some(done);
            }
            End::Failed(cause) => {
                metrics.on_router_restart(&cause);
                tokio::time::sleep(PAUSE_BEFORE_RESTART).await;
            }
        }
    }
}

/// Starts the keeper's thread. It ends by itself when the last sender of commands is gone. It is never joined: it may
/// hang in rumqttd, and that must not hang us.
fn start_keeper(size: Size, inbox: mpsc::Receiver<Command>) -> impl Future<Output = String> {
    let (report, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("hub-router-keeper".to_owned());
    let started = thread.spawn(move || {
        let outcome = keeper::keep(size, inbox);
        // Nobody listens after an orderly end.
        drop(report.send(outcome.map_or_else(|error| describe(&error), |()| "its senders are gone".to_owned())));
    });
    let failed_to_start = started.err().map(|error| format!("start the keeper's thread: {error}"));
    async move {
        match failed_to_start {
            Some(failure) => failure,
            None => ended.await.unwrap_or_else(|_| "the router's keeper panicked".to_owned()),
        }
    }
}

/// An error with its sources on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The next request to restart; never comes back when nobody can ask any more.
async fn next_request(requests: &mut mpsc::Receiver<oneshot::Sender<()>>) -> oneshot::Sender<()> {
    match requests.recv().await {
        Some(request) => request,
        None => pending().await,
    }
}

/// Comes back when the router no longer answers.
async fn stays_alive(commands: &mpsc::Sender<Command>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let probe = async {
            let (reply, answer) = oneshot::channel();
            commands.send(Command::Probe(reply)).await.is_ok() && answer.await.is_ok()
        };
        if !matches!(tokio::time::timeout(PATIENCE, probe).await, Ok(true)) {
            return;
        }
    }
}
