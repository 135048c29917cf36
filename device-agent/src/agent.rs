//! The parts of a running agent, put together, and taken apart again.
//!
//! Everything runs in the tokio runtime of the caller, so a program can host several agents with separate state
//! directories. Stopping an agent, however it is done, never stops a workload.

mod housekeeping;
mod status;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hawser_streams::Streams;
use hawser_wire::PodUid;
use hawser_wire::stream::mux::Side;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{DeviceClock, TimeSource};
use crate::desired::DesiredSet;
use crate::facts::{self, Listeners, Measurer};
use crate::identity::Identity;
use crate::ledger::{Change, Ledger, LedgerThread, Urgency};
use crate::link::client::{Hub, HubConfig};
use crate::link::session::Credentials;
use crate::link::task::{Link, LinkState};
use crate::link::{Brain, BrainConfig, HubError};
use crate::reserved::Reserved;
use crate::runtime::{Runtime, RuntimeFacts};
use crate::state_dir::{StateDir, StateDirError};
use crate::streams;
use crate::streams::serve::serve;
use crate::streams::service::{Served, Service, Sight};
use crate::upkeep::{self, ImageLimits, Pressure, Upkeep, relieve};
use crate::workloads::{Parts, Workloads};

pub use status::{Status, StatusError, WorkloadLine};

/// What this program calls itself.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How many report items may wait for the link. It takes them at once unless the disk stalls; reporters wait then.
const REPORTS: usize = 64;
/// How long the parts may take to end. Beyond it they are cut off, which the ledger survives.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What an agent is told once.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Who it is.
    pub identity: Identity,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Where raw time comes from.
    pub time: TimeSource,
    /// How many pods fit.
    pub max_pods: u32,
    /// The runtime for people, `<name>://<version>`.
    pub runtime_version: String,
    /// When unused images go.
    pub images: ImageLimits,
    /// What pods are not promised.
    pub reserved: Reserved,
}

impl AgentConfig {
    /// The usual settings.
    pub fn new(identity: Identity, state_dir: PathBuf) -> Self {
        let runtime_version = format!("process://{VERSION}");
        let (time, images) = (TimeSource::kernel(), ImageLimits::default());
        let reserved = Reserved::default();
        Self { identity, state_dir, time, max_pods: 110, runtime_version, images, reserved }
    }
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The connection to the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The system refuses a thread.
    #[error("the system refuses a thread for the ledger; raise the limit on threads")]
    Thread(#[source] std::io::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness, without which no session is safe")]
    Randomness(#[source] getrandom::Error),
}

/// A running agent.
#[derive(Debug)]
pub struct Agent;

/// The handle to a running agent. Dropping it stops nothing; use [`AgentHandle::stop`].
#[derive(Debug)]
pub struct AgentHandle {
    stop: CancellationToken,
    tasks: Vec<(&'static str, JoinHandle<()>)>,
    ledger: Ledger,
    thread: LedgerThread,
    clock: DeviceClock,
    link: watch::Receiver<LinkState>,
    streams: Streams,
    dir: StateDir,
}

impl Agent {
    /// Starts an agent with this runtime. When it returns, workloads are being looked after, hub or no hub.
    pub async fn start<R: Runtime + Served>(config: AgentConfig, runtime: Arc<R>) -> Result<AgentHandle, StartError> {
        let served = Arc::clone(&runtime);
        Self::start_with(config, runtime, move |sight| served.service(sight)).await
    }

    /// Starts an agent with this runtime, and another service for its streams.
    pub async fn start_with<R: Runtime, S: Service>(
        config: AgentConfig,
        runtime: Arc<R>,
        service: impl FnOnce(Sight) -> S,
    ) -> Result<AgentHandle, StartError> {
        let dir = StateDir::claim(&config.state_dir).await?;
        let secret = *config.identity.key.secret();
        let path = dir.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || Ledger::open(path, secret)).await;
        let opened = opened.map_err(|error| StartError::Thread(std::io::Error::other(error)))?;
        let (ledger, thread, mut recovered) = opened.map_err(StartError::Thread)?;
        let clock = DeviceClock::resume(config.time.clone(), recovered.clock);
        // Durable before any time is told, or a power cut in the first seconds makes the timeline go back. A disk that
        // refuses is no reason not to start.
        let _ = ledger.submit(vec![Change::Clock(clock.running_record())], Urgency::Now).await.await;
        let stop = CancellationToken::new();
        let hub = Hub::start(hub_config(&config.identity), stop.child_token())?;

        let workload_records = std::mem::take(&mut recovered.workloads);
        let moment = clock.moment().map_err(StartError::Randomness)?;
        let (brain, first) = Brain::new(brain_config(&config.identity, &clock), &recovered, &moment);

        let (reports_in, reports) = mpsc::channel(REPORTS);
        let (desired_in, desired) = watch::channel(Arc::new(DesiredSet::default()));
        let (resync_in, resync) = watch::channel(0);
        let (facts_in, facts) = watch::channel(None);
        let (runtime_in, runtime_told) = watch::channel(RuntimeFacts::default());
        let (link_in, link) = watch::channel(LinkState::default());
        let mut measurer = Measurer::new(facts::Own {
            state_dir: dir.path().to_owned(),
            agent_version: VERSION.to_owned(),
            runtime: config.runtime_version.clone(),
            pods: config.max_pods,
            reserved: config.reserved,
        });
        let (measured, short) = measurer.measure(clock.now().0, &ledger.health().borrow(), RuntimeFacts::default());
        let (shortages_in, shortages) = watch::channel(short);
        let (evictions_in, evictions) = watch::channel(None);
        let (host_in, host) = watch::channel(Arc::new(facts::host_facts(&measured)));

        let streams_ready = Arc::new(Notify::new());
        let streams = {
            let ready = Arc::clone(&streams_ready);
            Streams::new(Side::Device, streams::LIMITS, move || ready.notify_one())
        };
        // The workloads come first to see the desired set as the ledger has it.
        let link_task = Link {
            brain,
            clock: clock.clone(),
            hub,
            ledger: ledger.clone(),
            reports,
            facts: facts.clone(),
            desired: desired_in,
            resync: resync_in,
            status: link_in,
            streams: streams.clone(),
            streams_ready,
            stop: stop.clone(),
        };
        housekeeping::report_what_was_found(&recovered, &reports_in, clock.now());
        let now = {
            let clock = clock.clone();
            Arc::new(move || clock.now())
        };
        let told = link.clone();
        let waits = Arc::new(move |pod: &PodUid, name: &str| told.borrow().pods.get(pod)?.waiting.get(name).cloned());
        let sight = Sight { desired: desired.clone(), clock: now.clone(), waits };
        let service = Arc::new(service(sight));
        let asked = runtime.clone();
        let desired_by_runtime = desired.clone();
        let room = Arc::new(Notify::new());
        let upkeep = Upkeep {
            runtime: runtime.clone(),
            desired: desired.clone(),
            reports: reports_in.clone(),
            clock: now.clone(),
            limits: config.images,
            room: room.clone(),
        };
        let pressure = Pressure {
            runtime: runtime.clone(),
            service: service.clone(),
            desired: desired.clone(),
            shortages,
            room,
            evictions: evictions_in,
            chosen: BTreeSet::new(),
        };
        let workloads = Workloads::start(Parts {
            runtime,
            desired: desired.clone(),
            store: Arc::new(ledger.clone()),
            reports: reports_in.clone(),
            clock: now,
            recovered: workload_records,
            resync,
            host,
            evictions,
            stop: stop.clone(),
        });
        let board = status::Board {
            identity: config.identity.clone(),
            clock: clock.clone(),
            link: link.clone(),
            desired,
            ledger: ledger.health(),
        };
        let listeners = Listeners { facts: facts_in, host: host_in, shortages: shortages_in };
        let measuring = facts::run(measurer, clock.clone(), ledger.health(), runtime_told, listeners, stop.clone());
        let tasks = vec![
            ("workloads", workloads),
            ("link", tokio::spawn(link_task.run(first))),
            ("streams", tokio::spawn(serve(streams.clone(), service, stop.clone()))),
            ("runtime", tokio::spawn(facts::watch_runtime(asked, desired_by_runtime, runtime_in, stop.clone()))),
            ("facts", tokio::spawn(measuring)),
            ("images", tokio::spawn(upkeep::run(upkeep, stop.clone()))),
            ("pressure", tokio::spawn(relieve(pressure, stop.clone()))),
            ("housekeeping", tokio::spawn(housekeeping::run(ledger.clone(), clock.clone(), reports_in, stop.clone()))),
            ("status", tokio::spawn(status::serve(board, dir.path().to_owned(), stop.clone()))),
        ];
        Ok(AgentHandle { stop, tasks, ledger, thread, clock, link, streams, dir })
    }
}

impl AgentHandle {
    /// Waits until there is a session with the bridge.
    pub async fn in_session(&mut self) {
        // Err: the link has ended, and there will be none.
        let _ = self.link.wait_for(|state| state.link.connected && state.link.session_since.is_some()).await;
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Resolves when one of the parts has ended although nobody stopped it, with its name: the agent is of no use then.
    pub async fn part_ended(&mut self) -> &'static str {
        let tasks = &mut self.tasks;
        let ended = std::future::poll_fn(|context| {
            let ready = |(_, task): &mut (_, JoinHandle<()>)| Pin::new(task).poll(context).is_ready();
            tasks.iter_mut().position(ready).map_or(Poll::Pending, Poll::Ready)
        });
        let ended = ended.await;
        self.tasks.swap_remove(ended).0
    }

    /// Stops the agent: reports on their way are kept in the ledger, the workloads go on.
    pub async fn stop(self) {
        self.stop.cancel();
        for (name, mut task) in self.tasks {
            if tokio::time::timeout(STOP_GRACE, &mut task).await.is_err() {
                tracing::warn!(part = name, "did not end in time and is cut off");
                task.abort();
                let _ = task.await;
            }
        }
        self.ledger.submit_unawaited(vec![Change::Clock(self.clock.final_record())], Urgency::Now).await;
        if let Err(error) = self.ledger.flush().await {
            tracing::error!(%error, "not everything could be written before the end");
        }
        drop(self.ledger);
        self.thread.join().await;
        drop(self.dir);
    }

    /// Ends the agent as a crash would: nothing is said, nothing more is written.
    pub async fn crash(self) {
        self.ledger.abandon();
        for (_, task) in self.tasks {
            task.abort();
            // Cancelled: as meant.
            let _ = task.await;
        }
        drop(self.ledger);
        self.thread.join().await;
        drop(self.dir);
    }
}

fn hub_config(identity: &Identity) -> HubConfig {
    HubConfig {
        url: identity.hub.clone(),
        ca: identity.hub_ca.clone(),
        password: identity.hub_password.clone(),
        root: identity.root.clone(),
        device: identity.device.clone(),
    }
}

fn brain_config(identity: &Identity, clock: &DeviceClock) -> BrainConfig {
    BrainConfig {
        credentials: Credentials {
            root: identity.root.clone(),
            device: identity.device.clone(),
            key: identity.key.clone(),
            bridge: identity.bridge,
            token: None,
        },
        agent_version: VERSION.to_owned(),
        boot: clock.boot(),
    }
}
