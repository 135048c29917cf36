//! The addresses in a pod's status.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::object::{list, text};
use crate::refusal::FieldError;

/// What is wrong with them.
pub(crate) fn of_pod(pod: &Value) -> Vec<FieldError> {
    let mut errors = family_wise(pod, "podIPs");
    let host = list(pod, &["status", "hostIPs"]);
    if let Some(first) = host.first()
        && text(first, &["ip"]) != text(pod, &["status", "hostIP"])
    {
        errors.push(FieldError::invalid("status.hostIPs[0].ip", &first["ip"], "must be equal to `hostIP`"));
    }
    errors.extend(family_wise(pod, "hostIPs"));
    errors
}

/// Each must be an address, and there may be one of each family.
fn family_wise(pod: &Value, key: &str) -> Vec<FieldError> {
    let field = format!("status.{key}");
    let addresses: Vec<&str> = list(pod, &["status", key]).iter().map(|item| text(item, &["ip"])).collect();
    let mut errors = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        if let Some(detail) = broken(address) {
            errors.push(FieldError::invalid(format!("{field}[{index}]"), &json!(address), detail));
        }
    }
    if addresses.len() < 2 {
        return errors;
    }
    let families: Vec<Option<bool>> =
        addresses.iter().map(|address| address.parse::<IpAddr>().ok().map(|parsed| parsed.is_ipv6())).collect();
    if let Some(index) = families.iter().position(Option::is_none) {
        let detail = format!("failed to check for dual stack with error:invalid IP[{index}]: {}", addresses[index]);
        errors.push(FieldError::internal(field.clone(), &detail));
    }
    if !matches!(families[..], [Some(first), Some(second)] if first != second) {
        let shown: Vec<Value> = addresses.iter().map(|address| json!({ "IP": address })).collect();
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(field, &json!(shown), detail));
    }
    errors
}

fn broken(address: &str) -> Option<&'static str> {
    if address.parse::<IpAddr>().is_ok() {
        return None;
    }
    let without_zeros = |part: &str| match part.trim_start_matches('0') {
        "" => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let sloppy: Vec<String> = address.split('.').map(without_zeros).collect();
    Some(if address.contains('.') && sloppy.join(".").parse::<IpAddr>().is_ok() {
        "must not have leading 0s"
    } else {
        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes 1.36 answers to the same status.
    #[test]
    fn the_words_are_those_of_the_real_server() {
        const VALID: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        const FAMILY: &str = "may specify no more than one IP for each IP family";
        let pods = |addresses: &[&str]| {
            let items: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
            json!({ "podIP": addresses[0], "podIPs": items })
        };
        for (status, expected) in [
            (pods(&["10.0.0.1", "fd00::1"]), vec![]),
            (pods(&["fd00::1", "10.0.0.1"]), vec![]),
            (pods(&["FD00:0::1"]), vec![]),
            (json!({ "hostIP": "10.0.0.1", "hostIPs": [{ "ip": "10.0.0.1" }] }), vec![]),
            (json!({ "hostIP": "10.0.0.1", "hostIPs": [] }), vec![]),
            (json!({ "hostIP": "bad" }), vec![]),
            (pods(&["nonsense"]), vec![format!("status.podIPs[0]: Invalid value: \"nonsense\": {VALID}")]),
            (
                pods(&["010.0.0.1"]),
                vec!["status.podIPs[0]: Invalid value: \"010.0.0.1\": must not have leading 0s".to_owned()],
            ),
            (
                pods(&["10.0.0.1", "10.0.0.2"]),
                vec![format!(
                    "status.podIPs: Invalid value: [{{\"IP\":\"10.0.0.1\"}},{{\"IP\":\"10.0.0.2\"}}]: {FAMILY}"
                )],
            ),
            (
                pods(&["10.0.0.1", "bad"]),
                vec![
                    format!("status.podIPs[1]: Invalid value: \"bad\": {VALID}"),
                    "status.podIPs: Internal error: failed to check for dual stack with error:invalid IP[1]: bad"
                        .to_owned(),
                    format!("status.podIPs: Invalid value: [{{\"IP\":\"10.0.0.1\"}},{{\"IP\":\"bad\"}}]: {FAMILY}"),
                ],
            ),
            (
                json!({ "hostIP": "10.0.0.1", "hostIPs": [{ "ip": "10.0.0.2" }] }),
                vec!["status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`".to_owned()],
            ),
            (
                json!({ "hostIPs": [{ "ip": "10.0.0.1" }] }),
                vec!["status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`".to_owned()],
            ),
            (
                json!({ "hostIP": "bad", "hostIPs": [{ "ip": "bad" }] }),
                vec![format!("status.hostIPs[0]: Invalid value: \"bad\": {VALID}")],
            ),
        ] {
            let errors = of_pod(&json!({ "status": status }));
            let told: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.field, error.body)).collect();
            assert_eq!(told, expected, "{status}");
        }
        let three = of_pod(&json!({ "status": pods(&["10.0.0.1", "fd00::1", "fd00::2"]) }));
        assert_eq!(three.len(), 1, "{three:?}");
    }
}
