//! What is known about a connection: its streams, what waits to be read, what waits to be sent, and who waits.
//!
//! One lock holds all of it ([`Shared`]). The driver is the only one that moves bytes to and from the transport; streams
//! and handles only look, change and wake. Nothing here waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use crate::decode::Event;
use crate::error::{Ended, ProtocolError};
use crate::frame::{Encoder, GoAwayStatus, Limits, ResetStatus, Role, StreamId};
use crate::headers::Headers;

/// Data frames of this size interleave well, and every peer takes them.
const DATA_FRAME: usize = 16 << 10;
/// Our own pings that wait for an answer.
const PINGS: usize = 8;
/// Ids have 31 bits and are never used again.
const LAST_ID: u32 = (1 << 31) - 1;

#[derive(Debug)]
pub(crate) struct Shared(Mutex<State>);

impl Shared {
    pub(crate) fn new(role: Role, limits: Limits) -> Self {
        Self(Mutex::new(State::new(role, limits)))
    }

    /// Nothing panics while it holds the lock; if it ever did, the state would still be whole enough to end with.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct State {
    role: Role,
    limits: Limits,
    encoder: Encoder,
    /// Encoded frames on their way to the transport.
    pub(crate) out: BytesMut,
    streams: HashMap<StreamId, Slot>,
    next_id: u32,
    last_peer: u32,
    /// Streams of the peer that nobody has looked at yet.
    incoming: VecDeque<StreamId>,
    /// Bytes that wait for readers, over all streams.
    buffered: usize,
    next_ping: u32,
    pings: Vec<(u32, Option<Waker>)>,
    peer_goes: bool,
    closing: bool,
    end: Option<Ended>,
    driver: Option<Waker>,
    accepter: Option<Waker>,
    /// Writers that wait for room in `out`, in the order in which they came.
    writers: VecDeque<Waker>,
}

#[derive(Debug, Default)]
struct Slot {
    headers: Headers,
    reply: Option<Headers>,
    /// Both sides know the stream. Peers drop what comes before.
    established: bool,
    inbox: BytesMut,
    /// Nobody will read: what comes is thrown away.
    unread: bool,
    /// We have said FIN.
    sent_fin: bool,
    /// The peer has said FIN.
    got_fin: bool,
    reset: Option<u32>,
    reader: Option<Waker>,
    /// Waits for the reply.
    opener: Vec<Waker>,
}

impl Slot {
    fn is_over(&self) -> bool {
        self.reset.is_some() || (self.sent_fin && self.got_fin)
    }
}

/// What a read found.
pub(crate) enum Read {
    Bytes,
    End,
    Reset(u32),
    Ended(Ended),
}

/// Why a write did not happen.
pub(crate) enum NotWritten {
    Finished,
    Reset(u32),
    Ended(Ended),
}

impl State {
    fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            encoder: Encoder::default(),
            out: BytesMut::new(),
            streams: HashMap::new(),
            next_id: role.first_id(),
            last_peer: 0,
            incoming: VecDeque::new(),
            buffered: 0,
            next_ping: role.first_id(),
            pings: Vec::new(),
            peer_goes: false,
            closing: false,
            end: None,
            driver: None,
            accepter: None,
            writers: VecDeque::new(),
        }
    }

    // What the driver calls.

    pub(crate) fn driver_waits(&mut self, waker: &Waker) {
        self.driver = Some(waker.clone());
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.end.as_ref()
    }

    /// Nothing more will be said by either side.
    pub(crate) fn is_done(&self) -> bool {
        self.closing && self.out.is_empty() && self.streams.values().all(Slot::is_over)
    }

    /// Whether answers to the peer pile up because it does not read them.
    pub(crate) fn is_choked(&self) -> bool {
        self.out.len() >= 2 * self.limits.send_buffer
    }

    /// Bytes have gone to the transport.
    pub(crate) fn sent(&mut self, count: usize) {
        self.out.advance(count);
        if self.out.is_empty() {
            // A burst must not be paid for by every connection for ever.
            self.out = BytesMut::new();
        }
        if self.out.len() < self.limits.send_buffer {
            self.writers.drain(..).for_each(Waker::wake);
        }
    }

    /// Takes what the peer said. Of data, what could not be taken yet is given back.
    pub(crate) fn receive(&mut self, event: Event) -> Result<Option<Event>, ProtocolError> {
        match event {
            Event::SynStream { id, headers, fin, unidirectional } => self.opened(id, headers, fin, unidirectional)?,
            Event::SynReply { id, headers, fin } => self.replied(id, headers, fin)?,
            Event::Headers { id, fin, .. } => {
                self.known(id)?;
                if fin {
                    self.finished(id);
                }
            }
            Event::Reset { id, status } => {
                self.known(id)?;
                self.was_reset(id, status);
            }
            Event::Data { id, bytes, fin } => return self.data(id, bytes, fin),
            Event::Ping(id) if self.role.gives(id) => {
                if let Some(at) = self.pings.iter().position(|(waiting, _)| *waiting == id) {
                    self.pings.swap_remove(at).1.into_iter().for_each(Waker::wake);
                }
            }
            Event::Ping(id) => self.encoder.ping(&mut self.out, id),
            Event::GoAway { .. } => self.peer_goes = true,
        }
        Ok(None)
    }

    /// Ends everything for this reason, unless it has ended already.
    pub(crate) fn end(&mut self, why: Ended) {
        if self.end.is_none() {
            self.end = Some(why);
        }
        for slot in self.streams.values_mut() {
            slot.reader.take().into_iter().chain(slot.opener.drain(..)).for_each(Waker::wake);
        }
        self.pings.iter_mut().filter_map(|(_, waker)| waker.take()).for_each(Waker::wake);
        self.writers.drain(..).for_each(Waker::wake);
        self.accepter.take().into_iter().chain(self.driver.take()).for_each(Waker::wake);
    }

    /// The peer's fault is told before the end.
    pub(crate) fn end_by_fault(&mut self, fault: ProtocolError) {
        self.encoder.go_away(&mut self.out, self.last_peer, GoAwayStatus::PROTOCOL_ERROR);
        self.end(Ended::Protocol(fault));
    }

    fn opened(&mut self, id: StreamId, headers: Headers, fin: bool, one_way: bool) -> Result<(), ProtocolError> {
        if id <= self.last_peer || id == 0 || self.role.gives(id) {
            return Err(ProtocolError::StreamId(id));
        }
        self.last_peer = id;
        if self.closing || self.streams.len() >= self.limits.streams {
            self.encoder.reset(&mut self.out, id, ResetStatus::REFUSED);
            return Ok(());
        }
        let slot = Slot { headers, got_fin: fin, sent_fin: one_way, ..Slot::default() };
        self.streams.insert(id, slot);
        self.incoming.push_back(id);
        self.accepter.take().into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn replied(&mut self, id: StreamId, headers: Headers, fin: bool) -> Result<(), ProtocolError> {
        if !self.role.gives(id) {
            return Err(ProtocolError::NoSuchStream(id));
        }
        self.known(id)?;
        if let Some(slot) = self.streams.get_mut(&id).filter(|slot| !slot.established) {
            slot.established = true;
            slot.reply = Some(headers);
            slot.opener.drain(..).for_each(Waker::wake);
        }
        if fin {
            self.finished(id);
        }
        Ok(())
    }

    /// A frame may come late for a stream that is gone, but not for one that never was.
    fn known(&self, id: StreamId) -> Result<(), ProtocolError> {
        let opened = if self.role.gives(id) { id < self.next_id } else { id != 0 && id <= self.last_peer };
        if opened { Ok(()) } else { Err(ProtocolError::NoSuchStream(id)) }
    }

    fn data(&mut self, id: StreamId, mut bytes: Bytes, fin: bool) -> Result<Option<Event>, ProtocolError> {
        self.known(id)?;
        let Some(slot) = self.streams.get_mut(&id).filter(|slot| slot.reset.is_none()) else { return Ok(None) };
        if slot.got_fin && !bytes.is_empty() {
            self.reset(id, ResetStatus::PROTOCOL_ERROR);
            return Ok(None);
        }
        if !slot.unread {
            // One byte always fits in an empty stream: what other streams hold must not stop this one for ever, as
            // their readers may wait for what it carries.
            let room = self.limits.stream_buffer.saturating_sub(slot.inbox.len());
            let all = self.limits.connection_buffer.saturating_sub(self.buffered);
            let room = if slot.inbox.is_empty() { room.min(all.max(1024)) } else { room.min(all) };
            let taken = bytes.split_to(room.min(bytes.len()));
            // Copied, so that a small piece does not hold a large read buffer.
            slot.inbox.extend_from_slice(&taken);
            self.buffered += taken.len();
            if !taken.is_empty() {
                slot.reader.take().into_iter().for_each(Waker::wake);
            }
            if !bytes.is_empty() {
                return Ok(Some(Event::Data { id, bytes, fin }));
            }
        }
        if fin {
            self.finished(id);
        }
        Ok(None)
    }

    fn finished(&mut self, id: StreamId) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.got_fin = true;
            slot.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    fn was_reset(&mut self, id: StreamId, status: u32) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        slot.reset.get_or_insert(status);
        slot.reader.take().into_iter().chain(slot.opener.drain(..)).for_each(Waker::wake);
        // A writer of this stream may be among those that wait for room.
        self.writers.drain(..).for_each(Waker::wake);
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    // What handles and streams call.

    /// A stream of ours.
    pub(crate) fn open(&mut self, headers: &Headers) -> Result<StreamId, Ended> {
        self.usable()?;
        if self.peer_goes {
            return Err(Ended::GoingAway);
        }
        if self.streams.len() >= self.limits.streams || self.next_id > LAST_ID {
            return Err(Ended::TooMany);
        }
        let id = self.next_id;
        self.encoder.syn_stream(&mut self.out, id, headers, false)?;
        self.next_id += 2;
        self.streams.insert(id, Slot { headers: headers.clone(), ..Slot::default() });
        self.wake_driver();
        Ok(id)
    }

    /// A stream of the peer's.
    pub(crate) fn poll_incoming(&mut self, waker: &Waker) -> Poll<Result<(StreamId, Headers), Ended>> {
        if let Some(id) = self.incoming.pop_front() {
            let headers = self.streams.get(&id).map(|slot| slot.headers.clone()).unwrap_or_default();
            return Poll::Ready(Ok((id, headers)));
        }
        if let Err(ended) = self.usable() {
            return Poll::Ready(Err(ended));
        }
        self.accepter = Some(waker.clone());
        Poll::Pending
    }

    pub(crate) fn reply(&mut self, id: StreamId, headers: &Headers) -> Result<(), Ended> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        self.encoder.syn_reply(&mut self.out, id, headers, false)?;
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.established = true;
        }
        self.wake_driver();
        Ok(())
    }

    pub(crate) fn poll_reply(&mut self, id: StreamId, waker: &Waker) -> Poll<Result<Headers, NotWritten>> {
        let end = self.end.clone();
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Err(NotWritten::Finished)) };
        if slot.established {
            return Poll::Ready(Ok(slot.reply.clone().unwrap_or_default()));
        }
        if let Some(status) = slot.reset {
            return Poll::Ready(Err(NotWritten::Reset(status)));
        }
        if let Some(end) = end {
            return Poll::Ready(Err(NotWritten::Ended(end)));
        }
        if !slot.opener.iter().any(|waiting| waiting.will_wake(waker)) {
            slot.opener.push(waker.clone());
        }
        Poll::Pending
    }

    /// Moves what is there with `take`, which says how much it took.
    pub(crate) fn poll_read(&mut self, id: StreamId, waker: &Waker, take: impl FnOnce(&[u8]) -> usize) -> Poll<Read> {
        let Some(slot) = self.streams.get_mut(&id) else { return Poll::Ready(Read::End) };
        if !slot.inbox.is_empty() {
            let taken = take(&slot.inbox).min(slot.inbox.len());
            slot.inbox.advance(taken);
            self.buffered -= taken;
            if slot.inbox.is_empty() && slot.got_fin {
                slot.inbox = BytesMut::new();
            }
            // The driver may hold back what did not fit.
            self.wake_driver();
            return Poll::Ready(Read::Bytes);
        }
        if slot.got_fin {
            return Poll::Ready(Read::End);
        }
        if let Some(status) = slot.reset {
            return Poll::Ready(Read::Reset(status));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(Read::Ended(end.clone()));
        }
        slot.reader = Some(waker.clone());
        Poll::Pending
    }

    /// Puts a piece of `bytes` on its way.
    pub(crate) fn poll_write(&mut self, id: StreamId, waker: &Waker, bytes: &[u8]) -> Poll<Result<usize, NotWritten>> {
        match self.poll_writable(id, waker) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
            Poll::Ready(Ok(())) => {}
        }
        if self.out.len() >= self.limits.send_buffer {
            if !self.writers.iter().any(|waiting| waiting.will_wake(waker)) {
                self.writers.push_back(waker.clone());
            }
            return Poll::Pending;
        }
        let piece = &bytes[..bytes.len().min(DATA_FRAME)];
        if !piece.is_empty() {
            self.encoder.data(&mut self.out, id, piece, false);
            self.wake_driver();
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Says that nothing follows.
    pub(crate) fn poll_finish(&mut self, id: StreamId, waker: &Waker) -> Poll<Result<(), NotWritten>> {
        match self.poll_writable(id, waker) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(NotWritten::Finished)) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
            Poll::Ready(Ok(())) => {}
        }
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.sent_fin = true;
        }
        self.encoder.data(&mut self.out, id, &[], true);
        self.wake_driver();
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&mut self, id: StreamId, waker: &Waker) -> Poll<Result<(), NotWritten>> {
        let Some(slot) = self.streams.get(&id) else { return Poll::Ready(Err(NotWritten::Finished)) };
        if let Some(status) = slot.reset {
            return Poll::Ready(Err(NotWritten::Reset(status)));
        }
        if slot.sent_fin {
            return Poll::Ready(Err(NotWritten::Finished));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(Err(NotWritten::Ended(end.clone())));
        }
        self.poll_reply(id, waker).map_ok(drop)
    }

    pub(crate) fn reset(&mut self, id: StreamId, status: ResetStatus) {
        if self.streams.get(&id).is_some_and(|slot| !slot.is_over()) {
            self.encoder.reset(&mut self.out, id, status);
            self.was_reset(id, status.0);
            self.wake_driver();
        }
    }

    /// Nobody will read from this stream.
    pub(crate) fn unread(&mut self, id: StreamId) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.unread = true;
            self.buffered -= slot.inbox.len();
            slot.inbox = BytesMut::new();
            self.wake_driver();
        }
    }

    /// Nobody holds this stream any more.
    pub(crate) fn dropped(&mut self, id: StreamId) {
        self.reset(id, ResetStatus::CANCEL);
        if let Some(slot) = self.streams.remove(&id) {
            self.buffered -= slot.inbox.len();
        }
        self.incoming.retain(|waiting| *waiting != id);
        self.wake_driver();
    }

    pub(crate) fn ping(&mut self) -> Result<u32, Ended> {
        self.usable()?;
        if self.pings.len() >= PINGS {
            return Err(Ended::TooMany);
        }
        let id = self.next_ping;
        self.next_ping = if id > LAST_ID { self.role.first_id() } else { id + 2 };
        self.pings.push((id, None));
        self.encoder.ping(&mut self.out, id);
        self.wake_driver();
        Ok(id)
    }

    pub(crate) fn poll_pong(&mut self, id: u32, waker: &Waker) -> Poll<Result<(), Ended>> {
        let Some((_, waiting)) = self.pings.iter_mut().find(|(ping, _)| *ping == id) else {
            return Poll::Ready(Ok(()));
        };
        if let Some(end) = &self.end {
            return Poll::Ready(Err(end.clone()));
        }
        *waiting = Some(waker.clone());
        Poll::Pending
    }

    pub(crate) fn forget_ping(&mut self, id: u32) {
        self.pings.retain(|(ping, _)| *ping != id);
    }

    /// Takes no more streams; the connection ends with the last of those that there are.
    pub(crate) fn close(&mut self) {
        if !self.closing && self.end.is_none() {
            self.closing = true;
            self.encoder.go_away(&mut self.out, self.last_peer, GoAwayStatus::OK);
            // Nobody will look at them.
            for id in std::mem::take(&mut self.incoming) {
                self.reset(id, ResetStatus::REFUSED);
                self.streams.remove(&id);
            }
            self.accepter.take().into_iter().for_each(Waker::wake);
            self.wake_driver();
        }
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    fn usable(&self) -> Result<(), Ended> {
        match &self.end {
            Some(end) => Err(end.clone()),
            None if self.closing => Err(Ended::Closed),
            None => Ok(()),
        }
    }
}
