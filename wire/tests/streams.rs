//! Two ends of streams against each other, over a link that delays, and over one that also loses, repeats and reorders:
//! the right bytes or an end with a reason, never wrong bytes, never a hang.

use std::collections::{BTreeMap, VecDeque};

use hawser_wire::PodUid;
use hawser_wire::stream::mux::{self, End, Limits, Moved, Mux, NotOpened, Side};
use hawser_wire::stream::*;
use proptest::prelude::*;

const DEVICE: Limits = Limits { streams: 16, budget: 512 * 1024 };
const BRIDGE: Limits = Limits { streams: 16, budget: 512 * 1024 };

fn uid() -> PodUid {
    PodUid::new("u").expect("valid")
}

fn exec(stdin: bool, stderr: bool) -> StreamRequest {
    let channels = Channels { stdin, stdout: true, stderr, tty: false };
    StreamRequest::Exec(ExecRequest { pod: uid(), container: "c".into(), command: vec!["x".into()], channels })
}

fn logs() -> StreamRequest {
    StreamRequest::Logs(LogsRequest {
        pod: uid(),
        container: "c".into(),
        follow: false,
        previous: false,
        timestamps: false,
        tail: None,
        since: None,
        limit_bytes: None,
        from: None,
        newest: None,
    })
}

/// What stands at this place of this channel.
fn byte(id: u32, channel: u8, at: u64) -> u8 {
    let mixed = (u64::from(id) << 40 ^ u64::from(channel) << 32 ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// What is to be written to a channel, and how much of it was.
#[derive(Debug, Default, Clone, Copy)]
struct Flow {
    done: u64,
    total: u64,
}

/// One stream as the applications see it.
#[derive(Debug)]
struct Play {
    /// What the client writes, what the device answers on 1 and 2; echoed if there is stdin.
    stdin: Option<Flow>,
    outputs: BTreeMap<u8, Flow>,
    /// What the client has read.
    read: BTreeMap<u8, u64>,
    /// The device's own count of stdin.
    heard: u64,
    heard_end: bool,
    exits: bool,
    accepted: bool,
    end: Option<End>,
    device_end: Option<End>,
}

/// A hostile link's deed for one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Deliver,
    Lose,
    Repeat,
    Late,
}

struct World {
    now: u64,
    bridge: Mux,
    device: Mux,
    /// When what arrives, to the device or to the bridge.
    link: VecDeque<(u64, Side, StreamFrame)>,
    delay: u64,
    deeds: VecDeque<Deed>,
    plays: BTreeMap<u32, Play>,
    /// How many bytes the client reads in one go.
    gulp: usize,
    most_waiting: usize,
}

impl World {
    fn new(delay: u64, deeds: Vec<Deed>, gulp: usize) -> Self {
        let (mut bridge, mut device) = (Mux::new(Side::Bridge, BRIDGE), Mux::new(Side::Device, DEVICE));
        bridge.begin(0);
        device.begin(0);
        Self {
            now: 0,
            bridge,
            device,
            link: VecDeque::new(),
            delay,
            deeds: deeds.into(),
            plays: BTreeMap::new(),
            gulp,
            most_waiting: 0,
        }
    }

    fn open(&mut self, request: StreamRequest, total: u64) -> u32 {
        let id = self.bridge.open(request.clone(), self.now).expect("there is room");
        let side = || Flow { done: 0, total };
        let (stdin, stderr, exits) = match &request {
            StreamRequest::Exec(exec) => (exec.channels.stdin, exec.channels.stderr, true),
            StreamRequest::PortForward(..) => (true, false, false),
            _ => (false, false, false),
        };
        let outputs = if stderr { vec![(1, side()), (2, side())] } else { vec![(1, side())] };
        let play = Play {
            stdin: stdin.then(side),
            outputs: outputs.into_iter().collect(),
            read: BTreeMap::new(),
            heard: 0,
            heard_end: false,
            exits,
            accepted: false,
            end: None,
            device_end: None,
        };
        self.plays.insert(id, play);
        id
    }

    /// Runs until all streams are over at both ends; panics if that takes too long.
    fn run(&mut self) {
        let limit = self.now + 600_000;
        while self.plays.values().any(|play| play.end.is_none()) || !self.device.is_empty() || !self.bridge.is_empty() {
            assert!(self.now < limit, "still not over: {:?}\n{:?}\n{:?}", self.plays, self.bridge, self.device);
            let moved = self.step();
            let arrivals = self.link.iter().map(|(at, ..)| *at);
            let due = [self.bridge.deadline(), self.device.deadline()].into_iter().flatten();
            let next = arrivals.chain(due).min().unwrap_or(self.now + 1);
            self.now = if moved { self.now + 1 } else { next.max(self.now + 1) };
            assert!(moved || next != u64::MAX);
        }
    }

    fn step(&mut self) -> bool {
        let mut moved = false;
        let now = self.now;
        let arrived: Vec<_> = self.link.iter().filter(|(at, ..)| *at <= now).cloned().collect();
        self.link.retain(|(at, ..)| *at > now);
        for (_, to, frame) in arrived {
            moved = true;
            let frame =
                hawser_wire::decode::<StreamFrame>(&hawser_wire::encode(&frame), usize::MAX).expect("own").value;
            match to {
                Side::Bridge => self.bridge.receive(frame, now),
                Side::Device => self.device.receive(frame, now),
            }
        }
        self.bridge.tick(now);
        self.device.tick(now);
        while let Some((id, _)) = self.device.asked() {
            self.device.accept(id);
            if let Some(play) = self.plays.get_mut(&id) {
                play.accepted = true;
            }
        }
        let ids: Vec<u32> = self.plays.keys().copied().collect();
        for id in ids {
            moved |= self.client(id);
            moved |= self.service(id);
        }
        while let Some(frame) = self.bridge.transmit(now) {
            moved = true;
            self.carry(Side::Device, frame);
        }
        while let Some(frame) = self.device.transmit(now) {
            moved = true;
            self.carry(Side::Bridge, frame);
        }
        moved
    }

    fn carry(&mut self, to: Side, frame: StreamFrame) {
        let at = self.now + self.delay;
        match self.deeds.pop_front().unwrap_or(Deed::Deliver) {
            Deed::Deliver => self.link.push_back((at, to, frame)),
            Deed::Lose => {}
            Deed::Repeat => {
                self.link.push_back((at, to, frame.clone()));
                self.link.push_back((at + self.delay, to, frame));
            }
            Deed::Late => self.link.push_back((at + 3 * self.delay + 7, to, frame)),
        }
        let waiting = self.link.iter().filter(|(_, side, _)| *side == to);
        self.most_waiting = self.most_waiting.max(waiting.map(|(.., frame)| hawser_wire::encode(frame).len()).sum());
    }

    fn client(&mut self, id: u32) -> bool {
        let play = self.plays.get_mut(&id).expect("known");
        if play.end.is_some() {
            return false;
        }
        let mut moved = false;
        if let Some(stdin) = &mut play.stdin {
            moved |= produce(&mut self.bridge, id, 0, stdin);
        }
        let mut buffer = vec![0; self.gulp];
        let mut drained = true;
        for channel in play.outputs.keys() {
            let at = play.read.entry(*channel).or_default();
            match self.bridge.read(id, *channel, &mut buffer) {
                Moved::Bytes(count) => {
                    moved = true;
                    drained = false;
                    for (offset, found) in (*at..).zip(&buffer[..count]) {
                        assert_eq!(*found, byte(id, *channel, offset), "stream {id} channel {channel} at {offset}");
                    }
                    *at += count as u64;
                }
                Moved::Wait => drained = false,
                Moved::Ended | Moved::Over(_) => {}
            }
        }
        if let Some(end) = self.bridge.ended(id).filter(|_| drained) {
            play.end = Some(end);
            self.bridge.release(id);
            moved = true;
        }
        moved
    }

    fn service(&mut self, id: u32) -> bool {
        let play = self.plays.get_mut(&id).expect("known");
        if !play.accepted || play.device_end.is_some() {
            return false;
        }
        let mut moved = false;
        for (channel, output) in &mut play.outputs {
            moved |= produce(&mut self.device, id, *channel, output);
        }
        let mut drained = true;
        if play.stdin.is_some() && !play.heard_end {
            drained = false;
            let mut buffer = [0; 3000];
            match self.device.read(id, 0, &mut buffer) {
                Moved::Bytes(count) => {
                    moved = true;
                    for (offset, found) in (play.heard..).zip(&buffer[..count]) {
                        assert_eq!(*found, byte(id, 0, offset), "stream {id} stdin at {offset}");
                    }
                    play.heard += count as u64;
                }
                Moved::Ended => (play.heard_end, moved) = (true, true),
                Moved::Wait => {}
                Moved::Over(_) => drained = true,
            }
        }
        let said = play.outputs.values().all(|output| output.done == output.total);
        if play.exits && said && (play.stdin.is_none() || play.heard_end) {
            self.device.exit(id, 7);
        }
        if let Some(end) = self.device.ended(id).filter(|_| drained) {
            play.device_end = Some(end);
            self.device.release(id);
            moved = true;
        }
        moved
    }
}

fn produce(mux: &mut Mux, id: u32, channel: u8, side: &mut Flow) -> bool {
    let Moved::Bytes(room) = mux.writable(id, channel) else { return false };
    let count = (room as u64).min(side.total - side.done);
    let bytes: Vec<u8> = (side.done..side.done + count).map(|at| byte(id, channel, at)).collect();
    if !bytes.is_empty() {
        let Moved::Bytes(taken) = mux.write(id, channel, &bytes) else { panic!("there was room") };
        side.done += taken as u64;
    }
    if side.done == side.total {
        mux.half_close(id, channel);
    }
    count > 0
}

fn request() -> impl Strategy<Value = StreamRequest> {
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(stdin, stderr)| exec(stdin, stderr)),
        Just(logs()),
        Just(StreamRequest::PortForward(uid(), 80)),
    ]
}

fn streams() -> impl Strategy<Value = Vec<(StreamRequest, u64)>> {
    prop::collection::vec((request(), prop_oneof![0u64..2_000, 0u64..400_000]), 1..6)
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![30 => Just(Deed::Deliver), 1 => Just(Deed::Lose), 1 => Just(Deed::Repeat), 1 => Just(Deed::Late)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn over_a_link_that_only_delays_every_byte_arrives(
        streams in streams(), delay in 1u64..400, gulp in prop_oneof![100usize..2_000, 10_000usize..100_000]
    ) {
        let mut world = World::new(delay, Vec::new(), gulp);
        for (request, total) in streams {
            world.open(request, total);
        }
        world.run();
        for (id, play) in &world.plays {
            let code = play.exits.then_some(7);
            prop_assert_eq!(play.end.as_ref(), Some(&End::Finished(code)), "stream {}", id);
            for (channel, output) in &play.outputs {
                prop_assert_eq!(play.read.get(channel), Some(&output.total), "stream {} channel {}", id, channel);
            }
            if let Some(stdin) = play.stdin {
                prop_assert_eq!(play.heard, stdin.total);
            }
        }
        // What is under way is bounded, however much there is to say.
        prop_assert!(world.most_waiting <= 300 * 1024, "{} bytes were under way at once", world.most_waiting);
    }

    /// The bytes themselves are compared as they are read.
    #[test]
    fn over_a_hostile_link_a_stream_is_right_or_ends_with_a_reason(
        streams in streams(), delay in 1u64..400, deeds in prop::collection::vec(deed(), 0..300)
    ) {
        let mut world = World::new(delay, deeds, 20_000);
        for (request, total) in streams {
            world.open(request, total);
        }
        world.run();
        for (id, play) in &world.plays {
            let end = play.end.clone().expect("it has ended");
            let complete = play.outputs.iter().all(|(channel, output)| play.read.get(channel) == Some(&output.total));
            match end {
                End::Finished(_) => prop_assert!(complete, "stream {} ended in order without all of its bytes", id),
                End::Lost(why) | End::Aborted(why) => prop_assert!(!why.is_empty()),
                End::Refused(refusal) => prop_assert!(false, "{:?}", refusal),
            }
        }
    }
}

#[test]
fn a_reader_that_does_not_read_stops_its_stream_only() {
    let mut world = World::new(5, Vec::new(), 50_000);
    let stuck = world.open(logs(), 10_000_000);
    let play = world.plays.remove(&stuck).expect("opened");
    let flowing = world.open(logs(), 1_000_000);
    let mut output = *play.outputs.get(&1).expect("a log");
    while world.plays[&flowing].end.is_none() {
        produce(&mut world.device, stuck, 1, &mut output);
        world.step();
        world.now += 1;
        assert!(world.now < 60_000, "the other stream is held up");
    }
    assert!(output.done <= u64::from(CREDIT) + CHUNK as u64, "{} bytes for a reader that reads nothing", output.done);
    assert!(output.done >= u64::from(CREDIT));
}

#[test]
fn abort_reaches_the_other_end_and_leaves_nothing() {
    for from in [Side::Bridge, Side::Device] {
        let mut world = World::new(5, Vec::new(), 1000);
        let id = world.open(exec(true, true), 100_000_000);
        for _ in 0..40 {
            world.step();
            world.now += 1;
        }
        match from {
            Side::Bridge => world.bridge.abort(id, "the client has gone"),
            Side::Device => world.device.abort(id, "the container has gone"),
        }
        world.run();
        let play = &world.plays[&id];
        let told = if from == Side::Bridge { &play.device_end } else { &play.end };
        assert!(matches!(told, Some(End::Aborted(why)) if why.ends_with("has gone")), "{told:?}");
        assert!(world.bridge.is_empty() && world.device.is_empty());
        assert!(world.bridge.counts().aborted == 1 && world.device.counts().aborted == 1);
    }
}

#[test]
fn a_session_that_ends_takes_its_streams_along() {
    let mut world = World::new(5, Vec::new(), 1000);
    let id = world.open(logs(), 1_000_000);
    for _ in 0..20 {
        world.step();
        world.now += 1;
    }
    world.bridge.end("the device went offline");
    assert_eq!(world.bridge.ended(id), Some(End::Lost("the device went offline".to_owned())));
    let refused = world.bridge.open(logs(), world.now);
    assert_eq!(refused, Err(NotOpened::Down("the device went offline".to_owned())));
    world.bridge.has_news();
    world.bridge.release(id);
    assert!(world.bridge.is_empty());
    assert!(world.bridge.has_news(), "there is nothing to say, but whoever counts streams has to look again");
    // The next session knows nothing of what was.
    world.bridge.begin(world.now);
    world.device.begin(world.now);
    world.link.clear();
    world.device.release(id);
    world.plays.clear();
    let again = world.open(logs(), 50_000);
    assert_ne!(again, id, "a number is not used again, or late frames would meet a stranger");
    world.run();
    assert_eq!(world.plays[&again].end, Some(End::Finished(None)));
}

#[test]
fn a_device_that_does_not_answer_is_not_waited_for() {
    let mut bridge = Mux::new(Side::Bridge, BRIDGE);
    bridge.begin(0);
    let id = bridge.open(logs(), 0).expect("room");
    while bridge.transmit(0).is_some() {}
    // Something else is heard meanwhile.
    bridge.receive(StreamFrame { id: 0, body: StreamBody::Alive, number: Some(0) }, 20_000);
    assert_eq!(bridge.deadline(), Some(mux::KEEP_ALIVE));
    bridge.tick(29_999);
    assert_eq!(bridge.is_open(id), None);
    bridge.tick(OPEN_WITHIN);
    assert!(matches!(bridge.is_open(id), Some(Err(End::Lost(why))) if why.contains("30 seconds")));
    let told = std::iter::from_fn(|| bridge.transmit(30_000)).any(|frame| matches!(frame.body, StreamBody::Abort(_)));
    assert!(told, "the device may be working on it");
}

#[test]
fn silence_ends_the_streams() {
    let mut world = World::new(5, Vec::new(), 1000);
    let id = world.open(exec(true, false), 10);
    for _ in 0..20 {
        world.step();
        world.now += 1;
    }
    // The device goes away without a word.
    let mut now = world.now;
    while world.bridge.ended(id).is_none() {
        now = world.bridge.deadline().expect("something is open");
        world.bridge.tick(now);
        while world.bridge.transmit(now).is_some() {}
        assert!(now <= world.now + mux::SILENT_AFTER, "nobody noticed");
    }
    assert!(matches!(world.bridge.ended(id), Some(End::Lost(why)) if why.contains("nothing was heard")));
    assert!(now >= mux::SILENT_AFTER);
}

#[test]
fn an_open_stream_without_a_word_stays() {
    let mut world = World::new(5, Vec::new(), 1000);
    let id = world.open(exec(true, false), 10);
    world.plays.clear();
    let mut frames = 0;
    while world.now < 3_600_000 {
        world.step();
        frames += world.link.len();
        let due = [world.bridge.deadline(), world.device.deadline()].into_iter().flatten();
        let next = due.chain(world.link.iter().map(|(at, ..)| *at)).min().expect("somebody keeps it alive");
        world.now = next.max(world.now + 1);
    }
    assert_eq!(world.bridge.ended(id), None, "an hour without a word is no reason");
    assert!(frames < 2_000, "{frames} frames in an hour of silence");
}

#[test]
fn an_unknown_stream_is_answered_once() {
    let mut device = Mux::new(Side::Device, DEVICE);
    device.begin(0);
    let mut answers = 0;
    for number in 0..10 {
        device.receive(StreamFrame { id: 77, body: StreamBody::HalfClose(0), number: Some(number) }, 0);
        while let Some(frame) = device.transmit(0) {
            answers += u32::from(frame.id == 77 && matches!(frame.body, StreamBody::Abort(_)));
        }
    }
    assert_eq!(answers, 1);
}

#[test]
fn beyond_the_limit_streams_are_refused_at_both_ends() {
    let mut bridge = Mux::new(Side::Bridge, BRIDGE);
    bridge.begin(0);
    for _ in 0..BRIDGE.streams {
        bridge.open(logs(), 0).expect("room");
    }
    assert_eq!(bridge.open(logs(), 0), Err(NotOpened::TooMany(BRIDGE.streams)));

    let mut device = Mux::new(Side::Device, DEVICE);
    device.begin(0);
    for id in 1..200u32 {
        let number = Some(u64::from(id) - 1);
        device.receive(StreamFrame { id, body: StreamBody::Open(logs()), number }, 0);
    }
    let asked = std::iter::from_fn(|| device.asked()).count();
    assert_eq!(asked, DEVICE.streams);
    assert!(device.len() <= 2 * DEVICE.streams);
    let mut refusals = 0;
    let mut number = 0;
    while let Some(frame) = device.transmit(0) {
        number = frame.number.unwrap_or(number);
        if let StreamBody::Refuse(refusal) = frame.body {
            assert_eq!(refusal.status, 429);
            refusals += 1;
        }
        device.receive(StreamFrame { id: 0, body: StreamBody::Received(number), number: None }, 0);
    }
    assert_eq!(refusals, DEVICE.streams);
}

#[test]
fn more_than_the_credit_and_gaps_and_strange_channels_end_the_stream() {
    let violations = [
        StreamBody::Data(StreamData { channel: 1, offset: 0, data: vec![0; CREDIT as usize + 1] }),
        StreamBody::Data(StreamData { channel: 1, offset: 5, data: vec![0; 5] }),
        StreamBody::Data(StreamData { channel: 2, offset: 0, data: vec![0; 5] }),
        StreamBody::Data(StreamData { channel: 200, offset: 0, data: vec![0; 5] }),
        StreamBody::Credit(0, 5),
        StreamBody::Exit(0),
        StreamBody::Accept,
    ];
    for violation in violations {
        let mut bridge = Mux::new(Side::Bridge, BRIDGE);
        bridge.begin(0);
        let id = bridge.open(logs(), 0).expect("room");
        while bridge.transmit(0).is_some() {}
        bridge.receive(StreamFrame { id, body: StreamBody::Accept, number: Some(0) }, 0);
        bridge.receive(StreamFrame { id, body: violation.clone(), number: Some(1) }, 0);
        assert!(matches!(bridge.ended(id), Some(End::Aborted(_))), "{violation:?}");
        let told = std::iter::from_fn(|| bridge.transmit(0)).any(|frame| matches!(frame.body, StreamBody::Abort(_)));
        assert!(told, "{violation:?}");
    }
}

#[test]
fn a_log_tells_from_where_it_can_be_continued() {
    let mut bridge = Mux::new(Side::Bridge, BRIDGE);
    bridge.begin(0);
    let id = bridge.open(logs(), 0).expect("room");
    while bridge.transmit(0).is_some() {}
    let mut number = 0;
    let mut say = |bridge: &mut Mux, body| {
        bridge.receive(StreamFrame { id, body, number: Some(number) }, 0);
        number += 1;
    };
    let mark = |bytes, place: u8| LogMark { bytes, position: LogPosition { position: vec![place] } };
    say(&mut bridge, StreamBody::Accept);
    assert_eq!(bridge.last_mark(id), (None, 0));
    say(&mut bridge, StreamBody::Mark(mark(0, 1)));
    say(&mut bridge, StreamBody::Mark(mark(100, 2)));
    say(&mut bridge, StreamBody::Data(StreamData { channel: 1, offset: 0, data: vec![0; 99] }));
    assert_eq!(bridge.last_mark(id), (Some(mark(0, 1)), 99));
    say(&mut bridge, StreamBody::Data(StreamData { channel: 1, offset: 99, data: vec![0; 6] }));
    assert_eq!(bridge.last_mark(id), (Some(mark(100, 2)), 105));
    for place in 3..60 {
        say(&mut bridge, StreamBody::Mark(mark(200 + u64::from(place), place)));
    }
    assert_eq!(bridge.last_mark(id), (Some(mark(100, 2)), 105), "however many marks come before their bytes");
    assert_eq!(bridge.begins(id), Some(mark(0, 1).position), "however many have come since");

    // The device says where a log begins even if it has reached the end before it could say anything.
    let mut device = Mux::new(Side::Device, DEVICE);
    device.begin(0);
    let body = StreamBody::Open(logs());
    device.receive(StreamFrame { id, body, number: Some(0) }, 0);
    let (id, _) = device.asked().expect("it was asked");
    device.accept(id);
    for said in [mark(0, 1), mark(50, 2), mark(100, 3)] {
        device.mark(id, said);
    }
    let told = std::iter::from_fn(|| device.transmit(0)).filter_map(|frame| match frame.body {
        StreamBody::Mark(mark) => Some(mark),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [mark(0, 1), mark(100, 3)]);
}

#[test]
fn an_end_that_leaves_says_so_once_and_for_all() {
    let mut world = World::new(5, Vec::new(), 1000);
    let ids = [world.open(logs(), 1_000_000), world.open(exec(true, false), 1_000_000)];
    for _ in 0..40 {
        world.step();
        world.now += 1;
    }
    world.device.interrupt("the agent is \u{1b}stopping");
    world.run();
    for id in ids {
        let end = world.plays[&id].end.clone();
        assert_eq!(end, Some(End::Lost("the agent is stopping".to_owned())), "and without what a terminal would obey");
    }
    // The session goes on.
    let again = world.open(logs(), 50_000);
    world.run();
    assert_eq!(world.plays[&again].end, Some(End::Finished(None)));
}

#[test]
fn a_stream_that_is_over_before_anybody_looks_was_open() {
    let mut bridge = Mux::new(Side::Bridge, BRIDGE);
    bridge.begin(0);
    let id = bridge.open(logs(), 0).expect("room");
    while bridge.transmit(0).is_some() {}
    let data = StreamBody::Data(StreamData { channel: 1, offset: 0, data: vec![7; 3] });
    for (number, body) in [(0, StreamBody::Accept), (1, data), (2, StreamBody::HalfClose(1))] {
        bridge.receive(StreamFrame { id, body, number: Some(number) }, 0);
    }
    assert_eq!(bridge.is_open(id), Some(Ok(())));
    assert_eq!(bridge.read(id, 1, &mut [0; 9]), Moved::Bytes(3));
    assert_eq!(bridge.read(id, 1, &mut [0; 9]), Moved::Ended);
    assert_eq!(bridge.ended(id), Some(End::Finished(None)));
}
