//! The way to the kubelet of a node: `log`, `exec`, `attach` and `portforward` of pods, `proxy` of nodes.
//!
//! The server finds the pod, its node and the address that the node's status says, and passes on what is asked, as the
//! real server does: the kubelet sees the API server's client certificate and never the client's own credentials, the
//! client gets the kubelet's answer, and both are cut off when either is gone.
//!
//! Upgraded connections are passed through byte by byte, whatever they speak: WebSockets (`v5.channel.k8s.io` for
//! kubelets that declare `ExtendWebSocketsToKubelet`, `v4.channel.k8s.io` for the Python client and kube-rs,
//! `SPDY/3.1+portforward.k8s.io`) and SPDY/3.1. A real server translates the first and the last of these for kubelets that do not
//! declare it. This one does not: such a kubelet refuses them itself, and kubectl then comes again with SPDY.
//!
//! One more difference: the real server refuses `nodes/<name>/proxy` to nodes on loopback addresses, where all of the
//! lab is.

mod dial;
mod endpoint;
mod head;
mod options;
mod relay;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use self::endpoint::Endpoint;
use self::options::Query;
use crate::auth::authority::Authority;
use crate::http::path::Target;
use crate::http::reply::Body;
use crate::object::text;
use crate::refusal::Refusal;
use crate::registry::builtin;
use crate::server::{Shared, TlsError};
use crate::store::{Object, Store};

/// Connections to kubelets beyond this are refused.
const MAX_CONNECTIONS: usize = 1024;

/// What all requests to kubelets share.
pub(crate) struct Kubelets {
    connector: TlsConnector,
    /// The types of node addresses, the most preferred first.
    addresses: Vec<String>,
    /// The tasks of all connections: each ends with its client, its kubelet, or the server.
    connections: TaskTracker,
    places: Arc<Semaphore>,
}

impl Kubelets {
    pub(crate) fn new(authority: &Authority, addresses: Vec<String>) -> Result<Self, TlsError> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Ok(Self { connector: dial::connector(authority)?, addresses, connections: TaskTracker::new(), places })
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        MAX_CONNECTIONS - self.places.available_permits()
    }

    /// Waits until all connections have ended, which they do when the server stops.
    pub(crate) async fn close(&self, within: Duration) {
        self.connections.close();
        if tokio::time::timeout(within, self.connections.wait()).await.is_err() {
            tracing::warn!(open = self.open(), "connections to kubelets did not end in time");
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// What a client wants of a kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    Log,
    Exec,
    Attach,
    PortForward,
    NodeProxy,
}

impl Errand {
    /// The errand of a request, if it is one for a kubelet.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        if !target.group.is_empty() || target.version != "v1" || target.name.is_none() {
            return None;
        }
        match (target.plural.as_str(), target.namespace.is_some(), target.subresource.as_deref()?) {
            ("pods", true, "log") => Some(Self::Log),
            ("pods", true, "exec") => Some(Self::Exec),
            ("pods", true, "attach") => Some(Self::Attach),
            ("pods", true, "portforward") => Some(Self::PortForward),
            ("nodes", false, "proxy") => Some(Self::NodeProxy),
            _ => None,
        }
    }

    fn allows(self, method: &Method) -> bool {
        match self {
            Self::Log => method == Method::GET,
            Self::Exec | Self::Attach | Self::PortForward => matches!(method.as_str(), "GET" | "POST"),
            Self::NodeProxy => {
                matches!(method.as_str(), "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS")
            }
        }
    }
}

/// Goes to the kubelet and back.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    errand: Errand,
    target: &Target,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !errand.allows(request.method()) {
        return Err(Refusal::method_not_allowed());
    }
    let name = target.name.as_deref().unwrap_or("");
    if errand == Errand::NodeProxy {
        let endpoint = node_of_proxy(shared, name)?;
        return relay::node(shared, &endpoint, request).await;
    }
    let query = Query::parse(request.uri().query().unwrap_or(""));
    // What is wrong with the parameters is said before what is wrong with the pod.
    let parameters = match errand {
        Errand::Log => options::log(&query, name)?,
        Errand::PortForward => options::ports(&query)?,
        _ => options::process(&query, errand == Errand::Exec),
    };
    if errand != Errand::Log {
        query.refuse_dry_run()?;
    }
    let namespace = target.namespace.as_deref().unwrap_or("");
    let pod = found(&shared.store, "pods", namespace, name)?;
    let path = match errand {
        Errand::PortForward => format!("/portForward/{namespace}/{name}"),
        _ => {
            let container = endpoint::container(&pod, query.container())?;
            let verb = match errand {
                Errand::Log => "containerLogs",
                Errand::Attach => "attach",
                _ => "exec",
            };
            format!("/{verb}/{namespace}/{name}/{container}")
        }
    };
    let path = if parameters.is_empty() { path } else { format!("{path}?{parameters}") };
    let node = text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return match errand {
            Errand::Log => Ok(relay::nothing()),
            _ => Err(Refusal::bad_request(format!("pod {name} does not have a host assigned"))),
        };
    }
    // The real server takes the missing node for a pod too.
    let missing = |refusal: Refusal| if refusal.code == 404 { Refusal::not_found("", "pods", node) } else { refusal };
    let endpoint = of_node(shared, node).map_err(missing)?;
    match errand {
        Errand::Log => relay::log(shared, &endpoint, &path, name).await,
        _ => relay::upgrade(shared, &endpoint, &path, request).await,
    }
}

fn found(store: &Store, plural: &str, namespace: &str, name: &str) -> Result<Object, Refusal> {
    let object = store.transact(|tx| tx.get(&builtin::known("", plural).storage, namespace, name));
    object.ok_or_else(|| Refusal::not_found("", plural, name))
}

fn of_node(shared: &Shared, name: &str) -> Result<Endpoint, Refusal> {
    endpoint::of_node(&*found(&shared.store, "nodes", "", name)?, &shared.kubelets.addresses)
}

/// The node of `nodes/<id>/proxy`, where the id is `<name>`, `<name>:<port>` or `https:<name>:<port>`. The lab reaches a
/// node at the port of its kubelet only.
fn node_of_proxy(shared: &Shared, id: &str) -> Result<Endpoint, Refusal> {
    let (name, port) = match id.split(':').collect::<Vec<_>>().as_slice() {
        [name] => (*name, ""),
        [name, port] | ["https", name, port] => (*name, *port),
        _ => return Err(Refusal::bad_request(format!("invalid node request {id:?}"))),
    };
    let endpoint = of_node(shared, name)?;
    if !port.is_empty() && port != endpoint.port.to_string() {
        let message =
            format!("the lab reaches nodes at the port of their kubelet only: that of {name} is {}", endpoint.port);
        return Err(Refusal::bad_request(message));
    }
    Ok(endpoint)
}
