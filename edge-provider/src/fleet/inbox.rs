//! Which reports are new, which are repeated, and which may be forgotten by the device.
//!
//! A device repeats a report until it is acknowledged, and it is acknowledged once the API server holds it. Numbers are
//! compared within one session only: a device that lost its ledger begins again at 1, in a new session.

use std::collections::BTreeMap;

use hawser_wire::PodUid;
use hawser_wire::report::Numbered;

/// How many events are remembered: those under way, and the last settled ones, so that a repetition is recognised.
const MAX_EVENTS: usize = 256;
/// How many items wait until the view of the API is complete and the device's clock is known.
pub(crate) const MAX_EARLY: usize = 256;

/// What was heard in the present session.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    session: u32,
    pods: BTreeMap<PodUid, Heard>,
    facts: Option<Heard>,
    events: BTreeMap<u64, State>,
    early: Vec<Numbered>,
    acks: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    seq: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Settled,
}

/// Names a report until its receipt comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    session: u32,
    seq: u64,
    about: About,
}

/// What a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Pod(PodUid),
    Gone(PodUid),
    Facts,
    Event,
}

impl Inbox {
    /// A new session: everything unacknowledged will be said again.
    pub(crate) fn restart(&mut self) {
        *self = Self { session: self.session.wrapping_add(1), ..Self::default() };
    }

    /// Takes a report. `Some`: it is new; pass it on under this ticket. Otherwise it is dealt with: already under way, or
    /// acknowledged again.
    pub(crate) fn admit(&mut self, seq: u64, about: About) -> Option<Ticket> {
        let known = match &about {
            About::Pod(uid) | About::Gone(uid) => self.pods.get(uid).copied(),
            About::Facts => self.facts,
            About::Event => self.events.get(&seq).map(|state| Heard { seq, state: *state }),
        };
        if let Some(known) = known.filter(|known| known.seq >= seq) {
            // Older than what replaced it: nothing is lost by forgetting it. The same again: only if it has settled.
            if known.seq > seq || known.state == State::Settled {
                self.acknowledge(seq);
            }
            return None;
        }
        let heard = Heard { seq, state: State::UnderWay };
        match &about {
            About::Pod(uid) | About::Gone(uid) => drop(self.pods.insert(uid.clone(), heard)),
            About::Facts => self.facts = Some(heard),
            About::Event => {
                if !self.room_for_event() {
                    return None;
                }
                self.events.insert(seq, State::UnderWay);
            }
        }
        Some(Ticket { session: self.session, seq, about })
    }

    /// The API server holds what the ticket names, or nothing is left to hold it.
    pub(crate) fn settle(&mut self, ticket: &Ticket) {
        if ticket.session != self.session {
            return;
        }
        self.acknowledge(ticket.seq);
        let heard = match &ticket.about {
            About::Pod(uid) | About::Gone(uid) => self.pods.get_mut(uid),
            About::Facts => self.facts.as_mut(),
            About::Event => {
                self.events.insert(ticket.seq, State::Settled);
                None
            }
        };
        if let Some(heard) = heard.filter(|heard| heard.seq == ticket.seq) {
            heard.state = State::Settled;
        }
    }

    pub(crate) fn acknowledge(&mut self, seq: u64) {
        if !self.acks.contains(&seq) {
            self.acks.push(seq);
        }
    }

    pub(crate) fn forget_pod(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// Keeps an item for later. What does not fit is said again by the device.
    pub(crate) fn keep_early(&mut self, item: Numbered) {
        if self.early.len() < MAX_EARLY && !self.early.iter().any(|kept| kept.seq == item.seq) {
            self.early.push(item);
        }
    }

    pub(crate) fn take_early(&mut self) -> Vec<Numbered> {
        std::mem::take(&mut self.early)
    }

    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    pub(crate) fn waiting_acks(&self) -> usize {
        self.acks.len()
    }

    pub(crate) fn take_acks(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.acks)
    }

    /// Forgets the oldest settled event. If all are under way, the new one has to be said again.
    fn room_for_event(&mut self) -> bool {
        if self.events.len() < MAX_EVENTS {
            return true;
        }
        let settled = self.events.iter().find(|(_, state)| **state == State::Settled).map(|(seq, _)| *seq);
        settled.is_some_and(|seq| self.events.remove(&seq).is_some())
    }
}

impl Ticket {
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> About {
        About::Pod(PodUid::new("p").unwrap())
    }

    #[test]
    fn nothing_is_acknowledged_before_its_receipt() {
        let mut inbox = Inbox::default();
        let ticket = inbox.admit(5, pod()).unwrap();
        for _ in 0..1000 {
            assert!(inbox.admit(5, pod()).is_none(), "repeated while under way");
        }
        assert!(inbox.take_acks().is_empty(), "and nothing grows by it");
        inbox.settle(&ticket);
        assert_eq!(inbox.take_acks(), [5]);
        assert!(inbox.admit(5, pod()).is_none(), "repeated because the acknowledgement was lost");
        assert_eq!(inbox.take_acks(), [5]);
    }

    #[test]
    fn an_older_report_never_overwrites_a_newer_one() {
        let mut inbox = Inbox::default();
        let newer = inbox.admit(6, pod()).unwrap();
        assert!(inbox.admit(5, pod()).is_none());
        assert_eq!(inbox.take_acks(), [5]);
        assert!(inbox.admit(5, About::Gone(PodUid::new("p").unwrap())).is_none());
        inbox.take_acks();
        inbox.settle(&newer);
        assert_eq!(inbox.take_acks(), [6]);
    }

    #[test]
    fn a_receipt_of_an_earlier_session_acknowledges_nothing() {
        let mut inbox = Inbox::default();
        let ticket = inbox.admit(5, pod()).unwrap();
        inbox.restart();
        inbox.settle(&ticket);
        assert!(inbox.take_acks().is_empty());
        assert!(inbox.admit(1, pod()).is_some(), "a device without a ledger begins again");
    }

    #[test]
    fn a_device_cannot_make_the_bridge_remember_without_bound() {
        let mut inbox = Inbox::default();
        let tickets: Vec<_> = (0..10_000).filter_map(|seq| inbox.admit(seq, About::Event)).collect();
        assert_eq!(tickets.len(), MAX_EVENTS);
        inbox.settle(&tickets[0]);
        assert!(inbox.admit(20_000, About::Event).is_some());
        for seq in 0..1000 {
            inbox.keep_early(Numbered { seq, item: hawser_wire::Open::Unknown });
        }
        assert_eq!(inbox.take_early().len(), MAX_EARLY);
    }
}
