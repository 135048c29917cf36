//! Which kubelet a request is for, and which container: read from the objects, as the real server reads them.

use serde_json::Value;

use crate::object::{self, integer, list, text};
use crate::refusal::Refusal;

/// Where a kubelet listens whose node does not say it.
const DEFAULT_PORT: u16 = 10250;

/// Where a kubelet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// An address or a name.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// `host:port`, as it stands in a URL.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The kubelet of a node: its first address of the first type that it has one of.
pub(crate) fn of_node(node: &Value, preferred: &[String]) -> Result<Endpoint, Refusal> {
    let addresses = list(node, &["status", "addresses"]);
    let found = preferred.iter().find_map(|kind| addresses.iter().find(|address| text(address, &["type"]) == kind));
    let Some(found) = found else {
        let known: Vec<String> = addresses
            .iter()
            .map(|address| format!("{{{} {}}}", text(address, &["type"]), text(address, &["address"])))
            .collect();
        let message = format!("no preferred addresses found; known addresses: [{}]", known.join(" "));
        return Err(Refusal::unclassified(message));
    };
    let port = integer(node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).filter(|port| *port > 0);
    let port = port.map_or(Ok(DEFAULT_PORT), u16::try_from);
    let port = port.map_err(|_| Refusal::unclassified("the node's kubelet endpoint has no port that could be"))?;
    Ok(Endpoint { host: text(found, &["address"]).to_owned(), port })
}

/// The names of a pod's containers, in the order in which the real server lists them.
fn containers(pod: &Value) -> Vec<&str> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|kind| list(pod, &["spec", kind]))
        .map(|container| text(container, &["name"]))
        .collect()
}

/// The container that is meant: the one that was named, or the only one.
pub(crate) fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, Refusal> {
    let name = object::name(pod);
    if !asked.is_empty() {
        if !containers(pod).contains(&asked) {
            return Err(Refusal::bad_request(format!("container {asked} is not valid for pod {name}")));
        }
        return Ok(asked);
    }
    match list(pod, &["spec", "containers"]) {
        [only] => Ok(text(only, &["name"])),
        [] => Err(Refusal::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => Err(Refusal::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            containers(pod).join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn preferred(kinds: &[&str]) -> Vec<String> {
        kinds.iter().map(|kind| (*kind).to_owned()).collect()
    }

    #[test]
    fn the_first_address_of_the_most_preferred_type_is_taken() {
        let node = json!({"status": {
            "addresses": [
                {"type": "Hostname", "address": "a"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "10.0.0.2"},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 7}},
        }});
        for (kinds, host) in
            [(["ExternalIP", "InternalIP", "Hostname"], "10.0.0.1"), (["Hostname", "InternalIP", "x"], "a")]
        {
            let endpoint = Endpoint { host: host.to_owned(), port: 7 };
            assert_eq!(of_node(&node, &preferred(&kinds)), Ok(endpoint));
        }
        let refusal = of_node(&node, &preferred(&["InternalDNS"])).expect_err("none fits");
        assert_eq!(
            refusal.message,
            "no preferred addresses found; known addresses: [{Hostname a} {InternalIP 10.0.0.1} {InternalIP 10.0.0.2}]"
        );
    }

    #[test]
    fn a_port_that_is_not_said_is_the_usual_one_and_one_that_cannot_be_is_refused() {
        let node = |port: i64| {
            json!({"status": {
                "addresses": [{"type": "InternalIP", "address": "::1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            }})
        };
        let kinds = preferred(&["InternalIP"]);
        assert_eq!(of_node(&node(0), &kinds).map(|found| found.authority()).as_deref(), Ok("[::1]:10250"));
        assert!(of_node(&node(65536), &kinds).is_err());
    }

    #[test]
    fn the_container_is_the_named_one_or_the_only_one() {
        let one = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "first"}], "containers": [{"name": "a"}],
        }});
        let two = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "first"}], "containers": [{"name": "a"}, {"name": "b"}],
        }});
        let words = |result: Result<&str, Refusal>| match result {
            Ok(name) => name.to_owned(),
            Err(refusal) => format!("{}: {}", refusal.code, refusal.message),
        };
        assert_eq!(words(container(&one, "")), "a");
        assert_eq!(words(container(&two, "first")), "first");
        assert_eq!(words(container(&two, "c")), "400: container c is not valid for pod p");
        let choose = "400: a container name must be specified for pod p, choose one of: [first a b]";
        assert_eq!(words(container(&two, "")), choose);
    }
}
