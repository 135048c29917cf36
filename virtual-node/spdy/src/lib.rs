//! SPDY/3.1 as Kubernetes uses it: the streams of `kubectl exec`, `attach` and `port-forward`, multiplexed over one
//! connection that an HTTP upgrade has handed over. Both roles: the server is what a kubelet is, the client what an API
//! server or `kubectl` is.
//!
//! ```
//! # use hawser_spdy::{connect, serve, Headers, Limits};
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (here, there) = tokio::io::duplex(4096);
//! let (client, client_driver) = connect(here, Limits::default());
//! let (server, server_driver) = serve(there, Limits::default());
//! let drivers = async { tokio::join!(client_driver.run(), server_driver.run()) };
//! let talk = async {
//!     let mut ours = client.open(&Headers::from_iter([("streamtype", "stdin")]))?;
//!     let (headers, mut theirs) = server.accept().await?.accept(&Headers::default())?;
//!     assert_eq!(headers.get("streamType"), Some("stdin"));
//!     ours.write_all(b"hello").await?;
//!     ours.shutdown().await?;
//!     let mut text = String::new();
//!     theirs.read_to_string(&mut text).await?;
//!     assert_eq!(text, "hello");
//!     client.close();
//!     server.close();
//!     Ok::<_, std::io::Error>(())
//! };
//! tokio::join!(drivers, talk).1?;
//! # Ok(()) }
//! ```
//!
//! # How it is made
//!
//! [`Decoder`] and [`Encoder`] are the codec, without IO. A connection is a state behind one lock, a [`Driver`] that
//! somebody must run (it is the only one that touches the transport), a [`Handle`] that opens and accepts streams, and the
//! [`Stream`]s. Nothing is spawned here: when the driver is dropped, everything ends with an error.
//!
//! # What the dialect leaves out
//!
//! Peers in Kubernetes have no flow control, so SETTINGS and WINDOW_UPDATE are read and ignored. A stream whose reader is
//! slow fills its buffer, then stops the reading of the whole connection: memory stays bounded, and the other streams of
//! that connection wait. HEADERS frames are decompressed, since the compression spans them, and otherwise only their FIN
//! matters.

mod connection;
mod decode;
mod dictionary;
mod error;
mod frame;
mod headers;
mod state;
mod stream;
mod zlib;

pub use connection::{Driver, Handle, connect, serve};
pub use decode::{Decoder, Event};
pub use error::{Ended, ProtocolError};
pub use frame::{Encoder, GoAwayStatus, Limits, MAX_FRAME, ResetStatus, Role, StreamId};
pub use headers::Headers;
pub use stream::{Incoming, Reader, Stream, Writer};
