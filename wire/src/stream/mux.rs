//! The streams of one device, as either end sees them. Pure: frames, the application's calls and `now` in, frames out.
//!
//! ```text
//! application ── open, accept, write, half_close, exit ─▶ Mux ── transmit ─▶ sealed, published
//! application ◀─ requests, read, end ──────────────────── Mux ◀─ receive ─── opened, in its session
//! ```
//!
//! - **Numbers.** Every frame has the next number of its sender in the session. A number that was seen is skipped; one that
//!   is missing means that frames were lost, and since nobody knows of which stream, all of them end and the other end is
//!   told so. Nothing is ever sent twice: what must not be lost is above (a client that opens the log again) or beside
//!   (state, which converges).
//! - **Credit.** Each channel may be sent as many bytes as its receiver has room for, so a slow reader costs a bounded
//!   amount of memory and slows down nobody else.
//! - **Pace.** What is under way in all streams together is bounded too, and adapts to the link (`pace`): behind it comes the
//!   heartbeat.
//! - **Silence.** While there are streams, each end says something every [`KEEP_ALIVE`]; one that has heard nothing for
//!   [`SILENT_AFTER`] ends them all.
//! - **Sessions.** Streams end with their session: [`Mux::begin`], [`Mux::end`].
//!
//! Times are milliseconds of any clock that does not go back.

mod channel;
mod one;
mod pace;
mod session;
mod words;

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;

use super::{CREDIT, LogMark, LogPosition, OPEN_WITHIN, StreamRefusal, StreamRequest};
use one::{Phase, Stream};
use session::Session;

pub use words::{Counts, End, Limits, Moved, NotOpened, Side, Woken};

/// An end with streams says something at least this often.
pub const KEEP_ALIVE: u64 = 15_000;
/// An end that was silent for so long is gone.
pub const SILENT_AFTER: u64 = 50_000;
/// What each channel beyond the budget gets.
const SMALL_CREDIT: u32 = 16 * 1024;
/// How many streams that are over are remembered, so that what is still under way for them is not answered.
const REMEMBERED: usize = 64;
/// Something that the other end must not do.
type Violation = &'static str;

/// The streams of one device.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    limits: Limits,
    /// `Err`: there is no session, and why.
    session: Result<Session, String>,
    streams: BTreeMap<u32, Stream>,
    next_id: u32,
    /// Device: what was asked and nobody has looked at.
    asked: VecDeque<(u32, StreamRequest)>,
    /// Streams that are over, or that never were and were answered so.
    gone: VecDeque<u32>,
    woken: BTreeSet<(u32, Woken)>,
    /// The application has done something that may be told.
    news: bool,
    counts: Counts,
}

impl Mux {
    /// Without a session.
    pub fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            session: Err("there is no session yet".to_owned()),
            streams: BTreeMap::new(),
            next_id: 1,
            asked: VecDeque::new(),
            gone: VecDeque::new(),
            woken: BTreeSet::new(),
            news: false,
            counts: Counts::default(),
        }
    }

    /// A session begins, and with it everything anew. Streams of the one before are over.
    pub fn begin(&mut self, now: u64) {
        self.end("a new session began");
        self.session = Ok(Session::begun(now));
    }

    /// The session is over.
    pub fn end(&mut self, why: &str) {
        self.lose_all(why, false);
        self.session = Err(why.to_owned());
        self.asked.clear();
        self.gone.clear();
        self.settle();
    }

    /// The streams end, though the session stays: the other end is not heard any more, or we are leaving. It is told so.
    pub fn interrupt(&mut self, why: &str) {
        let live = self.streams.values().any(|stream| !stream.is_over());
        if let Ok(session) = self.session.as_mut()
            && live
        {
            session.broken = Some(why.to_owned());
        }
        self.lose_all(why, false);
        self.news = true;
        self.settle();
    }

    /// Whether there is a session.
    pub fn is_up(&self) -> bool {
        self.session.is_ok()
    }

    /// How many streams there are, those included that are over and not released.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// What has happened since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// For whom there is something new since this was last asked.
    pub fn woken(&mut self) -> BTreeSet<(u32, Woken)> {
        core::mem::take(&mut self.woken)
    }

    /// Whether the application has done something since this was last asked, so that there may be something to transmit, or
    /// there are fewer streams.
    pub fn has_news(&mut self) -> bool {
        core::mem::take(&mut self.news)
    }

    // --- the application

    /// Bridge: opens a stream.
    pub fn open(&mut self, request: StreamRequest, now: u64) -> Result<u32, NotOpened> {
        let session = self.session.as_mut().map_err(|why| NotOpened::Down(why.clone()))?;
        if self.streams.len() >= self.limits.streams {
            return Err(NotOpened::TooMany(self.limits.streams));
        }
        if self.streams.is_empty() {
            (session.said, session.heard) = (now, now);
        }
        let id = self.next_id;
        // After four billion streams of one device they begin anew; the first are long over.
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let mut stream = self.stream(&request, Phase::Opening { until: now + OPEN_WITHIN });
        stream.tell.open = Some(request);
        self.streams.insert(id, stream);
        self.counts.opened += 1;
        self.news = true;
        Ok(id)
    }

    /// Device: whether somebody asked for a stream.
    pub fn has_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Device: the next stream that was asked for. To be answered with [`Mux::accept`] or [`Mux::refuse`], and released.
    pub fn asked(&mut self) -> Option<(u32, StreamRequest)> {
        self.asked.pop_front()
    }

    /// Device: the stream is open.
    pub fn accept(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| matches!(stream.phase, Phase::Asked)) {
            stream.open();
            stream.tell.answer = Some(Ok(()));
            self.news = true;
            self.wake_all(id);
        }
    }

    /// Device: it is not.
    pub fn refuse(&mut self, id: u32, refusal: StreamRefusal) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| matches!(stream.phase, Phase::Asked)) {
            stream.over(End::Refused(refusal.clone()));
            stream.tell.answer = Some(Err(refusal));
            self.news = true;
            self.counts.refused += 1;
            self.wake_all(id);
        }
    }

    /// Whether the stream was answered: `None` not yet, `Some(Err)` it never was open. One that has ended since was open.
    pub fn is_open(&self, id: u32) -> Option<Result<(), End>> {
        let Some(stream) = self.streams.get(&id) else { return Some(Err(unknown())) };
        match &stream.phase {
            _ if stream.was_open => Some(Ok(())),
            Phase::Opening { .. } | Phase::Asked | Phase::Open => None,
            Phase::Over(end) => Some(Err(end.clone())),
        }
    }

    /// How the stream ended; `None`: it has not.
    pub fn ended(&self, id: u32) -> Option<End> {
        match self.streams.get(&id).map(|stream| &stream.phase) {
            Some(Phase::Opening { .. } | Phase::Asked | Phase::Open) => None,
            Some(Phase::Over(end)) => Some(end.clone()),
            None => Some(unknown()),
        }
    }

    /// Reads what has come on a channel. What came before the end of the stream is read before the end is told.
    pub fn read(&mut self, id: u32, channel: u8, buffer: &mut [u8]) -> Moved {
        let Some(stream) = self.streams.get_mut(&id) else { return Moved::Over(unknown()) };
        let Some(incoming) = stream.incoming.get_mut(usize::from(channel)).and_then(Option::as_mut) else {
            return Moved::Ended;
        };
        let filled = incoming.read(buffer);
        self.news |= incoming.credit_due().is_some();
        if filled > 0 || buffer.is_empty() {
            return Moved::Bytes(filled);
        }
        match &stream.phase {
            _ if incoming.ended => Moved::Ended,
            Phase::Over(End::Finished(_)) => Moved::Ended,
            Phase::Over(end) => Moved::Over(end.clone()),
            _ => Moved::Wait,
        }
    }

    /// Nobody will read this channel: what comes is dropped, so that its sender is not held up.
    pub fn discard(&mut self, id: u32, channel: u8) {
        let stream = self.streams.get_mut(&id);
        if let Some(incoming) = stream.and_then(|stream| stream.incoming.get_mut(usize::from(channel))?.as_mut()) {
            incoming.discard();
            self.news = true;
        }
    }

    /// How many bytes [`Mux::write`] would take.
    pub fn writable(&self, id: u32, channel: u8) -> Moved {
        let Some(stream) = self.streams.get(&id) else { return Moved::Over(unknown()) };
        if let Phase::Over(end) = &stream.phase {
            return Moved::Over(end.clone());
        }
        match stream.outgoing.get(usize::from(channel)).and_then(Option::as_ref) {
            Some(outgoing) if outgoing.is_ending() => Moved::Ended,
            Some(outgoing) if outgoing.room() > 0 => Moved::Bytes(outgoing.room()),
            Some(_) => Moved::Wait,
            None => Moved::Ended,
        }
    }

    /// Hands bytes over to be sent. Takes at most a chunk, and only what the other end has room for.
    pub fn write(&mut self, id: u32, channel: u8, bytes: &[u8]) -> Moved {
        match self.writable(id, channel) {
            Moved::Bytes(_) => {}
            other => return other,
        }
        let stream = self.streams.get_mut(&id);
        let outgoing = stream.and_then(|stream| stream.outgoing.get_mut(usize::from(channel))?.as_mut());
        self.news = true;
        outgoing.map_or(Moved::Ended, |outgoing| Moved::Bytes(outgoing.stage(bytes)))
    }

    /// Nothing more will be written to this channel.
    pub fn half_close(&mut self, id: u32, channel: u8) {
        let stream = self.streams.get_mut(&id);
        if let Some(outgoing) = stream.and_then(|stream| stream.outgoing.get_mut(usize::from(channel))?.as_mut()) {
            outgoing.end();
            self.news = true;
        }
    }

    /// Bridge: the terminal has another size. Only the last one counts.
    pub fn resize(&mut self, id: u32, columns: u16, rows: u16) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) {
            stream.tell.resize = Some((columns, rows));
            self.news = true;
        }
    }

    /// Device: the terminal's new size, if it has another one.
    pub fn resized(&mut self, id: u32) -> Option<(u16, u16)> {
        self.streams.get_mut(&id)?.resized.take()
    }

    /// Device: from where the log can be continued. Only the one before all bytes and the last one count.
    pub fn mark(&mut self, id: u32, mark: LogMark) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) {
            let told = if mark.bytes == 0 { &mut stream.tell.begins } else { &mut stream.tell.mark };
            *told = Some(mark);
            self.news = true;
        }
    }

    /// Bridge: the place at which the device began to read the log.
    pub fn begins(&self, id: u32) -> Option<LogPosition> {
        self.streams.get(&id)?.begins.clone()
    }

    /// Bridge: the last place from which a log can be continued, and how many bytes of it have come in all.
    pub fn last_mark(&mut self, id: u32) -> (Option<LogMark>, u64) {
        self.streams.get_mut(&id).map_or((None, 0), |stream| (stream.last_mark(), stream.received()))
    }

    /// Device: the process has ended and its outputs were written. The stream ends when all of it has gone out.
    pub fn exit(&mut self, id: u32, code: i32) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) {
            stream.outgoing.iter_mut().flatten().for_each(channel::Outgoing::end);
            stream.tell.exit = Some(code);
            self.news = true;
        }
    }

    /// Ends the stream before its end.
    pub fn abort(&mut self, id: u32, message: &str) {
        self.abort_as(id, End::Aborted(message.to_owned()), message);
    }

    /// The application lets go of the stream. If it has not ended, it ends now.
    pub fn release(&mut self, id: u32) {
        self.abort(id, "the other end of the stream has let go of it");
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.released = true;
            stream.incoming.iter_mut().flatten().for_each(channel::Incoming::discard);
        }
        self.settle();
    }

    // --- inside

    fn stream(&self, request: &StreamRequest, phase: Phase) -> Stream {
        let all = self.streams.values().flat_map(|stream| stream.incoming.iter().flatten());
        let mut granted: usize = all.map(|incoming| incoming.window() as usize).sum();
        let budget = self.limits.budget;
        Stream::new(self.side, request, phase, || {
            let window = if granted + CREDIT as usize <= budget { CREDIT } else { SMALL_CREDIT };
            granted += window as usize;
            window
        })
    }

    fn abort_as(&mut self, id: u32, end: End, message: &str) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) {
            stream.abort(end, message.to_owned());
            self.news = true;
            self.counts.aborted += 1;
            self.wake_all(id);
        }
    }

    fn lose_all(&mut self, why: &str, tell: bool) {
        let live = self.streams.iter_mut().filter(|(_, stream)| !stream.is_over());
        let mut lost = VecDeque::new();
        for (id, stream) in live {
            let end = End::Lost(why.to_owned());
            if tell {
                stream.abort(end, why.to_owned())
            } else {
                stream.over(end)
            }
            lost.push_back(*id);
        }
        self.counts.aborted += lost.len() as u64;
        lost.into_iter().for_each(|id| self.wake_all(id));
    }

    /// Forgets what nobody needs any more.
    fn settle(&mut self) {
        let up = self.session.is_ok();
        let settled = |stream: &Stream| stream.is_settled() || (!up && stream.released && stream.is_over());
        while let Some(id) = self.streams.iter().find(|(_, stream)| settled(stream)).map(|(id, _)| *id) {
            self.streams.remove(&id);
            self.forget(id);
            // Whoever counts the streams hears of it, also when nothing is left to say.
            self.news = true;
        }
    }

    fn forget(&mut self, id: u32) {
        if self.gone.len() >= REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back(id);
    }

    fn wake_all(&mut self, id: u32) {
        let readers = (0..3).map(Woken::Reader);
        let writers = (0..3).map(Woken::Writer);
        self.woken.extend(readers.chain(writers).chain([Woken::Life]).map(|woken| (id, woken)));
    }
}

fn unknown() -> End {
    End::Lost("the stream is no more".to_owned())
}
