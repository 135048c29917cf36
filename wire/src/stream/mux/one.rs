//! One stream of a [`Mux`](super::Mux).

use alloc::collections::VecDeque;
use alloc::string::String;

use super::super::{LogMark, LogPosition, MAX_LOG_POSITION, StreamBody, StreamRefusal, StreamRequest};
use super::channel::{Incoming, Outgoing};
use super::session::sentence;
use super::{End, Side, Violation};

/// How many marks wait for the bytes before them.
const MAX_MARKS: usize = 16;
/// 0 stdin, 1 stdout, 2 stderr.
pub(super) const CHANNELS: usize = 3;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) phase: Phase,
    /// It was accepted, whatever became of it.
    pub(super) was_open: bool,
    /// Whether it ends with the exit of a process rather than with the last channel.
    exits: bool,
    pub(super) outgoing: [Option<Outgoing>; CHANNELS],
    pub(super) incoming: [Option<Incoming>; CHANNELS],
    /// What is to be told, besides what follows from the channels.
    pub(super) tell: Tell,
    /// The terminal's new size, until somebody takes it.
    pub(super) resized: Option<(u16, u16)>,
    marks: VecDeque<LogMark>,
    /// Bridge: where the device says that the log begins.
    pub(super) begins: Option<LogPosition>,
    /// The application has let go of it.
    pub(super) released: bool,
}

/// Where a stream is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Bridge: the device has not answered.
    Opening {
        /// It must until then.
        until: u64,
    },
    /// Device: to be answered.
    Asked,
    /// Open.
    Open,
    /// It has ended.
    Over(End),
}

/// What is to be told to the other end.
#[derive(Debug, Default)]
pub(super) struct Tell {
    pub(super) open: Option<StreamRequest>,
    pub(super) answer: Option<Result<(), StreamRefusal>>,
    pub(super) abort: Option<String>,
    pub(super) resize: Option<(u16, u16)>,
    /// Where it begins: said first, whatever came after it.
    pub(super) begins: Option<LogMark>,
    pub(super) mark: Option<LogMark>,
    pub(super) exit: Option<i32>,
}

impl Stream {
    pub(super) fn new(side: Side, request: &StreamRequest, phase: Phase, mut window: impl FnMut() -> u32) -> Self {
        let (down, up, exits) = shape(request);
        let (out, inward) = match side {
            Side::Bridge => (down, up),
            Side::Device => (up, down),
        };
        Self {
            phase,
            was_open: false,
            exits,
            outgoing: out.map(|there| there.then(Outgoing::default)),
            incoming: inward.map(|there| there.then(|| Incoming::new(window()))),
            tell: Tell::default(),
            resized: None,
            marks: VecDeque::new(),
            begins: None,
            released: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Nothing more is to be done about it by anybody.
    pub(super) fn is_settled(&self) -> bool {
        self.released && self.is_over() && !self.has_to_tell()
    }

    /// Whether the other end is still to be told of the end.
    pub(super) fn has_to_tell(&self) -> bool {
        self.is_over() && (self.tell.abort.is_some() || self.tell.answer.is_some())
    }

    pub(super) fn stop_telling(&mut self) {
        self.tell = Tell::default();
    }

    pub(super) fn open(&mut self) {
        self.phase = Phase::Open;
        self.was_open = true;
    }

    /// Ends it. What was received stays to be read.
    pub(super) fn over(&mut self, end: End) {
        if self.is_over() {
            return;
        }
        self.phase = Phase::Over(end);
        self.tell = Tell::default();
        self.outgoing.iter_mut().flatten().for_each(Outgoing::clear);
    }

    /// Ends it and tells the other end, if that knows of it.
    pub(super) fn abort(&mut self, end: End, message: String) {
        if self.is_over() {
            return;
        }
        let unheard_of = self.tell.open.is_some();
        self.over(end);
        self.tell.abort = (!unheard_of).then_some(message);
    }

    /// A frame from the other end.
    pub(super) fn take(&mut self, body: StreamBody) -> Result<(), Violation> {
        if self.is_over() {
            // It crossed our own end.
            return Ok(());
        }
        match (&self.phase, body) {
            (_, StreamBody::Abort(message)) => self.over(End::Aborted(sentence(message))),
            (Phase::Opening { .. }, StreamBody::Accept) => self.open(),
            (Phase::Opening { .. }, StreamBody::Refuse(StreamRefusal { status, message })) => {
                self.over(End::Refused(StreamRefusal { status, message: sentence(message) }));
            }
            (Phase::Open | Phase::Asked, StreamBody::Credit(channel, more)) => {
                self.outgoing_at(channel)?.credit(more)?;
            }
            (Phase::Open | Phase::Asked, StreamBody::Resize(columns, rows)) => self.resized = Some((columns, rows)),
            (Phase::Open | Phase::Asked, StreamBody::HalfClose(channel)) => {
                self.incoming_at(channel)?.ended = true;
                self.finish_if_complete();
            }
            (Phase::Open, StreamBody::Data(data)) => self.incoming_at(data.channel)?.take(data)?,
            (Phase::Open, StreamBody::Exit(code)) if self.exits => {
                self.incoming.iter_mut().flatten().for_each(|channel| channel.ended = true);
                self.over(End::Finished(Some(code)));
            }
            (Phase::Open, StreamBody::Mark(mark)) => self.mark(mark),
            _ => return Err("a message that makes no sense now"),
        }
        Ok(())
    }

    fn mark(&mut self, mark: LogMark) {
        let in_order = self.marks.back().is_none_or(|last| last.bytes <= mark.bytes);
        if !in_order || mark.position.position.len() > MAX_LOG_POSITION {
            return;
        }
        if mark.bytes == 0 {
            self.begins.get_or_insert_with(|| mark.position.clone());
        }
        if self.marks.len() == MAX_MARKS {
            self.marks.pop_back();
        }
        self.marks.push_back(mark);
        self.drop_old_marks();
    }

    fn drop_old_marks(&mut self) {
        let received = self.received();
        while self.marks.get(1).is_some_and(|second| second.bytes <= received) {
            self.marks.pop_front();
        }
    }

    /// How much of a log has come.
    pub(super) fn received(&self) -> u64 {
        self.incoming[1].as_ref().map_or(0, Incoming::offset)
    }

    /// The last place from which a log can be continued without a gap.
    pub(super) fn last_mark(&mut self) -> Option<LogMark> {
        self.drop_old_marks();
        let received = self.received();
        self.marks.front().filter(|mark| mark.bytes <= received).cloned()
    }

    fn outgoing_at(&mut self, channel: u8) -> Result<&mut Outgoing, Violation> {
        let found = self.outgoing.get_mut(usize::from(channel)).and_then(Option::as_mut);
        found.ok_or("a channel that this stream has not")
    }

    fn incoming_at(&mut self, channel: u8) -> Result<&mut Incoming, Violation> {
        let found = self.incoming.get_mut(usize::from(channel)).and_then(Option::as_mut);
        found.ok_or("a channel that this stream has not")
    }

    /// A stream without an exit is over when both ends have said everything.
    pub(super) fn finish_if_complete(&mut self) {
        let said = self.outgoing.iter().flatten().all(|channel| channel.ended);
        let heard = self.incoming.iter().flatten().all(|channel| channel.ended);
        if !self.exits && said && heard {
            self.over(End::Finished(None));
        }
    }

    /// The next thing to tell, with at most `most` bytes of data.
    pub(super) fn next(&mut self, most: usize) -> Option<StreamBody> {
        if let Some(request) = self.tell.open.take() {
            return Some(StreamBody::Open(request));
        }
        if let Some(message) = self.tell.abort.take() {
            return Some(StreamBody::Abort(message));
        }
        match self.tell.answer.take() {
            Some(Ok(())) => return Some(StreamBody::Accept),
            Some(Err(refusal)) => return Some(StreamBody::Refuse(refusal)),
            None => {}
        }
        if self.is_over() || matches!(self.phase, Phase::Asked) {
            return None;
        }
        for (channel, incoming) in (0u8..).zip(&mut self.incoming) {
            if let Some(incoming) = incoming
                && let Some(more) = incoming.credit_due()
            {
                incoming.grant(more);
                return Some(StreamBody::Credit(channel, more));
            }
        }
        if let Some((columns, rows)) = self.tell.resize.take() {
            return Some(StreamBody::Resize(columns, rows));
        }
        if let Some(mark) = self.tell.begins.take().or_else(|| self.tell.mark.take()) {
            return Some(StreamBody::Mark(mark));
        }
        if matches!(self.phase, Phase::Opening { .. }) {
            return None;
        }
        for (channel, outgoing) in (0u8..).zip(&mut self.outgoing) {
            let Some(outgoing) = outgoing else { continue };
            if outgoing.has_data() {
                return Some(StreamBody::Data(outgoing.data(channel, most)));
            }
            if outgoing.end_is_due() {
                outgoing.ended = true;
                self.finish_if_complete();
                return Some(StreamBody::HalfClose(channel));
            }
        }
        // All that was said before has gone out.
        let code = self.tell.exit.take()?;
        self.over(End::Finished(Some(code)));
        Some(StreamBody::Exit(code))
    }
}

/// Which channels go from the bridge to the device, which go back, and whether a process exits at the end.
fn shape(request: &StreamRequest) -> ([bool; CHANNELS], [bool; CHANNELS], bool) {
    match request {
        StreamRequest::Logs(_) | StreamRequest::Stats => ([false; CHANNELS], [false, true, false], false),
        StreamRequest::PortForward(..) => ([true, false, false], [false, true, false], false),
        StreamRequest::Exec(super::super::ExecRequest { channels, .. })
        | StreamRequest::Attach(super::super::AttachRequest { channels, .. }) => {
            let stderr = channels.stderr && !channels.tty;
            ([channels.stdin, false, false], [false, channels.stdout, stderr], true)
        }
    }
}
