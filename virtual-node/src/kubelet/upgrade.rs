//! How a client wants to stream: SPDY or WebSocket, and which protocol within. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::answer::{Refusal, Response, empty};

const SPDY: &str = "SPDY/3.1";
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The protocol within SPDY for processes, the best first. Before v4 an exit code could not be told, and before v3 a
/// terminal could not be resized.
const PROCESS_SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
const FORWARD_SPDY: &[&str] = &["portforward.k8s.io"];
/// The same for WebSocket. Before v5 the end of stdin could not be told, and before v4 no exit code.
const PROCESS_WEBSOCKET: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
/// SPDY within WebSocket messages, or one pair of channels per port.
const FORWARD_WEBSOCKET: &[&str] = &[TUNNEL, "v4.channel.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Process,
    Ports,
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// SPDY, with a protocol.
    Spdy(&'static str),
    /// WebSocket, with one channel per stream.
    WebSocket(&'static str),
    /// SPDY in WebSocket messages.
    Tunnel,
}

impl Agreed {
    /// Chooses, and makes the answer that says so.
    pub(crate) fn on(what: What, headers: &HeaderMap) -> Result<(Self, Response), Refusal> {
        if !lists(headers, &header::CONNECTION, "upgrade") {
            return Err(no_upgrade());
        }
        let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let agreed = if lists(headers, &header::UPGRADE, SPDY) {
            let known = if what == What::Process { PROCESS_SPDY } else { FORWARD_SPDY };
            let protocol = choose(&offered(headers, &STREAM_VERSION), known)?;
            answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(SPDY));
            answer.headers_mut().insert(STREAM_VERSION, HeaderValue::from_static(protocol));
            Self::Spdy(protocol)
        } else if lists(headers, &header::UPGRADE, "websocket") {
            let bad = |why| Refusal::new(StatusCode::BAD_REQUEST, why);
            if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
                return Err(bad("only version 13 of WebSocket is spoken here"));
            }
            let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
            let known = if what == What::Process { PROCESS_WEBSOCKET } else { FORWARD_WEBSOCKET };
            let protocol = choose(&offered(headers, &header::SEC_WEBSOCKET_PROTOCOL), known)?;
            let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("a bad key"))?;
            answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            answer.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            if protocol == TUNNEL { Self::Tunnel } else { Self::WebSocket(protocol) }
        } else {
            return Err(no_upgrade());
        };
        Ok((agreed, answer))
    }
}

fn no_upgrade() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "Upgrade request required")
}

/// Whether a header with a list holds this word.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    offered(headers, name).iter().any(|item| item.eq_ignore_ascii_case(word))
}

fn offered<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// The first that the client offers and that is known here: clients offer the best first.
fn choose(offered: &[&str], known: &'static [&'static str]) -> Result<&'static str, Refusal> {
    let common = offered.iter().find_map(|offer| known.iter().find(|known| *known == offer));
    common.copied().ok_or_else(|| {
        let text = format!(
            "unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        );
        let accepted = HeaderValue::from_static(known[0]);
        Refusal::new(StatusCode::FORBIDDEN, text).with_header(ACCEPTED_VERSIONS, accepted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn spdy(versions: &[&str]) -> HeaderMap {
        let mut all = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        all.extend(versions.iter().map(|version| ("x-stream-protocol-version", *version)));
        headers(&all)
    }

    fn websocket(protocols: &str) -> HeaderMap {
        headers(&[
            ("connection", "keep-alive, upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ])
    }

    #[test]
    fn the_best_common_protocol_is_taken() {
        let all = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];
        let (agreed, answer) = Agreed::on(What::Process, &spdy(&all)).unwrap();
        assert_eq!((agreed, answer.status().as_u16()), (Agreed::Spdy("v4.channel.k8s.io"), 101));
        assert_eq!(answer.headers()[&STREAM_VERSION], "v4.channel.k8s.io");
        let (agreed, _) = Agreed::on(What::Ports, &spdy(&["portforward.k8s.io"])).unwrap();
        assert_eq!(agreed, Agreed::Spdy("portforward.k8s.io"));
        let (agreed, answer) = Agreed::on(What::Process, &websocket("v5.channel.k8s.io, v4.channel.k8s.io")).unwrap();
        assert_eq!(agreed, Agreed::WebSocket("v5.channel.k8s.io"));
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert_eq!(Agreed::on(What::Ports, &websocket(TUNNEL)).unwrap().0, Agreed::Tunnel);
        let (agreed, _) = Agreed::on(What::Process, &websocket("channel.k8s.io")).unwrap();
        assert_eq!(agreed, Agreed::WebSocket("channel.k8s.io"));
        let (agreed, _) = Agreed::on(What::Ports, &websocket("v4.channel.k8s.io")).unwrap();
        assert_eq!(agreed, Agreed::WebSocket("v4.channel.k8s.io"));
    }

    #[test]
    fn what_cannot_be_agreed_is_said() {
        let refused = |what, headers| {
            let refusal = Agreed::on(what, &headers).unwrap_err();
            (refusal.status.as_u16(), refusal.text)
        };
        let (status, text) = refused(What::Process, spdy(&["v9.channel.k8s.io"]));
        assert_eq!(status, 403);
        assert!(
            text.starts_with("unable to negotiate protocol: client supports [v9.channel.k8s.io], server accepts [v4")
        );
        assert_eq!(refused(What::Process, spdy(&[])).0, 403);
        assert_eq!(refused(What::Ports, websocket("v5.channel.k8s.io")).0, 403);
        let none = (400, "Upgrade request required".to_owned());
        assert_eq!(refused(What::Process, HeaderMap::new()), none);
        assert_eq!(refused(What::Process, headers(&[("connection", "upgrade"), ("upgrade", "h2c")])), none);
        let old = headers(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")]);
        assert!(refused(What::Process, old).1.contains("version 13"));
    }
}
