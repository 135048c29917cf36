//! What is said until it is heard. Pure.
//!
//! Everything said has a slot: a pod has one, the facts have one, each event has its own. What is said in a slot replaces
//! what was there, with a new and higher number, and goes out again and again until that number is acknowledged. The
//! journal of events is bounded; what had to be dropped is told by one event.

use std::collections::BTreeMap;

use hawser_wire::limits::MAX_REPORT_ITEMS;
use hawser_wire::report::{DeviceEvent, Numbered, Report, ReportItem};
use hawser_wire::{DeviceTime, Open, encode};

use super::retry::back_off;
use crate::ledger::{Change, Slot};

/// How many events wait for the bridge at most: a day of a device that restarts something every five minutes.
const MAX_EVENTS: usize = 256;
/// How many bytes of items go into one message, unless one item alone is longer.
const BATCH: usize = 16 * 1024;
/// How many items may be on their way unacknowledged.
const IN_FLIGHT: usize = MAX_REPORT_ITEMS;
/// The longest item: what fits into a message with room for its frame.
const MAX_ITEM: usize = 60 * 1024;
const FIRST_RESEND: u64 = 5_000;
const LAST_RESEND: u64 = 120_000;
/// How many numbers are reserved at once: a restart skips up to as many, and only every so many cost a write.
const RESERVE: u64 = 4_096;

/// What waits to be heard.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: BTreeMap<u64, Waiting>,
    slots: BTreeMap<Slot, u64>,
    next: u64,
    /// Numbers below it may be used.
    reserved: u64,
    /// A reservation up to here is on its way to the ledger.
    reserving: u64,
    dropped: u32,
}

#[derive(Debug)]
struct Waiting {
    slot: Slot,
    item: ReportItem,
    len: usize,
    sent: Option<Sent>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: DeviceTime,
    again: DeviceTime,
    times: u32,
}

/// What became of something to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// For the ledger.
    pub(super) changes: Vec<Change>,
    /// It does not fit into a message: its length.
    pub(super) too_long: Option<usize>,
    /// An older event was dropped for it.
    pub(super) dropped: bool,
}

impl Outbox {
    /// Goes on from the ledger, with numbers that were certainly never used.
    pub(super) fn recover(said: &BTreeMap<Slot, Numbered>, next: u64) -> Self {
        let next = said.values().map(|item| item.seq + 1).max().unwrap_or(0).max(next).max(1);
        let mut outbox = Self {
            waiting: BTreeMap::new(),
            slots: BTreeMap::new(),
            next,
            reserved: next,
            reserving: next,
            dropped: 0,
        };
        for (slot, numbered) in said {
            // An item of a newer agent that was here before this one cannot be said by us.
            if let Open::Known(item) = &numbered.item {
                outbox.slots.insert(slot.clone(), numbered.seq);
                let len = encode(item).len();
                let waiting = Waiting { slot: slot.clone(), item: item.clone(), len, sent: None };
                outbox.waiting.insert(numbered.seq, waiting);
            }
        }
        outbox
    }

    /// The reservation to put into the ledger at once, when half of the last one is used.
    pub(super) fn reserve(&mut self) -> Option<Change> {
        if self.reserving >= self.next + RESERVE / 2 {
            return None;
        }
        self.reserving = self.next + RESERVE;
        Some(Change::ReserveSequence(self.reserving))
    }

    /// The reservations made so far are in the ledger.
    pub(super) fn reserved(&mut self, up_to: u64) {
        self.reserved = self.reserved.max(up_to);
    }

    /// The end of the last reservation that was asked for.
    pub(super) fn reserving(&self) -> u64 {
        self.reserving
    }

    /// Says something.
    pub(super) fn say(&mut self, item: ReportItem) -> Said {
        let mut said = Said::default();
        let Some((item, len)) = fitting(item) else {
            said.too_long = Some(MAX_ITEM + 1);
            return said;
        };
        let seq = self.next;
        let slot = match &item {
            ReportItem::Workload(report) => Slot::Pod(report.uid.clone()),
            ReportItem::Gone(gone) => Slot::Pod(gone.uid.clone()),
            ReportItem::Facts(_) => Slot::Facts,
            ReportItem::Event(_) => {
                said.dropped = self.make_room_for_event(&mut said.changes);
                Slot::Event(seq)
            }
        };
        self.next += 1;
        if let Some(replaced) = self.slots.insert(slot.clone(), seq) {
            self.waiting.remove(&replaced);
        }
        let numbered = Numbered { seq, item: Open::Known(item.clone()) };
        said.changes.push(Change::Say(slot.clone(), Box::new(numbered)));
        self.waiting.insert(seq, Waiting { slot, item, len, sent: None });
        said
    }

    fn make_room_for_event(&mut self, changes: &mut Vec<Change>) -> bool {
        let is_event = |slot: &Slot| matches!(slot, Slot::Event(_));
        if self.slots.keys().filter(|slot| is_event(slot)).count() < MAX_EVENTS {
            return false;
        }
        let oldest = self.waiting.iter().find(|(_, waiting)| is_event(&waiting.slot)).map(|(seq, _)| *seq);
        if let Some(waiting) = oldest.and_then(|seq| self.waiting.remove(&seq)) {
            self.slots.remove(&waiting.slot);
            changes.push(Change::Unsay(waiting.slot));
            self.dropped = self.dropped.saturating_add(1);
        }
        true
    }

    /// The event that tells how many were dropped, once there is room for it again.
    pub(super) fn tell_dropped(&mut self, at: DeviceTime) -> Option<ReportItem> {
        let events = self.slots.keys().filter(|slot| matches!(slot, Slot::Event(_))).count();
        if self.dropped == 0 || events >= MAX_EVENTS / 2 {
            return None;
        }
        let count = std::mem::take(&mut self.dropped);
        Some(ReportItem::Event(DeviceEvent {
            pod: None,
            container: None,
            at,
            warning: true,
            reason: "EventsDropped".to_owned(),
            message: format!("{count} events were dropped on the device because the bridge could not be reached"),
            count,
        }))
    }

    /// The bridge has these for good.
    pub(super) fn acknowledged(&mut self, seqs: &[u64]) -> Vec<Change> {
        let heard = seqs.iter().filter_map(|seq| self.waiting.remove(seq));
        let changes = heard.map(|waiting| {
            self.slots.remove(&waiting.slot);
            Change::Unsay(waiting.slot)
        });
        changes.collect()
    }

    /// A new session: everything goes out again, now.
    pub(super) fn start_over(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.sent = None;
        }
    }

    /// The messages that are due, in the order of their numbers.
    pub(super) fn due(&mut self, now: DeviceTime, jitter: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut room =
            IN_FLIGHT.saturating_sub(self.waiting.values().filter(|waiting| waiting.is_on_its_way(now)).count());
        for (seq, waiting) in self.waiting.range_mut(..self.reserved) {
            if room == 0 {
                break;
            }
            if waiting.is_on_its_way(now) {
                continue;
            }
            room -= 1;
            waiting.send(now, jitter);
            if !batch.is_empty() && bytes + waiting.len > BATCH {
                reports.push(Report { items: std::mem::take(&mut batch) });
                bytes = 0;
            }
            bytes += waiting.len;
            batch.push(Numbered { seq: *seq, item: Open::Known(waiting.item.clone()) });
        }
        if !batch.is_empty() {
            reports.push(Report { items: batch });
        }
        reports
    }

    /// When [`Outbox::due`] has something.
    pub(super) fn deadline(&self) -> Option<DeviceTime> {
        // Something unsent that is not due is held back by the bound on what is in flight: the next resend makes room.
        let sent = self.waiting.values().filter_map(|waiting| waiting.sent);
        sent.map(|sent| sent.again).min()
    }

    /// Since when the oldest thing said is without an answer.
    pub(super) fn unanswered_since(&self) -> Option<DeviceTime> {
        self.waiting.values().filter_map(|waiting| waiting.sent).map(|sent| sent.at).min()
    }

    /// How many things wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Waiting {
    fn is_on_its_way(&self, now: DeviceTime) -> bool {
        self.sent.is_some_and(|sent| sent.again > now)
    }

    fn send(&mut self, now: DeviceTime, jitter: u64) {
        let (at, times) = self.sent.map_or((now, 0), |sent| (sent.at, sent.times + 1));
        let wait = FIRST_RESEND / 2 + back_off(FIRST_RESEND, LAST_RESEND, times, jitter);
        self.sent = Some(Sent { at, again: DeviceTime(now.0.saturating_add(wait)), times });
    }
}

/// Shortens an item until it fits into a message: first its longest texts. `None` if nothing helps.
fn fitting(mut item: ReportItem) -> Option<(ReportItem, usize)> {
    for longest in [usize::MAX, 1024, 128, 0] {
        if longest != usize::MAX {
            shorten(&mut item, longest);
        }
        let len = encode(&item).len();
        if len <= MAX_ITEM {
            return Some((item, len));
        }
    }
    None
}

fn shorten(item: &mut ReportItem, longest: usize) {
    let report = match item {
        ReportItem::Workload(report) => Some(report),
        ReportItem::Gone(gone) => gone.last.as_mut(),
        ReportItem::Event(event) => {
            cut(&mut event.message, longest.max(128));
            None
        }
        ReportItem::Facts(facts) => {
            facts.images.truncate(longest / 64);
            None
        }
    };
    let Some(report) = report else { return };
    report.message.iter_mut().for_each(|message| cut(message, longest));
    let containers = report.init_containers.iter_mut().chain(&mut report.containers);
    for container in containers.chain(&mut report.ephemeral_containers) {
        use hawser_wire::report::ContainerState::{Running, Terminated, Waiting};
        let message = match &mut container.state {
            Waiting(waiting) => waiting.message.as_mut(),
            Terminated(terminated) => terminated.message.as_mut(),
            Running(_) => None,
        };
        let last = container.last.as_mut().and_then(|last| last.message.as_mut());
        message.into_iter().chain(last).for_each(|message| cut(message, longest));
    }
}

fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::PodUid;
    use hawser_wire::report::{Gone, Phase, WorkloadReport};

    pub(super) fn workload(uid: &str, message: usize) -> ReportItem {
        ReportItem::Workload(WorkloadReport {
            uid: PodUid::new(uid).unwrap(),
            deployment: None,
            phase: Phase::Running,
            reason: None,
            message: Some("ä".repeat(message / 2)),
            started: None,
            sandbox_ready: true,
            pod_ips: Vec::new(),
            init_containers: Vec::new(),
            containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            resize: None,
        })
    }

    fn event(n: u64) -> ReportItem {
        ReportItem::Event(DeviceEvent {
            pod: None,
            container: None,
            at: DeviceTime(n),
            warning: false,
            reason: "X".to_owned(),
            message: String::new(),
            count: 1,
        })
    }

    fn ready() -> Outbox {
        let mut outbox = Outbox::recover(&BTreeMap::new(), 0);
        assert!(outbox.reserve().is_some());
        outbox.reserved(outbox.reserving());
        outbox
    }

    fn seqs(reports: &[Report]) -> Vec<u64> {
        reports.iter().flat_map(|report| &report.items).map(|item| item.seq).collect()
    }

    #[test]
    fn the_latest_of_a_pod_replaces_what_was_not_heard() {
        let mut outbox = ready();
        outbox.say(workload("a", 0));
        outbox.say(workload("b", 0));
        outbox.say(workload("a", 0));
        let gone = ReportItem::Gone(Gone { uid: PodUid::new("b").unwrap(), last: None });
        outbox.say(gone);
        assert_eq!(seqs(&outbox.due(DeviceTime(0), 0)), [3, 4]);
        assert_eq!(outbox.acknowledged(&[1, 2]), [], "numbers that were replaced acknowledge nothing");
        assert_eq!(outbox.acknowledged(&[3, 4]).len(), 2);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn goes_out_again_until_heard_and_at_once_in_a_new_session() {
        let mut outbox = ready();
        outbox.say(workload("a", 0));
        assert_eq!(seqs(&outbox.due(DeviceTime(0), 0)), [1]);
        assert_eq!(outbox.due(DeviceTime(1), 0), []);
        let mut last = 0;
        for _ in 0..10 {
            let again = outbox.deadline().unwrap();
            assert!(again.0 > last && again.0 - last <= FIRST_RESEND / 2 + LAST_RESEND, "{again:?}");
            last = again.0;
            assert_eq!(seqs(&outbox.due(again, u64::MAX)), [1]);
        }
        outbox.start_over();
        assert_eq!(seqs(&outbox.due(DeviceTime(last + 1), 0)), [1]);
    }

    #[test]
    fn nothing_is_sent_with_a_number_that_is_not_reserved() {
        let mut outbox = Outbox::recover(&BTreeMap::new(), 0);
        outbox.say(workload("a", 0));
        assert_eq!(outbox.due(DeviceTime(0), 0), []);
        assert_eq!(outbox.reserve(), Some(Change::ReserveSequence(2 + RESERVE)));
        assert_eq!(outbox.reserve(), None);
        outbox.reserved(2 + RESERVE);
        assert_eq!(seqs(&outbox.due(DeviceTime(0), 0)), [1]);
    }

    #[test]
    fn a_restart_never_uses_a_number_twice() {
        let mut outbox = ready();
        let Change::Say(slot, numbered) = outbox.say(workload("a", 0)).changes.remove(0) else { panic!() };
        let reserved = outbox.reserving();
        let mut outbox = Outbox::recover(&BTreeMap::from([(slot, *numbered)]), reserved);
        outbox.reserve();
        outbox.reserved(outbox.reserving());
        outbox.say(workload("b", 0));
        assert_eq!(seqs(&outbox.due(DeviceTime(0), 0)), [1, reserved]);
    }

    #[test]
    fn the_journal_is_bounded_and_tells_what_it_dropped() {
        let mut outbox = ready();
        let mut dropped = 0;
        for n in 0..MAX_EVENTS as u64 + 44 {
            dropped += usize::from(outbox.say(event(n)).dropped);
        }
        assert_eq!((dropped, outbox.len()), (44, MAX_EVENTS));
        assert_eq!(outbox.tell_dropped(DeviceTime(0)), None, "no room yet");
        let all = seqs(&outbox.due(DeviceTime(0), 0));
        assert_eq!(all[0], 45, "the oldest were dropped");
        outbox.acknowledged(&all);
        let Some(ReportItem::Event(told)) = outbox.tell_dropped(DeviceTime(9)) else { panic!() };
        assert_eq!((told.reason.as_str(), told.count), ("EventsDropped", 44));
        assert_eq!(outbox.tell_dropped(DeviceTime(0)), None);
    }

    #[test]
    fn messages_stay_within_their_bounds() {
        let mut outbox = ready();
        for n in 0..600 {
            outbox.say(workload(&format!("pod-{n}"), 1_000));
        }
        let reports = outbox.due(DeviceTime(0), 0);
        assert_eq!(seqs(&reports).len(), IN_FLIGHT);
        assert!(seqs(&reports).is_sorted());
        for report in &reports {
            assert!(report.items.len() <= MAX_REPORT_ITEMS);
            assert!(encode(report).len() <= BATCH + 2_000);
        }
        outbox.acknowledged(&seqs(&reports)[..10]);
        assert_eq!(seqs(&outbox.due(DeviceTime(1), 0)).len(), 10);
    }

    #[test]
    fn what_is_too_long_is_shortened_at_its_longest_text() {
        let mut outbox = ready();
        assert_eq!(outbox.say(workload("a", 100_000)).too_long, None);
        let reports = outbox.due(DeviceTime(0), 0);
        let Open::Known(ReportItem::Workload(report)) = &reports[0].items[0].item else { panic!() };
        assert_eq!(report.message.as_ref().unwrap().len(), 1024);
    }
}
