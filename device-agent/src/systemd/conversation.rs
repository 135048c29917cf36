//! One call over one connection: who we are, what we want, what becomes of it.

use std::io::{self, Read, Write};

use super::message::{self, Answer, CALL_SERIAL, Call, HEAD, HELLO_SERIAL};

/// What else a bus may say before it answers.
const MOST_BESIDE: usize = 1_000;
/// How long a line of the beginning is at most.
const MOST_LINE: usize = 512;

/// Says who we are, and `hello` on a bus; then makes the call.
pub(super) fn hold(stream: &mut (impl Read + Write), uid: u32, bus: bool, call: &[u8]) -> io::Result<Answer> {
    let name: String = uid.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {name}\r\n").as_bytes())?;
    let line = line(stream)?;
    if !line.starts_with(b"OK ") {
        return Err(malformed(&format!("it does not take us for user {uid}")));
    }
    let mut said = b"BEGIN\r\n".to_vec();
    if bus {
        said.extend(Call::hello());
        said.extend_from_slice(call);
        stream.write_all(&said)?;
        match answer(stream, HELLO_SERIAL)? {
            Answer::Done => {}
            refused @ Answer::Error { .. } => return Ok(refused),
        }
    } else {
        said.extend_from_slice(call);
        stream.write_all(&said)?;
    }
    answer(stream, CALL_SERIAL)
}

fn line(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
        if line.len() > MOST_LINE {
            return Err(malformed("a line without an end"));
        }
    }
    Ok(line)
}

fn answer(stream: &mut impl Read, to: u32) -> io::Result<Answer> {
    for _ in 0..MOST_BESIDE {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head)?;
        let whole = message::whole(&head).ok_or_else(|| malformed("a message that cannot be read"))?;
        let mut bytes = head.to_vec();
        bytes.resize(whole, 0);
        stream.read_exact(&mut bytes[HEAD..])?;
        let received = message::read(&bytes).ok_or_else(|| malformed("a message that cannot be read"))?;
        if received.answers == Some(to) {
            return Ok(received.answer);
        }
    }
    Err(malformed("anything but an answer"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::message::samples::{failure, success};
    use super::*;

    /// The other side, whose words are known before.
    struct Script {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Script {
        fn of(parts: &[&[u8]]) -> Self {
            Self { says: io::Cursor::new(parts.concat()), heard: Vec::new() }
        }
    }

    impl Read for Script {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.says.read(into)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const OK: &[u8] = b"OK 0123456789abcdef\r\n";

    #[test]
    fn one_says_who_one_is_and_hello_on_a_bus_only() {
        let (hello, done) = (success(HELLO_SERIAL), success(CALL_SERIAL));
        let mut direct = Script::of(&[OK, &done]);
        assert_eq!(hold(&mut direct, 0, false, b"call").unwrap(), Answer::Done);
        assert_eq!(direct.heard, b"\0AUTH EXTERNAL 30\r\nBEGIN\r\ncall");
        let mut bus = Script::of(&[OK, &hello, &done]);
        assert_eq!(hold(&mut bus, 1000, true, b"call").unwrap(), Answer::Done);
        let said = [b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n".to_vec(), Call::hello(), b"call".to_vec()].concat();
        assert_eq!(bus.heard, said);
    }

    #[test]
    fn only_the_answer_to_the_call_counts() {
        let (other, refused) = (success(9), failure(CALL_SERIAL, "a.b", "why"));
        let mut script = Script::of(&[OK, &other, &other, &refused]);
        let answer = Answer::Error { name: "a.b".into(), text: "why".into() };
        assert_eq!(hold(&mut script, 0, false, b"").unwrap(), answer);
        let mut refused = Script::of(&[OK, &failure(HELLO_SERIAL, "full", "too many")]);
        let answer = hold(&mut refused, 0, true, b"").unwrap();
        assert_eq!(answer, Answer::Error { name: "full".into(), text: "too many".into() });
    }

    #[test]
    fn whoever_speaks_otherwise_is_not_believed() {
        let endless = vec![b'O'; 10_000];
        let chatter = success(9).repeat(MOST_BESIDE);
        for says in [&b"REJECTED EXTERNAL\r\n"[..], &endless, &[OK, &[b'x'; 100]].concat(), &[OK, &chatter].concat()] {
            let error = hold(&mut Script::of(&[says]), 0, false, b"").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        let cut = hold(&mut Script::of(&[OK, &success(CALL_SERIAL)[..30]]), 0, false, b"").unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}
