//! What the device says: on to the virtual node, and acknowledged once the API server holds it.

use std::time::Duration;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::limits::{MAX_PLAINTEXT, MAX_REPORT_ITEMS};
use hawser_wire::report::{DeviceEvent, Gone, NodeFacts, Numbered, Report, ReportItem, WorkloadReport};
use hawser_wire::{Ack, ContentHash, Down, Open, PodUid, codec};
use virtual_node::provider::{ConditionReport, NodeReport, PodReport};

use super::{Context, Counted, Effect, Observation, Ticket, Twin};
use crate::fleet::clock::Moment;
use crate::fleet::desired::Wanted;
use crate::fleet::inbox::About;
use crate::fleet::observe;

/// Receipts within this time are acknowledged in one message.
const GATHER_ACKS: Duration = Duration::from_millis(50);

impl Twin {
    pub(super) fn hear_report(&mut self, report: Report, context: Context, effects: &mut Vec<Effect>) {
        for item in report.items.into_iter().take(MAX_REPORT_ITEMS) {
            self.hear_item(item, context, effects);
        }
    }

    /// Before the view is complete it cannot be told whether a pod is unknown or not yet known; before the first
    /// heartbeat no time can be corrected.
    pub(super) fn may_observe(&self) -> bool {
        self.synced && self.clock.is_set()
    }

    pub(super) fn say_early(&mut self, context: Context, effects: &mut Vec<Effect>) {
        if self.inbox.has_early() && self.may_observe() {
            for item in self.inbox.take_early() {
                self.hear_item(item, context, effects);
            }
        }
    }

    pub(super) fn hear_item(&mut self, numbered: Numbered, context: Context, effects: &mut Vec<Effect>) {
        if !self.may_observe() {
            // Facts are needed at once, and need neither.
            if !matches!(numbered.item, Open::Known(ReportItem::Facts(_))) {
                self.inbox.keep_early(numbered);
                return;
            }
        }
        let seq = numbered.seq;
        match numbered.item {
            Open::Known(ReportItem::Workload(said)) => self.hear_workload(seq, &said, effects),
            Open::Known(ReportItem::Gone(gone)) => self.hear_gone(seq, &gone, effects),
            Open::Known(ReportItem::Facts(facts)) => self.hear_facts(seq, &facts, effects),
            Open::Known(ReportItem::Event(event)) => self.hear_event(seq, &event, context, effects),
            Open::Unknown => {
                effects.push(Effect::Count(Counted::Unfamiliar));
                self.inbox.acknowledge(seq);
            }
        }
    }

    pub(super) fn hear_workload(&mut self, seq: u64, said: &WorkloadReport, effects: &mut Vec<Effect>) {
        let Some(entry) = self.desired.get(&said.uid) else {
            // Not wanted any more: there is nothing to write it to.
            self.inbox.acknowledge(seq);
            return;
        };
        if let Some(ticket) = self.inbox.admit(seq, About::Pod(said.uid.clone())) {
            let pod = entry.pod.clone();
            effects.push(Effect::Observe(Observation::Pod(pod, Box::new(self.pod_report(said)), ticket)));
        }
    }

    pub(super) fn hear_gone(&mut self, seq: u64, gone: &Gone, effects: &mut Vec<Effect>) {
        let Some(entry) = self.desired.get(&gone.uid) else {
            self.inbox.acknowledge(seq);
            return;
        };
        if matches!(entry.wanted, Wanted::Run(_) | Wanted::Keep) {
            // A life that was ended before the cluster was restored to a time when the pod was wanted: its end must not
            // be written over the life that begins now.
            self.inbox.acknowledge(seq);
            return;
        }
        if let Some(ticket) = self.inbox.admit(seq, About::Gone(gone.uid.clone())) {
            let pod = entry.pod.clone();
            let last = gone.last.as_ref().map(|last| Box::new(self.pod_report(last)));
            effects.push(Effect::Observe(Observation::Gone(pod, last, ticket)));
        }
    }

    pub(super) fn hear_facts(&mut self, seq: u64, facts: &NodeFacts, effects: &mut Vec<Effect>) {
        if let Some(ticket) = self.inbox.admit(seq, About::Facts) {
            self.addresses = observe::device_addresses(facts).into();
            self.facts = Some(codec::encode(facts).into());
            self.facts_are_new = true;
            if let Some(report) = self.node_report() {
                effects.push(Effect::Observe(Observation::Node(report, Some(ticket))));
            }
        }
        self.call_online(effects);
    }

    pub(super) fn hear_event(&mut self, seq: u64, event: &DeviceEvent, context: Context, effects: &mut Vec<Effect>) {
        let pod = event.pod.as_ref();
        let pod = pod.map(|uid| self.desired.get(uid).map(|entry| (&entry.pod, &*entry.others)));
        let Some(pod) = pod.map_or(Some(None), |known| known.map(Some)) else {
            // About a pod that is no more.
            self.inbox.acknowledge(seq);
            return;
        };
        let report = observe::event_report(event, seq, &self.node, pod, &self.clock, context.now);
        if let Some(ticket) = self.inbox.admit(seq, About::Event) {
            effects.push(Effect::Observe(Observation::Event(Box::new(report), ticket)));
        }
    }

    pub(super) fn receive_receipt(&mut self, ticket: &Ticket, _context: Context) {
        self.inbox.settle(ticket);
        if let About::Gone(uid) = ticket.about() {
            let stopping = self.desired.get(uid).is_some_and(|entry| matches!(entry.wanted, Wanted::Stop { .. }));
            if stopping {
                self.remove(uid);
            }
        }
    }

    pub(super) fn flush_acks(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let waiting = self.inbox.waiting_acks();
        if waiting == 0 || self.link.is_none() {
            self.ack_at = None;
            return;
        }
        let at = *self.ack_at.get_or_insert(now.mono + GATHER_ACKS);
        if now.mono < at && waiting < MAX_REPORT_ITEMS {
            return;
        }
        self.ack_at = None;
        for seqs in self.inbox.take_acks().chunks(MAX_REPORT_ITEMS) {
            effects.push(Effect::Send(Down::Ack(Ack { seqs: seqs.to_vec() })));
        }
    }

    pub(super) fn pod_report(&self, said: &WorkloadReport) -> PodReport {
        let wanted = self.wanted(&said.uid);
        let wanted = wanted.as_ref().map(|(spec, hash)| (spec, *hash));
        observe::pod_report(said, &self.clock, wanted, &self.addresses)
    }

    /// What a pod is to be, if it is to run, and its hash.
    fn wanted(&self, uid: &PodUid) -> Option<(EdgeDeployment, ContentHash)> {
        let wanted = &self.desired.get(uid)?.wanted;
        match wanted {
            Wanted::Run(running) => Some((wanted.deployment()?, running.deployment.reference.hash)),
            Wanted::Keep | Wanted::Stop { .. } | Wanted::Retain => None,
        }
    }

    pub(super) fn node_report(&self) -> Option<Box<NodeReport>> {
        let mut report = observe::node_report(&self.facts()?);
        report.conditions.retain(|condition| condition.kind != "ClockSkewed");
        if let Some(skewed) = self.skewed {
            report.conditions.push(clock_condition(skewed));
        }
        Some(Box::new(report))
    }

    pub(super) fn facts(&self) -> Option<NodeFacts> {
        codec::decode(self.facts.as_deref()?, MAX_PLAINTEXT).ok().map(|decoded| decoded.value)
    }
}

fn clock_condition(skewed: bool) -> ConditionReport {
    let (reason, message) = if skewed {
        (
            "ClockDiffers",
            "the device's clock differs from the cluster's by more than 10 s; times shown here are corrected",
        )
    } else {
        ("ClockAgrees", "the device's clock agrees with the cluster's")
    };
    ConditionReport {
        kind: "ClockSkewed".to_owned(),
        status: Some(skewed),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}
