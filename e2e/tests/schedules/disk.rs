//! The device's disk, with the ledger's contract: what is urgent is durable before the answer, the rest soon; a write
//! that is cut off leaves a beginning of itself; a disk that refuses leaves everything in memory, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use device_agent::ledger::{Accepted, Change, ClockRecord, Recovered, Slot, Urgency};
use hawser_wire::report::Numbered;
use hawser_wire::{ContentHash, PodUid};

use crate::dice::Dice;

const SOON: u64 = 2_000;
const WITH_NEXT: u64 = 60_000;
const RETRY: u64 = 5_000;

/// Who waits for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// The brain, with its ticket.
    Brain(u64),
    /// The owner of a pod, before it acts.
    Owner(PodUid),
    /// The owner of a pod whose life is over.
    Forgotten(PodUid),
}

/// What is in the ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) accepted: Option<Accepted>,
    complete: BTreeMap<PodUid, ContentHash>,
    pub(crate) objects: BTreeMap<ContentHash, Arc<[u8]>>,
    workloads: BTreeMap<PodUid, Vec<u8>>,
    pub(crate) said: BTreeMap<Slot, Numbered>,
    pub(crate) sequence: u64,
    clock: Option<ClockRecord>,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Accept(accepted) => self.accepted = Some(accepted),
            Change::Complete(uid, hash) => drop(self.complete.insert(uid, hash)),
            Change::DropComplete(uid) => drop(self.complete.remove(&uid)),
            Change::PutObject(hash, bytes) => drop(self.objects.insert(hash, bytes)),
            Change::DropObject(hash) => drop(self.objects.remove(&hash)),
            Change::SaveWorkload(uid, record) => drop(self.workloads.insert(uid, record)),
            Change::ForgetWorkload(uid) => drop(self.workloads.remove(&uid)),
            Change::Say(slot, item) => drop(self.said.insert(slot, *item)),
            Change::Unsay(slot) => drop(self.said.remove(&slot)),
            Change::ReserveSequence(limit) => self.sequence = limit,
            Change::Clock(clock) => self.clock = Some(clock),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    durable: Content,
    /// What readers see.
    pub(crate) memory: Content,
    waiting: Vec<Change>,
    due: Option<u64>,
    waiters: Vec<Waiter>,
    writing: Option<(Vec<Change>, Vec<Waiter>)>,
    pub(crate) refuses: bool,
    /// The disk has refused since the agent started: a crash may lose what was acted upon.
    pub(crate) in_memory: bool,
}

/// What is to be done after a commit was begun.
pub(crate) enum Commit {
    /// Nothing was to be written.
    Nothing,
    /// These may go on, with the change in memory only.
    Refused(Vec<Waiter>),
    /// A write began.
    Writing,
}

impl Disk {
    /// Takes changes in.
    pub(crate) fn submit(&mut self, now: u64, changes: Vec<Change>, urgency: Urgency, waiter: Option<Waiter>) {
        for change in changes {
            self.memory.apply(&change);
            self.waiting.push(change);
        }
        self.waiters.extend(waiter);
        let wait = match urgency {
            Urgency::Now => 0,
            Urgency::Soon => SOON,
            Urgency::WithNext => WITH_NEXT,
        };
        self.due = Some(self.due.map_or(now + wait, |due| due.min(now + wait)));
    }

    /// When to call [`Disk::commit`].
    pub(crate) fn due(&self) -> Option<u64> {
        self.due.filter(|_| self.writing.is_none())
    }

    pub(crate) fn commit(&mut self, now: u64) -> Commit {
        self.due = None;
        if self.refuses {
            self.due = (!self.waiting.is_empty()).then_some(now + RETRY);
            self.in_memory |= !self.waiting.is_empty();
            return Commit::Refused(std::mem::take(&mut self.waiters));
        }
        if self.waiting.is_empty() && self.waiters.is_empty() {
            return Commit::Nothing;
        }
        self.writing = Some((std::mem::take(&mut self.waiting), std::mem::take(&mut self.waiters)));
        Commit::Writing
    }

    /// The write that was begun is on the disk.
    pub(crate) fn written(&mut self) -> Vec<Waiter> {
        let Some((changes, waiters)) = self.writing.take() else { return Vec::new() };
        changes.iter().for_each(|change| self.durable.apply(change));
        self.in_memory = false;
        waiters
    }

    /// The agent is gone. What was being written is there in part.
    pub(crate) fn crash(&mut self, dice: &mut Dice) -> Recovered {
        if let Some((changes, _)) = self.writing.take() {
            let kept = dice.between(0, changes.len() as u64) as usize;
            changes[..kept].iter().for_each(|change| self.durable.apply(change));
        }
        (self.waiting, self.waiters, self.due, self.in_memory) = (Vec::new(), Vec::new(), None, false);
        self.memory = self.durable.clone();
        self.recovered()
    }

    fn recovered(&self) -> Recovered {
        let content = &self.durable;
        let mut recovered = Recovered {
            accepted: content.accepted.clone(),
            complete: content.complete.clone(),
            objects: content.objects.keys().copied().collect::<BTreeSet<_>>(),
            workloads: content.workloads.clone().into_iter().collect(),
            said: content.said.clone(),
            next_sequence: content.sequence,
            clock: content.clock,
            ..Recovered::default()
        };
        let named: Vec<ContentHash> = recovered.deployment_hashes().collect();
        for hash in named {
            if let Some(bytes) = content.objects.get(&hash) {
                recovered.deployments.insert(hash, bytes.clone());
            }
        }
        recovered
    }
}
