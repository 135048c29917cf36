//! A [`Mux`] and its session: frames in, frames out, and what time does.

use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use minicbor::CborLen;

use super::super::{CHUNK, OPEN_WITHIN, StreamBody, StreamFrame, StreamRefusal, StreamRequest};
use super::one::{Phase, Stream};
use super::pace::Pace;
use super::{End, KEEP_ALIVE, Mux, REMEMBERED, SILENT_AFTER, Side, Woken};

/// The other end is told what was received after so many bytes, or frames. Less than the least that is ever under way.
const RECEIPT_BYTES: usize = 2 * 1024;
const RECEIPT_FRAMES: usize = 8;
/// What a frame costs besides its body: envelope, seal, topic.
const FRAME_COST: usize = 96;
/// The longest sentence of the other end that is shown to people.
const MAX_SENTENCE: usize = 1024;

/// What ends with the session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pace: Pace,
    /// The number of the next frame.
    next: u64,
    /// The number that is to come.
    expected: u64,
    /// What came since the last receipt.
    unreceipted: (usize, usize),
    receipt: bool,
    pub(super) broken: Option<String>,
    /// Streams that the other end believes in, and we do not know.
    unknown: VecDeque<u32>,
    pub(super) said: u64,
    pub(super) heard: u64,
    /// The last stream that was served.
    turn: u32,
}

impl Session {
    pub(super) fn begun(now: u64) -> Self {
        Self { said: now, heard: now, ..Self::default() }
    }
}

impl Mux {
    /// A frame came, sealed in this session.
    pub fn receive(&mut self, frame: StreamFrame, now: u64) {
        let Ok(session) = &mut self.session else { return };
        if let StreamBody::Received(number) = frame.body {
            session.pace.received(number, now);
            return;
        }
        // A receipt is no sign that the other end knows of any stream; what has a number is.
        session.heard = now;
        let Some(number) = frame.number.filter(|number| *number >= session.expected) else { return };
        let lost = number - session.expected;
        session.expected = number.saturating_add(1);
        let (bytes, frames) = &mut session.unreceipted;
        (*bytes, *frames) = (*bytes + cost(&frame.body), *frames + 1);
        session.receipt |= *bytes >= RECEIPT_BYTES || *frames >= RECEIPT_FRAMES;
        if lost > 0 {
            let why = format!("{lost} messages of streams were lost on the way");
            session.broken = Some(why.clone());
            session.receipt = true;
            self.lose_all(&why, false);
        }
        match frame.body {
            StreamBody::Alive if frame.id == 0 => self.receipt(),
            StreamBody::Broken(why) if frame.id == 0 => self.lose_all(&sentence(why), true),
            // Something of a later version.
            _ if frame.id == 0 => {}
            body => self.of_stream(frame.id, body, now),
        }
        self.settle();
    }

    /// The next frame to seal and publish, if there is one and it may go out now.
    pub fn transmit(&mut self, now: u64) -> Option<StreamFrame> {
        let session = self.session.as_mut().ok()?;
        if core::mem::take(&mut session.receipt) {
            session.unreceipted = (0, 0);
            // `expected` is above 0: a receipt is only ever due after something came.
            let body = StreamBody::Received(session.expected.saturating_sub(1));
            return Some(StreamFrame { id: 0, body, number: None });
        }
        let most = session.pace.room(CHUNK);
        let next = if most > 0 { self.next_body(most) } else { None };
        let (id, body) = next.or_else(|| self.alive_is_due(now).then_some((0, StreamBody::Alive)))?;
        let session = self.session.as_mut().ok()?;
        let number = session.next;
        session.next += 1;
        session.said = now;
        session.pace.sent(number, cost(&body), now);
        if let StreamBody::Data(data) = &body {
            self.counts.bytes_out += data.data.len() as u64;
            self.woken.insert((id, Woken::Writer(data.channel)));
        }
        self.settle();
        Some(StreamFrame { id, body, number: Some(number) })
    }

    /// When [`Mux::tick`] is due at the latest.
    pub fn deadline(&self) -> Option<u64> {
        let session = self.session.as_ref().ok().filter(|_| self.is_busy())?;
        let opening = self.streams.values().filter_map(|stream| match stream.phase {
            Phase::Opening { until } => Some(until),
            _ => None,
        });
        let silence = [session.said + KEEP_ALIVE, session.heard + SILENT_AFTER];
        opening.chain(silence).min()
    }

    /// Time has passed. Afterwards there may be something to transmit.
    pub fn tick(&mut self, now: u64) {
        let Ok(session) = &self.session else { return };
        if now >= session.heard + SILENT_AFTER && self.is_busy() {
            let why = format!("nothing was heard from the other end for {} seconds", SILENT_AFTER / 1000);
            self.lose_all(&why, false);
            self.stop_telling();
        }
        let late = |stream: &Stream| matches!(stream.phase, Phase::Opening { until } if until <= now);
        let late: VecDeque<u32> = self.streams.iter().filter(|(_, stream)| late(stream)).map(|(id, _)| *id).collect();
        for id in late {
            let message = format!("the device did not answer within {} seconds", OPEN_WITHIN / 1000);
            self.abort_as(id, End::Lost(message.clone()), &message);
        }
        self.settle();
    }

    fn of_stream(&mut self, id: u32, body: StreamBody, now: u64) {
        if self.streams.contains_key(&id) {
            return self.of_known_stream(id, body);
        }
        match (self.side, body) {
            (Side::Device, StreamBody::Open(request)) if !self.gone.contains(&id) => self.be_asked(id, request, now),
            (_, StreamBody::Abort(_) | StreamBody::Refuse(_)) => {}
            _ if self.gone.contains(&id) => {}
            _ => {
                self.forget(id);
                if let Ok(session) = &mut self.session {
                    session.unknown.push_back(id);
                    // The other end is told of the latest; the rest it finds out by itself.
                    while session.unknown.len() > REMEMBERED {
                        session.unknown.pop_front();
                    }
                }
            }
        }
    }

    fn of_known_stream(&mut self, id: u32, body: StreamBody) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (woken, data) = match &body {
            StreamBody::Data(data) => (Some(Woken::Reader(data.channel)), data.data.len()),
            StreamBody::HalfClose(channel) => (Some(Woken::Reader(*channel)), 0),
            StreamBody::Credit(channel, _) => (Some(Woken::Writer(*channel)), 0),
            _ => (None, 0),
        };
        let was_over = stream.is_over();
        match stream.take(body) {
            Ok(()) => self.counts.bytes_in += data as u64,
            Err(violation) => {
                let message = format!("the two ends of the stream do not understand each other: {violation}");
                stream.abort(End::Aborted(message.clone()), message);
            }
        }
        match (&stream.phase, woken) {
            (Phase::Over(end), _) if !was_over => {
                self.counts.refused += u64::from(matches!(end, End::Refused(_)));
                self.counts.aborted += u64::from(matches!(end, End::Aborted(_) | End::Lost(_)));
                self.wake_all(id);
            }
            (_, Some(woken)) => drop(self.woken.insert((id, woken))),
            (_, None) => self.wake_all(id),
        }
    }

    fn be_asked(&mut self, id: u32, request: StreamRequest, now: u64) {
        if self.streams.is_empty()
            && let Ok(session) = &mut self.session
        {
            (session.said, session.heard) = (now, now);
        }
        let mut stream = self.stream(&request, Phase::Asked);
        self.counts.opened += 1;
        if self.streams.len() >= self.limits.streams {
            let message = format!("{} streams are open to this device already", self.limits.streams);
            let refusal = StreamRefusal { status: 429, message };
            // Twice as many are kept until they are answered; beyond that the other end does not keep its own limit.
            if self.streams.len() < 2 * self.limits.streams {
                stream.over(End::Refused(refusal.clone()));
                stream.tell.answer = Some(Err(refusal));
                stream.released = true;
                self.streams.insert(id, stream);
            }
            self.counts.refused += 1;
            return;
        }
        self.streams.insert(id, stream);
        self.asked.push_back((id, request));
    }

    fn next_body(&mut self, most: usize) -> Option<(u32, StreamBody)> {
        let session = self.session.as_mut().ok()?;
        if let Some(why) = session.broken.take() {
            return Some((0, StreamBody::Broken(why)));
        }
        if let Some(id) = session.unknown.pop_front() {
            return Some((id, StreamBody::Abort("there is no such stream".to_owned())));
        }
        let turn = session.turn;
        let after = (core::ops::Bound::Excluded(turn), core::ops::Bound::Unbounded);
        // In turn, a frame each: a greedy stream does not hold up the others.
        let served =
            self.streams.range_mut(after).find_map(|(id, stream)| stream.next(most).map(|body| (*id, body))).or_else(
                || self.streams.range_mut(..=turn).find_map(|(id, stream)| stream.next(most).map(|body| (*id, body))),
            );
        if let (Some((id, body)), Ok(session)) = (&served, &mut self.session) {
            session.turn = *id;
            if matches!(body, StreamBody::HalfClose(_) | StreamBody::Exit(_)) {
                self.wake_all(*id);
            }
        }
        served
    }

    fn alive_is_due(&self, now: u64) -> bool {
        self.session.as_ref().is_ok_and(|session| now >= session.said + KEEP_ALIVE) && self.is_busy()
    }

    /// Whether anything is open, or is still to be told: then the other end is to be heard, and to hear us.
    fn is_busy(&self) -> bool {
        let session =
            self.session.as_ref().is_ok_and(|session| session.broken.is_some() || !session.unknown.is_empty());
        session || self.streams.values().any(|stream| !stream.is_over() || stream.has_to_tell())
    }

    /// Nobody listens any more. If the other end comes back, it finds out by our silence.
    fn stop_telling(&mut self) {
        self.streams.values_mut().filter(|stream| stream.is_over()).for_each(Stream::stop_telling);
        if let Ok(session) = &mut self.session {
            session.broken = None;
            session.unknown.clear();
        }
    }

    fn receipt(&mut self) {
        if let Ok(session) = &mut self.session {
            session.receipt = true;
        }
    }
}

fn cost(body: &StreamBody) -> usize {
    FRAME_COST + body.cbor_len(&mut ())
}

/// Something said by the other end, short enough to be shown.
pub(super) fn sentence(mut text: String) -> String {
    if text.len() > MAX_SENTENCE {
        let end = text.floor_char_boundary(MAX_SENTENCE);
        text.truncate(end);
    }
    // It may come to a terminal.
    text.retain(|c| !c.is_control());
    text
}
