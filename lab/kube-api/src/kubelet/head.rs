//! What of a request's head is passed on to a kubelet, and what is not.

use http::Request;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::Peer;

/// What follows `/api/v1/nodes/<name>/proxy`, as it was sent.
pub(super) fn after_proxy(path: &str) -> &str {
    let mut rest = path;
    for _ in 0..5 {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').map_or("", |end| &rest[end..]);
    }
    rest
}

pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

/// HTTP/2 has the host in the URI.
pub(super) fn keep_host<B>(request: &mut Request<B>) {
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// Takes the client's credentials away, and says for whom this is.
pub(super) fn forwarded(head: &mut Parts) {
    head.headers.remove(header::AUTHORIZATION);
    let names: Vec<HeaderName> =
        head.headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in names {
        head.headers.remove(name);
    }
    let Some(Peer(peer)) = head.extensions.get::<Peer>() else { return };
    let name = HeaderName::from_static("x-forwarded-for");
    let before: Vec<&str> = head.headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = before.into_iter().map(str::to_owned).chain([peer.ip().to_string()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        head.headers.insert(name, value);
    }
}

/// Takes away what is between two neighbours only.
pub(super) fn drop_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let fixed = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in named.into_iter().chain(fixed) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_is_kept_as_it_was_sent() {
        for (path, rest) in [
            ("/api/v1/nodes/n/proxy", ""),
            ("/api/v1/nodes/n/proxy/", "/"),
            ("/api/v1/nodes/n/proxy/stats/summary", "/stats/summary"),
            ("/api/v1//nodes/n/proxy/a%2Fb//c", "/a%2Fb//c"),
        ] {
            assert_eq!(after_proxy(path), rest);
        }
    }

    #[test]
    fn credentials_and_hops_are_not_passed_on() {
        let request = Request::builder()
            .header("authorization", "Bearer x")
            .header("x-remote-user", "root")
            .header("x-forwarded-for", "10.0.0.1")
            .header("connection", "close, x-mine")
            .header("x-mine", "1")
            .header("accept", "*/*")
            .extension(Peer(std::net::SocketAddr::from(([127, 0, 0, 1], 9))))
            .body(());
        let (mut head, ()) = request.unwrap_or_else(|error| panic!("{error}")).into_parts();
        forwarded(&mut head);
        drop_hops(&mut head.headers);
        let mut left: Vec<_> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or(""))).collect();
        left.sort();
        assert_eq!(left, ["accept: */*", "x-forwarded-for: 10.0.0.1, 127.0.0.1"]);
    }
}
