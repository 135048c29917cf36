//! The tables of everything else that has columns of its own.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Heading, age_of, narrow, since, wide};
use crate::object::{self, at, integer, list, text};

fn count(value: &Value, field: &str) -> usize {
    value.get(field).and_then(Value::as_object).map_or(0, Map::len)
}

pub(super) fn namespace_headings() -> Vec<Heading> {
    vec![narrow("Name", "string"), narrow("Status", "string"), narrow("Age", "string")]
}

pub(super) fn namespace(value: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(value)), json!(text(value, &["status", "phase"])), json!(age_of(value, now))]
}

pub(super) fn config_map_headings() -> Vec<Heading> {
    vec![narrow("Name", "string"), narrow("Data", "string"), narrow("Age", "string")]
}

pub(super) fn config_map(value: &Value, now: Timestamp) -> Vec<Value> {
    let keys = count(value, "data") + count(value, "binaryData");
    vec![json!(object::name(value)), json!(keys.to_string()), json!(age_of(value, now))]
}

pub(super) fn secret_headings() -> Vec<Heading> {
    vec![narrow("Name", "string"), narrow("Type", "string"), narrow("Data", "integer"), narrow("Age", "string")]
}

pub(super) fn secret(value: &Value, now: Timestamp) -> Vec<Value> {
    let kind = text(value, &["type"]);
    vec![json!(object::name(value)), json!(kind), json!(count(value, "data")), json!(age_of(value, now))]
}

pub(super) fn account_headings() -> Vec<Heading> {
    vec![narrow("Name", "string"), narrow("Age", "string")]
}

pub(super) fn account(value: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(value)), json!(age_of(value, now))]
}

pub(super) fn service_headings() -> Vec<Heading> {
    vec![
        narrow("Name", "string"),
        narrow("Type", "string"),
        narrow("Cluster-IP", "string"),
        narrow("External-IP", "string"),
        narrow("Port(s)", "string"),
        narrow("Age", "string"),
        wide("Selector", "string"),
    ]
}

pub(super) fn service(value: &Value, now: Timestamp) -> Vec<Value> {
    let kind = text(value, &["spec", "type"]);
    let address = match text(value, &["spec", "clusterIP"]) {
        "" => "<none>",
        address => address,
    };
    let external = match kind {
        "ExternalName" => text(value, &["spec", "externalName"]),
        "LoadBalancer" => "<pending>",
        _ => "<none>",
    };
    let ports = list(value, &["spec", "ports"]).iter().map(|port| {
        let (number, protocol) = (integer(port, &["port"]).unwrap_or(0), text(port, &["protocol"]));
        match integer(port, &["nodePort"]) {
            Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    let ports = ports.collect::<Vec<_>>().join(",");
    let selector = at(value, &["spec", "selector"]).and_then(Value::as_object).into_iter().flatten();
    let selector: Vec<String> =
        selector.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    vec![
        json!(object::name(value)),
        json!(kind),
        json!(address),
        json!(external),
        json!(if ports.is_empty() { "<none>".to_owned() } else { ports }),
        json!(age_of(value, now)),
        json!(if selector.is_empty() { "<none>".to_owned() } else { selector.join(",") }),
    ]
}

pub(super) fn event_headings() -> Vec<Heading> {
    vec![
        narrow("Last Seen", "string"),
        narrow("Type", "string"),
        narrow("Reason", "string"),
        narrow("Object", "string"),
        wide("Subobject", "string"),
        wide("Source", "string"),
        narrow("Message", "string"),
        wide("First Seen", "string"),
        wide("Count", "string"),
        wide("Name", "string"),
    ]
}

pub(super) fn event(value: &Value, now: Timestamp) -> Vec<Value> {
    // Either of the two forms of an event.
    let either = |old: &[&str], new: &[&str]| match text(value, old) {
        "" => text(value, new).to_owned(),
        found => found.to_owned(),
    };
    let about = if value.get("regarding").is_some() { "regarding" } else { "involvedObject" };
    let first = either(&["firstTimestamp"], &["deprecatedFirstTimestamp"]);
    let first = if first.is_empty() { text(value, &["eventTime"]).to_owned() } else { first };
    let series = text(value, &["series", "lastObservedTime"]).to_owned();
    let last = either(&["lastTimestamp"], &["deprecatedLastTimestamp"]);
    let last = if !series.is_empty() {
        series
    } else if last.is_empty() {
        first.clone()
    } else {
        last
    };
    let counted = integer(value, &["series", "count"]).or_else(|| integer(value, &["count"]));
    let counted = counted.or_else(|| integer(value, &["deprecatedCount"])).filter(|count| *count > 0).unwrap_or(1);
    let source = either(&["source", "component"], &["deprecatedSource", "component"]);
    let source = if source.is_empty() { either(&["reportingComponent"], &["reportingController"]) } else { source };
    let host = either(&["source", "host"], &["deprecatedSource", "host"]);
    let host = if host.is_empty() { text(value, &["reportingInstance"]).to_owned() } else { host };
    let source = if host.is_empty() { source } else { format!("{source}, {host}") };
    let kind = text(value, &[about, "kind"]).to_lowercase();
    vec![
        json!(since(&last, now)),
        json!(text(value, &["type"])),
        json!(text(value, &["reason"])),
        json!(format!("{kind}/{}", text(value, &[about, "name"]))),
        json!(text(value, &[about, "fieldPath"])),
        json!(source),
        json!(either(&["message"], &["note"]).trim()),
        json!(since(&first, now)),
        json!(counted.to_string()),
        json!(object::name(value)),
    ]
}

pub(super) fn lease_headings() -> Vec<Heading> {
    vec![narrow("Name", "string"), narrow("Holder", "string"), narrow("Age", "string")]
}

pub(super) fn lease(value: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(value)), json!(text(value, &["spec", "holderIdentity"])), json!(age_of(value, now))]
}

pub(super) fn definition_headings() -> Vec<Heading> {
    vec![narrow("Name", "string"), narrow("Created At", "date")]
}

pub(super) fn definition(value: &Value, _: Timestamp) -> Vec<Value> {
    vec![json!(object::name(value)), json!(text(value, &["metadata", "creationTimestamp"]))]
}
