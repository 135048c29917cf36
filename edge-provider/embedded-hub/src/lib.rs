//! The embedded hub: an MQTT 3.1.1 broker for a lab, a desk or a small site.
//!
//! It is rumqttd's router behind a front of ours. The front owns every socket and the whole of each client's MQTT
//! session; the router only carries messages from connection to connection, under names of our own, so nothing that a
//! client sends reaches its code except as opaque bytes. `docs/decisions/0002-embedded-hub-behind-a-front.md` says why.
//!
//! ```text
//! socket → accept → tls → connection ─→ router handle → router thread (rumqttd)
//!                          │  session (pure)                  │
//!                          └──────────── pump ←───────────────┘
//! ```
//!
//! # What a client can rely on
//!
//! - MQTT 3.1.1 over TCP, and over TLS when configured. An MQTT 5 client gets a CONNACK "unsupported protocol version"
//!   (0x84), any other version one with return code 1.
//! - QoS 0 and 1 both ways. A publish at QoS 2 is taken exactly once and delivered at QoS 1; a subscription at QoS 2 is
//!   granted QoS 1.
//! - Wildcards `+` and `#` within what the role may see. `$share` and `$SYS` do not exist here.
//! - A message that matches several subscriptions of a client is delivered once, at the highest of their QoS.
//! - The last will is published whenever the connection ends without DISCONNECT, before a client that takes over the
//!   same client id is let in. Nobody is told by it when the hub itself stops: everybody is disconnected anyhow.
//!
//! # What does not exist, on purpose
//!
//! - **Retained messages.** The retain flag is cleared; the message goes to whoever is subscribed now.
//! - **Sessions that outlive a connection.** `clean_session = false` is accepted and answered with "no session present".
//! - **A fair share for a device that floods.** While a bridge's queue is more than half full, all devices are read more
//!   slowly, so that the bridge is not lost to the flood.
//! - **Queues for clients that are away, or too slow.** A subscriber whose bounded queue is full is disconnected: it
//!   comes back and converges, instead of missing a message in silence.
//!
//! # Who may do what
//!
//! | role | client id | username | publishes | subscribes |
//! |---|---|---|---|---|
//! | device `N` | `agent-N` | `N` | `<root>/N/up/#`, `<root>/N/presence` | `<root>/N/down/#` |
//! | bridge | `bridge-<anything>` | `bridge` | `<root>/+/down/#` | `<root>/+/up/#`, `<root>/+/presence` |
//!
//! A forbidden subscription is answered with 0x80; a forbidden publish ends the connection with a log line.
//! By default devices need no password ([`Devices::Open`]): what protects the workloads is the end-to-end session, and
//! a stranger on the hub sees ciphertext at most.
//!
//! A second connection with the same client id takes over: the first is closed and its will published, then the second
//! is let in.

mod accounts;
mod acl;
mod codec;
mod config;
mod connection;
mod doorman;
mod hub;
mod metrics;
mod pressure;
mod rate;
mod router;
mod session;
mod tls;

pub use accounts::{Accounts, BRIDGE_USERNAME, Devices, Password};
pub use acl::{AGENT_CLIENT_PREFIX, BRIDGE_CLIENT_PREFIX};
pub use config::{ConfigError, HubConfig, Limits, TlsConfig};
pub use hub::{Hub, StartError, StopReport};
pub use metrics::{Closed, HubMetrics, Refused};
pub use tls::TlsError;
