//! A twin against a simple device, over a link that loses, repeats and reorders, with restarts of the bridge and an API
//! that goes backwards. Checked after every step: an index is never sent before the view is complete, never lacks a pod
//! that the API has, and is never older than what the device has. At the end the two agree.

use std::collections::BTreeMap;

use super::tests::*;
use super::*;
use crate::fleet::inbox::About;
use hawser_wire::Version;
use hawser_wire::desired::Index;
use hawser_wire::report::{Gone, Phase, ReportItem, WorkloadReport};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Apply(u8, u8),
    Unresolved(u8),
    Stop(u8),
    Forget(u8),
    Pass(u32),
    Beat,
    Deliver(u8, bool),
    Lose(u8),
    Receipt(u8),
    RestartBridge { api_back: bool },
    NewSession,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..5, 0u8..4).prop_map(|(pod, content)| Step::Apply(pod, content)),
        1 => (0u8..5).prop_map(Step::Unresolved),
        2 => (0u8..5).prop_map(Step::Stop),
        1 => (0u8..5).prop_map(Step::Forget),
        4 => (1u32..20_000).prop_map(Step::Pass),
        5 => Just(Step::Beat),
        5 => (any::<u8>(), any::<bool>()).prop_map(|(which, keep)| Step::Deliver(which, keep)),
        1 => any::<u8>().prop_map(Step::Lose),
        3 => any::<u8>().prop_map(Step::Receipt),
        1 => any::<bool>().prop_map(|api_back| Step::RestartBridge { api_back }),
        1 => Just(Step::NewSession),
    ];
    prop::collection::vec(step, 1..120)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Wanted(u8),
    Unresolved,
    Stopping,
}

struct World {
    rig: Rig,
    /// What the API has. A pod that is made again under its name has another UID.
    pods: BTreeMap<u8, Api>,
    names: BTreeMap<u8, u8>,
    made: u8,
    /// Indexes under way to the device.
    link: Vec<Index>,
    /// What the device has.
    device: Option<(Version, Digest)>,
    entries: BTreeMap<PodUid, hawser_wire::desired::Wish>,
    seq: u64,
    /// What the device has said and what was not acknowledged.
    unacked: BTreeMap<u64, PodUid>,
    /// Tickets whose receipt is still to come, and what receipts came for.
    outstanding: Vec<Ticket>,
    receipted: Vec<(u64, PodUid)>,
}

impl World {
    fn new() -> Self {
        let mut rig = Rig::new();
        rig.handle(Event::Synced { pod_ranges: Vec::new() });
        let mut world = Self {
            rig,
            pods: BTreeMap::new(),
            names: BTreeMap::new(),
            made: 0,
            link: Vec::new(),
            device: None,
            entries: BTreeMap::new(),
            seq: 0,
            unacked: BTreeMap::new(),
            outstanding: Vec::new(),
            receipted: Vec::new(),
        };
        world.session();
        world
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for index in indexes(&effects) {
            assert!(self.rig.twin.synced, "an index before the view is complete");
            for n in self.pods.keys() {
                assert!(index.entries.iter().any(|entry| entry.uid == uid(*n)), "pod {n} is missing from {index:?}");
            }
            if let Some((has, what)) = self.device {
                assert!(index.version > has || (index.version == has && index.digest == what), "{index:?} after {has}");
            }
            self.link.push(index);
        }
        for effect in effects {
            match effect {
                Effect::Observe(Observation::Pod(_, _, ticket) | Observation::Gone(_, _, ticket)) => {
                    self.outstanding.push(ticket);
                }
                Effect::Send(Down::Ack(ack)) => {
                    for seq in ack.seqs {
                        let Some(about) = self.unacked.remove(&seq) else { continue };
                        let wanted = self.pods.keys().any(|n| uid(*n) == about);
                        assert!(!wanted || self.may_forget(seq, &about), "{seq} acknowledged without a receipt");
                    }
                }
                Effect::Rehandshake => self.session(),
                _ => {}
            }
        }
    }

    /// Whether the API holds it, or something newer about the same pod is on its way there.
    fn may_forget(&self, seq: u64, about: &PodUid) -> bool {
        self.receipted.iter().any(|(at, pod)| *at >= seq && pod == about)
            || self.outstanding.iter().any(|ticket| ticket.seq() > seq && pod_of(ticket) == Some(about))
    }

    /// The device says again what was not acknowledged.
    fn say_again(&mut self) {
        for (seq, about) in self.unacked.clone() {
            self.say(seq, about);
        }
    }

    fn say(&mut self, seq: u64, about: PodUid) {
        let item = match self.entries.get(&about) {
            Some(hawser_wire::desired::Wish::Stop(_)) => ReportItem::Gone(Gone { uid: about, last: None }),
            _ => ReportItem::Workload(WorkloadReport { uid: about, ..workload(0, Phase::Running) }),
        };
        let effects = self.rig.handle(report(seq, item));
        self.take(effects);
    }

    fn session(&mut self) {
        // Nothing that was sealed in another session can be read.
        self.link.clear();
        let effects = self.rig.handle(Event::SessionOpened(hello(self.device)));
        self.take(effects);
        self.beat();
        self.say_again();
    }

    fn beat(&mut self) {
        let effects = self.rig.beat(self.device.map(|(_, digest)| digest));
        self.take(effects);
    }

    fn named(&self, name: u8) -> Option<u8> {
        self.names.get(&name).copied().filter(|n| self.pods.contains_key(n))
    }

    fn change(&mut self, n: u8, api: Api) {
        self.rig.revision += 1;
        self.pods.insert(n, api);
        self.wish(n);
    }

    fn wish(&mut self, n: u8) {
        let wish = match self.pods[&n] {
            Api::Wanted(content) => Wish::Run(prepared(content)),
            Api::Unresolved => Wish::Keep,
            Api::Stopping => Wish::Stop { grace_seconds: 1 },
        };
        let effects = self.rig.wish(n, wish);
        self.take(effects);
    }

    fn accept(&mut self, index: &Index) {
        let newer =
            self.device.is_none_or(|(has, what)| index.version > has || (index.version == has && index.digest == what));
        if !newer {
            return;
        }
        self.device = Some((index.version, index.digest));
        self.entries = index.entries.iter().map(|entry| (entry.uid.clone(), entry.wish)).collect();
        for about in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.seq += 1;
            self.unacked.insert(self.seq, about.clone());
            self.say(self.seq, about);
        }
        self.beat();
    }

    fn receive_receipt(&mut self, which: u8) {
        if self.outstanding.is_empty() {
            return;
        }
        let ticket = self.outstanding.remove(usize::from(which) % self.outstanding.len());
        if let Some(about) = pod_of(&ticket) {
            self.receipted.push((ticket.seq(), about.clone()));
        }
        // The API deletes the object of a pod that is gone.
        if let About::Gone(about) = ticket.about() {
            self.pods.retain(|n, api| uid(*n) != *about || *api != Api::Stopping);
        }
        let effects = self.rig.handle(Event::Settled(ticket, Receipt::Accepted));
        self.take(effects);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(name, content) => {
                let n = self.named(name).unwrap_or_else(|| {
                    self.made += 1;
                    self.names.insert(name, self.made);
                    self.made
                });
                if self.pods.get(&n) != Some(&Api::Stopping) {
                    self.change(n, Api::Wanted(content));
                }
            }
            Step::Unresolved(name) => {
                if let Some(n) = self.named(name).filter(|n| matches!(self.pods[n], Api::Wanted(_))) {
                    self.change(n, Api::Unresolved);
                }
            }
            Step::Stop(name) => {
                if let Some(n) = self.named(name) {
                    self.change(n, Api::Stopping);
                }
            }
            Step::Forget(name) => {
                if let Some(n) = self.named(name) {
                    self.rig.revision += 1;
                    self.pods.remove(&n);
                    let effects = self.rig.handle(Event::Forget(uid(n)));
                    self.take(effects);
                }
            }
            Step::Pass(millis) => {
                self.rig.millis += u64::from(millis);
                let effects = self.rig.handle(Event::Tick);
                self.take(effects);
            }
            Step::Beat => self.beat(),
            Step::Deliver(which, again) if !self.link.is_empty() => {
                let at = usize::from(which) % self.link.len();
                let index = if again { self.link[at].clone() } else { self.link.remove(at) };
                self.accept(&index);
            }
            Step::Lose(which) if !self.link.is_empty() => {
                let at = usize::from(which) % self.link.len();
                self.link.remove(at);
            }
            Step::Receipt(which) => self.receive_receipt(which),
            Step::RestartBridge { api_back } => self.restart(api_back),
            Step::NewSession => self.session(),
            _ => {}
        }
    }

    fn restart(&mut self, api_back: bool) {
        let (millis, revision) = (self.rig.millis, self.rig.revision);
        self.rig = Rig::new();
        self.rig.millis = millis;
        self.rig.revision = if api_back { revision / 2 } else { revision };
        self.outstanding.clear();
        self.session();
        for n in self.pods.keys().copied().collect::<Vec<_>>() {
            self.wish(n);
        }
        let effects = self.rig.handle(Event::Synced { pod_ranges: Vec::new() });
        self.take(effects);
    }

    /// With a link that works and receipts that come, the two agree in the end.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.rig.millis += 10_000;
            let effects = self.rig.handle(Event::Tick);
            self.take(effects);
            self.beat();
            self.say_again();
            while !self.link.is_empty() {
                let index = self.link.remove(0);
                self.accept(&index);
            }
            while !self.outstanding.is_empty() {
                self.receive_receipt(0);
            }
        }
        let digest = self.rig.twin.desired.digest();
        assert_eq!(self.device.map(|(_, digest)| digest), Some(digest), "the device does not have what it should");
        assert!(self.pods.values().all(|api| *api != Api::Stopping), "a stop that never ended: {:?}", self.pods);
        assert_eq!(self.entries.len(), self.pods.len());
    }
}

fn pod_of(ticket: &Ticket) -> Option<&PodUid> {
    match ticket.about() {
        About::Pod(about) | About::Gone(about) => Some(about),
        About::Facts | About::Event => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn the_device_gets_what_it_should_and_never_less(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
