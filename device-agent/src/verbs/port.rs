//! `kubectl port-forward`: connections to a port of a pod.
//!
//! A pod that shares the device's network has its ports on the device's loopback; one with a network of its own has them on
//! the loopback there.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hawser_wire::stream::StreamRefusal;
use tokio::net::{TcpSocket, TcpStream};

use crate::streams::service::{Connection, not_possible};

/// How long a connection to the device itself may take. Only a full queue makes it wait at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sockets of the network where the port is.
pub(super) struct Sockets {
    pub(super) v4: TcpSocket,
    pub(super) v6: io::Result<TcpSocket>,
}

/// Connects to a port of the device.
pub(super) async fn connect(port: u16) -> Result<Connection, StreamRefusal> {
    let sockets = TcpSocket::new_v4().map(|v4| Sockets { v4, v6: TcpSocket::new_v6() });
    let sockets = sockets.map_err(|error| not_possible(format!("the device gives no socket: {error}")))?;
    connect_with(sockets, "host", port).await
}

/// Connects to a port: by IPv4, else by IPv6. `network` is its name.
pub(super) async fn connect_with(sockets: Sockets, network: &str, port: u16) -> Result<Connection, StreamRefusal> {
    let Sockets { v4, v6 } = sockets;
    let stream = match to(Ok(v4), (Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(stream) => stream,
        Err(v4) => to(v6, (Ipv6Addr::LOCALHOST, port).into()).await.map_err(|v6| {
            // A container engine's words.
            not_possible(format!(
                "failed to connect to localhost:{port} inside namespace {network:?}, IPv4: {}, IPv6: {}",
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

async fn to(socket: io::Result<TcpSocket>, address: SocketAddr) -> io::Result<TcpStream> {
    tokio::time::timeout(PATIENCE, socket?.connect(address)).await?
}

fn word(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
