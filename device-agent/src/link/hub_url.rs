//! Where the hub is: `mqtt://host[:port]` or `mqtts://host[:port]`. Pure.

use std::fmt;

/// The address of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host name or address; an IPv6 address in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Not the address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` is not the address of a hub: {why}; write mqtt://host[:port] or mqtts://host[:port]")]
pub struct InvalidHubUrl {
    url: String,
    why: &'static str,
}

impl HubUrl {
    /// Reads the address.
    pub fn parse(url: &str) -> Result<Self, InvalidHubUrl> {
        let invalid = |why| InvalidHubUrl { url: url.chars().take(200).collect(), why };
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            Some(_) => return Err(invalid("only mqtt and mqtts are spoken")),
            None => return Err(invalid("it does not say how to speak to it")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(invalid("user and password do not belong into it (the user is the device's name)"));
        }
        let (host, port) = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((address, port)) => {
                address.parse::<std::net::Ipv6Addr>().map_err(|_| invalid("what is in brackets is no IPv6 address"))?;
                (&rest[..address.len() + 2], port.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
            return Err(invalid("the host is missing or has characters that no host name has"));
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| invalid("the port is no port"))?,
            None if tls => 8883,
            None => 1883,
        };
        if tls && host.starts_with('[') {
            return Err(invalid("TLS needs a name that the hub's certificate carries, not an IPv6 address"));
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "mqtts" } else { "mqtt" }, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, tls, host, port) in [
            ("mqtt://hub", false, "hub", 1883),
            ("mqtts://hub.example:443/", true, "hub.example", 443),
            ("mqtt://10.0.0.1:1884", false, "10.0.0.1", 1884),
            ("mqtt://[::1]:99", false, "[::1]", 99),
            ("mqtt://[fe80::1]", false, "[fe80::1]", 1883),
        ] {
            let expected = HubUrl { tls, host: host.to_owned(), port };
            assert_eq!(HubUrl::parse(text), Ok(expected.clone()), "{text}");
            assert_eq!(HubUrl::parse(&expected.to_string()), Ok(expected));
        }
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for bad in [
            "",
            "hub",
            "hub:1883",
            "http://hub",
            "mqtt://",
            "mqtt://:1",
            "mqtt://hub:0",
            "mqtt://hub:70000",
            "mqtt://user:pw@hub",
            "mqtt://a b",
            "mqtt://[::1",
            "mqtt://[x]:1",
            "mqtts://[::1]",
            "mqtt://hub/path",
        ] {
            let error = HubUrl::parse(bad).unwrap_err().to_string();
            assert!(error.contains("mqtt://host[:port]"), "{bad}: {error}");
        }
    }
}
