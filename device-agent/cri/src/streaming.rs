//! The engine's streaming server: HTTP on the device's loopback, upgraded to SPDY/3.1.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long the connection and the answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer's head is longer, and no more is read of the body that says what is wrong.
const MAX_HEAD: u64 = 8 * 1024;
const MAX_WORDS: u64 = 1024;

/// Where streams can be had, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    address: SocketAddr,
    target: String,
}

/// An address that the engine gave and that is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the engine's streaming server is at {url:?}, {why}")]
pub struct BadEndpoint {
    url: String,
    why: &'static str,
}

/// What goes both ways after the upgrade.
pub type Transport = BufReader<TcpStream>;

impl Endpoint {
    /// Reads an address. Only the device's own loopback is spoken to, and only in the clear: whatever else it is, it would
    /// lead commands and their input out of the device, or to somebody who is not the engine.
    pub fn parse(url: &str) -> Result<Self, BadEndpoint> {
        let bad = |why| BadEndpoint { url: url.chars().take(200).collect(), why };
        let uri: Uri = url.parse().map_err(|_| bad("which is no address"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(bad("which wants TLS: disable it (in containerd, enable_tls_streaming = false)"));
            }
            _ => return Err(bad("which is not HTTP")),
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let address = if host == "localhost" { Ok(Ipv4Addr::LOCALHOST.into()) } else { host.parse() };
        let address =
            SocketAddr::new(address.map_err(|_| bad("which is no IP address"))?, uri.port_u16().unwrap_or(80));
        if !address.ip().is_loopback() {
            return Err(bad("not on loopback: let it listen at 127.0.0.1 (in containerd, stream_server_address)"));
        }
        let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { address, target })
    }

    /// Asks for the streams in this protocol.
    pub async fn upgrade(&self, protocol: &str) -> io::Result<Transport> {
        let upgraded = tokio::time::timeout(PATIENCE, self.asked(protocol)).await;
        upgraded
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the streaming server does not answer")))
    }

    async fn asked(&self, protocol: &str) -> io::Result<Transport> {
        let stream = TcpStream::connect(self.address).await?;
        // Keystrokes are not to wait for each other.
        stream.set_nodelay(true)?;
        let mut transport = BufReader::with_capacity(1024, stream);
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
             X-Stream-Protocol-Version: {protocol}\r\n\r\n",
            self.target, self.address
        );
        transport.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        // What comes after the head stays in the buffer.
        while !head.ends_with(b"\r\n\r\n") {
            let left = MAX_HEAD.saturating_sub(head.len() as u64);
            if (&mut transport).take(left).read_until(b'\n', &mut head).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no streaming server"));
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        match verdict(&head, protocol) {
            Verdict::Upgraded => Ok(transport),
            Verdict::Refused(status) => {
                let mut words = Vec::new();
                // Whatever comes of them is better than nothing.
                let mut body = transport.take(length(&head).min(MAX_WORDS));
                let _ = tokio::time::timeout(Duration::from_secs(1), body.read_to_end(&mut words)).await;
                let words = String::from_utf8_lossy(&words);
                Err(io::Error::other(format!("the streaming server says {status}: {}", words.trim())))
            }
            Verdict::Foreign(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Upgraded,
    /// With this status.
    Refused(u16),
    Foreign(&'static str),
}

/// What the head of an answer says.
fn verdict(head: &str, protocol: &str) -> Verdict {
    let line = head.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
    match status {
        Some(101) => match header(head, "x-stream-protocol-version") {
            Some(agreed) if agreed == protocol => Verdict::Upgraded,
            _ => Verdict::Foreign("the streaming server speaks another version of the streams"),
        },
        Some(status) => Verdict::Refused(status),
        None => Verdict::Foreign("what answers is no streaming server"),
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

fn length(head: &str) -> u64 {
    header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(MAX_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_devices_own_loopback_is_spoken_to() {
        let parse = |url: &str| Endpoint::parse(url).map(|end| format!("{} {}", end.address, end.target));
        assert_eq!(parse("http://127.0.0.1:4001/exec/t0ken"), Ok("127.0.0.1:4001 /exec/t0ken".into()));
        assert_eq!(parse("http://[::1]:4001/attach/x?y=z"), Ok("[::1]:4001 /attach/x?y=z".into()));
        assert_eq!(parse("http://localhost:7/exec/x"), Ok("127.0.0.1:7 /exec/x".into()));
        for (url, why) in [
            ("http://10.0.0.7:4001/exec/x", "not on loopback"),
            ("http://0.0.0.0:4001/exec/x", "not on loopback"),
            ("http://127.0.0.1.example.org/exec/x", "no IP address"),
            ("https://127.0.0.1:4001/exec/x", "wants TLS"),
            ("/exec/x", "not HTTP"),
            ("ftp://127.0.0.1/x", "not HTTP"),
            ("", "no address"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn an_answer_is_an_upgrade_to_what_was_asked_or_says_what_is_wrong() {
        let v4 = "v4.channel.k8s.io";
        for (head, expected) in [
            (
                "HTTP/1.1 101 Switching Protocols\r\nx-stream-protocol-version: v4.channel.k8s.io\r\n\r\n",
                Verdict::Upgraded,
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Verdict::Refused(404)),
            ("HTTP/1.1 101 x\r\nX-Stream-Protocol-Version: v1\r\n\r\n", Verdict::Foreign("")),
            ("HTTP/1.1 101 x\r\n\r\n", Verdict::Foreign("")),
            ("HTTP/2 x\r\n\r\n", Verdict::Foreign("")),
            ("+OK\r\n\r\n", Verdict::Foreign("")),
            ("\u{e9}\u{e9}HTTP/1.\u{e9}\r\n\r\n", Verdict::Foreign("")),
        ] {
            let verdict = verdict(head, v4);
            let same = match (&verdict, &expected) {
                (Verdict::Foreign(_), Verdict::Foreign(_)) => true,
                (one, other) => one == other,
            };
            assert!(same, "{head:?}: {verdict:?}");
        }
    }

    #[tokio::test]
    async fn what_was_said_after_the_head_is_not_lost_and_a_refusal_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/exec/x", listener.local_addr().unwrap());
        let serving = async {
            for answer in [
                "HTTP/1.1 101 Switching Protocols\r\nX-Stream-Protocol-Version: v4\r\n\r\nat once",
                "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\nno such token\n",
                "no end of this line",
            ] {
                let (mut peer, _) = listener.accept().await.unwrap();
                let mut heard = [0; 20];
                peer.read_exact(&mut heard).await.unwrap();
                assert!(heard.starts_with(b"POST /exec/x HTTP"));
                peer.write_all(answer.as_bytes()).await.unwrap();
                peer.shutdown().await.unwrap();
                let mut rest = Vec::new();
                let _ = peer.read_to_end(&mut rest).await;
            }
        };
        let asking = async {
            let endpoint = Endpoint::parse(&url).unwrap();
            let mut text = String::new();
            endpoint.upgrade("v4").await.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "at once");
            let refused = endpoint.upgrade("v4").await.unwrap_err();
            assert_eq!(refused.to_string(), "the streaming server says 404: no such token");
            let foreign = endpoint.upgrade("v4").await.unwrap_err();
            assert_eq!(foreign.kind(), io::ErrorKind::InvalidData);
        };
        tokio::join!(serving, asking);
    }
}
