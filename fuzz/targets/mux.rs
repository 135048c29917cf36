//! Streams with a peer that sends any frames at any time, while the application does what applications do: no panic, no
//! more streams than allowed, no more kept than was granted, and nothing said that does not fit into a message.
#![no_main]

use hawser_wire::limits::MAX_PLAINTEXT;
use hawser_wire::stream::mux::{Limits, Moved, Mux, Side};
use hawser_wire::stream::*;
use hawser_wire::{DeviceTime, Down, PodUid, Up, decode, encode};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { streams: 4, budget: 256 * 1024 };
/// So much may wait at most: every channel of every stream with the least credit, or the budget and that.
const MOST_WAITING: u64 = 256 * 1024 + 2 * 4 * 3 * 96 * 1024;

fuzz_target!(|input: &[u8]| {
    let mut script = Script { rest: input };
    let side = if script.byte() & 1 == 0 { Side::Bridge } else { Side::Device };
    let mut end = End { mux: Mux::new(side, LIMITS), side, now: 0, number: 0, read: 0, dropped: false };
    end.mux.begin(0);
    while !script.rest.is_empty() {
        end.step(&mut script);
        assert!(end.mux.len() <= 2 * LIMITS.streams);
        assert!(end.dropped || end.mux.counts().bytes_in - end.read <= MOST_WAITING);
    }
    // Left alone, it becomes silent: nothing is said for ever, and no deadline stays in the past.
    for _ in 0..8 {
        end.transmit();
        if let Some(deadline) = end.mux.deadline() {
            end.now = end.now.max(deadline);
            end.mux.tick(end.now);
        }
    }
    end.transmit();
    let mut said = 0;
    while end.mux.deadline().is_some_and(|deadline| deadline <= end.now) {
        end.mux.tick(end.now);
        end.transmit();
        said += 1;
        assert!(said < 8, "a deadline that passes for ever");
    }
});

struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        first
    }

    fn number(&mut self) -> u64 {
        let byte = self.byte();
        match byte >> 6 {
            0 => u64::from(byte),
            1 => u64::from(byte & 0x3f) << 10,
            2 => u64::from(byte & 0x3f) << 32,
            _ => u64::MAX - u64::from(byte & 0x3f),
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        bytes
    }

    fn text(&mut self) -> String {
        let times = 1 << (self.byte() % 14);
        String::from_utf8_lossy(self.bytes()).repeat(times).chars().take(20_000).collect()
    }

    fn id(&mut self) -> u32 {
        match self.byte() {
            255 => u32::MAX,
            byte => u32::from(byte % 12),
        }
    }

    fn channel(&mut self) -> u8 {
        match self.byte() {
            255 => 255,
            byte => byte % 4,
        }
    }

    fn request(&mut self) -> StreamRequest {
        let kind = self.byte();
        let pod = PodUid::new("u").expect("valid");
        let container = "c".to_owned();
        let bit = |n: u8| kind >> n & 1 == 1;
        let channels = Channels { stdin: bit(4), stdout: bit(5), stderr: bit(6), tty: bit(7) };
        match kind % 5 {
            0 => StreamRequest::Logs(LogsRequest {
                pod,
                container,
                follow: bit(4),
                previous: bit(5),
                timestamps: bit(6),
                tail: bit(7).then_some(3),
                since: Some(DeviceTime(1)),
                limit_bytes: None,
                from: None,
                newest: bit(7).then_some(9),
            }),
            1 => StreamRequest::Exec(ExecRequest { pod, container, command: vec!["x".to_owned()], channels }),
            2 => StreamRequest::Attach(AttachRequest { pod, container, channels }),
            3 => StreamRequest::PortForward(pod, 80),
            _ => StreamRequest::Stats,
        }
    }

    fn body(&mut self) -> StreamBody {
        match self.byte() % 13 {
            0 => StreamBody::Open(self.request()),
            1 => StreamBody::Accept,
            2 => StreamBody::Refuse(StreamRefusal { status: u16::from(self.byte()), message: self.text() }),
            3 => {
                let (channel, offset) = (self.channel(), self.number());
                let data = self.bytes().repeat(1 << (self.byte() % 8));
                StreamBody::Data(StreamData { channel, offset, data })
            }
            4 => StreamBody::Credit(self.channel(), u32::try_from(self.number()).unwrap_or(u32::MAX)),
            5 => StreamBody::HalfClose(self.channel()),
            6 => StreamBody::Resize(u16::from(self.byte()), 24),
            7 => StreamBody::Exit(i32::from(self.byte())),
            8 => StreamBody::Abort(self.text()),
            9 => StreamBody::Mark(self.mark()),
            10 => StreamBody::Alive,
            11 => StreamBody::Received(self.number()),
            _ => StreamBody::Broken(self.text()),
        }
    }

    fn mark(&mut self) -> LogMark {
        LogMark { bytes: self.number(), position: LogPosition { position: self.bytes().to_vec() } }
    }
}

/// The end that is attacked.
struct End {
    mux: Mux,
    side: Side,
    now: u64,
    /// The number of the peer's next frame.
    number: u64,
    read: u64,
    /// Something that was received was thrown away unread, so that what waits is not known here.
    dropped: bool,
}

impl End {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 20 {
            0..=5 => self.receive(script),
            6 => {
                if let Ok(decoded) = decode::<StreamFrame>(script.bytes(), MAX_PLAINTEXT) {
                    self.mux.receive(decoded.value, self.now);
                }
            }
            7 => {
                self.now += script.number().min(1 << 40);
                self.mux.tick(self.now);
            }
            8 => self.transmit(),
            9 => drop(self.mux.open(script.request(), self.now)),
            10 => {
                if let Some((id, _)) = self.mux.asked() {
                    self.mux.accept(id);
                }
            }
            11 => {
                if let Some((id, _)) = self.mux.asked() {
                    self.mux.refuse(id, StreamRefusal { status: 404, message: "no".to_owned() });
                }
            }
            12 => {
                let mut buffer = vec![0; 1 + script.bytes().len() * 256];
                if let Moved::Bytes(count) = self.mux.read(script.id(), script.channel(), &mut buffer) {
                    self.read += count as u64;
                }
            }
            13 => {
                let bytes = script.bytes().repeat(64);
                self.mux.write(script.id(), script.channel(), &bytes);
            }
            14 => self.mux.half_close(script.id(), script.channel()),
            15 => {
                self.dropped = true;
                self.mux.discard(script.id(), script.channel());
            }
            16 => {
                let id = script.id();
                self.mux.resize(id, 80, 24);
                self.mux.mark(id, script.mark());
                let _ = (self.mux.resized(id), self.mux.last_mark(id), self.mux.is_open(id), self.mux.ended(id));
            }
            17 => self.mux.exit(script.id(), i32::from(script.byte())),
            18 => {
                self.dropped = true;
                self.mux.release(script.id());
            }
            _ => {
                match script.byte() % 8 {
                    0 => {
                        self.mux.end("the session ended");
                        self.mux.begin(self.now);
                        self.number = 0;
                    }
                    1 => self.mux.interrupt("we are leaving"),
                    _ => self.mux.abort(script.id(), "given up"),
                }
                let _ = (self.mux.woken(), self.mux.has_news());
            }
        }
    }

    fn receive(&mut self, script: &mut Script<'_>) {
        let (id, body) = (script.id(), script.body());
        let number = match script.byte() {
            0 => None,
            1 => Some(script.number()),
            2 => Some(self.number.saturating_add(1)),
            3 => Some(self.number.saturating_sub(1)),
            _ => Some(self.number),
        };
        self.number = number.map_or(self.number, |number| self.number.max(number.saturating_add(1)));
        self.mux.receive(StreamFrame { id, body, number }, self.now);
    }

    fn transmit(&mut self) {
        for _ in 0..64 {
            let Some(frame) = self.mux.transmit(self.now) else { return };
            let length = match self.side {
                Side::Bridge => encode(&Down::Stream(frame)).len(),
                Side::Device => encode(&Up::Stream(frame)).len(),
            };
            assert!(length <= MAX_PLAINTEXT, "{length} bytes do not fit into a message");
        }
    }
}
