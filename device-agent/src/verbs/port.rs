//! `kubectl port-forward`: connections to a port of a pod.
//!
//! Pods of the `process` runtime share the device's network, so a port of the pod is a port of the device's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hawser_wire::stream::StreamRefusal;
use tokio::net::TcpStream;

use crate::streams::service::{Connection, not_possible};

/// How long a connection to the device itself may take. Only a full queue makes it wait at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to the port: by IPv4, else by IPv6.
pub(super) async fn connect(port: u16) -> Result<Connection, StreamRefusal> {
    let stream = match to(Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => stream,
        Err(v4) => to(Ipv6Addr::LOCALHOST.into(), port).await.map_err(|v6| {
            // A container engine's words.
            not_possible(format!(
                "failed to connect to localhost:{port} inside namespace \"host\", IPv4: {}, IPv6: {}",
                word(&v4),
                word(&v6)
            ))
        })?,
    };
    // Keystrokes and small answers are not to wait for each other.
    let _ = stream.set_nodelay(true);
    let (output, input) = stream.into_split();
    Ok(Connection { output: Box::pin(output), input: Box::pin(input) })
}

async fn to(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    tokio::time::timeout(PATIENCE, TcpStream::connect(SocketAddr::new(address, port))).await?
}

fn word(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
