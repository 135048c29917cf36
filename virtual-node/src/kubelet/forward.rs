//! `/portForward`.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::answer::{Ask, Refusal, Response};
use super::serve::Session;
use super::session::Dial;
use super::upgrade::{Agreed, What};
use super::{spdy, websocket};
use crate::provider::Provider;

/// Two channels each, and a channel is a byte.
const PORTS: usize = 64;

/// The ports of a client that names them all at once, in a kubelet's words if they make no sense.
fn ports(query: &[(String, String)]) -> Result<Vec<u16>, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let names =
        query.iter().filter(|(name, _)| name == "port" || name == "ports").flat_map(|(_, value)| value.split(','));
    let mut ports = Vec::new();
    for name in names {
        let port: u16 = name.parse().map_err(|_| bad(format!("unable to parse {name:?} as a port")))?;
        if port == 0 {
            return Err(bad(format!("port {name:?} must be > 0")));
        }
        ports.push(port);
    }
    match ports.len() {
        0 => Err(bad("query parameter \"port\" is required".to_owned())),
        1..=PORTS => Ok(ports),
        _ => Err(bad(format!("at most {PORTS} ports can be forwarded by one connection"))),
    }
}

pub(crate) fn stream<P: Provider>(ask: Ask<P>, request: Request<Incoming>) -> Result<(Response, Session), Refusal> {
    let (agreed, response) = Agreed::on(What::Ports, request.headers())?;
    let ports = match agreed {
        Agreed::WebSocket(_) => ports(&ask.query)?,
        Agreed::Spdy(_) | Agreed::Tunnel => Vec::new(),
    };
    let (patience, pod) = (ask.patience, format!("{}, uid {}", ask.pod.name, ask.pod.uid));
    let ask = Arc::new(ask);
    let dial: Dial = Arc::new(move |port| {
        let ask = Arc::clone(&ask);
        Box::pin(async move { ask.limited(ask.provider.port_forward(&ask.node, &ask.pod, port)).await })
    });
    let session = async move {
        // A client that hangs up here has asked for nothing.
        let Ok(transport) = hyper::upgrade::on(request).await else { return };
        let transport = TokioIo::new(transport);
        match agreed {
            Agreed::Spdy(_) => spdy::forward(transport, pod, dial, patience).await,
            Agreed::Tunnel => spdy::forward(websocket::Tunnel::new(transport).await, pod, dial, patience).await,
            Agreed::WebSocket(_) => websocket::forward(transport, ports, pod, dial, patience).await,
        }
    };
    Ok((response, Box::pin(session)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::route;

    #[test]
    fn ports_are_read_and_nonsense_is_named() {
        let read = |query| ports(&route::query(Some(query))).map_err(|refusal| refusal.text);
        assert_eq!(read("port=80&port=443,8080"), Ok(vec![80, 443, 8080]));
        assert_eq!(read("ports=80"), Ok(vec![80]));
        assert_eq!(read(""), Err("query parameter \"port\" is required".into()));
        assert_eq!(read("port=x"), Err("unable to parse \"x\" as a port".into()));
        assert_eq!(read("port=70000"), Err("unable to parse \"70000\" as a port".into()));
        assert_eq!(read("port=0"), Err("port \"0\" must be > 0".into()));
        assert!(read(&format!("port={}", vec!["1"; 65].join(","))).unwrap_err().starts_with("at most 64"));
    }
}
