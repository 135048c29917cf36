//! What a twin does, one case at a time.

use super::downwards::{MAX_ANSWER, RETRIES_BEFORE_HANDSHAKE};
use super::*;
use crate::deployment::Object;
use hawser_wire::desired::{Index, Want, WantedObject, Wish as WireWish};
use hawser_wire::report::{DeviceEvent, Gone, Heartbeat, Numbered, Phase, Report, ReportItem, WorkloadReport};
use hawser_wire::{BootId, ContentHash, DeviceTime, Version};

pub(super) const EPOCH: i64 = 1_790_000_000_000;

/// A twin with a clock of its own.
pub(super) struct Rig {
    pub(super) twin: Twin,
    pub(super) millis: u64,
    pub(super) revision: u64,
}

pub(super) fn uid(n: u8) -> PodUid {
    PodUid::new(&format!("pod-{n}")).unwrap()
}

pub(super) fn pod(n: u8) -> PodRef {
    PodRef {
        namespace: "default".to_owned(),
        name: format!("p{n}"),
        uid: virtual_node::PodUid::new(format!("pod-{n}")),
    }
}

pub(super) fn prepared(content: u8) -> Prepared {
    Prepared {
        deployment: Object::new(vec![content; 10]),
        blobs: vec![Object::new(vec![content; 100_000])],
        again: None,
        notices: Vec::new(),
    }
}

pub(super) fn hello(accepted: Option<(Version, Digest)>) -> HelloPayload {
    HelloPayload {
        agent_version: "0.1.0".to_owned(),
        accepted: accepted.map(|(version, _)| version),
        digest: accepted.map(|(_, digest)| digest),
        boot: BootId([1; 8]),
    }
}

pub(super) fn workload(n: u8, phase: Phase) -> WorkloadReport {
    WorkloadReport {
        uid: uid(n),
        deployment: None,
        phase,
        reason: None,
        message: None,
        started: Some(DeviceTime(1_000)),
        sandbox_ready: true,
        pod_ips: vec!["10.0.0.7".to_owned(), "not an address".to_owned()],
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        resize: None,
    }
}

fn facts() -> NodeFacts {
    let text = String::new;
    NodeFacts {
        capacity: Vec::new(),
        allocatable: Vec::new(),
        arch: "arm64".to_owned(),
        os: "linux".to_owned(),
        kernel: text(),
        os_image: text(),
        machine_id: text(),
        system_uuid: text(),
        boot_id: text(),
        agent_version: text(),
        runtime: text(),
        hostname: text(),
        addresses: Vec::new(),
        images: Vec::new(),
        conditions: Vec::new(),
    }
}

pub(super) fn report(seq: u64, item: ReportItem) -> Event {
    let items = vec![Numbered { seq, item: Open::Known(item) }];
    Event::Message(Open::Known(Up::Report(Report { items })))
}

pub(super) fn moment(millis: u64) -> Moment {
    Moment { mono: Duration::from_millis(millis), wall: Timestamp::from_millisecond(EPOCH + millis as i64).unwrap() }
}

impl Rig {
    pub(super) fn new() -> Self {
        let settings = Settings { heartbeat: Duration::from_secs(10) };
        let twin = Twin::new(NodeName::new("pi").unwrap(), settings, None, moment(0));
        Self { twin, millis: 0, revision: 1 }
    }

    pub(super) fn context(&self) -> Context {
        Context { now: moment(self.millis), revision: self.revision }
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.twin.handle(event, self.context(), &mut effects);
        effects
    }

    pub(super) fn wish(&mut self, n: u8, wish: Wish) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.twin.wish(uid(n), pod(n), wish, self.context(), &mut effects).unwrap();
        effects
    }

    pub(super) fn beat(&mut self, digest: Option<Digest>) -> Vec<Effect> {
        let heartbeat = Heartbeat {
            boot: BootId([1; 8]),
            now: DeviceTime(self.millis),
            wall_millis: (EPOCH + self.millis as i64) as u64,
            digest,
            answers: None,
        };
        self.handle(Event::Message(Open::Known(Up::Heartbeat(heartbeat))))
    }

    /// Lets time pass, calling the twin when it wants to be called.
    fn pass(&mut self, millis: u64) -> Vec<Effect> {
        let end = self.millis + millis;
        let mut effects = Vec::new();
        while let Some(due) = self.twin.deadline().map(|due| due.as_millis() as u64).filter(|due| *due <= end) {
            assert!(due >= self.millis || effects.len() < 10_000, "a deadline that is always due");
            self.millis = self.millis.max(due);
            effects.extend(self.handle(Event::Tick));
        }
        self.millis = end;
        effects
    }

    /// Complete, with a session, and with one pod.
    fn running() -> Self {
        let mut rig = Self::new();
        rig.handle(Event::Synced { pod_ranges: Vec::new() });
        rig.handle(Event::SessionOpened(hello(None)));
        rig.beat(None);
        rig.wish(1, Wish::Run(prepared(1)));
        rig.pass(100);
        let digest = rig.twin.desired.digest();
        rig.beat(Some(digest));
        rig
    }
}

pub(super) fn indexes(effects: &[Effect]) -> Vec<Index> {
    let index = |effect: &Effect| match effect {
        Effect::Send(Down::Index(index)) => Some(index.clone()),
        _ => None,
    };
    effects.iter().filter_map(index).collect()
}

fn acks(effects: &[Effect]) -> Vec<u64> {
    let seqs = |effect: &Effect| match effect {
        Effect::Send(Down::Ack(ack)) => ack.seqs.clone(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(seqs).collect()
}

pub(super) fn tickets(effects: &[Effect]) -> Vec<Ticket> {
    let ticket = |effect: &Effect| match effect {
        Effect::Observe(
            Observation::Pod(_, _, ticket)
            | Observation::Gone(_, _, ticket)
            | Observation::Node(_, Some(ticket))
            | Observation::Event(_, ticket),
        ) => Some(ticket.clone()),
        _ => None,
    };
    effects.iter().filter_map(ticket).collect()
}

fn liveness(effects: &[Effect]) -> Vec<&Liveness> {
    let said = |effect| match effect {
        &Effect::Observe(Observation::Liveness(ref liveness)) => Some(liveness),
        _ => None,
    };
    effects.iter().filter_map(said).collect()
}

#[test]
fn there_is_no_index_before_the_view_is_complete() {
    let mut rig = Rig::new();
    let mut effects = rig.handle(Event::SessionOpened(hello(None)));
    effects.extend(rig.wish(1, Wish::Run(prepared(1))));
    effects.extend(rig.beat(Some(Digest([9; 16]))));
    effects.extend(rig.pass(20_000));
    assert!(indexes(&effects).is_empty());
    let effects = rig.handle(Event::Synced { pod_ranges: Vec::new() });
    assert_eq!(indexes(&effects)[0].entries.len(), 1);
}

#[test]
fn addresses_that_the_cluster_gives_later_are_told_once() {
    let mut rig = Rig::running();
    let pod_ranges = vec!["10.42.7.0/24".parse().unwrap()];
    let before = rig.twin.desired.digest();
    let mut effects = rig.handle(Event::Synced { pod_ranges: pod_ranges.clone() });
    effects.extend(rig.pass(100));
    let told = indexes(&effects);
    assert_eq!((told.len(), &told[0].pod_ranges, told[0].entries.len()), (1, &pod_ranges, 1));
    assert_ne!(told[0].digest, before);
    let mut effects = rig.beat(Some(told[0].digest));
    effects.extend(rig.handle(Event::Synced { pod_ranges }));
    effects.extend(rig.pass(20_000));
    assert!(indexes(&effects).is_empty());
}

#[test]
fn a_device_that_has_the_same_content_is_sent_nothing() {
    let mut rig = Rig::running();
    let digest = rig.twin.desired.digest();
    let accepted = Version { epoch: 2, revision: 900, edit: 3 };
    let mut effects = rig.handle(Event::SessionOpened(hello(Some((accepted, digest)))));
    effects.extend(rig.beat(Some(digest)));
    assert!(indexes(&effects).is_empty());
}

#[test]
fn an_index_is_sent_again_until_the_heartbeat_shows_it_and_in_the_end_a_handshake_is_asked_for() {
    let mut rig = Rig::running();
    rig.wish(2, Wish::Run(prepared(2)));
    let mut sent = Vec::new();
    let mut asked = false;
    for _ in 0..200 {
        let effects = rig.pass(10_000);
        asked |= effects.iter().any(|effect| matches!(effect, Effect::Rehandshake));
        sent.extend(indexes(&effects));
        rig.beat(None);
    }
    assert!(asked);
    assert!((3..=RETRIES_BEFORE_HANDSHAKE as usize).contains(&sent.len()), "{}", sent.len());
    assert!(sent.iter().all(|index| *index == sent[0]), "sent again as it was");
}

#[test]
fn nothing_is_said_to_a_device_that_is_not_heard() {
    let mut rig = Rig::running();
    let effects = rig.pass(40_000);
    let [Liveness::Offline { reason, message }] = liveness(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(reason, "DeviceOffline");
    assert_eq!(message, "the device was last heard at 2026-09-21T14:13:20Z");
    let mut effects = rig.wish(2, Wish::Run(prepared(2)));
    effects.extend(rig.pass(600_000));
    assert!(indexes(&effects).is_empty());
    let effects = rig.beat(None);
    assert_eq!(indexes(&effects).len(), 1);
}

#[test]
fn a_device_is_online_once_it_has_said_what_it_is() {
    let mut rig = Rig::running();
    assert!(liveness(&rig.beat(None)).is_empty(), "heard, and able to do nobody knows what");
    assert_eq!(liveness(&rig.handle(report(1, ReportItem::Facts(facts())))), [&Liveness::Online]);
    assert!(liveness(&rig.handle(report(2, ReportItem::Facts(facts())))).is_empty());
    rig.pass(40_000);
    assert_eq!(liveness(&rig.beat(None)), [&Liveness::Online], "what it said is still known when it returns");
}

#[test]
fn nothing_is_said_about_life_before_a_whole_window_has_passed() {
    let mut rig = Rig::new();
    assert!(liveness(&rig.pass(34_999)).is_empty());
    assert!(!rig.twin.has_opinion());
    assert_eq!(liveness(&rig.pass(1)).len(), 1);
}

#[test]
fn changes_that_come_together_travel_together() {
    let mut rig = Rig::running();
    let mut effects = Vec::new();
    for n in 10..30 {
        effects.extend(rig.wish(n, Wish::Run(prepared(n))));
        rig.millis += 1;
    }
    effects.extend(rig.pass(200));
    let sent = indexes(&effects);
    assert_eq!(sent.len(), 2, "the first at once, the rest gathered");
    assert_eq!(sent[1].entries.len(), 21);
}

#[test]
fn what_cannot_be_resolved_now_changes_nothing_about_what_runs() {
    let mut rig = Rig::running();
    assert!(indexes(&rig.wish(1, Wish::Keep)).is_empty());
    // After a restart of the bridge nothing was resolved before: the device goes on with what it has.
    let effects = rig.wish(2, Wish::Keep);
    assert_eq!(indexes(&effects)[0].entries[1].wish, WireWish::Keep);
}

#[test]
fn a_form_that_is_refused_does_not_stop_the_form_that_runs() {
    let mut rig = Rig::running();
    assert!(indexes(&rig.wish(1, Wish::Refuse)).is_empty());
    assert!(indexes(&rig.pass(60_000)).is_empty());
    assert!(indexes(&rig.wish(2, Wish::Refuse)).is_empty(), "and one that never ran is not begun");
}

#[test]
fn a_pod_is_stopped_until_the_api_server_knows_that_it_is_gone() {
    let mut rig = Rig::running();
    rig.wish(1, Wish::Stop { grace_seconds: 30 });
    rig.wish(1, Wish::Stop { grace_seconds: 5 });
    rig.wish(1, Wish::Stop { grace_seconds: 60 });
    let sent = indexes(&rig.pass(100));
    assert_eq!(sent.last().unwrap().entries[0].wish, WireWish::Stop(5), "a grace period only becomes shorter");
    let gone = || report(7, ReportItem::Gone(Gone { uid: uid(1), last: Some(workload(1, Phase::Succeeded)) }));
    let effects = rig.handle(gone());
    let [ticket] = &tickets(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(rig.twin.pods(), 1, "not before the receipt");
    assert!(acks(&rig.pass(1_000)).is_empty());
    let effects = rig.handle(Event::Settled(ticket.clone(), Receipt::Accepted));
    assert_eq!(indexes(&effects).last().unwrap().entries, []);
    assert_eq!(acks(&rig.pass(100)), [7]);
    // The acknowledgement was lost: it is gone still.
    rig.handle(gone());
    assert_eq!(acks(&rig.pass(100)), [7]);
}

#[test]
fn the_end_of_an_earlier_life_is_not_written_over_a_pod_that_is_wanted_again() {
    let mut rig = Rig::running();
    let effects = rig.handle(report(7, ReportItem::Gone(Gone { uid: uid(1), last: Some(workload(1, Phase::Failed)) })));
    assert!(tickets(&effects).is_empty(), "{effects:?}");
    assert_eq!(acks(&rig.pass(100)), [7]);
}

#[test]
fn reports_wait_until_it_can_be_told_whether_their_pod_is_known() {
    let mut rig = Rig::new();
    rig.handle(Event::SessionOpened(hello(None)));
    let mut effects = rig.handle(report(1, ReportItem::Workload(workload(1, Phase::Running))));
    effects.extend(rig.beat(None));
    effects.extend(rig.handle(report(2, ReportItem::Workload(workload(2, Phase::Running)))));
    effects.extend(rig.pass(500));
    effects.extend(rig.wish(1, Wish::Run(prepared(1))));
    assert!(tickets(&effects).is_empty() && acks(&effects).is_empty());
    let effects = rig.handle(Event::Synced { pod_ranges: Vec::new() });
    let [Effect::Observe(Observation::Pod(reference, said, _)), ..] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((reference, said.pod_ips.len()), (&pod(1), 1), "and what is no address is left out");
    assert_eq!(said.start_time, Timestamp::from_second(EPOCH / 1000 + 1).ok());
    assert_eq!(acks(&rig.pass(100)), [2], "the pod that is not wanted");
}

#[test]
fn a_view_behind_the_devices_waits_before_it_is_called_a_restored_cluster() {
    let mut rig = Rig::running();
    let ahead = Version { epoch: 0, revision: 5_000, edit: 0 };
    let effects = rig.handle(Event::SessionOpened(hello(Some((ahead, Digest([9; 16]))))));
    assert!(indexes(&effects).is_empty());
    // The API server catches up: nothing special happened.
    rig.revision = 5_001;
    rig.millis += 5_000;
    assert_eq!(indexes(&rig.beat(Some(Digest([9; 16]))))[0].version, Version { epoch: 0, revision: 5_001, edit: 0 });

    let ahead = Version { epoch: 0, revision: 9_000, edit: 0 };
    let effects = rig.handle(Event::SessionOpened(hello(Some((ahead, Digest([9; 16]))))));
    assert!(indexes(&effects).is_empty());
    let sent = indexes(&rig.pass(16_000));
    assert_eq!(sent[0].version, Version { epoch: 1, revision: 5_001, edit: 0 });
}

#[test]
fn objects_are_served_from_an_offset_within_the_window_and_only_ones_own() {
    let mut rig = Rig::running();
    let object = prepared(1).blobs[0].clone();
    let want = |hash, offset, window| {
        let objects = vec![WantedObject { hash, offset, window }];
        Event::Message(Open::Known(Up::Want(Want { objects })))
    };
    let chunks = |effects: Vec<Effect>| -> Vec<(u64, usize)> {
        let chunk = |effect| match effect {
            Effect::Send(Down::Chunk(chunk)) => Some((chunk.offset, chunk.data.len())),
            _ => None,
        };
        effects.into_iter().filter_map(chunk).collect()
    };
    let hash = object.reference.hash;
    assert_eq!(chunks(rig.handle(want(hash, 0, 40_000))), [(0, 32_768), (32_768, 7_232)]);
    assert_eq!(chunks(rig.handle(want(hash, 99_999, u32::MAX))), [(99_999, 1)]);
    for (hash, offset) in [(hash, 100_000), (hash, u64::MAX), (ContentHash([3; 32]), 0)] {
        assert!(chunks(rig.handle(want(hash, offset, u32::MAX))).is_empty());
    }
    let everything = Event::Message(Open::Known(Up::Want(Want {
        objects: vec![WantedObject { hash, offset: 0, window: u32::MAX }; 10_000],
    })));
    let sent: usize = chunks(rig.handle(everything)).iter().map(|(_, len)| len).sum();
    assert!(sent <= MAX_ANSWER, "{sent}");
}

#[test]
fn a_hint_of_absence_leads_to_one_ping_and_to_no_verdict() {
    let mut rig = Rig::running();
    let mut effects = Vec::new();
    for _ in 0..100 {
        effects.extend(rig.handle(Event::Presence));
    }
    assert!(matches!(effects[..], [Effect::Send(Down::Ping(_))]), "{effects:?}");
    assert!(rig.twin.is_online());
}

#[test]
fn an_unknown_item_is_acknowledged_and_counted() {
    let mut rig = Rig::running();
    let items = vec![Numbered { seq: 3, item: Open::Unknown }];
    let effects = rig.handle(Event::Message(Open::Known(Up::Report(Report { items }))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Count(Counted::Unfamiliar))));
    assert_eq!(acks(&rig.pass(100)), [3]);
}

#[test]
fn no_more_pods_than_fit_and_the_remains_of_ended_ones_make_room() {
    let mut rig = Rig::new();
    let mut effects = Vec::new();
    let mut wish = |rig: &mut Rig, n: usize, wish| {
        let uid = PodUid::new(&format!("u{n}")).unwrap();
        rig.twin.wish(uid, pod(0), wish, rig.context(), &mut effects)
    };
    wish(&mut rig, 0, Wish::Retain).unwrap();
    for n in 1..512 {
        wish(&mut rig, n, Wish::Run(prepared(1))).unwrap();
    }
    assert_eq!(wish(&mut rig, 600, Wish::Retain), Err(Full));
    assert_eq!(wish(&mut rig, 601, Wish::Run(prepared(1))), Ok(true));
    assert_eq!(wish(&mut rig, 602, Wish::Run(prepared(1))), Err(Full));
}

#[test]
fn events_have_our_time_and_the_order_in_which_the_device_said_them() {
    let mut rig = Rig::running();
    rig.millis = 100_000;
    rig.beat(None);
    // All within a second, most within a millisecond.
    let said = [(1, "Pulled", 99_100), (2, "Created", 99_100), (3, "Started", 99_100), (4, "Killing", 99_101)];
    let event = |reason: &str, at| DeviceEvent {
        pod: Some(uid(1)),
        container: Some("main".to_owned()),
        at: DeviceTime(at),
        warning: false,
        reason: reason.to_owned(),
        message: String::new(),
        count: 1,
    };
    let mut told = Vec::new();
    for (seq, reason, at) in said {
        let effects = rig.handle(report(seq, ReportItem::Event(event(reason, at))));
        told.extend(effects.iter().find_map(|effect| match effect {
            Effect::Observe(Observation::Event(report, _)) => Some((report.at, report.reason.clone())),
            _ => None,
        }));
    }
    let reasons: Vec<_> = told.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons, ["Pulled", "Created", "Started", "Killing"]);
    assert!(told.is_sorted_by(|one, next| one.0 < next.0), "{told:?}");
    assert_eq!(told[0].0.as_millisecond(), EPOCH + 99_100);
}
