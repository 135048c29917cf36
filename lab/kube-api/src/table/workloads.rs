//! The tables of workloads.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::duration::age;
use super::{Heading, age_of, narrow, wide};
use crate::clock;
use crate::object::{self, at, integer, list, text};

fn number(value: &Value, path: &[&str]) -> i64 {
    integer(value, path).unwrap_or(0)
}

/// A label selector as text.
fn selector(value: &Value) -> String {
    let Some(selector) = at(value, &["spec", "selector"]) else { return "<none>".to_owned() };
    let equal = at(selector, &["matchLabels"]).and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<String> = equal.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    for one in list(selector, &["matchExpressions"]) {
        let key = text(one, &["key"]);
        let values: Vec<&str> = list(one, &["values"]).iter().filter_map(Value::as_str).collect();
        parts.push(match text(one, &["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

fn containers(value: &Value, field: &str) -> String {
    let all = list(value, &["spec", "template", "spec", "containers"]).iter();
    all.map(|one| text(one, &[field])).collect::<Vec<_>>().join(",")
}

fn wide_tail(headings: &mut Vec<Heading>) {
    headings.extend([wide("Containers", "string"), wide("Images", "string"), wide("Selector", "string")]);
}

fn wide_cells(value: &Value) -> [Value; 3] {
    [json!(containers(value, "name")), json!(containers(value, "image")), json!(selector(value))]
}

pub(super) fn deployment_headings() -> Vec<Heading> {
    let mut headings = vec![
        narrow("Name", "string"),
        narrow("Ready", "string"),
        narrow("Up-to-date", "integer"),
        narrow("Available", "integer"),
        narrow("Age", "string"),
    ];
    wide_tail(&mut headings);
    headings
}

pub(super) fn deployment(value: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", number(value, &["status", "readyReplicas"]), number(value, &["spec", "replicas"]));
    let mut cells = vec![
        json!(object::name(value)),
        json!(ready),
        json!(number(value, &["status", "updatedReplicas"])),
        json!(number(value, &["status", "availableReplicas"])),
        json!(age_of(value, now)),
    ];
    cells.extend(wide_cells(value));
    cells
}

pub(super) fn replica_set_headings() -> Vec<Heading> {
    let mut headings = vec![
        narrow("Name", "string"),
        narrow("Desired", "integer"),
        narrow("Current", "integer"),
        narrow("Ready", "integer"),
        narrow("Age", "string"),
    ];
    wide_tail(&mut headings);
    headings
}

pub(super) fn replica_set(value: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        json!(object::name(value)),
        json!(number(value, &["spec", "replicas"])),
        json!(number(value, &["status", "replicas"])),
        json!(number(value, &["status", "readyReplicas"])),
        json!(age_of(value, now)),
    ];
    cells.extend(wide_cells(value));
    cells
}

pub(super) fn daemon_set_headings() -> Vec<Heading> {
    let mut headings = vec![
        narrow("Name", "string"),
        narrow("Desired", "integer"),
        narrow("Current", "integer"),
        narrow("Ready", "integer"),
        narrow("Up-to-date", "integer"),
        narrow("Available", "integer"),
        narrow("Node Selector", "string"),
        narrow("Age", "string"),
    ];
    wide_tail(&mut headings);
    headings
}

pub(super) fn daemon_set(value: &Value, now: Timestamp) -> Vec<Value> {
    let node_selector = at(value, &["spec", "template", "spec", "nodeSelector"]).and_then(Value::as_object);
    let node_selector: Vec<String> = node_selector
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    let node_selector = if node_selector.is_empty() { "<none>".to_owned() } else { node_selector.join(",") };
    let mut cells = vec![
        json!(object::name(value)),
        json!(number(value, &["status", "desiredNumberScheduled"])),
        json!(number(value, &["status", "currentNumberScheduled"])),
        json!(number(value, &["status", "numberReady"])),
        json!(number(value, &["status", "updatedNumberScheduled"])),
        json!(number(value, &["status", "numberAvailable"])),
        json!(node_selector),
        json!(age_of(value, now)),
    ];
    cells.extend(wide_cells(value));
    cells
}

pub(super) fn stateful_set_headings() -> Vec<Heading> {
    vec![
        narrow("Name", "string"),
        narrow("Ready", "string"),
        narrow("Age", "string"),
        wide("Containers", "string"),
        wide("Images", "string"),
    ]
}

pub(super) fn stateful_set(value: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", number(value, &["status", "readyReplicas"]), number(value, &["spec", "replicas"]));
    vec![
        json!(object::name(value)),
        json!(ready),
        json!(age_of(value, now)),
        json!(containers(value, "name")),
        json!(containers(value, "image")),
    ]
}

pub(super) fn revision_headings() -> Vec<Heading> {
    vec![
        narrow("Name", "string"),
        narrow("Controller", "string"),
        narrow("Revision", "string"),
        narrow("Age", "string"),
    ]
}

pub(super) fn revision(value: &Value, now: Timestamp) -> Vec<Value> {
    let owners = list(value, &["metadata", "ownerReferences"]).iter();
    let owner = owners.clone().find(|owner| owner["controller"] == json!(true));
    let owner = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let group = text(owner, &["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
            let kind = text(owner, &["kind"]).to_lowercase();
            format!("{}/{}", crate::refusal::qualified(&kind, group), text(owner, &["name"]))
        },
    );
    vec![
        json!(object::name(value)),
        json!(owner),
        json!(number(value, &["revision"]).to_string()),
        json!(age_of(value, now)),
    ]
}

pub(super) fn job_headings() -> Vec<Heading> {
    let mut headings = vec![
        narrow("Name", "string"),
        narrow("Status", "string"),
        narrow("Completions", "string"),
        narrow("Duration", "string"),
        narrow("Age", "string"),
    ];
    wide_tail(&mut headings);
    headings
}

fn job_status(job: &Value) -> &'static str {
    let has = |kind: &str| {
        let mut conditions = list(job, &["status", "conditions"]).iter();
        conditions.any(|one| text(one, &["type"]) == kind && text(one, &["status"]) == "True")
    };
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if object::is_being_deleted(job) {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) fn job(value: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(value, &["status", "succeeded"]);
    let completions = match (integer(value, &["spec", "completions"]), number(value, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let start = clock::parse(text(value, &["status", "startTime"]));
    let end = clock::parse(text(value, &["status", "completionTime"]));
    let duration = start.map_or_else(String::new, |start| age(end.unwrap_or(now).as_second() - start.as_second()));
    let mut cells = vec![
        json!(object::name(value)),
        json!(job_status(value)),
        json!(completions),
        json!(duration),
        json!(age_of(value, now)),
    ];
    cells.extend(wide_cells(value));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_shows_how_far_it_is() {
        let now = clock::parse("2026-01-01T00:10:00Z").unwrap_or_default();
        let value = json!({
            "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"completions": 2, "parallelism": 1},
            "status": {"succeeded": 2, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:42Z",
                "conditions": [{"type": "Complete", "status": "True"}]},
        });
        assert_eq!(job(&value, now)[..5], [json!("j"), json!("Complete"), json!("2/2"), json!("42s"), json!("10m")]);
    }

    #[test]
    fn a_selector_is_shown_as_it_is_typed() {
        let value = json!({"spec": {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}}});
        assert_eq!(selector(&value), "a=b,c in (d,e),!f");
    }
}
