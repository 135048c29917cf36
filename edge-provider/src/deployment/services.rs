//! The services of the cluster, of which containers hear by variables. Pure, but for [`watch`].
//!
//! [`Services`] is written by the one watch over all of them and read by everybody who prepares a pod.

mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, ContainerStatus, Pod};
use tokio::sync::watch as latest;

pub use self::watch::ServiceWatch;

/// The API server itself, as a service: pods of all namespaces hear of it.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// What is kept of a service that has an address of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) ports: Vec<Port>,
    /// Since when it is there.
    pub(crate) since: Option<Timestamp>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: Option<String>,
    pub(crate) number: i32,
    pub(crate) protocol: String,
}

impl Service {
    /// `None` for one without an address of the cluster, or without ports: nobody hears of it.
    fn of(service: &v1::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let address = spec.cluster_ip.clone().filter(|address| !matches!(address.as_str(), "" | "None"))?;
        let ports: Vec<Port> = spec.ports.iter().flatten().map(Port::of).collect();
        let since = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let name = service.metadata.name.clone()?;
        (!ports.is_empty()).then_some(Self { name, address, ports, since })
    }

    /// The variables that tell of it, in a kubelet's order.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let Self { name, address, ports, .. } = self;
        let prefix = in_capitals(name);
        let mut variables = vec![(format!("{prefix}_SERVICE_HOST"), address.clone())];
        let first = ports.first().map(|port| (format!("{prefix}_SERVICE_PORT"), port.number.to_string()));
        variables.extend(first);
        for port in ports {
            let name = port.name.as_ref().map(|name| format!("{prefix}_SERVICE_PORT_{}", in_capitals(name)));
            variables.extend(name.map(|name| (name, port.number.to_string())));
        }
        for (at, Port { number, protocol, .. }) in ports.iter().enumerate() {
            let lower = protocol.to_lowercase();
            let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            let url = format!("{lower}://{host}:{number}");
            if at == 0 {
                variables.push((format!("{prefix}_PORT"), url.clone()));
            }
            let port = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
            variables.push((port.clone(), url));
            variables.push((format!("{port}_PROTO"), lower));
            variables.push((format!("{port}_PORT"), number.to_string()));
            variables.push((format!("{port}_ADDR"), address.clone()));
        }
        variables
    }
}

impl Port {
    fn of(port: &v1::ServicePort) -> Self {
        Self {
            name: port.name.clone().filter(|name| !name.is_empty()),
            number: port.port,
            protocol: port.protocol.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "TCP".to_owned()),
        }
    }
}

fn in_capitals(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// When a container of the pod last started or ended, as far as the API knows.
///
/// What a container hears of services is settled when it starts. A service that comes later is therefore none for a pod
/// that runs, and no reason to send it anything; when a container is started again, this moment moves on.
fn last_turn(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let kinds = [&status.init_container_statuses, &status.container_statuses];
    let turns = kinds.into_iter().flatten().flatten().flat_map(turns).max()?;
    // A device whose clock is wrong must not take services away that were there before the pod.
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Some(created.map_or(turns, |created| turns.max(created)))
}

fn turns(container: &ContainerStatus) -> impl Iterator<Item = Timestamp> {
    let states = [&container.state, &container.last_state].into_iter().flatten();
    states.flat_map(|state| {
        let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
        let ended = state.terminated.as_ref().and_then(|ended| ended.finished_at.as_ref());
        running.into_iter().chain(ended).map(|time| time.0)
    })
}

/// All services by namespace and name.
#[derive(Debug, Default)]
struct Known {
    services: BTreeMap<(String, String), Service>,
    /// A list that is being taken in.
    listing: Option<BTreeMap<(String, String), Service>>,
    /// Whether all were seen at least once.
    listed: bool,
    /// What the API server says to the bridge instead.
    denied: Option<String>,
}

impl Known {
    fn put(&mut self, service: &v1::Service) {
        let Some(key) = key(service) else { return };
        let services = self.listing.as_mut().unwrap_or(&mut self.services);
        match Service::of(service) {
            Some(service) => services.insert(key, service),
            None => services.remove(&key),
        };
    }

    fn remove(&mut self, service: &v1::Service) {
        if let Some(key) = key(service) {
            self.services.remove(&key);
        }
    }

    fn begin_list(&mut self) {
        self.listing = Some(BTreeMap::new());
    }

    fn end_list(&mut self) {
        self.services = self.listing.take().unwrap_or_default();
        self.listed = true;
        self.denied = None;
    }

    /// Of which services a pod hears, by name. One of its own namespace comes before the API server of the same name.
    fn of(&self, pod: &Pod) -> Vec<Service> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let last_turn = last_turn(pod);
        let first = (namespace.to_owned(), String::new());
        let own = self.services.range(first..).take_while(|((place, _), _)| place == namespace);
        let api_server = self.services.get(&(API_SERVER.0.to_owned(), API_SERVER.1.to_owned()));
        let mut heard: BTreeMap<&str, &Service> =
            api_server.map(|service| (API_SERVER.1, service)).into_iter().collect();
        heard.extend(own.filter(|_| links).map(|((_, name), service)| (name.as_str(), service)));
        let in_time = |service: &&Service| service.since.is_none_or(|since| last_turn.is_none_or(|turn| since <= turn));
        heard.into_values().filter(in_time).cloned().collect()
    }
}

fn key(service: &v1::Service) -> Option<(String, String)> {
    Some((service.metadata.namespace.clone()?, service.metadata.name.clone()?))
}

/// Handle to what is known of all services.
#[derive(Debug, Clone)]
pub struct Services {
    // The latest view; who prepares a pod before the first one waits for it.
    known: latest::Receiver<Known>,
}

/// A kubelet's words before it has read the services.
const NOT_READ: &str = "services have not yet been read at least once, cannot construct envvars";

impl Services {
    /// The services of a pod; or, in words for its containers, that the bridge may not read them.
    ///
    /// Outer error: they have not been read within `patience`, which may pass.
    pub(crate) async fn of(&self, pod: &Pod, patience: Duration) -> Result<Result<Vec<Service>, String>, String> {
        let mut known = self.known.clone();
        let told = |known: &Known| known.listed || known.denied.is_some();
        let known = match tokio::time::timeout(patience, known.wait_for(told)).await {
            Ok(Ok(known)) => known,
            Ok(Err(_)) | Err(_) => return Err(NOT_READ.to_owned()),
        };
        Ok(match &known.denied {
            Some(words) if !known.listed => Err(format!("{NOT_READ}: {words}")),
            _ => Ok(known.of(pod)),
        })
    }
}

#[cfg(test)]
mod tests;
