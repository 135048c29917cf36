//! The invariants, checked as things happen. The first violation is kept.

use std::collections::{BTreeMap, BTreeSet};

use device_agent::desired::DesiredSet;
use device_agent::ledger::{Accepted, Change, Slot};
use device_agent::runtime::ContainerId;
use hawser_wire::desired::{Index, Wish};
use hawser_wire::report::{DeviceEvent, Numbered, Report, ReportItem};
use hawser_wire::{Digest, Open, PodUid, Version};

use crate::api::{Age, Api, EventKey, PodNo, no_of};
use crate::containers::Process;
use crate::summary;

#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) violation: Option<String>,
    /// What the bridge that lives now issued last.
    issued: Option<(Version, Digest)>,
    /// Everything that any bridge ever issued, with how often the API had been restored by then.
    ever_issued: BTreeMap<(Version, Digest), u32>,
    /// What the device accepted last, and how old its contents were.
    accepted: Option<(Version, Digest)>,
    accepted_ages: BTreeMap<PodNo, (Age, Age)>,
    /// Pods that an accepted set wanted and a newer one did not, and how often the API had been restored then.
    left: BTreeMap<PodNo, u32>,
    /// The version that was acted upon last.
    acted: Option<Version>,
    /// What was sent under each number.
    sent: BTreeMap<u64, Vec<u8>>,
    /// The last number given.
    numbered: u64,
    /// The disk refused a reservation of numbers, and then the power went: they may have been used.
    reservations_lost: bool,
    told: u64,
    events_dropped: bool,
    /// Pods that had containers when the agent died after the disk had refused: the ledger may know nothing of them, or
    /// of their last image.
    pub(crate) unrecorded: BTreeSet<PodNo>,
    /// Events that the device said and must reach the API, by number.
    unheard: BTreeMap<u64, EventKey>,
}

impl Witness {
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    // --- the bridge

    pub(crate) fn bridge_started(&mut self) {
        self.issued = None;
    }

    /// The bridge sends an index. `complete`: its view of the API is complete.
    pub(crate) fn issues(&mut self, api: &Api, index: &Index, complete: bool) {
        let (version, digest) = (index.version, index.digest);
        if !complete {
            self.violate(format!("index {version} was sent before the view of the API was complete"));
        }
        if let Some((last, content)) = self.issued
            && (version < last || (version == last && digest != content))
        {
            self.violate(format!("the bridge issued {version} after {last}"));
        }
        self.issued = Some((version, digest));
        self.ever_issued.insert((version, digest), api.restores);
    }

    /// A report arrives at the bridge: a number always means the same.
    pub(crate) fn hears(&mut self, report: &Report) {
        for item in &report.items {
            let bytes = hawser_wire::encode(item);
            if *self.sent.entry(item.seq).or_insert_with(|| bytes.clone()) != bytes && !self.reservations_lost {
                self.violate(format!("number {} was used for two different things", item.seq));
            }
        }
    }

    // --- the device

    /// What the brain gives to the ledger.
    pub(crate) fn persists(&mut self, api: &Api, before: &BTreeMap<Slot, Numbered>, change: &Change) {
        match change {
            Change::Accept(accepted) => self.accepts(api, accepted),
            Change::Say(slot, item) => {
                if item.seq <= self.numbered {
                    self.violate(format!("number {} was given after {}", item.seq, self.numbered));
                }
                self.numbered = item.seq;
                if let (Slot::Event(seq), Open::Known(ReportItem::Event(event))) = (slot, &item.item) {
                    self.unheard.insert(*seq, key_of(event));
                }
            }
            Change::Unsay(slot) => self.unsaid(api, slot, before.get(slot)),
            _ => {}
        }
    }

    fn accepts(&mut self, api: &Api, accepted: &Accepted) {
        let (version, digest) = (accepted.version, accepted.digest);
        if let Some((last, _)) = self.accepted
            && version <= last
        {
            self.violate(format!("stale: {version} was accepted after {last}"));
        }
        let Some(restores) = self.ever_issued.get(&(version, digest)).copied() else {
            return self.violate(format!("{version} was accepted, but no bridge issued it with this content"));
        };
        self.accepted = Some((version, digest));
        let mut ages = BTreeMap::new();
        let mut there = BTreeSet::new();
        for entry in &accepted.entries {
            let no = no_of(entry.uid.as_str());
            there.insert(no);
            if self.left.get(&no).is_some_and(|then| *then == restores) {
                self.violate(format!("stale: pod {no} left the accepted set and came back with {version}"));
            }
            let before = self.accepted_ages.get(&no).copied();
            let age = match entry.wish {
                Wish::Run(object) => api.made.get(&object.hash).copied(),
                Wish::Keep | Wish::Stop(_) | Wish::Retain => before,
            };
            if let (Some((first, _)), Some((_, last))) = (before, age)
                && (last.0 < first.0 || (last.0 == first.0 && (last.1 < first.1 || last.2 < first.2)))
            {
                self.violate(format!("stale: {version} makes pod {no} {last:?} after {first:?}"));
            }
            ages.insert(no, age.or(before).unwrap_or_default());
        }
        for no in self.accepted_ages.keys().filter(|no| !there.contains(no)) {
            if !api.doomed.contains(no) {
                self.violation
                    .get_or_insert(format!("{version} does not want pod {no} any more, but nobody removed it"));
            }
            self.left.insert(*no, restores);
        }
        self.accepted_ages = ages;
    }

    /// Something said is acknowledged (or dropped): the API has it, or nothing is left to have it.
    fn unsaid(&mut self, api: &Api, slot: &Slot, item: Option<&Numbered>) {
        if let Slot::Event(seq) = slot {
            self.unheard.remove(seq);
        }
        let Some(Numbered { item: Open::Known(item), seq }) = item else { return };
        let reached = match item {
            ReportItem::Workload(report) => {
                let no = no_of(report.uid.as_str());
                self.may_end(api, no) || api.written.contains(&(no, summary::of_report(report)))
            }
            ReportItem::Gone(gone) => self.may_end(api, no_of(gone.uid.as_str())),
            ReportItem::Event(event) => {
                let doomed = event.pod.as_ref().is_some_and(|uid| api.doomed.contains(&no_of(uid.as_str())));
                self.events_dropped || doomed || api.events.contains(&key_of(event))
            }
            ReportItem::Facts(_) => true,
        };
        if !reached {
            self.violate(format!("number {seq} was forgotten by the device before the API had it: {item:?}"));
        }
    }

    pub(crate) fn drops_events(&mut self) {
        self.events_dropped = true;
    }

    /// The set that is acted upon from now on.
    pub(crate) fn acts_on(&mut self, desired: &DesiredSet) {
        if desired.version < self.acted {
            self.violate(format!("stale: {:?} was acted upon after {:?}", desired.version, self.acted));
        }
        self.acted = desired.version;
    }

    pub(crate) fn tells_time(&mut self, at: u64) {
        if at < self.told {
            self.violate(format!("the device's time went back from {} to {at}", self.told));
        }
        self.told = at;
    }

    /// The agent is gone, and with it what was not durable. `in_memory`: the disk had refused what was acted upon.
    pub(crate) fn agent_died(&mut self, accepted: Option<&Accepted>, said: &BTreeMap<Slot, Numbered>, in_memory: bool) {
        self.unheard.retain(|seq, _| said.contains_key(&Slot::Event(*seq)));
        // An acceptance that was not durable has not been acted upon, nor told.
        let durable = accepted.map(|accepted| (accepted.version, accepted.digest));
        if durable != self.accepted {
            self.accepted = durable;
            self.accepted_ages.clear();
            self.left.clear();
        }
        if in_memory {
            (self.acted, self.told) = (None, 0);
            self.reservations_lost = true;
        }
        // Numbers that nobody has seen may be given again.
        let seen = self.sent.keys().next_back().copied().filter(|_| !self.reservations_lost);
        self.numbered = seen.unwrap_or(0);
    }

    // --- the workloads

    fn may_end(&self, api: &Api, no: PodNo) -> bool {
        api.doomed.contains(&no) || self.unrecorded.contains(&no)
    }

    /// A running container is told to end.
    pub(crate) fn signals(&mut self, api: &Api, id: &ContainerId, process: Option<&Process>) {
        let Some(process) = process.filter(|process| process.end.is_none()) else { return };
        let no = no_of(id.pod.as_str());
        let other_image = api
            .images
            .get(&no)
            .is_some_and(|images| images.iter().any(|image| format!("image-{image}") != process.image));
        if !api.doomed.contains(&no) && !other_image {
            self.violate(format!("{id} is wanted, and was told to end"));
        }
    }

    /// Everything of a pod is removed.
    pub(crate) fn removes(&mut self, api: &Api, pod: &PodUid) {
        if !api.doomed.contains(&no_of(pod.as_str())) {
            self.violate(format!("pod {pod} is wanted, and was removed"));
        }
    }

    /// A container comes to life.
    pub(crate) fn launches<'a>(&mut self, id: &ContainerId, mut running: impl Iterator<Item = &'a ContainerId>) {
        if let Some(other) = running.find(|other| other.pod == id.pod && other.name == id.name) {
            self.violate(format!("{id} was started while {other} ran"));
        }
        if id.name.starts_with("look") && id.attempt > 0 {
            self.violate(format!("{id} was added to look at its pod, and was started again"));
        }
    }

    /// Events that the API should have by now.
    pub(crate) fn missing_events(&self, api: &Api) -> Vec<String> {
        let missing = |key: &&EventKey| {
            let doomed = key.pod.as_ref().is_some_and(|uid| api.doomed.contains(&no_of(uid)));
            !self.events_dropped && !doomed && !api.events.contains(key)
        };
        self.unheard.values().filter(missing).map(|key| format!("event {key:?} is not in the API")).collect()
    }
}

pub(crate) fn key_of(event: &DeviceEvent) -> EventKey {
    EventKey {
        pod: event.pod.as_ref().map(|uid| uid.as_str().to_owned()),
        reason: event.reason.clone(),
        message: event.message.clone(),
    }
}
