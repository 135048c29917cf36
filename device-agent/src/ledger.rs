//! The durable state of the agent: one append-only file in the state directory, owned by one thread.
//!
//! Everybody else holds a [`Ledger`] handle and sends changes to the thread, which merges what waits, writes it with one
//! `fdatasync`, and answers. SD cards wear out by writing, so a change says how urgent it is, and what was changed back
//! before it was written is never written. When the disk refuses (full, read-only, broken), the state goes on in memory,
//! the answer says so, and the thread tries again: a disk is never a reason to stop a workload.
//!
//! Payloads are sealed with a key derived from the device's secret, so that a stolen SD card shows no Secret of a pod as long
//! as the identity file is protected otherwise, and a copied ledger alone shows nothing.

mod entry;
mod floor;
mod frame;
mod log;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hawser_wire::desired::Wish;
use hawser_wire::report::Numbered;
use hawser_wire::{ContentHash, PodUid};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use entry::{Accepted, Change, ClockRecord, Slot};
pub use log::Found;

use entry::Key;
use store::Store;

/// How many commands may wait for the thread. Senders wait when it is full: they cannot outrun the disk.
const COMMANDS: usize = 64;
/// How many commands are merged into one write at most.
const MERGED: usize = 256;

/// When a change must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Before the answer.
    Now,
    /// Within two seconds; it may have been taken back by then.
    Soon,
    /// With the next write, within a minute.
    WithNext,
}

/// Where a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durability {
    /// On the disk.
    Durable,
    /// In memory: the disk refuses.
    InMemory {
        /// What the system said.
        reason: Arc<str>,
    },
}

/// Why the ledger has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The change is in memory only.
    #[error("the ledger cannot be written ({reason}); the change is kept in memory")]
    NotDurable {
        /// What the system said.
        reason: Arc<str>,
    },
    /// The object is not there.
    #[error("object {0} is not in the ledger")]
    NoObject(ContentHash),
    /// The object is there and cannot be read.
    #[error("reading object {hash}")]
    Read {
        /// Which object.
        hash: ContentHash,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The agent is ending.
    #[error("the ledger is closed: the agent is stopping")]
    Closed,
}

/// What was in the ledger when the agent started.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// What kind of file was found; `None`: none could be opened.
    pub found: Option<Found>,
    /// The last accepted index.
    pub accepted: Option<Accepted>,
    /// The last complete edge deployment of each pod.
    pub complete: BTreeMap<PodUid, ContentHash>,
    /// Which objects there are.
    pub objects: BTreeSet<ContentHash>,
    /// The bytes of the edge deployments among them that are named by `accepted` or `complete`.
    pub deployments: BTreeMap<ContentHash, Arc<[u8]>>,
    /// What the workloads remember.
    pub workloads: Vec<(PodUid, Vec<u8>)>,
    /// What was said and not acknowledged.
    pub said: BTreeMap<Slot, Numbered>,
    /// The first sequence number that was certainly not used.
    pub next_sequence: u64,
    /// Where the device's timeline was.
    pub clock: Option<ClockRecord>,
}

impl Recovered {
    /// The hashes of the edge deployments that matter.
    pub fn deployment_hashes(&self) -> impl Iterator<Item = ContentHash> + '_ {
        let named = self.accepted.iter().flat_map(|accepted| &accepted.entries).filter_map(|entry| match entry.wish {
            Wish::Run(object) => Some(object.hash),
            Wish::Keep | Wish::Stop(_) | Wish::Retain => None,
        });
        named.chain(self.complete.values().copied())
    }
}

/// The handle.
#[derive(Debug, Clone)]
pub struct Ledger {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<Durability>,
    /// Set when the agent "crashes": nothing more is written.
    abandoned: Arc<AtomicBool>,
}

/// The thread; join it after the last handle is gone.
#[derive(Debug)]
pub struct LedgerThread(std::thread::JoinHandle<()>);

#[derive(Debug)]
enum Command {
    Write { changes: Vec<Change>, urgency: Urgency, done: Option<oneshot::Sender<Durability>> },
    Read { hash: ContentHash, reply: oneshot::Sender<std::io::Result<Option<Arc<[u8]>>>> },
    Flush { done: oneshot::Sender<Durability> },
    Sizes { reply: oneshot::Sender<(u64, u64)> },
}

impl Ledger {
    /// Looks into the ledger in `dir` as a start would, for an agent that does not run. The caller holds the lock.
    pub fn peek(dir: &std::path::Path, secret: [u8; 32]) -> std::io::Result<Recovered> {
        // Only what is there is looked at: opening makes a file where there is none.
        if !dir.join(log::FILE).exists() {
            return Ok(Recovered::default());
        }
        let (_, recovered) = Store::open(dir.into(), secret, now());
        Ok(recovered)
    }

    /// Opens the ledger in `dir` and starts its thread. Blocks while the file is read.
    pub fn open(dir: PathBuf, secret: [u8; 32]) -> std::io::Result<(Self, LedgerThread, Recovered)> {
        let (store, recovered) = Store::open(dir, secret, now());
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (health_out, health) = watch::channel(store.health());
        // A runtime of its own, for the timer only: fdatasync takes seconds on a bad card, and nobody shall wait for it
        // but those who asked.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name("ledger".to_owned()).stack_size(512 * 1024);
        let abandoned = Arc::new(AtomicBool::new(false));
        let flag = abandoned.clone();
        let thread = thread.spawn(move || runtime.block_on(serve(store, inbox, health_out, &flag)))?;
        Ok((Self { commands, health, abandoned }, LedgerThread(thread), recovered))
    }

    /// Sends changes and returns the answer to come. Waits only while the queue is full.
    pub async fn submit(&self, changes: Vec<Change>, urgency: Urgency) -> oneshot::Receiver<Durability> {
        let (done, answer) = oneshot::channel();
        // A closed ledger drops `done`, and the receiver tells.
        let _ = self.commands.send(Command::Write { changes, urgency, done: Some(done) }).await;
        answer
    }

    /// Sends changes whose arrival on the disk nobody waits for.
    pub async fn submit_unawaited(&self, changes: Vec<Change>, urgency: Urgency) {
        let _ = self.commands.send(Command::Write { changes, urgency, done: None }).await;
    }

    /// Makes what the workloads remember of a pod durable. On `NotDurable` it is kept in memory and tried again.
    pub async fn save_workload(&self, uid: &PodUid, record: Vec<u8>) -> Result<(), LedgerError> {
        self.durably(vec![Change::SaveWorkload(uid.clone(), record)]).await
    }

    /// Forgets a pod.
    pub async fn forget_workload(&self, uid: &PodUid) -> Result<(), LedgerError> {
        self.durably(vec![Change::ForgetWorkload(uid.clone())]).await
    }

    /// The bytes of an object.
    pub async fn blob(&self, hash: ContentHash) -> Result<Arc<[u8]>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Read { hash, reply }).await.map_err(|_| LedgerError::Closed)?;
        match answer.await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(LedgerError::NoObject(hash)),
            Ok(Err(source)) => Err(LedgerError::Read { hash, source }),
            Err(_) => Err(LedgerError::Closed),
        }
    }

    /// Writes everything that waits.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command::Flush { done }).await.map_err(|_| LedgerError::Closed)?;
        settled(answer.await)
    }

    /// The length of the file, and how many bytes were written to it since the start.
    pub async fn sizes(&self) -> Result<(u64, u64), LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Sizes { reply }).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)
    }

    /// Whether the disk takes what it is given.
    pub fn health(&self) -> watch::Receiver<Durability> {
        self.health.clone()
    }

    /// From now on nothing is written any more, as if the power were gone.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    async fn durably(&self, changes: Vec<Change>) -> Result<(), LedgerError> {
        settled(self.submit(changes, Urgency::Now).await.await)
    }
}

fn settled(answer: Result<Durability, oneshot::error::RecvError>) -> Result<(), LedgerError> {
    match answer {
        Ok(Durability::Durable) => Ok(()),
        Ok(Durability::InMemory { reason }) => Err(LedgerError::NotDurable { reason }),
        Err(_) => Err(LedgerError::Closed),
    }
}

impl LedgerThread {
    /// Waits until the thread has written what waits and has ended. All handles must be gone.
    pub async fn join(self) {
        // Not a wait on the runtime: the thread ends within one write.
        let joined = tokio::task::spawn_blocking(move || self.0.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the ledger's thread ended with a panic");
        }
    }
}

async fn serve(
    mut store: Store,
    mut inbox: mpsc::Receiver<Command>,
    health: watch::Sender<Durability>,
    abandoned: &AtomicBool,
) {
    let mut commands = Vec::new();
    loop {
        let due = store.due();
        // Both arms are cancel-safe: recv_many loses nothing, a timer has nothing to lose.
        tokio::select! {
            received = inbox.recv_many(&mut commands, MERGED) => if received == 0 { break },
            () = sleep_until(due) => {}
        }
        if abandoned.load(Ordering::Relaxed) {
            return;
        }
        turn(&mut store, commands.drain(..));
        health.send_if_modified(|shown| {
            let health = store.health();
            let changed = *shown != health;
            *shown = health;
            changed
        });
    }
    if !abandoned.load(Ordering::Relaxed) {
        store.commit_last(now());
    }
}

/// Takes in a batch of commands, writes what is due, answers.
fn turn(store: &mut Store, commands: impl Iterator<Item = Command>) {
    let mut waiting = Vec::new();
    for command in commands {
        match command {
            Command::Write { changes, urgency, done } => {
                store.add(changes, urgency, now());
                match (urgency, done) {
                    (_, None) => {}
                    (Urgency::Now, Some(done)) => waiting.push(done),
                    // Nobody should wait for what is not urgent: the answer is where it is now.
                    (_, Some(done)) => drop(done.send(store.health())),
                }
            }
            Command::Read { hash, reply } => drop(reply.send(store.read(&Key::Object(hash)))),
            Command::Flush { done } => {
                store.add(Vec::new(), Urgency::Now, now());
                waiting.push(done);
            }
            Command::Sizes { reply } => drop(reply.send(store.sizes())),
        }
    }
    let at = now();
    if waiting.is_empty() && store.due().is_none_or(|due| due > at) {
        return;
    }
    let durability = store.commit(at);
    for done in waiting {
        // Whoever asked may be gone; the change stays.
        let _ = done.send(durability.clone());
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the ledger's thread is an IO edge: it decides when to write")]
fn now() -> Instant {
    Instant::now()
}
