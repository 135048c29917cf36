//! The streams of a command in a container, or of a container's own program: `v4.channel.k8s.io` over SPDY.

use std::future::Future;
use std::io;

use hawser_spdy::{Ended, Headers, Limits, Stream};
pub use hawser_spdy::{Reader, Writer};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streaming::Endpoint;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// No status is longer.
const MAX_STATUS: u64 = 64 * 1024;
/// The engine is as near as anybody can be, and devices have little memory.
const LIMITS: Limits = Limits {
    streams: 8,
    stream_buffer: 32 << 10,
    connection_buffer: 96 << 10,
    headers: 4 << 10,
    send_buffer: 32 << 10,
};

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What goes in.
    pub stdin: bool,
    /// What comes out.
    pub stdout: bool,
    /// What comes out beside it. With a terminal there is none.
    pub stderr: bool,
    /// They are a terminal, which has a size.
    pub tty: bool,
}

/// The streams.
#[derive(Debug)]
pub struct Streams {
    /// There if it was asked for.
    pub stdin: Option<Writer>,
    /// There if it was asked for.
    pub stdout: Option<Reader>,
    /// There if it was asked for.
    pub stderr: Option<Reader>,
    /// There if there is a terminal.
    pub size: Option<Size>,
    /// How it ends.
    pub outcome: Outcome,
    /// What is held of all of them. While it is, dropping one tells the engine nothing.
    pub rest: Rest,
}

/// What is held of streams.
#[derive(Debug, Default)]
pub struct Rest {
    readers: Vec<Reader>,
    writers: Vec<Writer>,
}

/// Opens the streams behind this address. The future moves their bytes and has to be run; dropping it hangs up.
pub async fn open(
    at: &Endpoint,
    wanted: Wanted,
) -> io::Result<(Streams, impl Future<Output = Result<(), Ended>> + Send + 'static)> {
    let (handle, driver) = hawser_spdy::connect(at.upgrade(PROTOCOL).await?, LIMITS);
    let open = |kind: &str| handle.open(&Headers::from_iter([("streamtype", kind)])).map(Stream::split);
    let mut rest = Rest::default();
    // The engine begins when it has all of them, whatever their order.
    let (outcome, _) = open("error")?;
    let mut input = |kind: &str| {
        let (reader, writer) = open(kind)?;
        rest.readers.push(reader);
        Ok::<_, Ended>(writer)
    };
    let stdin = wanted.stdin.then(|| input("stdin")).transpose()?;
    let size = wanted.tty.then(|| input("resize").map(Size)).transpose()?;
    let mut output = |kind: &str| {
        let (reader, writer) = open(kind)?;
        rest.writers.push(writer);
        Ok::<_, Ended>(reader)
    };
    let stdout = wanted.stdout.then(|| output("stdout")).transpose()?;
    let stderr = (wanted.stderr && !wanted.tty).then(|| output("stderr")).transpose()?;
    Ok((Streams { stdin, stdout, stderr, size, outcome: Outcome(outcome), rest }, driver.run()))
}

/// The size of a terminal.
#[derive(Debug)]
pub struct Size(Writer);

impl Size {
    /// Tells the program.
    pub async fn set(&mut self, columns: u16, rows: u16) -> io::Result<()> {
        self.0.write_all(format!("{{\"Width\":{columns},\"Height\":{rows}}}\n").as_bytes()).await
    }
}

/// How it ends.
#[derive(Debug)]
pub struct Outcome(Reader);

/// Why there is no exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoExit {
    /// The engine says so: nothing runs.
    Told(String),
    /// The engine went away without a word: whether something runs is not known.
    Lost,
}

impl Outcome {
    /// The exit code.
    pub async fn wait(self) -> Result<i32, NoExit> {
        let mut text = Vec::new();
        // Engines that have said all hang up at once, which is no failure.
        let _ = self.0.take(MAX_STATUS).read_to_end(&mut text).await;
        if text.is_empty() { Err(NoExit::Lost) } else { exit_code(&text).map_err(NoExit::Told) }
    }
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    causes: Option<Vec<Cause>>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// What the engine says at the end.
fn exit_code(status: &[u8]) -> Result<i32, String> {
    let status: Status =
        serde_json::from_slice(status).map_err(|_| "the container engine's last word makes no sense".to_owned())?;
    if status.status == "Success" {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason == "ExitCode").and_then(|cause| cause.message.parse().ok());
    match code {
        Some(code) if status.reason == "NonZeroExitCode" => Ok(code),
        _ if status.message.is_empty() => Err("the container engine says that it failed, and not why".to_owned()),
        _ => Err(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_last_word_is_an_exit_code_or_a_sentence() {
        for (status, expected) in [
            (r#"{"metadata":{},"status":"Success"}"#, Ok(0)),
            (
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: …",
                "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#,
                Ok(42),
            ),
            (
                r#"{"status":"Failure","message":"no such program","reason":"InternalError",
                "details":{"causes":[{"message":"x"}]},"code":500}"#,
                Err("no such program"),
            ),
            (
                r#"{"status":"Failure","message":"m","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"many"}]}}"#,
                Err("m"),
            ),
            (
                r#"{"status":"Failure","details":{"causes":null}}"#,
                Err("the container engine says that it failed, and not why"),
            ),
            ("{", Err("the container engine's last word makes no sense")),
            ("[]", Err("the container engine's last word makes no sense")),
        ] {
            assert_eq!(exit_code(status.as_bytes()), expected.map_err(str::to_owned), "{status}");
        }
    }
}
