//! The task around the brain: brings it what happens and carries out what it says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hawser_streams::Streams;
use hawser_wire::PodUid;
use hawser_wire::report::{ContainerReport, ContainerState, NodeFacts, Phase, ReportItem, WorkloadReport};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::client::{Hub, HubEvent};
use super::{Brain, Input, LinkStatus, Note, Output};
use crate::clock::DeviceClock;
use crate::desired::DesiredSet;
use crate::ledger::{Durability, Ledger};

/// How many report items are taken in one step.
const TOGETHER: usize = 64;
/// Timers of the runtime do not count suspension, the device's timeline does: look at it at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What the task owns and speaks to.
pub(crate) struct Link {
    pub(crate) brain: Brain,
    pub(crate) clock: DeviceClock,
    pub(crate) hub: Hub,
    pub(crate) ledger: Ledger,
    /// Everything to be told. Bounded by its maker; whoever reports waits while it is full.
    pub(crate) reports: mpsc::Receiver<ReportItem>,
    pub(crate) facts: watch::Receiver<Option<Arc<NodeFacts>>>,
    /// What the device is to run. The latest counts.
    pub(crate) desired: watch::Sender<Arc<DesiredSet>>,
    /// A number that changes when every pod is to be reported again. The latest counts.
    pub(crate) resync: watch::Sender<u64>,
    pub(crate) status: watch::Sender<LinkState>,
    pub(crate) streams: Streams,
    /// The streams may have something to say.
    pub(crate) streams_ready: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

/// How the link is, with what only the connection knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) link: LinkStatus,
    /// Why there is no connection to the hub.
    pub(crate) hub_error: Option<String>,
    /// Messages that were not accepted, of any kind.
    pub(crate) refused_messages: u64,
    /// What was last reported of each pod.
    pub(crate) pods: BTreeMap<PodUid, PodLine>,
}

/// What was last reported of a pod, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodLine {
    pub(crate) phase: Phase,
    pub(crate) reason: Option<String>,
    pub(crate) ready: usize,
    pub(crate) containers: usize,
    pub(crate) restarts: u32,
    /// Why containers wait that do, by name.
    pub(crate) waiting: BTreeMap<String, String>,
}

impl PodLine {
    fn of(report: &WorkloadReport) -> Self {
        let reason = |container: &ContainerReport| match &container.state {
            ContainerState::Waiting(waiting) => Some(waiting.reason.clone()),
            ContainerState::Running(_) | ContainerState::Terminated(_) => None,
        };
        let all = report.init_containers.iter().chain(&report.containers).chain(&report.ephemeral_containers);
        let waiting = all.filter_map(|container| Some((container.name.clone(), reason(container)?))).collect();
        Self {
            phase: report.phase,
            reason: report.reason.clone().or_else(|| report.containers.iter().find_map(reason)),
            ready: report.containers.iter().filter(|container| container.ready).count(),
            containers: report.containers.len(),
            restarts: report.containers.iter().map(|container| container.restart_count).sum(),
            waiting,
        }
    }
}

impl LinkState {
    fn reported(&mut self, item: &ReportItem) {
        match item {
            ReportItem::Workload(report) => drop(self.pods.insert(report.uid.clone(), PodLine::of(report))),
            ReportItem::Gone(gone) => drop(self.pods.remove(&gone.uid)),
            ReportItem::Facts(_) | ReportItem::Event(_) => {}
        }
    }
}

/// Why the task woke.
enum Woke {
    Hub(Option<HubEvent>),
    Reports(usize),
    Facts,
    Persisted(u64),
    Streams,
    Timer,
    Stop,
}

impl Link {
    /// Runs until stopped. `first` is what the brain said when it was made.
    pub(crate) async fn run(mut self, first: Vec<Output>) {
        let mut answers = VecDeque::new();
        let mut items = Vec::new();
        self.carry_out(first, &mut answers).await;
        // Nobody may send facts any more while the agent stops; then this arm sleeps.
        let mut facts_live = true;
        loop {
            let sleep = self.until_deadline();
            // All arms are cancel-safe: channels lose nothing when not taken from, the oneshot stays in its queue, timers
            // and tokens have nothing to lose.
            let woke = tokio::select! {
                () = self.stop.cancelled() => Woke::Stop,
                ticket = confirmed(&mut answers) => Woke::Persisted(ticket),
                event = self.hub.events.recv() => Woke::Hub(event),
                count = self.reports.recv_many(&mut items, TOGETHER) => Woke::Reports(count),
                changed = self.facts.changed(), if facts_live => {
                    facts_live = changed.is_ok();
                    Woke::Facts
                }
                () = self.streams_ready.notified() => Woke::Streams,
                () = tokio::time::sleep(sleep) => Woke::Timer,
            };
            let Some(input) = self.input(woke, &mut items) else { break };
            self.step(input, &mut answers).await;
            // After what there is to say about state. How many they are at once, the streams themselves bound.
            while let Some(frame) = self.streams.transmit() {
                self.step(Input::Stream(frame), &mut answers).await;
            }
        }
        self.streams.interrupt("the agent is stopping");
        while let Some(frame) = self.streams.transmit() {
            self.step(Input::Stream(frame), &mut answers).await;
        }
        self.streams.end("the agent is stopping");
        self.hub.close().await;
    }

    /// What happened, for the brain; `None`: it is time to end.
    fn input(&mut self, woke: Woke, items: &mut Vec<ReportItem>) -> Option<Input> {
        Some(match woke {
            Woke::Stop | Woke::Hub(None) | Woke::Reports(0) => return None,
            Woke::Persisted(ticket) => Input::Persisted { ticket },
            Woke::Reports(_) => {
                self.status.send_modify(|state| items.iter().for_each(|item| state.reported(item)));
                Input::Reports(std::mem::take(items))
            }
            Woke::Facts => match self.facts.borrow_and_update().clone() {
                Some(facts) => Input::Facts(Box::new(NodeFacts::clone(&facts))),
                None => Input::Tick,
            },
            Woke::Timer | Woke::Streams => Input::Tick,
            Woke::Hub(Some(HubEvent::Connected)) => {
                tracing::info!("the hub has us");
                self.status.send_modify(|state| state.hub_error = None);
                Input::Connected
            }
            Woke::Hub(Some(HubEvent::Disconnected(why))) => {
                tracing::warn!(why, "not connected to the hub; trying again");
                self.streams.end("the device lost its connection to the hub");
                self.status.send_modify(|state| state.hub_error = Some(why));
                Input::Disconnected
            }
            Woke::Hub(Some(HubEvent::Message { channel, payload })) => Input::Message { channel, payload },
        })
    }

    async fn step(&mut self, input: Input, answers: &mut Answers) {
        let moment = match self.clock.moment() {
            Ok(moment) => moment,
            Err(error) => {
                // Without randomness no handshake is safe, but nothing else needs to stop.
                tracing::error!(%error, "the system gives no randomness; this step is left out");
                return;
            }
        };
        let outputs = self.brain.handle(&moment, input);
        self.carry_out(outputs, answers).await;
        let link = self.brain.status();
        self.status.send_if_modified(|state| {
            let changed = state.link != link;
            state.link = link;
            changed
        });
    }

    async fn carry_out(&mut self, outputs: Vec<Output>, answers: &mut Answers) {
        for output in outputs {
            match output {
                Output::Publish { channel, payload } => {
                    if !self.hub.publish(channel, payload) {
                        tracing::debug!("the queue to the hub is full; a message is dropped and said again later");
                    }
                }
                Output::Persist { ticket: Some(ticket), changes, urgency } => {
                    answers.push_back((ticket, self.ledger.submit(changes, urgency).await));
                }
                Output::Persist { ticket: None, changes, urgency } => {
                    self.ledger.submit_unawaited(changes, urgency).await;
                }
                Output::Desired(desired) => drop(self.desired.send_replace(desired)),
                Output::Resync => {
                    self.streams.begin();
                    self.resync.send_modify(|round| *round += 1);
                }
                Output::Stream(frame) => self.streams.receive(frame),
                Output::Note(note) => self.note(&note),
            }
        }
    }

    fn until_deadline(&self) -> Duration {
        let device_now = self.clock.now();
        let wait = self.brain.deadline().map(|deadline| Duration::from_millis(deadline.millis_since(device_now)));
        let streams = self.streams.deadline().map(|deadline| deadline.saturating_duration_since(now()));
        wait.into_iter().chain(streams).fold(LONGEST_SLEEP, Duration::min)
    }

    /// The log line and the count of one note.
    fn note(&self, note: &Note) {
        let refused = match note {
            Note::SessionBegan { id, bridge_version } => {
                tracing::info!(session = %id, bridge_version, "a session with the bridge began");
                false
            }
            Note::IndexAccepted(version) => {
                tracing::info!(%version, "a new desired set was accepted");
                false
            }
            Note::Refused(refusal) => {
                tracing::warn!(kind = ?refusal.kind, message = refusal.message, "the bridge refused us; trying again");
                false
            }
            Note::NoSession | Note::BridgeSilent => {
                tracing::info!(?note, "shaking hands with the bridge again");
                false
            }
            Note::Unfamiliar => {
                tracing::debug!("something of a later version was skipped");
                false
            }
            Note::DeploymentRefused(_) | Note::EventsDropped(_) | Note::ReportTooLong(_) | Note::NotSealed(_) => {
                tracing::warn!(?note, "not all is well on the link");
                false
            }
            Note::Unreadable(_)
            | Note::NotOpened(_)
            | Note::StrayWelcome
            | Note::IndexOlder(_)
            | Note::IndexConflicts(_)
            | Note::IndexMalformed(_)
            | Note::ChunkRefused(_)
            | Note::ObjectCorrupt => {
                tracing::debug!(?note, "a message was not accepted");
                true
            }
        };
        if refused {
            self.status.send_modify(|state| state.refused_messages += 1);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the IO edge: streams measure silence on the runtime's clock")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Answers of the ledger to come, in the order of their tickets.
type Answers = VecDeque<(u64, oneshot::Receiver<Durability>)>;

/// The ticket of the next answer. Cancel-safe: the receiver stays in the queue until it has answered.
async fn confirmed(answers: &mut Answers) -> u64 {
    let Some((ticket, answer)) = answers.front_mut() else { return std::future::pending().await };
    // Durable or in memory: the link goes on either way, and the ledger's health tells the rest. A ledger that is gone
    // confirms nothing: the agent is stopping.
    if answer.await.is_err() {
        return std::future::pending().await;
    }
    let ticket = *ticket;
    answers.pop_front();
    ticket
}
