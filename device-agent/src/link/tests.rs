//! The brain against a small bridge, over a link that loses, repeats and reorders, with reboots and clock jumps.

mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hawser_wire::deployment::{Content, EdgeDeployment, File, Files, RestartPolicy, Volume, VolumeSource};
use hawser_wire::desired::{Chunk, Index, IndexEntry, ObjectRef, Wish, digest_of};
use hawser_wire::report::{Gone, ReportItem};
use hawser_wire::session::{Names, Responder, Session, StaticKey};
use hawser_wire::session_messages::{Envelope, Refusal, RefusalKind, WelcomePayload};
use hawser_wire::{
    Ack, AddressRange, BootId, Channel, ContentHash, DeviceId, DeviceTime, Down, Open, PodUid, Root, Up, Version, codec,
};
use proptest::prelude::*;

use super::session::Credentials;
use super::*;
use crate::ledger::{Change, Recovered};

const DEVICE_SECRET: [u8; 32] = [1; 32];
const BRIDGE_SECRET: [u8; 32] = [2; 32];

fn uid(n: u8) -> PodUid {
    PodUid::new(&format!("pod-{n}")).unwrap()
}

/// An edge deployment of pod `n` in its `generation`, and the blob that it refers to.
fn deployment(n: u8, generation: u8) -> (Vec<u8>, Vec<u8>) {
    let blob = vec![generation; 40_000 + usize::from(n)];
    let content = Content::Blob(ObjectRef { hash: ContentHash::of(&blob), len: blob.len() as u64 });
    let entries = vec![File { path: "f".to_owned(), mode: 0o644, content, owner: None }];
    let spec = EdgeDeployment {
        uid: uid(n),
        namespace: "default".to_owned(),
        name: format!("pod-{n}-{generation}"),
        restart_policy: RestartPolicy::Always,
        grace_seconds: 30,
        active_deadline_seconds: None,
        init_containers: Vec::new(),
        containers: Vec::new(),
        volumes: vec![Volume { name: "v".to_owned(), source: VolumeSource::Files(Files { secret: false, entries }) }],
        hostname: None,
        host_network: false,
        fs_group: None,
        supplemental_groups: Vec::new(),
        engine: None,
        priority: None,
        ephemeral_containers: Vec::new(),
        generation: None,
    };
    (codec::encode(&spec), blob)
}

/// Just enough of a bridge.
struct Bridge {
    key: StaticKey,
    session: Option<Session>,
    revision: u64,
    index: Index,
    objects: BTreeMap<ContentHash, Vec<u8>>,
    heard: BTreeMap<u64, ReportItem>,
    ephemeral: u64,
}

impl Bridge {
    fn new() -> Self {
        let index = Index::new(Version::default(), Vec::new()).unwrap();
        let key = StaticKey::from_secret(BRIDGE_SECRET);
        Self { key, session: None, revision: 0, index, objects: BTreeMap::new(), heard: BTreeMap::new(), ephemeral: 0 }
    }

    /// Wants these pods, each in a generation; makes the index.
    fn want(&mut self, pods: &[(u8, u8)]) {
        self.revision += 1;
        let entries = pods.iter().map(|(n, generation)| {
            let (bytes, blob) = deployment(*n, *generation);
            let object = ObjectRef { hash: ContentHash::of(&bytes), len: bytes.len() as u64 };
            self.objects.insert(object.hash, bytes);
            self.objects.insert(ContentHash::of(&blob), blob);
            IndexEntry { uid: uid(*n), wish: Wish::Run(object) }
        });
        let entries = entries.collect();
        self.index = Index::new(Version { epoch: 0, revision: self.revision, edit: 0 }, entries).unwrap();
    }

    fn seal(&mut self, message: &Down) -> Option<Vec<u8>> {
        Some(codec::encode(&Envelope::Sealed(self.session.as_mut()?.seal(message).unwrap())))
    }

    /// Takes a payload, returns the answers.
    fn handle(&mut self, payload: &[u8]) -> Vec<Vec<u8>> {
        let envelope: Open<Envelope> = codec::decode(payload, 70_000).unwrap().value;
        match envelope.known().unwrap() {
            Envelope::Hello(hello) => {
                self.ephemeral += 1;
                let mut ephemeral = [9; 32];
                ephemeral[..8].copy_from_slice(&self.ephemeral.to_be_bytes());
                let (root, device) = names();
                let names = Names { root: &root, device: &device };
                let responder = Responder::read(names, &self.key, ephemeral, &hello).unwrap();
                let payload = WelcomePayload {
                    protocol: responder.protocol(),
                    bridge_version: "test".to_owned(),
                    heartbeat_seconds: 10,
                    bridge_millis: 0,
                };
                let (session, welcome) = responder.answer(None, &payload).unwrap();
                self.session = Some(session);
                vec![codec::encode(&Envelope::Welcome(welcome))]
            }
            Envelope::Sealed(sealed) => {
                let opened = match self.session.as_mut().map(|session| session.open::<Up>(&sealed)) {
                    Some(Ok(decoded)) => decoded.value.known().unwrap(),
                    Some(Err(hawser_wire::session::SessionError::Replayed)) => return Vec::new(),
                    Some(Err(_)) | None => return vec![codec::encode(&Envelope::NoSession(sealed.session))],
                };
                self.up(opened)
            }
            other => panic!("{other:?}"),
        }
    }

    fn up(&mut self, message: Up) -> Vec<Vec<u8>> {
        let answers: Vec<Down> = match message {
            Up::Heartbeat(beat) if beat.digest == Some(self.index.digest) => Vec::new(),
            Up::Heartbeat(_) => vec![Down::Index(self.index.clone())],
            Up::Want(want) => {
                want.objects.iter().flat_map(|wanted| self.chunks(wanted.hash, wanted.offset, wanted.window)).collect()
            }
            Up::Report(report) => {
                let seqs = report.items.iter().map(|item| item.seq).collect();
                self.heard.extend(report.items.into_iter().map(|item| (item.seq, item.item.known().unwrap())));
                vec![Down::Ack(Ack { seqs })]
            }
            Up::Stream(_) => Vec::new(),
        };
        answers.iter().filter_map(|answer| self.seal(answer)).collect()
    }

    fn chunks(&self, hash: ContentHash, offset: u64, window: u32) -> Vec<Down> {
        let Some(object) = self.objects.get(&hash) else { return Vec::new() };
        let end = (offset as usize + window as usize).min(object.len());
        let part = object.get(offset as usize..end).unwrap_or_default();
        let chunks = part.chunks(16 * 1024).enumerate();
        let total = object.len() as u64;
        let chunk = |(at, data): (usize, &[u8])| {
            Down::Chunk(Chunk { hash, total, offset: offset + at as u64 * 16 * 1024, data: data.to_vec() })
        };
        chunks.map(chunk).collect()
    }
}

fn names() -> (Root, DeviceId) {
    (Root::default(), DeviceId::new("pi").unwrap())
}

/// The device: a brain, and a ledger in memory.
struct Device {
    brain: Brain,
    disk: Disk,
    now: u64,
    random: u64,
    desired: Arc<DesiredSet>,
    /// Every version that was ever handed out, in order.
    versions: Vec<Option<Version>>,
    resyncs: usize,
    frames: Vec<hawser_wire::stream::StreamFrame>,
    notes: Vec<Note>,
}

/// What a power cut leaves.
#[derive(Default, Clone)]
struct Disk {
    recovered: Recovered,
}

impl Disk {
    fn apply(&mut self, change: Change) {
        let disk = &mut self.recovered;
        match change {
            Change::Accept(accepted) => disk.accepted = Some(accepted),
            Change::Complete(uid, hash) => drop(disk.complete.insert(uid, hash)),
            Change::DropComplete(uid) => drop(disk.complete.remove(&uid)),
            Change::PutObject(hash, bytes) => {
                disk.objects.insert(hash);
                disk.deployments.insert(hash, bytes);
            }
            Change::DropObject(hash) => {
                disk.objects.remove(&hash);
                disk.deployments.remove(&hash);
            }
            Change::Say(slot, item) => drop(disk.said.insert(slot, *item)),
            Change::Unsay(slot) => drop(disk.said.remove(&slot)),
            Change::ReserveSequence(limit) => disk.next_sequence = limit,
            Change::SaveWorkload(..) | Change::ForgetWorkload(_) | Change::Clock(_) => {}
        }
    }
}

fn config() -> BrainConfig {
    let (root, device) = names();
    let bridge = StaticKey::from_secret(BRIDGE_SECRET).public();
    let key = StaticKey::from_secret(DEVICE_SECRET);
    let credentials = Credentials { root, device, key, bridge, token: None };
    BrainConfig { credentials, agent_version: "test".to_owned(), boot: BootId([3; 8]) }
}

fn moment(now: u64, random: &mut u64) -> Moment {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let mut ephemeral = [7; 32];
    ephemeral[..8].copy_from_slice(&random.to_be_bytes());
    // The wall clock is at 1970 and jumps about: it must not matter.
    Moment { at: DeviceTime(now), wall_millis: *random % 7, ephemeral, jitter: *random >> 11 }
}

impl Device {
    fn boot(disk: Disk, now: u64, mut random: u64) -> (Self, Vec<(Channel, Vec<u8>)>) {
        let (brain, first) = Brain::new(config(), &disk.recovered, &moment(now, &mut random));
        let mut device = Self {
            brain,
            disk,
            now,
            random,
            desired: Arc::default(),
            versions: Vec::new(),
            resyncs: 0,
            frames: Vec::new(),
            notes: Vec::new(),
        };
        let published = device.carry_out(first);
        (device, published)
    }

    fn handle(&mut self, input: Input) -> Vec<(Channel, Vec<u8>)> {
        let moment = moment(self.now, &mut self.random);
        let outputs = self.brain.handle(&moment, input);
        self.carry_out(outputs)
    }

    fn carry_out(&mut self, outputs: Vec<Output>) -> Vec<(Channel, Vec<u8>)> {
        let mut published = Vec::new();
        let mut tickets = Vec::new();
        for output in outputs {
            match output {
                Output::Publish { channel, payload } => published.push((channel, payload)),
                Output::Persist { ticket, changes, .. } => {
                    changes.into_iter().for_each(|change| self.disk.apply(change));
                    tickets.extend(ticket);
                }
                Output::Desired(desired) => {
                    self.versions.push(desired.version);
                    self.desired = desired;
                }
                Output::Resync => self.resyncs += 1,
                Output::Stream(frame) => self.frames.push(frame),
                Output::Note(note) => self.notes.push(note),
            }
        }
        for ticket in tickets {
            published.extend(self.handle(Input::Persisted { ticket }));
        }
        published
    }

    fn runs(&self) -> Vec<String> {
        let names = self.desired.pods.values().filter_map(|pod| pod.deployment.as_ref());
        names.map(|deployment| deployment.spec.name.clone()).collect()
    }
}

/// Both ends and what is on its way between them.
struct World {
    device: Device,
    bridge: Bridge,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let (mut device, _) = Device::boot(Disk::default(), 0, 42);
        let up = device.handle(Input::Connected).into_iter().map(|(_, payload)| payload).collect();
        Self { device, bridge: Bridge::new(), up, down: VecDeque::new() }
    }

    fn give_device(&mut self, input: Input) {
        let published = self.device.handle(input);
        self.up.extend(published.into_iter().map(|(_, payload)| payload));
    }

    fn deliver_up(&mut self, payload: &[u8]) {
        self.down.extend(self.bridge.handle(payload));
    }

    fn deliver_down(&mut self, payload: Vec<u8>) {
        self.give_device(Input::Message { channel: Channel::Down, payload });
    }

    /// Lets everything arrive and time pass until nothing happens for `millis`.
    fn settle(&mut self, millis: u64) {
        let end = self.device.now + millis;
        loop {
            if let Some(payload) = self.up.pop_front() {
                self.deliver_up(&payload);
            } else if let Some(payload) = self.down.pop_front() {
                self.deliver_down(payload);
            } else {
                let deadline = self.device.brain.deadline().map_or(end, |deadline| deadline.0);
                if deadline > end {
                    return;
                }
                self.device.now = self.device.now.max(deadline);
                self.give_device(Input::Tick);
            }
        }
    }

    /// The power goes and comes back; the bridge notices nothing.
    fn reboot(&mut self, jump: u64) {
        let disk = self.device.disk.clone();
        let (device, _) = Device::boot(disk, self.device.now + jump, self.device.random);
        let before = self.device.runs();
        self.device = device;
        assert_eq!(self.device.runs(), before, "what was complete is complete after a reboot");
        self.up.clear();
        self.give_device(Input::Connected);
    }

    fn publish_index(&mut self) {
        let index = self.bridge.index.clone();
        let sealed = self.bridge.seal(&Down::Index(index));
        self.down.extend(sealed);
    }
}

fn gone(n: u8) -> ReportItem {
    ReportItem::Gone(Gone { uid: uid(n), last: None })
}

#[test]
fn from_nothing_to_a_running_set_and_back() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1), (2, 1)]);
    world.settle(1_000);
    assert_eq!(world.device.runs(), ["pod-1-1", "pod-2-1"]);
    assert_eq!(world.device.resyncs, 1);
    world.bridge.want(&[(2, 2)]);
    world.publish_index();
    world.settle(1_000);
    assert_eq!(world.device.runs(), ["pod-2-2"]);
    // Objects that nothing refers to are gone from the disk.
    assert_eq!(world.device.disk.recovered.objects.len(), 2);
    assert_eq!(world.device.disk.recovered.complete.len(), 1);
}

#[test]
fn the_addresses_of_pods_come_with_the_index_and_survive_a_reboot() {
    let ranges = ["10.42.7.0/24", "fd00:10::/64"].map(|range| range.parse::<AddressRange>().unwrap());
    let mut world = World::new();
    world.bridge.want(&[]);
    world.settle(1_000);
    assert_eq!(world.device.desired.pod_ranges, []);
    world.bridge.revision += 1;
    let version = Version { epoch: 0, revision: world.bridge.revision, edit: 0 };
    let digest = digest_of(&[], &ranges);
    world.bridge.index = Index { version, entries: Vec::new(), digest, pod_ranges: ranges.into() };
    world.publish_index();
    world.settle(1_000);
    assert_eq!(world.device.desired.pod_ranges, ranges);
    world.reboot(10);
    assert_eq!(world.device.desired.pod_ranges, ranges);
}

#[test]
fn the_old_deployment_goes_on_until_the_new_one_is_complete() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1)]);
    world.settle(1_000);
    world.bridge.want(&[(1, 2)]);
    let withheld = std::mem::take(&mut world.bridge.objects);
    world.publish_index();
    world.settle(30_000);
    assert_eq!(world.device.runs(), ["pod-1-1"]);
    assert_eq!(world.device.desired.version.unwrap().revision, 2);
    world.reboot(0);
    assert_eq!(world.device.runs(), ["pod-1-1"]);
    world.bridge.objects = withheld;
    world.settle(120_000);
    assert_eq!(world.device.runs(), ["pod-1-2"]);
}

#[test]
fn old_and_conflicting_indexes_are_refused() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1)]);
    world.settle(1_000);
    let first = world.bridge.index.clone();
    world.bridge.want(&[(1, 1), (2, 1)]);
    world.publish_index();
    world.settle(1_000);
    let conflicting =
        Index { version: world.bridge.index.version, ..Index::new(Version::default(), Vec::new()).unwrap() };
    let unsorted = Index {
        version: Version { epoch: 9, revision: 9, edit: 9 },
        entries: world.bridge.index.entries.iter().rev().cloned().collect(),
        digest: first.digest,
        pod_ranges: Vec::new(),
    };
    let crowded = Index {
        version: unsorted.version,
        pod_ranges: vec!["10.0.0.0/8".parse().unwrap(); 3],
        ..Index::new(Version::default(), Vec::new()).unwrap()
    };
    for (index, expected) in [
        (first.clone(), Note::IndexOlder(first.version)),
        (conflicting.clone(), Note::IndexConflicts(conflicting.version)),
        (unsorted.clone(), Note::IndexMalformed(unsorted.version)),
        (crowded.clone(), Note::IndexMalformed(crowded.version)),
    ] {
        let sealed = world.bridge.seal(&Down::Index(index)).unwrap();
        world.deliver_down(sealed);
        assert_eq!(world.device.notes.last(), Some(&expected));
        assert_eq!(world.device.runs(), ["pod-1-1", "pod-2-1"]);
    }
}

#[test]
fn keep_stop_and_retain_reach_the_workloads() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1), (2, 1), (3, 1)]);
    world.settle(1_000);
    let wishes = [(1, Wish::Keep), (2, Wish::Stop(7)), (3, Wish::Retain), (4, Wish::Keep)];
    let entries = wishes.iter().map(|(n, wish)| IndexEntry { uid: uid(*n), wish: *wish }).collect();
    world.bridge.index = Index::new(Version { epoch: 0, revision: 9, edit: 0 }, entries).unwrap();
    world.publish_index();
    world.settle(1_000);
    let wish =
        |n: u8| (world.device.desired.pods[&uid(n)].wish, world.device.desired.pods[&uid(n)].deployment.is_some());
    use crate::desired::DesiredWish;
    assert_eq!(wish(1), (DesiredWish::Run, true));
    assert_eq!(wish(2), (DesiredWish::Stop { grace: std::time::Duration::from_secs(7) }, true));
    assert_eq!(wish(3), (DesiredWish::Retain, true));
    assert_eq!(wish(4), (DesiredWish::Run, false), "kept although never complete");
}

#[test]
fn a_deployment_of_a_later_version_is_refused_with_an_event_and_the_old_one_goes_on() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1)]);
    world.settle(1_000);
    let (bytes, _) = deployment(1, 2);
    // The restart policy is the fourth field, right after the name; 0 to 2 are known.
    let at = bytes.windows(7).position(|window| window == b"pod-1-2").unwrap() + 7;
    let mut newer = bytes.clone();
    assert_eq!(newer[at], 0);
    newer[at] = 9;
    let object = ObjectRef { hash: ContentHash::of(&newer), len: newer.len() as u64 };
    world.bridge.objects.insert(object.hash, newer);
    let entries = vec![IndexEntry { uid: uid(1), wish: Wish::Run(object) }];
    world.bridge.index = Index::new(Version { epoch: 0, revision: 5, edit: 0 }, entries).unwrap();
    world.publish_index();
    world.settle(30_000);
    assert_eq!(world.device.runs(), ["pod-1-1"]);
    let events: Vec<&str> = world
        .bridge
        .heard
        .values()
        .filter_map(|item| match item {
            ReportItem::Event(event) => Some(event.reason.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(events, ["AgentTooOld"], "once");
}

#[test]
fn garbage_from_the_hub_is_counted_and_changes_nothing() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1)]);
    world.settle(1_000);
    let mut deep = vec![0x81; 10_000];
    deep.push(0);
    let sealed = world.bridge.seal(&Down::Ping(1)).unwrap();
    let mut flipped = sealed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let hostile: Vec<Vec<u8>> = vec![
        vec![],
        vec![0xff],
        deep,
        // A byte string that claims 100 MB.
        vec![0x82, 0x02, 0x81, 0x5a, 0x06, 0x40, 0x00, 0x00],
        vec![0; 70_000],
        sealed[..sealed.len() / 2].to_vec(),
        flipped,
    ];
    for payload in hostile {
        let before = world.device.notes.len();
        world.deliver_down(payload);
        assert_eq!(world.device.notes.len(), before + 1);
    }
    world.deliver_down(sealed.clone());
    let before = world.device.notes.len();
    world.deliver_down(sealed);
    assert!(matches!(world.device.notes[before..], [Note::NotOpened(_)]), "a replay is no ping");
    assert_eq!(world.device.runs(), ["pod-1-1"]);
}

#[test]
fn a_refusal_is_shown_and_forgotten_when_a_session_begins() {
    let mut world = World::new();
    let refusal = Refusal { kind: RefusalKind::UnknownDevice, message: "no such device".to_owned() };
    world.up.clear();
    world.deliver_down(codec::encode(&Envelope::Refusal(refusal.clone())));
    assert_eq!(world.device.brain.status().refusal, Some(refusal));
    world.settle(10_000);
    let status = world.device.brain.status();
    assert_eq!((status.refusal, status.session_since.is_some()), (None, true));
}

#[test]
fn hellos_go_out_at_growing_distances() {
    let mut world = World::new();
    let mut last = 0;
    let mut hellos = 0;
    while world.device.now < 3_600_000 {
        hellos += world.up.len();
        world.up.clear();
        world.device.now = world.device.brain.deadline().unwrap().0;
        assert!(world.device.now - last <= 60_000);
        last = world.device.now;
        world.give_device(Input::Tick);
    }
    // An hour of a minute's full jitter is about 110; a storm would be thousands.
    assert!((60..250).contains(&hellos), "{hellos}");
}

#[test]
fn a_bridge_that_forgot_us_is_greeted_again_but_not_at_anybodys_wish() {
    let mut world = World::new();
    world.settle(1_000);
    let began = |world: &World| world.device.notes.iter().filter(|n| matches!(n, Note::SessionBegan { .. })).count();
    assert_eq!(began(&world), 1);
    world.bridge.session = None;
    world.settle(15_000);
    assert_eq!((began(&world), world.device.resyncs), (2, 2));
    // A hub that forges NoSession all the time gets a handshake now and then, and the session lives on.
    let forged_from = world.device.now;
    while world.device.now < forged_from + 60_000 {
        let id = world.bridge.session.as_ref().unwrap().id();
        world.deliver_down(codec::encode(&Envelope::NoSession(id)));
        world.settle(100);
        world.device.now += 100;
    }
    assert!(began(&world) <= 2 + 13, "{}", began(&world));
    world.deliver_down(codec::encode(&Envelope::NoSession(hawser_wire::SessionId([0; 8]))));
    assert!(world.up.is_empty(), "of another session");
}

#[test]
fn a_silent_bridge_is_greeted_again() {
    let mut world = World::new();
    world.settle(1_000);
    world.give_device(Input::Reports(vec![gone(1)]));
    let begin = world.device.now;
    while !world.device.notes.contains(&Note::BridgeSilent) {
        world.up.clear();
        world.device.now = world.device.brain.deadline().unwrap().0;
        world.give_device(Input::Tick);
        assert!(world.device.now < begin + 31_000, "not noticed");
    }
    assert!(world.device.now >= begin + 30_000);
}

#[test]
fn pings_are_answered_and_the_index_is_confirmed_at_once() {
    let mut world = World::new();
    world.bridge.want(&[(1, 1)]);
    world.settle(1_000);
    let ping = world.bridge.seal(&Down::Ping(77)).unwrap();
    world.device.now += 500;
    world.deliver_down(ping);
    let answer = world.up.pop_front().unwrap();
    let Envelope::Sealed(sealed) = codec::decode::<Envelope>(&answer, 70_000).unwrap().value else { panic!() };
    let opened = world.bridge.session.as_mut().unwrap().open::<Up>(&sealed).unwrap();
    let Open::Known(Up::Heartbeat(beat)) = opened.value else { panic!() };
    assert_eq!((beat.answers, beat.digest), (Some(77), Some(world.bridge.index.digest)));
}

#[derive(Debug, Clone)]
enum Fault {
    DeliverUp,
    DeliverDown,
    LoseUp,
    LoseDown,
    RepeatUp,
    RepeatDown,
    SwapUp,
    SwapDown,
    Pass(u64),
    Reboot(u64),
    Reconnect,
    BridgeRestarts,
    Want(Vec<(u8, u8)>),
    Report(u8),
}

fn fault() -> impl Strategy<Value = Fault> {
    let pods = prop::collection::btree_map(0_u8..4, 0_u8..3, 0..4);
    prop_oneof![
        12 => Just(Fault::DeliverUp),
        12 => Just(Fault::DeliverDown),
        2 => Just(Fault::LoseUp),
        2 => Just(Fault::LoseDown),
        1 => Just(Fault::RepeatUp),
        1 => Just(Fault::RepeatDown),
        1 => Just(Fault::SwapUp),
        1 => Just(Fault::SwapDown),
        4 => prop_oneof![0_u64..3_000, 0_u64..90_000].prop_map(Fault::Pass),
        1 => prop_oneof![Just(0), 0_u64..10_000_000].prop_map(Fault::Reboot),
        1 => Just(Fault::Reconnect),
        1 => Just(Fault::BridgeRestarts),
        2 => pods.prop_map(|pods| Fault::Want(pods.into_iter().collect())),
        2 => (0_u8..4).prop_map(Fault::Report),
    ]
}

impl World {
    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::DeliverUp => {
                if let Some(payload) = self.up.pop_front() {
                    self.deliver_up(&payload);
                }
            }
            Fault::DeliverDown => {
                if let Some(payload) = self.down.pop_front() {
                    self.deliver_down(payload);
                }
            }
            Fault::LoseUp => drop(self.up.pop_front()),
            Fault::LoseDown => drop(self.down.pop_front()),
            Fault::RepeatUp => self.up.extend(self.up.front().cloned()),
            Fault::RepeatDown => self.down.extend(self.down.front().cloned()),
            Fault::SwapUp => self.up.rotate_left(self.up.len().min(1)),
            Fault::SwapDown => self.down.rotate_left(self.down.len().min(1)),
            Fault::Pass(millis) => {
                self.device.now += millis;
                self.give_device(Input::Tick);
            }
            Fault::Reboot(jump) => self.reboot(jump),
            Fault::Reconnect => {
                self.give_device(Input::Disconnected);
                (self.up, self.down) = (VecDeque::new(), VecDeque::new());
                self.give_device(Input::Connected);
            }
            Fault::BridgeRestarts => self.bridge.session = None,
            Fault::Want(pods) => {
                self.bridge.want(&pods);
                self.publish_index();
            }
            Fault::Report(n) => self.give_device(Input::Reports(vec![gone(n)])),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens on the way: no stale set is handed out, what ran without being told otherwise is still complete,
    /// numbers never go back, and when the faults end both sides agree and everything said was heard.
    #[test]
    fn converges_after_any_faults(faults in prop::collection::vec(fault(), 1..120)) {
        let mut world = World::new();
        let mut newest = None;
        let mut next_seq = 0;
        for fault in faults {
            world.fault(fault);
            let versions = std::mem::take(&mut world.device.versions);
            for version in versions {
                prop_assert!(version >= newest, "{version:?} after {newest:?}");
                newest = version;
            }
            let reserved = world.device.disk.recovered.next_sequence;
            prop_assert!(reserved >= next_seq);
            next_seq = reserved;
        }
        world.give_device(Input::Reports(vec![gone(9)]));
        world.settle(300_000);
        let index = &world.bridge.index;
        if world.bridge.revision > 0 {
            // Equal entries have equal digests, so of two versions with the same entries the older one is as good.
            let wanted: Vec<String> = index.entries.iter().map(|entry| {
                let Wish::Run(object) = entry.wish else { panic!() };
                let bytes = &world.bridge.objects[&object.hash];
                codec::decode::<EdgeDeployment>(bytes, 1 << 20).unwrap().value.name
            }).collect();
            prop_assert_eq!(world.device.runs(), wanted);
        }
        prop_assert_eq!(world.device.brain.status().unacknowledged, 0);
        prop_assert!(world.bridge.heard.values().any(|item| *item == gone(9)));
    }
}
