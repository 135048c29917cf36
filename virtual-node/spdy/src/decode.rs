//! The reading side of the codec.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::ProtocolError;
use crate::frame::{CONTROL, FIN, HEADER, Limits, StreamId, UNIDIRECTIONAL, VERSION, kind};
use crate::headers::Headers;
use crate::zlib::Inflater;

/// What a peer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It opens a stream.
    SynStream {
        /// Which.
        id: StreamId,
        /// With which headers.
        headers: Headers,
        /// It sends nothing on it.
        fin: bool,
        /// It wants nothing on it.
        unidirectional: bool,
    },
    /// It takes a stream.
    SynReply {
        /// Which.
        id: StreamId,
        /// With which headers.
        headers: Headers,
        /// It sends nothing on it.
        fin: bool,
    },
    /// It ends a stream.
    Reset {
        /// Which.
        id: StreamId,
        /// Why.
        status: u32,
    },
    /// It asks whether we are alive, or answers.
    Ping(u32),
    /// It takes no more streams.
    GoAway {
        /// The last one that it took.
        last: StreamId,
        /// Why.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Which.
        id: StreamId,
        /// The headers.
        headers: Headers,
        /// Nothing follows on this stream.
        fin: bool,
    },
    /// Bytes of a stream: a frame, or a piece of one.
    Data {
        /// Which.
        id: StreamId,
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows on this stream.
        fin: bool,
    },
}

/// Cuts bytes into [`Event`]s. It keeps no bytes: a control frame stays in the input until it is complete, a data frame is
/// given out as it comes.
#[derive(Debug)]
pub struct Decoder {
    zlib: Inflater,
    control_limit: usize,
    within: Within,
}

#[derive(Debug, Clone, Copy)]
enum Within {
    Between,
    Data { id: StreamId, rest: usize, fin: bool },
    Ignored { rest: usize },
}

impl Decoder {
    /// A decoder for the beginning of a connection.
    pub fn new(limits: &Limits) -> Self {
        let zlib = Inflater::new(limits.headers);
        Self { zlib, control_limit: limits.control_frame(), within: Within::Between }
    }

    /// The next event, or `None` if more input is needed. Input need never hold more than one control frame.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Event>, ProtocolError> {
        loop {
            match self.within {
                Within::Ignored { rest } => {
                    let skipped = rest.min(input.len());
                    input.advance(skipped);
                    if skipped < rest {
                        self.within = Within::Ignored { rest: rest - skipped };
                        return Ok(None);
                    }
                    self.within = Within::Between;
                }
                Within::Data { rest, .. } if rest > 0 && input.is_empty() => return Ok(None),
                Within::Data { id, rest, fin } => {
                    let bytes = input.split_to(rest.min(input.len())).freeze();
                    let rest = rest - bytes.len();
                    self.within = if rest == 0 { Within::Between } else { Within::Data { id, rest, fin } };
                    return Ok(Some(Event::Data { id, bytes, fin: fin && rest == 0 }));
                }
                Within::Between => match self.frame(input)? {
                    Next::Event(event) => return Ok(Some(event)),
                    Next::Incomplete => return Ok(None),
                    Next::Within => {}
                },
            }
        }
    }

    fn frame(&mut self, input: &mut BytesMut) -> Result<Next, ProtocolError> {
        let Some((header, _)) = input.split_first_chunk::<HEADER>() else { return Ok(Next::Incomplete) };
        let [a, b, c, d, flags, x, y, z] = *header;
        let length = usize::from(x) << 16 | usize::from(y) << 8 | usize::from(z);
        if a & CONTROL == 0 {
            input.advance(HEADER);
            let id = u32::from_be_bytes([a, b, c, d]);
            self.within = Within::Data { id, rest: length, fin: flags & FIN != 0 };
            return Ok(Next::Within);
        }
        let version = u16::from_be_bytes([a & !CONTROL, b]);
        if version != VERSION {
            return Err(ProtocolError::Version(version));
        }
        let kind = u16::from_be_bytes([c, d]);
        let fits = match kind {
            kind::SYN_STREAM => length >= 10,
            kind::SYN_REPLY | kind::HEADERS => length >= 4,
            kind::RST_STREAM | kind::GOAWAY => length == 8,
            kind::PING => length == 4,
            // SETTINGS and WINDOW_UPDATE are about flow control, which there is none of; others are not known.
            _ => {
                input.advance(HEADER);
                self.within = Within::Ignored { rest: length };
                return Ok(Next::Within);
            }
        };
        if !fits {
            return Err(ProtocolError::Length { kind, length });
        }
        if length > self.control_limit {
            return Err(ProtocolError::TooLong { kind, length, limit: self.control_limit });
        }
        if input.len() < HEADER + length {
            return Ok(Next::Incomplete);
        }
        let mut body = input.split_to(HEADER + length);
        body.advance(HEADER);
        self.control(kind, flags, body).map(Next::Event)
    }

    /// `body` has been found long enough for its type.
    fn control(&mut self, kind: u16, flags: u8, mut body: BytesMut) -> Result<Event, ProtocolError> {
        let fin = flags & FIN != 0;
        let first = body.get_u32();
        let id = first & !(1 << 31);
        Ok(match kind {
            kind::SYN_STREAM => {
                body.advance(6);
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                Event::SynStream { id, headers: self.zlib.block(&body)?, fin, unidirectional }
            }
            kind::SYN_REPLY => Event::SynReply { id, headers: self.zlib.block(&body)?, fin },
            kind::HEADERS => Event::Headers { id, headers: self.zlib.block(&body)?, fin },
            kind::RST_STREAM => Event::Reset { id, status: body.get_u32() },
            kind::GOAWAY => Event::GoAway { last: id, status: body.get_u32() },
            _ => Event::Ping(first),
        })
    }
}

enum Next {
    Event(Event),
    Incomplete,
    Within,
}
