//! D-Bus messages: calls of systemd's manager as bytes, and what matters of those that come back. Pure.

/// A call of a method, and the types of what it is given.
#[derive(Debug)]
pub(super) struct Call {
    path: &'static str,
    interface: &'static str,
    destination: &'static str,
    member: &'static str,
    signature: &'static str,
}

/// Writes values as D-Bus lays them out: each at a multiple of its own size from the beginning.
#[derive(Debug, Default)]
pub(super) struct Encoder(Vec<u8>);

/// Named values of a unit.
#[derive(Debug)]
pub(super) struct Values<'a>(&'a mut Encoder);

/// What a message is that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    /// The call that it answers; `None`: none, and it means nothing to us.
    pub(super) answers: Option<u32>,
    pub(super) answer: Answer,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was carried out; what else is told does not matter here.
    Done,
    Error {
        name: String,
        text: String,
    },
}

/// How long everything is that a message begins with.
pub(super) const HEAD: usize = 16;
/// More than any answer to us has.
pub(super) const MOST: usize = 64 << 10;

/// The calls of one connection are told apart by these.
pub(super) const HELLO_SERIAL: u32 = 1;
pub(super) const CALL_SERIAL: u32 = 2;

const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

impl Call {
    /// A method of the manager.
    pub(super) fn new(member: &'static str, signature: &'static str) -> Self {
        Self {
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            destination: "org.freedesktop.systemd1",
            member,
            signature,
        }
    }

    /// With which every connection to a bus begins.
    pub(super) fn hello() -> Vec<u8> {
        let bus = "org.freedesktop.DBus";
        let hello =
            Self { path: "/org/freedesktop/DBus", interface: bus, destination: bus, member: "Hello", signature: "" };
        hello.numbered(HELLO_SERIAL, &[])
    }

    /// The message, with what it is given.
    pub(super) fn with(&self, body: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut encoder = Encoder::default();
        body(&mut encoder);
        self.numbered(CALL_SERIAL, &encoder.0)
    }

    fn numbered(&self, serial: u32, body: &[u8]) -> Vec<u8> {
        let mut head = Encoder(vec![LITTLE_ENDIAN, CALL, 0, VERSION]);
        head.long(length(body.len()));
        head.long(serial);
        head.array(|fields| {
            for (code, kind, value) in [
                (PATH, "o", self.path),
                (INTERFACE, "s", self.interface),
                (MEMBER, "s", self.member),
                (DESTINATION, "s", self.destination),
            ] {
                fields.pad(8);
                fields.0.push(code);
                fields.signature(kind);
                fields.text(value);
            }
            if !self.signature.is_empty() {
                fields.pad(8);
                fields.0.push(SIGNATURE);
                fields.signature("g");
                fields.signature(self.signature);
            }
        });
        head.pad(8);
        head.0.extend_from_slice(body);
        head.0
    }
}

impl Encoder {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn long(&mut self, value: u32) {
        self.pad(4);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.long(u32::from(value));
    }

    pub(super) fn text(&mut self, value: &str) {
        self.long(length(value.len()));
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
    }

    fn number(&mut self, value: u64) {
        self.pad(8);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// The types of what follows; ours are all short.
    fn signature(&mut self, types: &str) {
        self.0.push(u8::try_from(types.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(types.as_bytes());
        self.0.push(0);
    }

    /// An array of structures. Its length does not count what is between it and the first of them.
    fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.long(0);
        let at = self.0.len();
        self.pad(8);
        let begin = self.0.len();
        fill(self);
        let filled = length(self.0.len() - begin);
        self.0[at - 4..at].copy_from_slice(&filled.to_le_bytes());
    }

    pub(super) fn properties(&mut self, fill: impl FnOnce(&mut Values<'_>)) {
        self.array(|encoder| fill(&mut Values(encoder)));
    }

    /// Units that are to be made along with this one.
    pub(super) fn nothing_beside(&mut self) {
        self.array(|_| {});
    }
}

impl Values<'_> {
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.named(name, "s").text(value);
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.named(name, "b").flag(value);
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.named(name, "t").number(value);
    }

    fn named(&mut self, name: &str, kind: &str) -> &mut Encoder {
        self.0.pad(8);
        self.0.text(name);
        self.0.signature(kind);
        self.0
    }
}

/// What we say is never as long as the protocol could not tell.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// How long the message is that begins like this, beginning included; `None`: it is none that we can read.
pub(super) fn whole(head: &[u8; HEAD]) -> Option<usize> {
    let mut read = Decoder { bytes: head, at: 4 };
    let (body, _serial, fields) = (read.long()?, read.long()?, read.long()?);
    let fields = usize::try_from(fields).ok()?.checked_add(HEAD)?.checked_next_multiple_of(8)?;
    let all = fields.checked_add(usize::try_from(body).ok()?)?;
    (head[0] == LITTLE_ENDIAN && head[3] == VERSION && all <= MOST).then_some(all)
}

/// What a whole message says; `None`: it is malformed.
pub(super) fn read(message: &[u8]) -> Option<Received> {
    let kind = *message.get(1)?;
    let mut read = Decoder { bytes: message, at: 12 };
    let fields = usize::try_from(read.long()?).ok()?;
    let end = HEAD.checked_add(fields).filter(|end| *end <= message.len())?;
    let mut head = Decoder { bytes: &message[..end], at: HEAD };
    let (mut answers, mut name, mut signature) = (None, "", "");
    while head.at < end {
        head.pad(8);
        let code = head.byte()?;
        match (code, head.signature()?) {
            (REPLY_SERIAL, "u") => answers = Some(head.long()?),
            (ERROR_NAME, "s") => name = head.text()?,
            (SIGNATURE, "g") => signature = head.signature()?,
            (_, "s" | "o") => drop(head.text()?),
            (_, "g") => drop(head.signature()?),
            (_, "u") => drop(head.long()?),
            _ => return None,
        }
    }
    let answer = match kind {
        RETURN => Answer::Done,
        ERROR => {
            let mut body = Decoder { bytes: message, at: end.checked_next_multiple_of(8)? };
            let text = if signature.starts_with('s') { body.text()? } else { "" };
            Answer::Error { name: name.to_owned(), text: text.to_owned() }
        }
        _ => return Some(Received { answers: None, answer: Answer::Done }),
    };
    Some(Received { answers, answer })
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn pad(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, many: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(many)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn long(&mut self) -> Option<u32> {
        self.pad(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let many = usize::try_from(self.long()?).ok()?;
        self.ended(many)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let many = usize::from(self.byte()?);
        self.ended(many)
    }

    fn ended(&mut self, many: usize) -> Option<&'a str> {
        let taken = self.take(many)?;
        (self.byte()? == 0).then(|| std::str::from_utf8(taken).ok())?
    }
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;

    /// A reply as a bus on a machine of ours lays it out.
    pub(super) fn reply(kind: u8, to: u32, name: Option<&str>, text: Option<&str>) -> Vec<u8> {
        let mut body = Encoder::default();
        text.iter().for_each(|text| body.text(text));
        let mut head = Encoder(vec![LITTLE_ENDIAN, kind, 1, VERSION]);
        head.long(length(body.0.len()));
        head.long(77);
        head.array(|fields| {
            fields.0.push(REPLY_SERIAL);
            fields.signature("u");
            fields.long(to);
            for (code, kind, value) in [(7, "s", Some(":1.2")), (ERROR_NAME, "s", name)] {
                if let Some(value) = value {
                    fields.pad(8);
                    fields.0.push(code);
                    fields.signature(kind);
                    fields.text(value);
                }
            }
            if text.is_some() {
                fields.pad(8);
                fields.0.push(SIGNATURE);
                fields.signature("g");
                fields.signature("s");
            }
        });
        head.pad(8);
        head.0.extend(body.0);
        head.0
    }

    /// The call was carried out.
    pub(crate) fn success(to: u32) -> Vec<u8> {
        reply(RETURN, to, None, Some("/org/freedesktop/systemd1/job/1"))
    }

    /// It was not.
    pub(crate) fn failure(to: u32, name: &str, text: &str) -> Vec<u8> {
        reply(ERROR, to, Some(name), Some(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::samples::reply;
    use super::*;

    #[test]
    fn a_call_has_the_bytes_of_the_protocol() {
        let call = Call::new("StopUnit", "ss").with(|body| {
            body.text("a.slice");
            body.text("replace");
        });
        let expected: &[&[u8]] = &[
            b"l\x01\0\x01\x18\0\0\0\x02\0\0\0\xa0\0\0\0",
            b"\x01\x01o\0\x19\0\0\0/org/freedesktop/systemd1\0\0\0\0\0\0\0",
            b"\x02\x01s\0\x20\0\0\0org.freedesktop.systemd1.Manager\0\0\0\0\0\0\0\0",
            b"\x03\x01s\0\x08\0\0\0StopUnit\0\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0",
            b"\x08\x01g\0\x02ss\0",
            b"\x07\0\0\0a.slice\0\x07\0\0\0replace\0",
        ];
        assert_eq!(call, expected.concat());
        let head = call[..HEAD].try_into().unwrap();
        assert_eq!(whole(head), Some(call.len()));
    }

    #[test]
    fn properties_stand_where_the_protocol_wants_them() {
        let mut body = Encoder::default();
        body.flag(true);
        body.properties(|values| {
            values.number("TasksMax", 7);
            values.flag("X", true);
            values.text("Y", "z");
        });
        body.nothing_beside();
        let expected: &[&[u8]] = &[
            b"\x01\0\0\0\x3a\0\0\0",
            b"\x08\0\0\0TasksMax\0\x01t\0\x07\0\0\0\0\0\0\0",
            b"\x01\0\0\0X\0\x01b\0\0\0\0\x01\0\0\0",
            b"\x01\0\0\0Y\0\x01s\0\0\0\0\x01\0\0\0z\0",
            // Nothing is padded like something.
            b"\0\0\0\0\0\0",
        ];
        assert_eq!(body.0, expected.concat());
    }

    #[test]
    fn answers_say_what_became_of_which_call() {
        let done = reply(RETURN, 2, None, Some("/org/freedesktop/systemd1/job/1"));
        assert_eq!(read(&done), Some(Received { answers: Some(2), answer: Answer::Done }));
        let refused = reply(ERROR, 2, Some("a.b"), Some("Unit x exists."));
        let answer = Answer::Error { name: "a.b".into(), text: "Unit x exists.".into() };
        assert_eq!(read(&refused), Some(Received { answers: Some(2), answer }));
        let wordless = reply(ERROR, 2, Some("a.b"), None);
        let answer = Answer::Error { name: "a.b".into(), text: String::new() };
        assert_eq!(read(&wordless).map(|read| read.answer), Some(answer));
        let signal = reply(4, 2, None, None);
        assert_eq!(read(&signal).and_then(|read| read.answers), None, "a signal answers nothing");
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused() {
        let refused = reply(ERROR, 2, Some("a.b"), Some("why"));
        for many in 0..refused.len() {
            assert_eq!(read(&refused[..many]), None, "{many}");
        }
        for (at, value) in [(0, b'B'), (3, 9), (6, 0xff), (15, 0xff)] {
            let mut head: [u8; HEAD] = refused[..HEAD].try_into().unwrap();
            head[at] = value;
            assert_eq!(whole(&head), None, "{at}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            if let Some(head) = bytes.first_chunk() {
                prop_assert!(whole(head).is_none_or(|whole| (HEAD..=MOST).contains(&whole)));
            }
        }
    }
}
