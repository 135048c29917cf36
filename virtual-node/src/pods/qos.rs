//! The QoS class that follows from a pod's resources. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const GOVERNED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn class(spec: &PodSpec) -> &'static str {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers: Vec<Option<&ResourceRequirements>> =
        containers.map(|container| container.resources.as_ref()).collect();
    // Resources of the pod as a whole, where given, are what counts.
    let counted = match spec.resources.as_ref().filter(|pod| asks_for_something(pod)) {
        Some(pod) => vec![Some(pod)],
        None => of_containers,
    };
    if counted.iter().all(|one| one.is_some_and(is_guaranteed)) && !counted.is_empty() {
        "Guaranteed"
    } else if counted.iter().flatten().any(|one| asks_for_something(one)) {
        "Burstable"
    } else {
        "BestEffort"
    }
}

fn amount(list: &Option<BTreeMap<String, Quantity>>, resource: &str) -> Option<f64> {
    value(&list.as_ref()?.get(resource)?.0).filter(|amount| *amount > 0.0)
}

fn asks_for_something(one: &ResourceRequirements) -> bool {
    GOVERNED.iter().any(|kind| amount(&one.requests, kind).is_some() || amount(&one.limits, kind).is_some())
}

fn is_guaranteed(one: &ResourceRequirements) -> bool {
    GOVERNED.iter().all(|kind| {
        let limit = amount(&one.limits, kind);
        // The API server sets a missing request to the limit.
        limit.is_some() && amount(&one.requests, kind).or(limit) == limit
    })
}

/// The value of a quantity. Equal quantities written differently (`1`, `1000m`) have equal values.
pub(super) fn value(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let (base, exponent): (f64, i32) = match suffix {
        "" => (10.0, 0),
        "n" => (10.0, -9),
        "u" => (10.0, -6),
        "m" => (10.0, -3),
        "k" => (10.0, 3),
        "M" => (10.0, 6),
        "G" => (10.0, 9),
        "T" => (10.0, 12),
        "P" => (10.0, 15),
        "E" => (10.0, 18),
        "Ki" => (1024.0, 1),
        "Mi" => (1024.0, 2),
        "Gi" => (1024.0, 3),
        "Ti" => (1024.0, 4),
        "Pi" => (1024.0, 5),
        "Ei" => (1024.0, 6),
        exponent => (10.0, exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // Multiplying by a negative power would round where dividing does not.
    Some(if exponent < 0 { number / base.powi(-exponent) } else { number * base.powi(exponent) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_follow_the_resources() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        let limits = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
        let partly = json!({"requests": {"cpu": "10m"}});
        let zero = json!({"requests": {"cpu": "0"}});
        let device = json!({"limits": {"hawser.dev/gpio": "1"}});
        for (name, containers, pod, expected) in [
            ("nothing", vec![json!({})], json!(null), "BestEffort"),
            ("zero", vec![zero], json!(null), "BestEffort"),
            ("extended resources do not count", vec![device], json!(null), "BestEffort"),
            ("full", vec![full.clone()], json!(null), "Guaranteed"),
            ("limits alone", vec![limits.clone(), full.clone()], json!(null), "Guaranteed"),
            ("one of two", vec![full.clone(), json!({})], json!(null), "Burstable"),
            ("request alone", vec![partly.clone()], json!(null), "Burstable"),
            ("of the pod", vec![partly, json!({})], full, "Guaranteed"),
        ] {
            let containers: Vec<_> =
                containers.into_iter().map(|resources| json!({"name": "c", "resources": resources})).collect();
            let spec = serde_json::from_value(json!({"containers": containers, "resources": pod})).unwrap();
            assert_eq!(class(&spec), expected, "{name}");
        }
    }

    #[test]
    fn quantities_have_values() {
        for (text, expected) in
            [("1", 1.0), ("250m", 0.25), ("1Ki", 1024.0), ("2e3", 2000.0), ("1.5Gi", 1.5 * 1024.0 * 1024.0 * 1024.0)]
        {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for text in ["", "x", "1Q", "Mi", "1e", "--1"] {
            assert_eq!(value(text), None, "{text}");
        }
        assert_eq!(value("1000m"), value("1"));
    }
}
