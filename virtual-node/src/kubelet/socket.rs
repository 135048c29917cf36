//! A TCP connection that is looked at while somebody else reads and writes it, to know when the client has gone.
//!
//! Who waits for a slow command to take its input reads nothing, and so never comes to the end that lies behind what is
//! unread. And a client whose machine has vanished says no end at all.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// How often is looked. It costs no system call.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a silent client is asked for a sign of life before it is taken for gone.
const ASKED: u32 = 3;

/// The connection, for whoever moves bytes.
#[derive(Debug)]
pub(super) struct Socket(Arc<TcpStream>);

/// The connection, for whoever only wants to know.
#[derive(Debug)]
pub(super) struct Watch(Arc<TcpStream>);

/// Takes a connection over. A client that gives no sign of life for `vanished` has gone.
pub(super) fn watched(stream: TcpStream, vanished: Duration) -> (Socket, Watch) {
    // Without either it works too, only worse.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive(vanished));
    let stream = Arc::new(stream);
    (Socket(Arc::clone(&stream)), Watch(stream))
}

/// The kernel asks, not we: what we would say to a client that does not read could not be told from what is lost, and
/// the kernel tries for a quarter of an hour to deliver that. It begins to ask after half of the time.
fn keepalive(vanished: Duration) -> socket2::TcpKeepalive {
    let half = vanished / 2;
    socket2::TcpKeepalive::new().with_time(half).with_interval(half / ASKED).with_retries(ASKED)
}

impl Watch {
    /// Ends when the client will say nothing more, though what it has said may not all have been read.
    pub(super) async fn hung_up(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let ready = self.0.ready(Interest::READABLE).now_or_never();
            if ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed())) {
                return;
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(into.initialize_unfilled()) {
                // Somebody was faster, or it was a false alarm: wait again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|count| into.advance(count))),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}
