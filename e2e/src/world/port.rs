//! A port that nobody else takes, for a program that must find it again after it was killed.
//!
//! A port that the system chose is in the range from which it also serves every outgoing connection, and one of those may
//! get it while the program is down. This one is outside of that range, and a name that only one process can hold at a time
//! keeps other stories off. The name is in the same network namespace as the port, and goes with its process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;

use anyhow::{Result, bail};

/// Outgoing connections have ports from here up, unless the system says otherwise.
const EPHEMERAL: Range<u16> = 32768..61000;
/// Below are ports that people know by heart.
const FIRST: u16 = 10_000;

/// An address of 127.0.0.1, held until this is dropped.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: UnixListener,
}

impl Port {
    /// Takes one that nobody listens on and nobody holds.
    pub fn take() -> Result<Self> {
        let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let range = beside(ephemeral.ok().and_then(|text| parse(&text)).unwrap_or(EPHEMERAL));
        for _ in 0..200 {
            let mut random = [0; 2];
            getrandom::fill(&mut random)?;
            let port = range.start + u16::from_ne_bytes(random) % (range.end - range.start);
            if let Some(taken) = Self::try_take(port) {
                return Ok(taken);
            }
        }
        bail!("200 ports of {range:?} were tried and all are in use")
    }

    fn try_take(port: u16) -> Option<Self> {
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("hawser-e2e-port-{port}")).ok()?;
        let held = UnixListener::bind_addr(&name).ok()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Somebody who does not know our names may listen there.
        TcpListener::bind(address).ok()?;
        Some(Self { address, _held: held })
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn parse(text: &str) -> Option<Range<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..last.trim().parse::<u16>().ok()?.saturating_add(1))
}

/// Ports that are not in the range: those below it if there are many, else those above.
fn beside(ephemeral: Range<u16>) -> Range<u16> {
    let (below, above) = (FIRST..ephemeral.start, ephemeral.end..u16::MAX);
    if below.len() >= above.len() { below } else { above }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_outside_of_what_the_system_gives_to_connections() {
        assert_eq!(parse("32768\t60999\n"), Some(32768..61000));
        assert_eq!(beside(32768..61000), 10_000..32768);
        assert_eq!(beside(1024..30_000), 30_000..u16::MAX);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn a_port_has_one_holder_and_is_free_again_afterwards() {
        let first = Port::take().unwrap();
        let port = first.address().port();
        assert!(Port::try_take(port).is_none());
        drop(first);
        let again = Port::try_take(port).unwrap();
        // Its holder may listen on it.
        TcpListener::bind(again.address()).unwrap();
    }
}
