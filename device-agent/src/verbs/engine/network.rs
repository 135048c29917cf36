//! Connections to ports of a pod with a network of its own.
//!
//! The sockets are made by a thread that enters that network for it, and belong to it for ever; everything else is as for
//! any connection.

use std::net::TcpStream as StdStream;
use std::os::fd::{AsFd, OwnedFd};

use hawser_wire::stream::StreamRefusal;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use crate::runtime::cri::Network;
use crate::streams::service::{Connection, failed};
use crate::verbs::port::{self, Sockets};

/// All that the thread does is to ask the kernel thrice.
const STACK: usize = 64 * 1024;

/// Connects to a port.
pub(super) async fn connect(network: Network, port: u16) -> Result<Connection, StreamRefusal> {
    let Network { namespace, name } = network;
    let namespace = namespace.ok_or_else(|| failed("the container engine does not tell the network of the pod"))?;
    let made = enter(namespace).await.map_err(|error| failed(format!("enter the network of the pod: {error}")))?;
    port::connect_with(made, &name, port).await
}

async fn enter(namespace: OwnedFd) -> std::io::Result<Sockets> {
    let (tell, told) = oneshot::channel();
    // A thread of its own, which ends: in another network it must serve nobody else.
    std::thread::Builder::new().name("pod network".to_owned()).stack_size(STACK).spawn(move || {
        // Nobody waits any more: the client has gone.
        let _ = tell.send(make(&namespace));
    })?;
    let (v4, v6) = told.await.map_err(std::io::Error::other)??;
    let socket = |fd: OwnedFd| TcpSocket::from_std_stream(StdStream::from(fd));
    Ok(Sockets { v4: socket(v4), v6: v6.map(socket) })
}

/// A kernel may be without IPv6.
fn make(namespace: &OwnedFd) -> std::io::Result<(OwnedFd, std::io::Result<OwnedFd>)> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = |family| socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP));
    Ok((socket(AddressFamily::INET)?, socket(AddressFamily::INET6).map_err(Into::into)))
}
